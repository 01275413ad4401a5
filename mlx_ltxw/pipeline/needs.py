"""What each part of a run holds in memory, from headers and sizes alone.

Weights are counted exactly, and what is held beside them in arrays of known sizes: tokens, texts, scores, pixels. How
many of each are alive at once was measured, on one H200 in bf16 where work is handed over in bounded pieces, and
on two CPU cores in fp32, where MLX runs ahead of its work up to a limit that `AHEAD` sets (`docs/log.md`,
`python -m scripts.stage_peaks`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.machine import Machine
from mlx_ltxw.models import ops
from mlx_ltxw.models.audio_vae import AudioVAEConfig
from mlx_ltxw.models.transformer import TransformerConfig
from mlx_ltxw.models.transformer.merged import MERGED
from mlx_ltxw.models.video_vae import Tiling
from mlx_ltxw.models.video_vae.tiling import spans
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.given_needs import NOTHING, Encoded
from mlx_ltxw.pipeline.guidance import passes
from mlx_ltxw.pipeline.recipes import Stage
from mlx_ltxw.printing import readable, staying
from mlx_ltxw.weights.arriving import GROUP
from mlx_ltxw.weights.memory import network_bytes, part_bytes
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import Residency

TEXT, PROJECTION, CONNECTORS = "text encoder", "text projection", "connectors"
DENOISING, SOUND, PICTURE = "denoising", "sound", "picture"
GIVEN_SOUND, GIVEN_PICTURE, UPSAMPLER_PART = "given sound", "given picture", "upsampler"
"""Encoders are told apart from their decoders by these names."""

ONCE = "layer by layer from disk"
"""How a text encoder is read, always."""

PARTS = {
    "text_encoder": TEXT, "text_projection": PROJECTION, "connectors": CONNECTORS, "transformer": DENOISING,
    "audio_vae": SOUND, "vocoder": SOUND, "video_vae": PICTURE,
}  # fmt: skip
"""Networks -> the part that begins when they are loaded."""
AHEAD = {
    PROJECTION: 0.85, CONNECTORS: 0.88, DENOISING: 0.87, SOUND: 0.68, PICTURE: 0.8, GIVEN_SOUND: 0.68,
    GIVEN_PICTURE: 0.7, UPSAMPLER_PART: 0.5,
}  # fmt: skip
"""Of a part's activations, from where on MLX's CPU backend waits. It looks at its limit every tenth operation, and what
it allocates before it does is the rest. Without a limit it holds up to three times as much, in no less time."""

PROMPT = 1024
"""Tokens a prompt is padded to."""


@dataclass(frozen=True)
class Need:
    """What one part of a run needs.

    Attributes:
        name: `text encoder`, `denoising 704x480, 97 frames`, ...
        weights: Bytes of the networks' weights in memory.
        activations: Bytes of everything else.
        read: Bytes from disk in all, the first time included.
        choice: How it is done, where there is a choice, and why; or nothing.
        beside: Of the weights, bytes that are in memory when the part begins.
        packed: Bytes of OpenBLAS's copies of what its threads multiply, which no part gives back (`blas.packed`).
    """

    name: str
    weights: int
    activations: int
    read: int
    choice: str = ""
    beside: int = 0
    packed: int = 0

    @property
    def peak(self) -> int:
        """Bytes at once."""
        return self.arrays + self.packed

    @property
    def arrays(self) -> int:
        """Bytes at once that MLX counts."""
        return self.weights + self.activations


@dataclass(frozen=True)
class Subject:
    """What a clip's parts are counted for.

    Attributes:
        model: Where the weights are.
        dtype: Of the transformer.
        machine: Where it is made.
        audio_only: Whether there is no picture.
        prompts: What is encoded.
        sounds: Adapted sounds beside the picture.
        adapters: Bytes of them as they are read.
        factors: Bytes of what is made of those beside weights.
        machines: That the video's tokens are spread over.
        given: What is not made, but encoded.
        makes_sound, makes_picture: Whether they are decoded.
        quantised: Whether to count as if the blocks had 4 bits.
        fused: Bytes of a block's weights that adapters go into when it has come, and that nobody needs as they were.
        fusing: Bytes beside a streamed block while the largest of those takes adapters in.
    """

    model: ModelDir
    dtype: mx.Dtype
    machine: Machine
    audio_only: bool
    prompts: Sequence[str]
    sounds: int = 0
    adapters: int = 0
    machines: int = 1
    given: Encoded = NOTHING
    makes_sound: bool = True
    makes_picture: bool = True
    quantised: bool = False
    fused: int = 0
    fusing: int = 0
    factors: int = 0

    @property
    def config(self) -> TransformerConfig:
        """Of the transformer."""
        return self.model.network_config("transformer")

    @property
    def text_itemsize(self) -> int:
        """Bytes of a number of the text path."""
        return 4 if self.dtype == mx.float32 else 2

    @property
    def outside(self) -> mx.Dtype:
        """Of the networks beside the transformer."""
        return mx.float32 if self.text_itemsize == 4 else mx.bfloat16

    @property
    def contexts(self) -> int:
        """Bytes of one prompt as the transformer reads it."""
        video = 0 if self.audio_only else self.config.video.context_dim
        return PROMPT * (video + self.config.audio.context_dim) * self.dtype.size

    @property
    def held(self) -> int:
        """Bytes that a run holds to its end: contexts, side by side and each by itself, and adapters."""
        return 2 * len(self.prompts) * self.contexts + self.adapters


def streaming(
    blocks: Sequence[int], stored: Sequence[int], machine: Machine, copies: Sequence[int] = (),
    before: float | None = None,
) -> int:  # fmt: skip
    """Bytes of blocks on their way: the one at work, what is left of the one before, and one that is being read.

    Args:
        blocks: Bytes of each in memory.
        stored: Bytes of what is read of each.
        machine: On a CPU the one before is waited for (`StreamedLayers`).
        copies: Second weights of each, of fused adapters.
        before: Of a block, what is left of the one before; None for what is not finished when the next one has come.
    """
    if before is None:
        before = _BEFORE if machine.in_pieces else 0
    return int((1 + before) * (max(blocks) + max(copies, default=0)) + max(stored))


_BEFORE = 0.35
"""Of a block, what a GPU has not finished when the next one has come."""


_LAID_AT_ONCE = 0.135
"""Of a block, linears of one input of the largest attention: of its 387 million numbers at full size 50.5. A streamed
block's are laid together before the rest of it is computed, and hold nothing more."""


