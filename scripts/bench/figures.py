"""What a benchmark gives: figures, each with its floor and with what its peers take, and the table of them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mlx.core as mx

import mlx_ltxw
from scripts.random_model import VARIABLES

PACKAGES = ("mlx", "torch", "ltx-core", "diffusers")


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: The work.
        size: Of the clip or of the network, as a reader knows it.
        seconds: Of each timed run.
        floor: Seconds that the machine needs for its arithmetic or its bytes alone; None where that says nothing.
        peers: Name -> seconds of another program's median run of the same work.
        more: What else was found: equalities, errors, bytes.
    """

    what: str
    size: str
    seconds: Sequence[float]
    floor: float | None = None
    peers: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the runs."""
        return statistics.median(self.seconds)


def timed(call: Callable[[], Any], runs: int, warmup: int = 1) -> list[float]:
    """Seconds of each run of something whose result is evaluated, after some that do not count."""
    for _ in range(warmup):
        mx.eval(call())
    seconds = []
    for _ in range(runs):
        clock = time.perf_counter()
        mx.eval(call())
        seconds.append(round(time.perf_counter() - clock, 5))
    return seconds


def machine() -> dict[str, Any]:
    """What a figure is worth nothing without."""
    found: dict[str, Any] = {
        "device": mx.device_info().get("device_name") or platform.processor() or platform.machine()
    }
    found |= {"mlx_device": str(mx.default_device()), "python": platform.python_version()}
    found |= {"mlx_ltxw": mlx_ltxw.__version__, "load": os.getloadavg()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {name: os.environ[name] for name in VARIABLES if name in os.environ}


def table(figures: Iterable[Figure]) -> str:
    """In Markdown; the runs' spread stands behind their median."""
    rows = [
        "| what | size | s, median (least) | floor, s | over it | peers, s | more |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in figures:
        own = f"{each.median:.4g} ({min(each.seconds):.4g})" if each.seconds else ""
        floor = "" if each.floor is None else f"{each.floor:.3g}"
        over = "" if not each.floor or not each.seconds else f"{each.median / each.floor:.2f}"
        peers = ", ".join(f"{name} {seconds:.4g}" for name, seconds in each.peers.items())
        more = ", ".join(f"{name} {value}" for name, value in each.more.items())
        rows.append(f"| {each.what} | {each.size} | {own} | {floor} | {over} | {peers} | {more} |")
    return "\n".join(rows)


def as_json(figure: Figure) -> dict[str, Any]:
    """With the median beside the runs."""
    return asdict(figure) | {"median": figure.median if figure.seconds else None}
