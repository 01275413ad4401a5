"""Decoded pictures as RGB for an ordinary screen, also those of high dynamic range."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

HDR_NAMES = {16: "PQ", 18: "HLG"}
"""Transfers of high dynamic range in ITU-T H.273, table 3."""
SDR_PRIMARIES = (1,)
"""Those of BT.709 and sRGB."""
_TAGGED_MATRICES = (1, 5, 6, 9)  # BT.709, BT.470BG, SMPTE 170M, BT.2020
_UNMARKED = (0, 2)
_BT2020 = 9
_FULL = 2
_BT709 = np.array([[0.64, 0.33], [0.30, 0.60], [0.15, 0.06], [0.3127, 0.3290]])
_ROWS = 256  # at a time: a camera's picture would take a gigabyte in fp32


def is_hdr(frame: Any) -> bool:
    """Whether a decoded frame is in PQ or HLG."""
    return int(frame.color_trc) in HDR_NAMES


class RgbConverter:
    """Decoded frames, scaled -> (height, width, 3) uint8; those in PQ or HLG are tone-mapped to BT.709.

    One serves a whole clip: FFmpeg works out the table of a tone mapping once, which takes a second.
    """

    def __init__(self) -> None:
        self._graphs: dict[tuple[Any, ...], Any] = {}

    def __call__(self, frame: Any, width: int, height: int) -> np.ndarray:
        from av.video.reformatter import Colorspace, Interpolation

        scaling = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        if is_hdr(frame):
            smaller = frame.reformat(width=width, height=height, format=frame.format.name, interpolation=scaling)
            return self._tone_mapped(smaller, frame)
        guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601  # as players do with unmarked files
        scaled = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=None if int(frame.colorspace) in _TAGGED_MATRICES else guess,
            interpolation=scaling,
        )
        return np.asarray(scaled.to_ndarray())

    def _tone_mapped(self, frame: Any, tags: Any) -> np.ndarray:
        """By FFmpeg's scaler with the perceptual intent, which it has from version 8 on; unmarked is BT.2020."""
        frame.pts, frame.color_trc, frame.color_range = None, tags.color_trc, tags.color_range
        frame.colorspace = _BT2020 if int(tags.colorspace) in _UNMARKED else tags.colorspace
        frame.color_primaries = _BT2020 if int(tags.color_primaries) in _UNMARKED else tags.color_primaries
        key = (frame.width, frame.height, frame.format.name, int(tags.color_trc), int(tags.color_range))
        if key not in self._graphs:
            self._graphs[key] = _graph(frame)
        self._graphs[key].push(frame)
        return np.asarray(self._graphs[key].pull().to_ndarray())


def from_wide_primaries(values: np.ndarray, chromaticities: np.ndarray) -> np.ndarray:
    """A still picture of other primaries than sRGB's, with sRGB's curve and white -> (H, W, 3) uint8 sRGB.

    Args:
        values: (H, W, 3) uint16, full range.
        chromaticities: (4, 2), x and y of red, green, blue and white.
    """
    matrix = (np.linalg.inv(_to_xyz(_BT709)) @ _to_xyz(chromaticities)).astype(np.float32)
    result = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        part = values[start : start + _ROWS].astype(np.float32) / 65535
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4) @ matrix.T
        linear = np.clip(linear, 0, 1)
        curve = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
        result[start : start + _ROWS] = np.rint(curve * 255)
    return result


def _to_xyz(chromaticities: np.ndarray) -> np.ndarray:
    """(3, 3): linear RGB of these primaries -> CIE XYZ, by SMPTE RP 177."""
    x, y = np.asarray(chromaticities, np.float64).T
    xyz = np.stack([x / y, np.ones_like(y), (1 - x - y) / y])
    return xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])


def tone_mapped_still(values: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """A still picture in PQ or HLG -> (H, W, 3) uint8 sRGB.

    Args:
        values: (H, W, 3) uint16, full range.
        transfer, primaries: By ITU-T H.273; unmarked primaries are BT.2020's.
    """
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format="rgb48le")
    frame.pts, frame.color_trc, frame.color_range = None, transfer, _FULL
    frame.color_primaries = _BT2020 if primaries in _UNMARKED else primaries
    graph = _graph(frame, "iec61966-2-1")
    graph.push(frame)
    return np.asarray(graph.pull().to_ndarray())


def _graph(frame: Any, transfer: str = "bt709") -> Any:
    from av.filter import Graph

    graph = Graph()
    size = {"width": frame.width, "height": frame.height, "format": frame.format.name}
    mapping = f"out_transfer={transfer}:out_primaries=bt709:out_color_matrix=bt709:intent=perceptual"
    nodes = [graph.add("scale", mapping), graph.add("format", "rgb24"), graph.add("buffersink")]
    graph.link_nodes(graph.add_buffer(**size, time_base=Fraction(1, 1000)), *nodes).configure()
    return graph
