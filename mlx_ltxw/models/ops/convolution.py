"""Convolutions, and long signals piece by piece.

Channels last: sounds are (B, L, C), videos (B, T, H, W, C); weights [O, K, I] and [O, 3, 3, 3, I].
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models.ops import device
from mlx_ltxw.models.submissions import Submissions

PIECE = 2**18
"""Elements of a signal that the CPU works on at a time, so that intermediates stay near its cache."""
PIECE_ON_GPU = 2**21
"""And a GPU, so that the intermediates of a piece stay small.

On an H200 60 s of the vocoder take 0.6 GB and 1.8 s. Pieces of 2**22 take 1.1 GB and 0.9 s: the work of a small piece
takes longer to describe than to compute.
"""
SHORTEST_PIECE = 2048
PIECE_BY_TAPS = 2**20
"""Elements of a picture that are convolved tap by tap at a time."""


def conv1d(x: mx.array, weight: mx.array, bias: mx.array | None, padding: int, dilation: int = 1) -> mx.array:
    """Convolves `x` (B, L, I) with `weight` (O, K, I), zeros around: (B, L + 2 padding - (K - 1) dilation, O)."""
    if not device.on_cpu():
        y = mx.conv1d(x, weight, padding=padding, dilation=dilation)
        return y if bias is None else y + bias
    # MLX's own CPU convolution is a plain loop when dilated, and copies the input K times when not.
    x = mx.pad(x, [(0, 0), (padding, padding), (0, 0)])
    taps = mx.contiguous(weight.transpose(1, 2, 0))  # (K, I, O)
    size = taps.shape[0]
    length = x.shape[1] - (size - 1) * dilation
    y = x[:, :length] @ taps[0] if bias is None else mx.addmm(bias, x[:, :length], taps[0])
    for tap in range(1, size):
        y = mx.addmm(y, x[:, tap * dilation : tap * dilation + length], taps[tap])
    return y


@cache
def _streams() -> tuple[Any, Any]:
    return mx.new_thread_local_stream(mx.cpu), mx.new_thread_local_stream(mx.cpu)


def paced() -> Submissions:
    """Hands work to a GPU as it is described, two pieces at a time; a CPU gets it when the result is asked for."""
    return Submissions(0 if device.on_cpu() else 1, 1)


def in_chunks(function: Callable[[mx.array], mx.array], x: mx.array, reach: int) -> mx.array:
    """`function(x)` piece by piece along time, two pieces at once.

    MLX's CPU backend computes an elementwise operation on one core; two streams keep two of them busy. A GPU is handed
    each piece when the one before the last is done.

    Args:
        function: Keeps the length of its input (B, L, C).
        reach: Samples on either side that an output sample may depend on; pieces overlap by so many, and what they
            make of their artificial ends is thrown away. The result is the whole's.
    """
    batch, length, channels = x.shape
    on_cpu = device.on_cpu()
    piece = (PIECE if on_cpu else PIECE_ON_GPU) // (batch * channels)
    piece = max(SHORTEST_PIECE, min(piece, -(-length // 2)) if on_cpu else piece)
    pieces, submissions = [], paced()
    for number, window in enumerate(windows(length, piece, reach)):
        with mx.stream(_streams()[number % 2]) if on_cpu else nullcontext():
            pieces.append(window.own(function(x[:, window.first : window.stop])))
        submissions.add(pieces[-1])
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=1)


@dataclass(frozen=True)
class Window:
    """What one piece of a signal reads, and what of it is the piece's own.

    Args:
        first, stop: Samples that it reads.
        start, end: Its own.
    """

    first: int
    stop: int
    start: int
    end: int

    def own(self, y: mx.array, rate: int = 1) -> mx.array:
        """The piece's own part of what was made of its window, at `rate` samples for one; in memory of its own."""
        if (self.first, self.stop) == (self.start, self.end):
            return y
        return mx.contiguous(y[:, (self.start - self.first) * rate : (self.end - self.first) * rate])


