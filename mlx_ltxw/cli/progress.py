"""One bar a clip where there is a terminal, one line a stage where there is none."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from mlx_ltxw.pipeline.events import Resumed, Step
from mlx_ltxw.printing import readable
from mlx_ltxw.takes.events import Decoding

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"


class Bar:
    """Denoising, then decoding.

    Args:
        label: Stands before the seed.
        quiet: Shows nothing.
    """

    def __init__(self, label: str = "seed", quiet: bool = False) -> None:
        self._label = label
        self._quiet = quiet
        self._bar: Any = None
        self._seconds = 0.0
        self._steps = 0  # made in this run
        self._decoding_since: float | None = None

    def resumed(self, event: Resumed) -> None:
        """A clip goes on where it was cut; its bar begins there."""
        if self._quiet:
            return
        text = f"{self._label} {event.seed} goes on from step {event.index} of {event.total}"
        if event.index == event.total:
            text = f"{self._label} {event.seed}: all {event.total} steps are there, and only decoding is left"
            self._decoding_since = time.perf_counter()
        self.close()
        click.echo(text, err=True)
        self._begin(f"{self._label} {event.seed}", event.total, "steps", event.index)

    def step(self, step: Step) -> None:
        """One denoising step is done; the first one of a clip begins its bar."""
        if self._quiet:
            return
        if step.index == 1:
            self.close()
            self._begin(f"{self._label} {step.seed}", step.total, "steps")
        self._seconds += step.seconds
        self._steps += 1
        each = self._seconds / self._steps
        pace = f"{each:.2f} s/step, peak {readable(step.peak_memory)}"
        if self._bar is not None:
            left = each * (step.total - step.index)
            self._bar.set_postfix_str(f"{pace}, {left:.0f} s left" if left else pace, refresh=False)
            self._bar.update()
            if step.index == step.total:
                self._bar.refresh()
        elif step.index == step.total:
            steps = f"{self._steps} step{'s' * (self._steps != 1)}"
            click.echo(f"{self._label} {step.seed}: {steps} in {self._seconds:.1f} s, {pace}", err=True)
        if step.index == step.total:
            self._decoding_since = time.perf_counter()

    def decoding(self, event: Decoding) -> None:
        """Some frames are there; the bar goes on through them."""
        if self._quiet:
            return
        if self._bar is not None:
            if self._bar.unit != "frames":
                self._bar.unit = "frames"
                self._bar.set_description_str(f"{self._label} {event.seed}, decoding", refresh=False)
                self._bar.set_postfix_str("", refresh=False)
                self._bar.reset(event.total)
            self._bar.update(event.done - self._bar.n)
        elif event.done >= event.total:
            seconds = time.perf_counter() - (self._decoding_since or time.perf_counter())
            click.echo(f"{self._label} {event.seed}: {event.total} frames decoded in {seconds:.1f} s", err=True)

    def close(self) -> None:
        """Leaves the clip's bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self._seconds, self._steps = 0.0, 0
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=label, unit=unit, initial=done, bar_format=_BAR, file=sys.stderr)
