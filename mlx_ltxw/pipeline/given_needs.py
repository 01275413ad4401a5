"""What encoding holds in memory: of the pictures, the clip and the sound that a run is given.

Both encoders go along time in pieces (`models/video_vae/pieces.py`, `AudioVAE.encode`). MLX's convolutions on a CPU
copy what they read once for each tap, which is most of it. How much was measured as `pipeline/needs.py` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.models.audio_vae.autoencoder import FRAMES
from mlx_ltxw.models.video_vae.pieces import frames_within
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.weights.memory import part_bytes
from mlx_ltxw.weights.model_dir import ModelDir

PIXELS = 3


@dataclass(frozen=True)
class Encoded:
    """What a run is given.

    Attributes:
        frames: Of the clip; 0 for none.
        pictures: How many.
        appended: Of them, those whose tokens lie behind the clip's own.
        sound: Whether a sound is.
    """

    frames: int = 0
    pictures: int = 0
    appended: int = 0
    sound: bool = False

    def beside(self, size: Geometry) -> int:
        """Bytes of the clip's frames that the program itself holds, all at once."""
        return self.frames * size.width * size.height * PIXELS

    def tokens(self, size: Geometry) -> int:
        """Video tokens of a stage beside the clip's own."""
        _, rows, columns = size.latent_shape
        return self.appended * rows * columns


NOTHING = Encoded()


def picture_encoding(model: ModelDir, dtype: mx.Dtype, frames: int, size: Geometry, in_pieces: bool) -> tuple[int, int]:
    """Bytes of the encoder's weights and of what encoding holds beside them.

    Args:
        model: Whose video VAE.
        dtype: Of it.
        frames: That are encoded at a time; 1 for pictures.
        size: Their width and height.
        in_pieces: Whether the device is handed bounded pieces of work (`Machine.in_pieces`).
    """
    config = model.network_config("video_vae")
    weights = sum(nbytes for part, nbytes in part_bytes(model, "video_vae", dtype).items() if part != "decoder")
    area, channels = size.width * size.height, config.latent_channels
    patches = PIXELS * config.patch_size**2
    first = area // config.patch_size**2 * channels * dtype.size  # a frame behind the first layer
    piece = min(frames, frames_within(first))
    pixels = piece * area * PIXELS * dtype.size
    if in_pieces:
        return weights, int(min(_PIECES_ON_GPU * max(pixels, piece * first), _PIECES_LEAST + _PER_PIXEL * area))
    direct = channels > 2 * patches  # see `ops.convolution._by_frames_is_faster`
    copies = (29.5 + channels / patches) if direct else 12.5 + 4.2 * channels / patches
    turned = max(
        tensor.elements for tensor in model.tensors("video_vae") if tensor.name.startswith("encoder.")
    )  # each convolution's weights are laid out anew
    return weights, int(max(copies * pixels, _INNER * piece * first) + 1.1 * turned * dtype.size)


_PIECES_ON_GPU, _PIECES_LEAST, _PER_PIXEL = 38, 410_000_000, 1210
"""On an H200 encoding 704x480 in bf16 held 0.82 GB, of 97 frames or of 481; other sizes are projected."""
_INNER = 14.5
"""Arrays as large as the first layer's that the layers behind it hold."""


def sound_encoding(model: ModelDir, dtype: mx.Dtype, size: Geometry, in_pieces: bool) -> tuple[int, int]:
    """Bytes of the encoder's weights and of what encoding a clip's sound holds beside them."""
    config = model.network_config("audio_vae")
    weights = sum(nbytes for part, nbytes in part_bytes(model, "audio_vae", dtype).items() if part != "decoder")
    if in_pieces:
        return weights, min(250_000_000, 1_600_000 * size.audio_tokens)
    wider = config.multipliers[1] if len(config.multipliers) > 1 else 1
    of_token = config.channels * (9_000 + 11_000 * wider)  # its spectrum frames at the first two levels, unfolded
    return weights, of_token * min(size.audio_tokens, FRAMES)
