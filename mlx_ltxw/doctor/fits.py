"""What of LTX-2.3 fits into a machine: sizes of clips by precision, on paper."""

from __future__ import annotations

from dataclasses import dataclass

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
_DECODING = int((1.45 + 1.9) * GB)  # the video autoencoder's weights, and what its decoding holds at most
_CACHE = int(0.25 * GB)  # freed buffers that MLX keeps


def peak(precision: Precision, clip: str) -> int:
    """Bytes at the largest moment of a run; one network is in memory at a time.

    Args:
        precision: Of the weights.
        clip: A key of `FORWARD`.
    """
    alone = clip == "sound alone"
    transformer = precision.audio_side if alone else precision.transformer
    stages = [precision.text_encoder, transformer + FORWARD[clip], 0 if alone else _DECODING]
    return max(stages) + _CACHE


def table(budget: int) -> list[dict[str, object]]:
    """One row a precision: `precision`, `disk`, and for each clip its peak in bytes and whether that fits `budget`."""
    return [
        {
            "precision": precision.name,
            "disk": precision.disk,
            "clips": {
                clip: {"peak": peak(precision, clip), "fits": peak(precision, clip) <= budget} for clip in FORWARD
            },
        }
        for precision in PRECISIONS
    ]
