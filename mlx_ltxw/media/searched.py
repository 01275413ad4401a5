"""A media file as FFmpeg reads it, so that its search for something to play ends.

Where a file is damaged, FFmpeg looks for the next packet to the file's end, byte by byte, and some of its formats keep
in memory what they pass. Who searches reads little at a time; a packet, a table or a picture is asked for at once.
"""

from __future__ import annotations

import errno
from pathlib import Path

from mlx_ltxw.files import unreadable

SEARCH = 64 << 20
"""Bytes that are searched for the next packet."""
HEADERS = 128 << 20
"""Bytes of headers: the tables of a film of twelve hours take 110 million."""
_AT_ONCE = 1 << 20
_JUMPS = 1 << 19
"""From place to place within a search: a wav may be searched in chunks of no size, eight bytes each."""


class SearchedFile:
    """What `av.open` takes in place of a path: it ends where nothing was found for long.

    Args:
        path: The file.
        search: Bytes that are searched for the next packet.

    Attributes:
        name: The address by which FFmpeg tells formats.
        lost: Whether a search was given up.
        count: Bytes that were read.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path | str, search: int) -> None:
        self.name, self._path = f"file:{path}", path
        self.lost, self.count = False, 0
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115  closed by `close`
        self._search, self._most = search, max(HEADERS, search)
        self._left, self._jumps = self._most, _JUMPS

    def found(self) -> None:
        """A packet has come, and the next search begins; what was given up stays so."""
        if self._left > 0:
            self._left, self._jumps = self._most, _JUMPS

    def begin(self) -> None:
        """Packets are sought, here or at another place."""
        self._left = self._most = self._search
        self._jumps = _JUMPS

    def read(self, size: int) -> bytes:
        """As a file's, but for the end.

        Raises:
            UserError: the disk does not give it.
        """
        if self._left <= 0:
            self.lost = True
            return b""
        try:
            data = self._file.read(size)
        except OSError as error:
            raise unreadable(self._path, error) from error
        self.count += len(data)
        if len(data) <= _AT_ONCE:
            self._left -= len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's; a place that no file has (a damaged header names it) is FFmpeg's own error.

        Raises:
            UserError: the disk does not give it.
        """
        self._jumps -= 1
        if self._jumps < 0:
            self._left = 0
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise unreadable(self._path, error) from error
            return -errno.EINVAL

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()

    def close(self) -> None:
        """As a file's."""
        self._file.close()
