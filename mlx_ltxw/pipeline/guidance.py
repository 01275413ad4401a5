"""Classifier-free, spatio-temporal and modality guidance, in the space of clean latents.

Source: `ltx_core/components/guiders.py:MultiModalGuider`, `ltx_pipelines/utils/denoisers.py:_guided_denoise`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_ltxw.models.transformer import NO_SKIPS, Skips

NEGATIVE_TERMS = (
    "has_subtitles", "has_blurbox", "transition from black", "transition to black", "speech_ending_short", "blurry",
    "out of focus", "overexposed", "underexposed", "low contrast", "washed out colors", "excessive noise",
    "grainy texture", "poor lighting", "flickering", "motion blur", "distorted proportions", "unnatural skin tones",
    "deformed facial features", "asymmetrical face", "missing facial features", "extra limbs", "disfigured hands",
    "wrong hand count", "artifacts around text", "inconsistent perspective", "camera shake",
    "incorrect depth of field", "background too sharp", "background clutter", "distracting reflections",
    "harsh shadows", "inconsistent lighting direction", "color banding", "cartoonish rendering", "3D CGI look",
    "unrealistic materials", "uncanny valley effect", "incorrect ethnicity", "wrong gender",
    "exaggerated expressions", "wrong gaze direction", "mismatched lip sync", "silent or muted audio",
    "distorted voice", "robotic voice", "echo", "background noise", "off-sync audio", "incorrect dialogue",
    "added dialogue", "repetitive speech", "jittery movement", "awkward pauses", "incorrect timing",
    "unnatural transitions", "inconsistent framing", "tilted camera", "flat lighting", "inconsistent tone",
    "cinematic oversaturation", "stylized filters", "or AI artifacts.",
)  # fmt: skip
"""What LTX-2.3's own pipelines (1.2.0) steer away from by default."""

DEFAULT_NEGATIVE_PROMPT = ", ".join(NEGATIVE_TERMS)


@dataclass(frozen=True)
class Guidance:
    """How strongly one modality is steered.

    Attributes:
        cfg: Towards the prompt and away from the negative prompt; 1 is off.
        stg: Away from a run whose self-attention is passed through in `stg_blocks`; 0 is off.
        modality: Towards agreement with the other modality; 1 is off.
        rescale: How far the result's spread is brought back to the plain prediction's, 0 to 1.
        stg_blocks: Transformer blocks, from 0.
    """

    cfg: float = 1.0
    stg: float = 0.0
    modality: float = 1.0
    rescale: float = 0.0
    stg_blocks: tuple[int, ...] = ()


NO_GUIDANCE = Guidance()
DEV_VIDEO = Guidance(cfg=3.0, stg=1.0, modality=3.0, rescale=0.7, stg_blocks=(28,))
DEV_AUDIO = replace(DEV_VIDEO, cfg=7.0)
HQ_VIDEO = Guidance(cfg=3.0, modality=3.0, rescale=0.45)
HQ_AUDIO = Guidance(cfg=7.0, modality=3.0, rescale=1.0)
"""Of the HQ recipe (`ltx_pipelines/utils/constants.py:LTX_2_3_HQ_PARAMS`), as the two before of `LTX_2_3_PARAMS`."""


@dataclass(frozen=True)
class Pass:
    """One transformer forward of a guided step.

    Attributes:
        name: `cond`, `uncond`, `ptb` or `mod`.
        negative: Whether it reads the negative prompt.
        skips: Attentions left out.
    """

    name: str
    negative: bool = False
    skips: Skips = NO_SKIPS


def passes(video: Guidance | None, audio: Guidance | None, layers: int) -> list[Pass]:
    """The forwards one step needs.

    Args:
        video, audio: Guidance of each modality present.
        layers: Transformer blocks; a pass that perturbs none that exist would repeat the plain one and is left out.
    """
    present = [g for g in (video, audio) if g is not None]
    result = [Pass("cond")]
    if any(g.cfg != 1.0 for g in present):
        result.append(Pass("uncond", negative=True))
    skips = Skips(video_self=_blocks(video, layers), audio_self=_blocks(audio, layers))
    if skips.video_self or skips.audio_self:
        result.append(Pass("ptb", skips=skips))
    if len(present) == 2 and any(g.modality != 1.0 for g in present):
        result.append(Pass("mod", skips=Skips(cross=True)))
    return result


def _blocks(guidance: Guidance | None, layers: int) -> frozenset[int]:
    if guidance is None or guidance.stg == 0.0:
        return frozenset()
    return frozenset(block for block in guidance.stg_blocks if block < layers)


def combine(guidance: Guidance, clean: dict[str, mx.array]) -> mx.array:
    """The guided clean latent.

    Args:
        guidance: How strongly this modality is steered.
        clean: Pass name -> predicted clean latent (B, T, C), fp32; `cond` always, others where they ran.

    Returns:
        (B, T, C) fp32. Each difference is pushed by its scale; then, for `rescale`, the spread of each row (unbiased
        standard deviation over its tokens) is drawn towards that of `cond`.
    """
    cond = clean["cond"]
    result = cond
    for name, scale in (("uncond", guidance.cfg - 1), ("ptb", guidance.stg), ("mod", guidance.modality - 1)):
        if name in clean and scale:
            result = result + scale * (cond - clean[name])
    if guidance.rescale and result is not cond:
        spread, pushed = (mx.var(x, axis=(1, 2), keepdims=True, ddof=1) for x in (cond, result))
        factor = mx.sqrt(spread / pushed)
        result = result * (guidance.rescale * factor + (1 - guidance.rescale))
    return result
