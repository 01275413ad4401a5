"""What of LTX-2.3 fits into a machine: sizes of clips by precision, on paper."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mlx_ltxw.pipeline.budget import MARGIN
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.pipeline.needs import BUFFERS

GB = 10**9


@dataclass(frozen=True)
class Precision:
    """What the networks take in memory, in bytes; exact, from the published shapes (`scripts/sizes.py`).

    Attributes:
        name: As `convert -q` has it.
        text_encoder, transformer, audio_side: Of the whole, and of what `--audio-only` loads.
        disk: Of the whole model.
    """

    name: str
    text_encoder: int
    transformer: int
    audio_side: int
    disk: int


PRECISIONS = (
    Precision("bf16", int(23.5 * GB), int(38.0 * GB), int(6.6 * GB), int(69.7 * GB)),
    Precision("-q 8", int(13.4 * GB), int(20.6 * GB), int(3.6 * GB), int(42.2 * GB)),
    Precision("-q 4", int(8.1 * GB), int(11.4 * GB), int(1.9 * GB), int(27.6 * GB)),
)

FORWARD = {"sound alone": int(0.3 * GB), "704x480x97": int(0.75 * GB), "1280x704x121": int(1.95 * GB)}
"""Bytes that a forward holds beyond the weights (one H200; `docs/log.md`, 2026-11-28)."""
LARGEST = Geometry(1280, 704, 121, 24.0, LatentGrid(8, 32, 32, 0.01, 4))
BLOCKS = 48
_OUTSIDE = {"sound alone": int(0.3 * GB)}
_OUTSIDE_BLOCKS = int(0.86 * GB)
"""Of the transformer, bf16 at every precision."""
_STATES = int(2.31 * GB)
"""All hidden states of two prompts, three times over."""
_OTHERS = max(
    int((1.45 + 1.9) * GB),  # the video autoencoder, and what its decoding holds at most
    int(2.31 * GB) + _STATES,  # the text projection
    int((4.03 + 0.2) * GB),  # the connectors
)
_CACHE = int(0.25 * GB)  # freed buffers that MLX keeps


@dataclass(frozen=True)
class Fit:
    """How a clip fits.

    Attributes:
        peak: Bytes at the largest moment of a run; one network is in memory at a time.
        blocks: Of the transformer's 48, those that stay in memory; the others are read for each step. None where
            it does not fit at all.
    """

    peak: int
    blocks: int | None


def fit(precision: Precision, clip: str, budget: int, program: int = 0) -> Fit:
    """How a clip fits into some bytes.

    Args:
        precision: Of the weights.
        clip: A key of `FORWARD`.
        budget: Bytes that a run may use.
        program: Bytes that the program itself takes of them.
    """
    budget = int(budget * MARGIN) - program
    weights = precision.audio_side if clip == "sound alone" else precision.transformer
    outside = _OUTSIDE.get(clip, _OUTSIDE_BLOCKS)
    others = max(_OTHERS, int(BUFFERS * precision.text_encoder / BLOCKS) + _STATES) + _CACHE
    whole = max(weights + FORWARD[clip] + _CACHE, others)
    if whole <= budget:
        return Fit(whole + program, BLOCKS)
    block = (weights - outside) // BLOCKS
    fixed = outside + FORWARD[clip] + _CACHE + int(BUFFERS * block)
    stay = (budget - fixed) // block
    if stay < 0 or others > budget:
        return Fit(max(fixed, others) + program, None)
    stay = min(stay, BLOCKS - 1)
    return Fit(max(others, fixed + stay * block) + program, stay)


def table(budget: int, program: int = 0) -> list[dict[str, object]]:
    """One row a precision: `precision`, `disk`, and for each clip its peak in bytes and the blocks that stay."""
    return [
        {
            "precision": precision.name,
            "disk": precision.disk,
            "clips": {clip: dataclasses.asdict(fit(precision, clip, budget, program)) for clip in FORWARD},
        }
        for precision in PRECISIONS
    ]
