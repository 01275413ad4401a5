"""What OpenBLAS's threads keep of the products of a run, beside MLX's memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mlx_ltxw import blas
from mlx_ltxw.models.video_vae import Tiling
from mlx_ltxw.models.video_vae.pieces import BYTES
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.needs import (
    CONNECTORS,
    PICTURE,
    PIECE,
    PROJECTION,
    PROMPT,
    SOUND,
    TEXT,
    Need,
    Subject,
    tile_pixels,
    wider,
)


def with_packed(needs: Sequence[Need], clip: Subject, sizes: Sequence[Geometry], rows: int = 1) -> list[Need]:
    """The same parts, each with what has been kept when it ends: of its own products and those of all before it.

    Args:
        needs: In the order of the run.
        clip: What is made.
        sizes: Its own, of each stage.
        rows: Clips that go together in one forward.
    """
    most, counted = 0, []
    for need in needs:
        most = max(most, packed(need.name, clip, sizes, rows))
        counted.append(dataclasses.replace(need, packed=most))
    return counted


def packed(name: str, clip: Subject, sizes: Sequence[Geometry], rows: int = 1) -> int:
    """Bytes that are kept of a part's largest products; a CPU's convolutions are such, unfolded.

    Args:
        name: Of the part.
        clip, sizes, rows: As for `with_packed`.
    """
    threads, last = clip.machine.blas_threads, sizes[-1]
    if clip.machine.in_pieces:
        return 0
    if SOUND in name:
        audio = clip.model.network_config("audio_vae")
        positions = min(last.audio_tokens, PIECE) * audio.downscale * audio.mel_bins
        return max(blas.packed(threads, positions, 9 * audio.channels * times) for times in (1, wider(audio)))
    if PICTURE in name:
        vae, frames = clip.model.network_config("video_vae"), Tiling().frames or last.frames
        channels, patch = vae.decoder_base_channels, vae.patch_size**2
        taps = 9 if 3 * patch <= 2 * channels else 27  # `ops.conv3d`
        positions = min(tile_pixels(last) * min(frames, last.frames) // patch, BYTES // (4 * channels))
        return blas.packed(threads, positions, taps * channels, 1 if last.frames <= frames else 2)
    if name in (TEXT, PROJECTION, CONNECTORS):
        return blas.packed(threads, PROMPT, 4 * clip.config.video.dim)
    width = (clip.config.audio if clip.audio_only else clip.config.video).dim
    tokens = max(size.audio_tokens if clip.audio_only else size.video_tokens for size in sizes)
    return blas.packed(threads, rows * max(tokens, PROMPT), 4 * width)