def windows(length: int, piece: int, reach: int, step: int = 1) -> list[Window]:
    """Cuts a signal into pieces, each with what its samples depend on.

    All windows have one length, because a GPU library plans a convolution anew for each length it meets.

    Args:
        length: Of the signal.
        piece: Samples of a piece at most, up to the step.
        reach: Samples on either side that a sample depends on.
        step: Pieces and windows start at a multiple of it.
    """
    count = -(-length // piece)
    size = -(-length // (count * step)) * step
    span = size + 2 * -(-reach // step) * step
    if count == 1 or length <= span:
        return [Window(0, length, 0, length)]
    latest = -(-(length - span) // step) * step
    cut = []
    for start in range(0, length, size):
        first = min(max(0, start - (span - size) // 2), latest)
        cut.append(Window(first, min(first + span, length), start, min(start + size, length)))
    return cut


def conv2d(x: mx.array, layer: nn.Conv2d) -> mx.array:
    """An `nn.Conv2d` without padding or groups: (B, H, W, I) -> (B, H', W', O).

    Where cuDNN would ask for more memory than any card has, one matrix product for each tap takes its place, some rows
    at a time: each product copies what it reads, and a card is handed many before the first is done.
    """
    if not device.greedy_convolutions(x.dtype):
        y: mx.array = layer(x)
        return y
    down, (size, across) = layer.stride[0], layer.weight.shape[1:3]
    height, width = (x.shape[1] - size) // down + 1, (x.shape[2] - across) // layer.stride[1] + 1
    rows = max(1, PIECE_BY_TAPS // (x.shape[0] * width * max(layer.weight.shape[0], x.shape[3])))
    pieces, submissions = [], paced()
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        pieces.append(_conv2d_by_taps(x[:, down * start : down * (stop - 1) + size], layer, stop - start, width))
        submissions.add(pieces[-1])
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=1)


def _conv2d_by_taps(x: mx.array, layer: nn.Conv2d, height: int, width: int) -> mx.array:
    down, across = layer.stride
    out: Any = layer.bias if "bias" in layer else 0
    for i in range(layer.weight.shape[1]):
        for j in range(layer.weight.shape[2]):
            seen = x[:, i : i + down * height : down, j : j + across * width : across]
            out = out + seen @ layer.weight[:, i, j].T
    return out


def conv3d(x: mx.array, weight: mx.array, stride: tuple[int, int, int], pad: int, before: int, after: int) -> mx.array:
    """Convolves a video with its border frames repeated: T frames become `T + before + after - 2`, over the stride.

    Args:
        x: (B, T, H, W, I).
        weight: [O, 3, 3, 3, I].
        stride: (time, height, width).
        pad: Rows and columns of zeros on each side.
        before: How often the first frame is repeated.
        after: How often the last one is.
    """
    convolve = _conv3d_by_frames if _by_frames_is_faster(weight) else _conv3d_direct
    return convolve(x, weight, stride, pad, before, after)


def _by_frames_is_faster(weight: mx.array) -> bool:
    """Whether `_conv3d_by_frames` beats `_conv3d_direct` for this weight on the default device.

    On the CPU, MLX copies 27 patches of the input before one matrix product; by frames it copies 9, but makes three
    outputs. Measured on two cores, 97 frames of 32x32: 8 -> 8 channels 69 against 16 ms, 16 -> 32 157 against 93; with
    outputs at least four times as wide as the input the direct way is as fast or faster. On CUDA the direct way is
    always faster (H200, bf16, LTX-2.3's widths: 1.1 to 1.7 times). On Metal it is a fused kernel too, except that
    widths which are no multiple of 16 fall back to the 27 copies.
    """
    out_channels, in_channels = weight.shape[0], weight.shape[-1]
    if device.on_cpu():
        return out_channels <= 2 * in_channels
    return mx.metal.is_available() and bool(out_channels % 16 or in_channels % 16)


def _conv3d_direct(
    x: mx.array, weight: mx.array, stride: tuple[int, int, int], pad: int, before: int, after: int
) -> mx.array:
    """Pads the frames and calls MLX's 3-D convolution."""
    x = _frames(x, -before, x.shape[1] + after)
    return mx.conv3d(x, weight, stride=stride, padding=(0, pad, pad))


def _conv3d_by_frames(
    x: mx.array, weight: mx.array, stride: tuple[int, int, int], pad: int, before: int, after: int
) -> mx.array:
    """Convolves each frame with all three temporal taps at once, then adds the three, shifted in time."""
    batch, frames = x.shape[:2]
    width = weight.shape[0]
    taps = weight.swapaxes(0, 1).reshape(3 * width, *weight.shape[2:])  # [3 O, 3, 3, I], tap slowest
    y = mx.conv2d(x.flatten(0, 1), taps, stride=stride[1:], padding=pad)
    y = y.reshape(batch, frames, *y.shape[1:])  # (B, T, H', W', 3 O)
    parts = []
    for tap in range(3):
        of_tap = y[..., tap * width : (tap + 1) * width]
        parts.append(_frames(of_tap, tap - before, frames + after + tap - 2)[:, :: stride[0]])
    return parts[0] + parts[1] + parts[2]


def _frames(x: mx.array, start: int, stop: int) -> mx.array:
    """Frames start to stop - 1 of `x` (B, T, ...), with the first and last frame repeated beyond the ends."""
    frames, count = x.shape[1], stop - start
    parts = [x[:, :1]] * min(max(0, -start), count)
    if max(0, start) < min(stop, frames):
        parts.append(x[:, max(0, start) : min(stop, frames)])
    parts += [x[:, -1:]] * min(max(0, stop - frames), count)
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
