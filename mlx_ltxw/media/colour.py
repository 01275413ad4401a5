"""Decoded pictures as RGB for an ordinary screen, also those of high dynamic range."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

_HDR_TRANSFERS = (16, 18)  # PQ and HLG in ITU-T H.273, table 3
_TAGGED_MATRICES = (1, 5, 6, 9)  # BT.709, BT.470BG, SMPTE 170M, BT.2020
_UNMARKED = (0, 2)
_BT2020 = 9


def is_hdr(frame: Any) -> bool:
    """Whether a decoded frame is in PQ or HLG."""
    return int(frame.color_trc) in _HDR_TRANSFERS


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


def _graph(frame: Any) -> Any:
    from av.filter import Graph

    graph = Graph()
    size = {"width": frame.width, "height": frame.height, "format": frame.format.name}
    mapping = "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:intent=perceptual"
    nodes = [graph.add("scale", mapping), graph.add("format", "rgb24"), graph.add("buffersink")]
    graph.link_nodes(graph.add_buffer(**size, time_base=Fraction(1, 1000)), *nodes).configure()
    return graph