def forward(clip: Subject, stage: Stage) -> int:
    """Bytes beyond the weights that one step of a stage holds."""
    every = passes(stage.video_guidance, stage.audio_guidance, clip.config.layers)
    return walking(clip, stage.geometry, len(every), texts=len({one.negative for one in every}))


def walking(clip: Subject, size: Geometry, forwards: int = 1, rows: int = 1, texts: int = 1) -> int:
    """Bytes beyond the weights that a walk over the blocks holds: a forward's, the streams of the others that go with
    it, and what a run holds all along.

    Args:
        clip: What is made.
        size: Its own.
        forwards: That go side by side, one of them at work.
        rows: Clips that go together in one forward.
        texts: That the forwards read; keys and values of each are there while all of them go through a block.
    """
    config, itemsize, waiting = clip.config, clip.dtype.size, forwards - 1
    tokens = size.video_tokens + clip.given.tokens(size)
    video = 0 if clip.audio_only else rows * tokens * config.video.dim * itemsize
    audio = rows * size.audio_tokens * config.audio.dim * (1 + clip.sounds) * itemsize
    text = rows * (clip.contexts + clip.sounds * PROMPT * config.audio.context_dim * itemsize)
    if clip.machine.in_pieces:
        own = ((18 - _GATHERED) / clip.machines + _GATHERED if clip.machines > 1 else 18) + waiting
        return int(
            own * video
            + (18 + waiting) * audio
            + 4 * texts * text
            + clip.held
            + clip.factors
            + _unpacked(clip, forwards)
        )
    longest = size.audio_tokens if clip.audio_only else tokens
    scores = ops.scores_at_once(config.audio.heads, rows * size.audio_tokens, max(PROMPT, size.audio_tokens))
    held = len(clip.prompts) * clip.contexts + clip.adapters + clip.factors + _unpacked(clip, forwards)
    of_text = _OF_TEXT[clip.audio_only][texts if waiting else 0] * text
    if clip.audio_only:
        return int(19.5 * audio + of_text + 8.4 * scores + held)
    again = ops.scores_at_once(config.audio.heads, rows * clip.sounds * size.audio_tokens, PROMPT) if clip.sounds else 0
    scores += ops.scores_at_once(config.video.heads, rows * longest, max(PROMPT, longest))
    return int((19.5 + waiting) * (video + audio) + of_text + 5.3 * scores + 2 * again + held)


