"""Whether a JPEG's pixels are all there: libjpeg makes those grey that its data end before."""

from __future__ import annotations

from pathlib import Path

_PADDING = 64  # bytes that FFmpeg may read beyond the end
_STRICT = {"err_detect": "explode"}


def lacks_pixels(path: Path | str) -> bool:
    """Whether the data of a JPEG's first picture are damaged or end early; False for what FFmpeg does not read at all.

    libjpeg warns of that, and Pillow does not hand the warning on. What lies beside the pixels or behind them does no
    harm: EXIF, thumbnails, other pictures. An end within the last one or two blocks may go unnoticed.
    """
    data = bytearray(Path(path).stat().st_size + _PADDING)
    with Path(path).open("rb") as file:
        file.readinto(data)
    return not _is_decoded(data, _STRICT) and _is_decoded(data, {})


def _is_decoded(data: bytearray, options: dict[str, str]) -> bool:
    import av

    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options, decoder.thread_count = options, 1
    try:
        return bool(decoder.decode(av.Packet(data)))
    except av.FFmpegError:
        return False
