"""Decoding in overlapping tiles, so that memory stays bounded whatever the clip's length and size.

The official rules (`tiling.py`, `conv_video_decoder.py:tiled_decode`): tiles are cut on the latent grid, decoded one
by one and blended with linear ramps. A temporal tile after the first starts one latent frame early, because the first
latent frame of any tile decodes to a single frame; that frame gets weight zero.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.video_vae.model import VideoVAE
from mlx_ltxw.models.video_vae.shared_tiles import Span, Tile, decoded_by
from mlx_ltxw.world import ALONE, World


@dataclass(frozen=True)
class Tiling:
    """Tile sizes, in frames and pixels. None leaves an axis whole.

    Args:
        frames: Frames per temporal tile.
        frames_overlap: Frames that neighbours share.
        pixels: Pixels per tile along the longer side; the shorter side's tile shrinks in proportion.
        pixels_overlap: Pixels that neighbours share, on both sides.

    The default is the official pipelines' (`utils/helpers.py:tiling_config_for_vae`).
    """

    frames: int | None = 80
    frames_overlap: int = 24
    pixels: int | None = 768
    pixels_overlap: int = 64

    def __post_init__(self) -> None:
        for size, overlap, unit in (
            (self.frames, self.frames_overlap, "frames"),
            (self.pixels, self.pixels_overlap, "pixels"),
        ):
            if size is not None and not 0 <= overlap < size:
                raise UserError(
                    f"Tiles of {size} {unit} cannot overlap by {overlap}.",
                    f"Choose an overlap of 0 to {size - 1} {unit}.",
                )


def decode_tiled(vae: VideoVAE, latent: mx.array, tiling: Tiling | None, world: World = ALONE) -> Iterator[mx.array]:
    """Decodes one clip tile by tile and yields its frames in order.

    Args:
        vae: Its decoder and statistics are used.
        latent: Normalised (1, F', H', W', C).
        tiling: None decodes the clip whole.
        world: Machines that share the tiles; the leading one puts them together, the others yield nothing.

    Yields:
        Evaluated chunks (f, H, W, 3) of about [-1, 1] in the latent's dtype, all frames once. At most one temporal
        tile and the overlap before it are held.

    Raises:
        UserError: if a tile is no multiple of the VAE's scale, or smaller than two latents.
    """
    if latent.shape[0] != 1:
        raise ValueError(f"tiled decoding takes one clip at a time, got a batch of {latent.shape[0]}")
    grid = (latent.shape[1], latent.shape[2], latent.shape[3])
    times, rows, columns = spans(tiling or Tiling(frames=None, pixels=None), grid, vae.config.scale)
    canvas = Canvas((times[-1].out_end, rows[-1].out_end, columns[-1].out_end), vae.config.scale[0])
    tiles = [(time, row, column) for time in times for row in rows for column in columns]
    each = len(rows) * len(columns)
    decoded = decoded_by(world, tiles, functools.partial(_pieces, vae, latent), latent.dtype)
    for number, (tile, pieces) in enumerate(decoded, 1):
        ready = tiles[number][0].out if number < len(tiles) else tile[0].out_end
        for end in _add_tile(canvas, tile, pieces):
            if number % each == 0:
                yield from canvas.take(min(end, ready), latent.dtype)


def _pieces(vae: VideoVAE, latent: mx.array, tile: Tile) -> Iterator[mx.array]:
    """A tile's pixels (1, f, h, w, 3), as its decoder makes them."""
    time, row, column = tile
    return vae.decode_pieces(latent[:, time.start : time.end, row.start : row.end, column.start : column.end])


def _add_tile(canvas: Canvas, tile: Tile, pieces: Iterable[mx.array]) -> Iterator[int]:
    """Adds one tile's weighted pixels to the canvas; yields how far it has come."""
    time, row, column = tile
    start = 0
    for piece in pieces:
        pixels = piece[0] * mx.array(row.weights)[:, None, None] * mx.array(column.weights)[:, None]
        stop = start + pixels.shape[0]
        pixels = pixels * mx.array(time.weights[start:stop])[:, None, None, None]
        canvas.add(time.out + start, row, column, pixels)
        start = stop
        del piece, pixels
        yield time.out + stop


class Canvas:
    """The frames that tiles have begun, in strips of a few, so that adding to one copies little.

    Args:
        size: Frames, height and width of the clip.
        step: Frames of a strip; a multiple of it begins each temporal tile.
    """

    def __init__(self, size: tuple[int, int, int], step: int) -> None:
        self.size, self.step = size, step
        self._strips: dict[int, mx.array] = {}

    def add(self, frame: int, row: Span, column: Span, pixels: mx.array) -> None:
        """Adds pixels (f, h, w, 3), fp32, from a frame on where a tile lies; evaluates."""
        frames, height, width = self.size
        end = frame + pixels.shape[0]
        touched = range(frame // self.step, -(-end // self.step))
        for index in touched:
            first = index * self.step
            length = min(self.step, frames - first)
            strip = self._strips.pop(index, None)
            strip = mx.zeros((length, height, width, 3)) if strip is None else strip
            start, stop = max(first, frame), min(first + length, end)
            part = pixels[start - frame : stop - frame]
            strip[start - first : stop - first, row.out : row.out_end, column.out : column.out_end] += part
            self._strips[index] = strip
        mx.eval([self._strips[index] for index in touched])

    def take(self, before: int, dtype: mx.Dtype) -> Iterator[mx.array]:
        """Gives up the strips that end before a frame, evaluated in a dtype."""
        for index in sorted(self._strips):
            if index * self.step + self._strips[index].shape[0] <= before:
                strip = self._strips.pop(index).astype(dtype)
                mx.eval(strip)
                yield strip


def spans(
    tiling: Tiling, grid: tuple[int, int, int], scale: tuple[int, int, int]
) -> tuple[list[Span], list[Span], list[Span]]:
    """Tiles along time, height and width for a latent grid (F', H', W')."""
    frames, height, width = grid
    times = _time_spans(frames, *_latents(tiling.frames, tiling.frames_overlap, scale[0], "frames"), scale[0])
    sides = []
    for length, factor in ((height, scale[1]), (width, scale[2])):
        size, overlap = _latents(tiling.pixels, tiling.pixels_overlap, factor, "pixels")
        if size is not None:
            # Python's round to even, as in the official `TileSizeConfig.from_long_side`.
            size = max(2, overlap + 1, round(size * length / max(height, width)))
        sides.append(_side_spans(length, size, overlap, factor))
    return times, sides[0], sides[1]


def _latents(size: int | None, overlap: int, factor: int, unit: str) -> tuple[int | None, int]:
    if size is None:
        return None, 0
    if size % factor or overlap % factor or size < 2 * factor:
        raise UserError(
            f"Tiles of {size} {unit} with an overlap of {overlap} do not fit the video VAE.",
            f"Use multiples of {factor} {unit}, and tiles of at least {2 * factor}.",
        )
    return size // factor, overlap // factor


def _cut(length: int, size: int | None, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of equal tiles, of which the last may be shorter."""
    if size is None or length <= size:
        return [(0, length)]
    step = size - overlap
    count = -(-(length - overlap) // step)
    return [(i * step, min(i * step + size, length)) for i in range(count)]


def _time_spans(length: int, size: int | None, overlap: int, factor: int) -> list[Span]:
    cut = _cut(length, size, overlap)
    ramp = factor * overlap
    out = []
    for start, end in cut:
        first, last = start == 0, end == length
        begin = start if first else start - 1
        frames = 1 + factor * (end - 1 - begin)
        # The early latent's one frame is the ramp's zero; the ramp then rises over the overlap.
        rise = [1.0] * frames if first else [min(1.0, i / (ramp + 1)) for i in range(frames)]
        fall = [1.0] * frames if last else [min(1.0, (frames - i) / (ramp + 1)) for i in range(frames)]
        out.append(Span(begin, end, factor * begin, [a * b for a, b in zip(rise, fall, strict=True)]))
    return _to_unit_sum(out)


def _side_spans(length: int, size: int | None, overlap: int, factor: int) -> list[Span]:
    ramp = factor * overlap
    out = []
    for start, end in _cut(length, size, overlap):
        pixels = factor * (end - start)
        rise = [1.0] * pixels if start == 0 else [min(1.0, (i + 1) / (ramp + 1)) for i in range(pixels)]
        fall = [1.0] * pixels if end == length else [min(1.0, (pixels - i) / (ramp + 1)) for i in range(pixels)]
        out.append(Span(start, end, factor * start, [a * b for a, b in zip(rise, fall, strict=True)]))
    return _to_unit_sum(out)


def _to_unit_sum(axis: list[Span]) -> list[Span]:
    """Divides the weights by their sum at every output element.

    Ramps of two neighbours already add up to one; three tiles meet where an overlap is more than half a tile.
    """
    total = [0.0] * axis[-1].out_end
    for span in axis:
        for i, weight in enumerate(span.weights):
            total[span.out + i] += weight
    return [
        Span(s.start, s.end, s.out, [weight / total[s.out + i] for i, weight in enumerate(s.weights)]) for s in axis
    ]