_OF_TEXT = (2.8, 4.2, 8.3), (6.0, 8.0, 16.5)
"""Arrays of a text that a CPU holds, with a picture and without: in a forward alone, in several that read one text, and
in several that read two. Keys and values of both are there then while all of them go through a block."""

_GATHERED = 6.0
"""Arrays of the whole video that a machine holds of which each computes some of the tokens: keys and values, gathered,
then turned for the attention, in two blocks."""


def _unpacked(clip: Subject, forwards: int) -> int:
    """Bytes of quantised weights that a card or a CPU unpacks before it multiplies by them, several at a time."""
    if clip.machine.backend == "metal" or not (clip.quantised or clip.model.quantized_layers("transformer")):
        return 0
    config = clip.config
    count = _UNPACKED if clip.machine.in_pieces else _UNPACKED_IN_TURN[forwards > 1]
    return int(count * 4 * (config.audio if clip.audio_only else config.video).dim ** 2 * clip.dtype.size)


_UNPACKED, _UNPACKED_IN_TURN = 8, (0.0, 0.5)
"""Of a feed-forward network's matrices: on a card; on a CPU in a forward alone, and in several side by side."""


def decoding_needs(clip: Subject, last: Geometry) -> list[Need]:
    """After the stages: what is made of sound and picture; what is only given is not decoded.

    Args:
        clip: What is decoded.
        last: Its size.
    """
    needs = [_sound(clip, last, clip.outside)] if clip.makes_sound else []
    if clip.makes_picture and not clip.audio_only:
        vae = part_bytes(clip.model, "video_vae", clip.outside)
        weights = sum(nbytes for part, nbytes in vae.items() if part != "encoder")
        needs.append(Need(PICTURE, weights, _picture(clip, last) + clip.held, weights))
    return needs


def libraries(last: Geometry, audio_only: bool = False) -> int:
    """Bytes that other libraries take beside MLX once a clip is measured and encoded.

    FFmpeg and its codecs, x264's frames on their way, and what the measuring of a sound makes of it, which is a stretch
    of some seconds at a time.

    Args:
        last: The clip's size.
        audio_only: Whether no picture is written.
    """
    sound = 14_000_000 * min(4.0, last.seconds) + 2_000_000 * last.seconds
    return int(55_000_000 + sound + (0 if audio_only else 290 * last.width * last.height))


def previews(clip: Subject, last: Geometry) -> list[Need]:
    """Of a step's look and listen: one picture, and the whole sound."""
    pictures = [need for need in decoding_needs(clip, dataclasses.replace(last, frames=1)) if need.name == PICTURE]
    return pictures + [need for need in decoding_needs(clip, last) if need.name == SOUND]


TILE, _TILE_WHOLE, _PER_TILE_PIXEL = 600_000_000, 830_000_000, 1830
"""Bytes that decoding a tile in pieces holds at most: these, and so many for each of its pixels."""


