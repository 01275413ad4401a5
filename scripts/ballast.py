"""Holds a CUDA card's memory down to a bound while another process works, and tells the least that was free.

    python -m scripts.ballast --leave 12GB

prints `ready` when it holds the rest, and at the end of its input one JSON object: bytes free at first and at least.
The memory is plain device memory, which cannot be moved away. Needs the driver alone.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading

import click

from mlx_ltxw.printing import read_bytes

_EVERY = 0.02
"""Seconds between two looks."""


class Card:
    """The first CUDA card, by its driver."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        context = ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self._call("cuCtxSetCurrent", context)

    def free(self) -> int:
        """Bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def hold(self, nbytes: int) -> None:
        """Takes memory until the process ends."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._driver, name)(*arguments):
            raise RuntimeError(f"{name} failed with {code}")


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


@click.command()
@click.option("--leave", required=True, help="What stays free, such as 12GB.")
def main(leave: str) -> None:
    """Takes all of a card but some memory."""
    card = Card()
    taken = card.free() - read_bytes(leave)
    if taken > 0:
        card.hold(taken)
    first = least = card.free()
    print("ready", flush=True)
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    while not ended.wait(_EVERY):
        least = min(least, card.free())
    print(json.dumps({"first": first, "least": least}), flush=True)


if __name__ == "__main__":
    main()
