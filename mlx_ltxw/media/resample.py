"""Other sample rates, by the windowed sinc that the official trainer uses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

_ZEROS = 6  # of the sinc on each side of its middle
_ROLL_OFF = 0.99
_LARGEST = 1 << 21  # taps of a kernel that is laid out for one matrix product
_BLOCK = 1 << 12  # rows of such a product


def resample(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    """(N, C) fp32 at `rate` -> (ceil(N * target / rate), C) fp32 at `target`; see `Resampler`."""
    wave = np.asarray(wave, np.float32)
    if rate == target:
        return wave
    resampler = Resampler(rate, target, wave.shape[1])
    return np.concatenate([resampler.push(wave), resampler.finish()])


def resample_blocks(blocks: Iterable[np.ndarray], rate: int, target: int, channels: int) -> Iterator[np.ndarray]:
    """`resample` of a sound that comes in blocks (N, C); the blocks together are the same samples."""
    if rate == target:
        yield from blocks
        return
    resampler = Resampler(rate, target, channels)
    for block in blocks:
        yield resampler.push(block)
    yield resampler.finish()


class Resampler:
    """A sound at another rate, block by block; before it and after it there is silence.

    Sample j of the result is the sum over samples i of the sound, at t = i / rate - j / target seconds, of
    x[i] * g * sinc(g * rate' * t) * cos(pi * g' t / 12)^2 within 6 zeros of the sinc, cut off at 0.99 of the lower
    rate's half. Source: `torchaudio.functional.resample` with its defaults (`sinc_interp_hann`, 6, 0.99).

    Args:
        rate, target: Hz.
        channels: C.
    """

    def __init__(self, rate: int, target: int, channels: int) -> None:
        common = math.gcd(rate, target)
        self._step, self._phases = rate // common, target // common
        self._reach = math.ceil(_ZEROS * self._step / (min(self._step, self._phases) * _ROLL_OFF))
        self._held = np.zeros((self._reach, channels), np.float32)  # from sample `_first - reach` on
        self._taken = self._made = 0

    def push(self, block: np.ndarray) -> np.ndarray:
        """Takes (N, C) fp32, gives the samples (M, C) fp32 that are certain by now."""
        self._taken += len(block)
        held = np.concatenate([self._held, np.asarray(block, np.float32)])
        groups = max(0, (len(held) - 2 * self._reach) // self._step)  # each of `_step` samples makes `_phases`
        self._held = held[groups * self._step :]
        made = self._filtered(held, groups)
        self._made += len(made)
        return made

    def finish(self) -> np.ndarray:
        """The rest, (M, C) fp32."""
        missing = math.ceil(self._taken * self._phases / self._step) - self._made
        groups = -(-missing // self._phases)
        needed = groups * self._step + 2 * self._reach
        held = np.pad(self._held, ((0, max(0, needed - len(self._held))), (0, 0)))
        return self._filtered(held, groups)[:missing]

    def _filtered(self, held: np.ndarray, groups: int) -> np.ndarray:
        out = np.empty((held.shape[1], groups * self._phases), np.float32)
        if not groups:
            return out.T
        dense = self._phases * (2 * self._reach + self._step) <= _LARGEST
        for channel, samples in enumerate(held.T):
            filter_channel = self._by_product if dense else self._by_phase
            filter_channel(np.ascontiguousarray(samples), out[channel], groups)
        return np.ascontiguousarray(out.T)

    def _by_product(self, samples: np.ndarray, out: np.ndarray, groups: int) -> None:
        taps = _dense(self._step, self._phases, self._reach)
        windows = np.lib.stride_tricks.sliding_window_view(samples, len(taps))[:: self._step]
        rows = out.reshape(groups, self._phases)
        for at in range(0, groups, _BLOCK):
            np.matmul(windows[at : min(at + _BLOCK, groups)], taps, out=rows[at : at + _BLOCK])

    def _by_phase(self, samples: np.ndarray, out: np.ndarray, groups: int) -> None:
        first, taps = _sparse(self._step, self._phases, self._reach)
        windows = np.lib.stride_tricks.sliding_window_view(samples, taps.shape[1])
        for at in range(0, len(out), _BLOCK):
            group, phase = np.divmod(np.arange(at, min(at + _BLOCK, len(out))), self._phases)
            chosen = windows[group * self._step + first[phase]]
            out[at : at + _BLOCK] = np.einsum("nk,nk->n", chosen, taps[phase])


@lru_cache(maxsize=16)
def _dense(step: int, phases: int, reach: int) -> np.ndarray:
    """(2 * reach + step, phases) fp32: the taps on one group's samples and those `reach` around them."""
    at = np.arange(-reach, reach + step)[:, None]
    return _taps(at, np.arange(phases)[None], step, phases)


@lru_cache(maxsize=4)
def _sparse(step: int, phases: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """The first sample that each phase uses, (phases,), and its taps on that and the next, (phases, 2 * reach + 1)."""
    phase = np.arange(phases)
    first = phase * step // phases  # of the group's samples and those `reach` before them
    at = first[:, None] - reach + np.arange(2 * reach + 1)
    return first, _taps(at, phase[:, None], step, phases)


def _taps(at: np.ndarray, phase: np.ndarray, step: int, phases: int) -> np.ndarray:
    """The kernel at sample `at` for result `phase`. Times are rounded to fp32 as torchaudio's are."""
    one = np.float32
    time = -phase.astype(one) / one(phases) + at.astype(one) / one(step)
    cut_off = min(step, phases) * _ROLL_OFF
    time = np.clip(time * one(cut_off), -_ZEROS, _ZEROS).astype(np.float64)
    window = np.cos(time * np.pi / _ZEROS / 2) ** 2
    return (np.sinc(time) * window * (cut_off / step)).astype(one)