def _sound(clip: Subject, last: Geometry, dtype: mx.Dtype) -> Need:
    """The audio autoencoder, then the vocoder: one is gone when the other comes."""
    parts = part_bytes(clip.model, "audio_vae", dtype)
    decoder = sum(nbytes for part, nbytes in parts.items() if part != "encoder")
    vocoder = network_bytes(clip.model, "vocoder", dtype)
    tokens, read = last.audio_tokens, decoder + vocoder
    if clip.machine.in_pieces:
        return Need(SOUND, vocoder, min(600_000_000, 2_850_000 * tokens) + clip.held, read)
    config = clip.model.network_config("audio_vae")
    spectrum = (
        min(tokens, PIECE) * config.channels * 19_000 * (1 + wider(config))
    )  # the last level's, unfolded for its convolutions
    larger = (decoder, spectrum) if decoder + spectrum > vocoder else (vocoder, 0)
    return Need(SOUND, larger[0], larger[1] + clip.held, read)


_BEFORE_IT = 14
"""Frames of the tile before, beside one that is not the first along time."""


def wider(config: AudioVAEConfig) -> int:
    """How many times wider the level before the last is."""
    return config.multipliers[1] if len(config.multipliers) > 1 else 1


PIECE = 156
"""Tokens of a piece of a long sound, with those before it that it depends on."""


def _picture(clip: Subject, size: Geometry) -> int:
    """Bytes beside the weights that decoding the video holds: a tile's, which is made in pieces where it is large."""
    channels, itemsize = clip.model.network_config("video_vae").decoder_base_channels, clip.text_itemsize
    tiling, tile = Tiling(), tile_pixels(size)
    held = (3.31, 34) if clip.machine.in_pieces else (2.88, 30)
    times, _, _ = spans(tiling, size.latent_shape, clip.model.network_config("video_vae").scale)
    later = max((len(time.weights) + _BEFORE_IT for time in times[1:]), default=0)
    frames = max(min(size.frames, tiling.frames or size.frames), later)
    whole = (held[0] * channels * itemsize + held[1]) * tile * frames
    bound = TILE if clip.machine.in_pieces else _TILE_WHOLE
    return int(min(whole, bound + _PER_TILE_PIXEL * tile))


def tile_pixels(size: Geometry) -> int:
    """Pixels of a frame that are decoded at once, at most."""
    tiling = Tiling()
    return min(size.width * size.height, (tiling.pixels or size.width) * (tiling.pixels or size.height))


def arriving(clip: Subject, blocks: Sequence[int], stored: Sequence[int]) -> int:
    """Bytes of a block's weights that are in memory twice while the first forward goes on (`weights/arriving.py`): a
    group that is copied, then what adapters go into, and linears of one input that are laid together.

    Args:
        clip: What is made. A CPU reads weights in another way.
        blocks, stored: Bytes of each block in memory and on disk.
    """
    laid = int(_LAID_AT_ONCE * max(blocks)) if MERGED[clip.machine.backend] else 0
    return max(min(GROUP, max(stored)), clip.fused + laid) if clip.machine.in_pieces else 0


def between_blocks(clip: Subject) -> int:
    """Bytes beyond the weights when a streamed block has come and adapters go into it; no other is at work then."""
    return clip.held + clip.fusing


def denoising(
    clip: Subject, stage: Stage, residency: Residency, blocks: Sequence[int], stored: Sequence[int], beside: int,
    walks: int,
) -> Need:  # fmt: skip
    """One stage of it.

    Args:
        clip: What is made.
        stage: Of the run.
        residency: Which blocks stay in memory.
        blocks, stored: Bytes of each, in memory and on disk.
        beside: Bytes of weights beside the blocks that stay.
        walks: Of the stage over the blocks, of all seeds.
    """
    size = stage.geometry
    name = f"{DENOISING} {size.frames} frames" + ("" if clip.audio_only else f" of {size.width}x{size.height}")
    activations, count = forward(clip, stage), len(blocks)
    stay = [index for index in range(count) if residency.stays(index, count)]
    weights = sum(blocks[index] for index in stay) + beside
    if len(stay) == count:
        activations += arriving(clip, blocks, stored)
        return Need(name, weights, activations, sum(stored) + beside, f"{staying(count, count)} in memory")
    activations = max(activations, between_blocks(clip))
    again = sum(stored) - sum(stored[index] for index in stay)
    choice = f"{staying(len(stay), count)} in memory, the others ({readable(again)}) are read for each step"
    return Need(name, weights, activations, sum(stored) - again + walks * again, choice)
