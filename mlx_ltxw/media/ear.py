"""One channel to listen to, at 16 kHz and without rumble, from blocks of one or two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mlx_ltxw.media.audio import LAYOUTS, as_waveform, to_frames
from mlx_ltxw.media.sound import slices

RATE = 16000

_RUMBLE = 50.0  # Hz; what lies 12 Hz below is gone
_TAPS = 2049  # at 16 kHz
_CANCELLED = 0.1  # of the channels' mean power; their sum has half of it when they have nothing in common


def to_mono(samples: np.ndarray, rate: int) -> np.ndarray:
    """(N,) or (N, 2) at `rate` -> (M,) at 16 kHz, without rumble."""
    wave = as_waveform(samples)
    ear = Ear(rate, wave.shape[1])
    parts = [*ear.hear(slices(wave, rate))]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class Ear:
    """Turns blocks of one or two channels into one channel at 16 kHz without rumble.

    Two channels are averaged. Where that cancels them, as a microphone wired the wrong way round does, half their
    difference is heard instead; a block decides for itself.

    Attributes:
        cancelled: Seconds for which the channels cancelled each other.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self.rate, self.channels = rate, channels
        self.cancelled = 0.0

    def hear(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """(N, C) at the rate -> (M,) at 16 kHz."""
        yield from _without_rumble(self._one_channel(block) for block in self._resampled(blocks))

    def _resampled(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As `audio.resample`: (round(N * 16000 / rate), C) in all."""
        import av

        if self.rate == RATE:
            yield from blocks
            return
        resampler = av.AudioResampler(format="fltp", layout=LAYOUTS[self.channels], rate=RATE)
        taken = made = 0
        for block in blocks:
            parts = [p.to_ndarray() for frame in to_frames(block, self.rate, taken) for p in resampler.resample(frame)]
            taken += len(block)
            if parts:
                out = np.concatenate(parts, axis=1).T
                made += len(out)
                yield out
        rest = [part.to_ndarray() for part in resampler.resample(None)] if taken else []
        out = np.concatenate([np.zeros((self.channels, 0), np.float32), *rest], axis=1).T
        missing = round(taken * RATE / self.rate) - made
        yield np.pad(out[: max(0, missing)], ((0, max(0, missing - len(out))), (0, 0)))

    def _one_channel(self, block: np.ndarray) -> np.ndarray:
        if block.shape[1] == 1:
            return block[:, 0]
        left, right = block.T
        total = (left + right) / 2
        steps = [float((np.diff(channel) ** 2).sum()) for channel in (total, left, right)]  # deaf to rumble
        if steps[0] >= _CANCELLED * (steps[1] + steps[2]) / 2:
            return total
        self.cancelled += len(block) / RATE
        return (left - right) / 2


def _without_rumble(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """A high-pass of linear phase (windowed sinc), as if the first and the last sample went on for ever."""
    half = _TAPS // 2
    clock = np.arange(-half, half + 1) / RATE
    taps = -2 * _RUMBLE / RATE * np.sinc(2 * _RUMBLE * clock) * np.hanning(_TAPS)
    taps *= -1 / taps.sum()  # nothing is left of a constant
    taps[half] += 1
    past: np.ndarray | None = None
    skip = half  # what comes before the first sample

    def filtered(new: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        joined = np.concatenate([before, new])
        points = 1 << (len(joined) + _TAPS - 2).bit_length()
        out = np.fft.irfft(np.fft.rfft(joined, points) * np.fft.rfft(taps, points), points)
        return out[2 * half : len(joined)].astype(np.float32), joined[-2 * half :]

    for piece in pieces:
        if len(piece):
            out, past = filtered(piece, np.full(2 * half, piece[0]) if past is None else past)
            yield out[skip:]
            skip = max(0, skip - len(out))
    if past is not None:
        out, past = filtered(np.full(half, past[-1]), past)
        yield out[skip:]
