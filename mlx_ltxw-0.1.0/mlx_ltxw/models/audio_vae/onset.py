"""Turns down the click with which LTX-2.3's decoded sound can begin."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

SECONDS = 0.065
"""How long the click lasts: the causal audio VAE decodes the first latent frames with nothing before them."""
FOLLOWING = 0.25
"""Seconds after it that say how loud the clip is."""
RELEASE = 0.01
"""Seconds over which the level comes back."""
NEAR_CLIPPING, OUTSTANDING = 0.5, 4.0


def soften_onset(waveform: mx.array, rate: int) -> mx.array:
    """Brings the first 65 ms down to the peak of what follows, where they are a click.

    A click has a peak of at least 0.5 and of four times (12 dB) the peak of the quarter second after it. Any other
    clip comes back bit for bit, so speech or music from the first sample on is safe; a clip that means to begin with
    a blow and falls silent is not, and should not be passed through here.

    Args:
        waveform: (B, N, channels), float32, in -1 to 1; channels share one gain.
        rate: Samples a second.
    """
    onset, following, release = (round(seconds * rate) for seconds in (SECONDS, FOLLOWING, RELEASE))
    if waveform.shape[1] <= onset + release:
        return waveform
    peak = mx.max(mx.abs(waveform[:, :onset]), axis=(1, 2), keepdims=True)
    after = mx.max(mx.abs(waveform[:, onset + release : onset + following]), axis=(1, 2), keepdims=True)
    click = mx.logical_and(peak >= NEAR_CLIPPING, peak >= OUTSTANDING * after)
    gain = mx.where(click, after / mx.maximum(peak, NEAR_CLIPPING), 1.0)  # (B, 1, 1)
    ramp = np.clip((np.arange(waveform.shape[1], dtype=np.float32) - onset) / release, 0, 1)
    rise = mx.array(0.5 - 0.5 * np.cos(np.pi * ramp))[None, :, None]
    return waveform * mx.where(click, gain + (1 - gain) * rise, 1.0)
