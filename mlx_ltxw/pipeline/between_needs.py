"""What is held before the first step, while given things are encoded, and between two stages."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.given_needs import picture_encoding, sound_encoding
from mlx_ltxw.pipeline.needs import GIVEN_PICTURE, GIVEN_SOUND, TILE, UPSAMPLER_PART, Need, Subject
from mlx_ltxw.weights.components import upsampler_name
from mlx_ltxw.weights.memory import part_bytes


def given_needs(clip: Subject, sizes: Sequence[Geometry]) -> list[Need]:
    """Of what is given, once for each size of the picture in the run's stages: encoded before the first of them.

    Args:
        clip: What is made.
        sizes: Of its stages.
    """
    outside, in_pieces, given = clip.outside, clip.machine.in_pieces, clip.given
    needs = []
    if given.sound:
        weights, other = sound_encoding(clip.model, outside, sizes[-1], in_pieces)
        needs.append(Need(GIVEN_SOUND, weights, other + clip.held, weights))
    frames = given.frames or min(1, given.pictures)
    for size in dict.fromkeys(sizes) if frames else ():
        weights, other = picture_encoding(clip.model, outside, frames, size, in_pieces)
        name = f"{GIVEN_PICTURE} of {size.width}x{size.height}" + (f", {frames} frames" if given.frames else "")
        needs.append(Need(name, weights, other + clip.held, weights))
    return needs


def upsampler_need(clip: Subject, kind: str, large: Geometry, kept: int) -> Need:
    """Between two stages, while the transformer stays where it is.

    Args:
        clip: What is made.
        kind: Of the upsampler.
        large: The second stage's size.
        kept: Bytes of the transformer's weights in memory.
    """
    config = clip.model.network_config(upsampler_name(kind))
    stored = sum(tensor.nbytes for tensor in clip.model.tensors(upsampler_name(kind)))
    own = sum(part_bytes(clip.model, upsampler_name(kind), clip.outside).values())
    vae = part_bytes(clip.model, "video_vae", clip.outside)
    own += sum(nbytes for part, nbytes in vae.items() if part not in ("encoder", "decoder"))
    array = large.video_tokens * config.mid_channels * clip.outside.size
    other = TILE if clip.machine.in_pieces else _TAPS * array
    why = "beside the transformer" if kept else ""
    return Need(f"{UPSAMPLER_PART} {kind}", kept + own, other + clip.held, stored, why, kept)


_TAPS = 45
"""Arrays of the larger size that upsampling holds on a CPU: a convolution copies what it reads 27 times, once a tap."""
