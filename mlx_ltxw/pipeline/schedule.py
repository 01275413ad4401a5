"""Noise levels of the denoising steps. Source: `ltx_core/components/schedulers.py:LTX2Scheduler`."""

from __future__ import annotations

import numpy as np

DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
"""The steps the distilled model was trained for (`ltx_pipelines/utils/constants.py`)."""

SECOND_STAGE_SIGMAS = DISTILLED_SIGMAS[5:]
"""Those of a second stage, for the distilled model and for the dev model with the distilled LoRA."""

DEFAULT_TOKENS = 4096
"""All pipelines but the HQ one pass no latent, so the shift is that of 4096 tokens for every size."""

_SHIFT_AT = (1024, 4096)
_SHIFTS = (0.95, 2.05)
_TERMINAL = 0.1


def ltx2_sigmas(steps: int, tokens: int = DEFAULT_TOKENS) -> np.ndarray:
    """Shifted and stretched flow-matching schedule.

    Args:
        steps: Denoising steps, at least 1.
        tokens: Video tokens that set the shift.

    Returns:
        (steps + 1,) fp32 from 1 down to 0; the last level above 0 is 0.1 (for one step there is none to stretch).
    """
    linear = np.linspace(1.0, 0.0, steps + 1, dtype=np.float32).astype(np.float64)
    slope = (_SHIFTS[1] - _SHIFTS[0]) / (_SHIFT_AT[1] - _SHIFT_AT[0])
    shift = np.exp(tokens * slope + _SHIFTS[0] - slope * _SHIFT_AT[0])
    positive = linear[:-1]
    sigmas = shift / (shift + (1 / positive - 1))
    if steps > 1:
        sigmas = 1 - (1 - sigmas) * (1 - _TERMINAL) / (1 - sigmas[-1])
    return np.append(sigmas, 0.0).astype(np.float32)
