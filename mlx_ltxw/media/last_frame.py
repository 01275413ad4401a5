"""Whether an MP3, AC-3 or ADTS file ends inside a frame: streams of frames that no header counts."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO

_TAIL = 1 << 17  # bytes; many frames of any kind
_CHAIN = 4  # frames in a row that tell a frame's start from bytes that look like one

# kbit/s by index (ISO/IEC 11172-3 and 13818-3, section 2.4.2.3): MPEG-1 layers I to III, then MPEG-2
_RATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = (44100, 48000, 32000)
_AC3_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)  # ATSC A/52, 5.18


def ends_inside_a_frame(file: BinaryIO, size: int) -> bool:
    """Whether the last frame is not all there; False for files of other kinds and where nothing shows it."""
    file.seek(0)
    length = _kind(file.read(1 << 12))
    if length is None:
        return False
    file.seek(max(0, size - _TAIL))
    tail = _without_tags(file.read())
    for start in range(min(len(tail), 1 << 14)):
        at, count = start, 0
        while at + 8 <= len(tail) and (step := length(tail, at)):
            at, count = at + step, count + 1
        if count >= _CHAIN and at + 8 > len(tail):
            return at > len(tail)
    return False


def _kind(head: bytes) -> Callable[[bytes, int], int] | None:
    """What tells the lengths of this file's frames."""
    at = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        at = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return _mpeg  # what follows a tag in front is nearly always MP3; ADTS has its own check of each frame
    for length in (_ac3, _adts, _mpeg):
        if length(head, at):
            return length
    return None


def _without_tags(tail: bytes) -> bytes:
    """Without the ID3v1 and APE tags at the end."""
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    if tail[-32:-24] == b"APETAGEX":
        tail = tail[: max(0, len(tail) - struct.unpack("<I", tail[-20:-16])[0] - 32)]
    return tail


def _mpeg(data: bytes, at: int) -> int:
    """Bytes of an MPEG audio frame; 0 where none begins."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    rate, hertz, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or rate in (0, 15) or hertz == 3:
        return 0
    bits = 1000 * _RATES[1 if version == 3 else 2, layer][rate]
    frequency = _HERTZ[hertz] // {3: 1, 2: 2, 0: 4}[version]
    if layer == 1:
        return (12 * bits // frequency + padding) * 4
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bits // frequency + padding


def _ac3(data: bytes, at: int) -> int:
    """Bytes of an AC-3 sync frame; 0 where none begins."""
    if data[at : at + 2] != b"\x0b\x77" or len(data) < at + 6:
        return 0
    hertz, code = data[at + 4] >> 6, data[at + 4] & 0x3F
    if data[at + 5] >> 3 > 10:  # E-AC-3 tells its length otherwise
        return 2 * ((struct.unpack(">H", data[at + 2 : at + 4])[0] & 0x7FF) + 1)
    if hertz == 3 or code >= 38:
        return 0
    kilobits = _AC3_RATES[code >> 1]
    words = {0: 2 * kilobits, 1: 320 * kilobits // 147 + (code & 1), 2: 3 * kilobits}[hertz]
    return 2 * words


def _adts(data: bytes, at: int) -> int:
    """Bytes of an ADTS frame of AAC; 0 where none begins."""
    if len(data) < at + 6 or data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
        return 0
    return (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
