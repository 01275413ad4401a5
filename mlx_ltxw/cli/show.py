"""What `generate` shows while it runs: progress on stderr, or events as JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from mlx_ltxw.cli.fields import spelling
from mlx_ltxw.cli.progress import Bar
from mlx_ltxw.errors import spelled
from mlx_ltxw.machine import peak_memory
from mlx_ltxw.pipeline.drift import drift
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Resumed, Step
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.printing import readable
from mlx_ltxw.prompts.registers import check_prompt as check_prompt
from mlx_ltxw.takes.events import Decoding, Note, PartBegun, Previewed, Ranked, Suspect, TakeEvent, Written
from mlx_ltxw.takes.given import material_of
from mlx_ltxw.takes.ranking import RankedTake
from mlx_ltxw.weights.dtype import name_of


class Show:
    """Tells of a run.

    Args:
        as_json: Events go to stdout as JSON, one a line.
        quiet: Nothing but errors goes to stderr.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet or as_json
        self._noted: set[str] = set()
        self._spelling = spelling(command.command if (command := click.get_current_context(silent=True)) else None)

    def note(self, text: str) -> None:
        """Shows a note on stderr, unless it has been shown."""
        if text not in self._noted and not self.quiet:
            click.echo(text, err=True)
        self._noted.add(text)

    def started(self, jobs: Iterable[Plan]) -> None:
        """What is about to be made, and what should be known before it is; each note once."""
        for job in jobs:
            settings = job.settings
            said = {take.prompt: bool(take.adapters) for take in job.takes} or {
                settings.prompt: bool(settings.adapters)
            }
            hints = [
                hint for prompt, adapter in said.items()
                for hint in check_prompt(prompt, job.geometry.seconds, adapter, take=bool(job.takes))
                if settings.makes_sound
            ]  # fmt: skip
            texts = [*job.model.notes(settings.audio_only), *job.warnings, *map(str, hints)]
            notes = [spelled(text, self._spelling) for text in texts]
            if self.as_json:
                line(
                    event="started", settings=settings.to_dict(), recipe=job.recipe, model=job.model.identity,
                    notes=notes, budget=job.budget.as_dict(),
                )  # fmt: skip
            self.note(job.recipe)
            self.note(job.budget.line)
            for note in notes:
                self.note(f"Note: {note}")

    def planned(self, jobs: Iterable[Plan]) -> None:
        """What each run would need, and in which numbers the transformer would run; on stdout, for that is what was
        asked for. What is to be known of it is noted."""
        for job in jobs:
            notes, dtype = [spelled(text, self._spelling) for text in job.warnings], name_of(job.dtype)
            if self.as_json:
                budget = job.budget.as_dict()
                line(event="planned", settings=job.settings.to_dict(), dtype=dtype, notes=notes, budget=budget)
            else:
                click.echo(f"{job.recipe}, the transformer in {dtype}\n{job.budget.table()}")
            for note in notes:
                self.note(f"Note: {note}")

    def told(self, lines: Iterable[str]) -> None:
        """Lines that were asked for; on stdout."""
        for one in lines:
            if self.as_json:
                line(event="note", text=one)
            else:
                click.echo(one)

    def follow(self, events: Iterator[TakeEvent]) -> dict[int, Latents]:
        """Shows a run to its end; the names of the files it leaves go to stdout.

        Returns:
            The final latents by seed.
        """
        made: dict[int, Latents] = {}
        bar = Bar(quiet=self.quiet)
        for event in events:
            if isinstance(event, Step | Resumed):
                made[event.seed] = event.latents
            if self.as_json:
                self._json(event)
            elif isinstance(event, Step):
                bar.step(event)
            elif isinstance(event, Resumed):
                bar.resumed(event)
            elif isinstance(event, Decoding):
                bar.decoding(event)
            elif isinstance(event, Written):
                bar.close()
                self._written(event)
            elif isinstance(event, Ranked):
                self._ranked(event)
            elif isinstance(event, Previewed):
                self.note(f"preview: {', '.join(map(str, event.files))}")
            elif isinstance(event, Adapted):
                for note in event.notes:
                    self.note(note)
            elif isinstance(event, Note):
                self.note(f"Note: {event.text}")
            elif isinstance(event, Suspect):
                for note in event.notes:
                    click.echo(f"Warning: seed {event.seed}: {note}", err=True)  # told even when quiet
            else:
                self._say(event)
        return made

    def drifts(self, job: Plan, made: dict[int, Latents], networks: Networks) -> None:
        """Runs without the adapters too, and says how far the picture and the sound moved."""
        bar = Bar("without adapters, seed", self.quiet)
        for change in drift(job, made, networks, bar.step, material=material_of(job)):
            if self.as_json:
                line(event="drift", seed=change.seed, video=change.video, audio=change.audio, psnr=change.psnr)
            else:  # asked for by name, so told even when quiet
                click.echo(
                    f"seed {change.seed}: the adapters moved the picture by {change.video:.2%} "
                    f"({change.psnr:.1f} dB PSNR) and the sound by {change.audio:.2%} (latents, relative)",
                    err=True,
                )
        bar.close()

    def _say(self, event: Conditioned | PartBegun) -> None:
        if self.quiet:
            return
        if isinstance(event, PartBegun):
            kept = " (kept)" if event.kept else ""
            click.echo(f"part {event.number} of {event.total}{kept}: {event.prompt} (seed {event.seed})", err=True)
        else:
            how = f"encoded in {event.seconds:.1f} s" if event.encoded else "taken from the cache"
            click.echo(f"prompt {how}, peak memory {readable(event.peak_memory)}", err=True)

    def _written(self, event: Written) -> None:
        found = event.measurement
        if found is not None and not self.quiet:
            register = f"{found.register} ({found.confidence:.0%})"
            take = "" if event.take is None else f"take {event.take} "
            where = "" if event.span is None else f" from {event.span[0]:.2f} to {event.span[1]:.2f} s"
            click.echo(
                f"{take}written, peak memory {readable(event.peak_memory)}; register{where}: {register}, "
                f"{found.lufs:.1f} LUFS, {found.voiced:.0%} voiced",
                err=True,
            )
        for path in event.files:
            click.echo(path)

    def _ranked(self, event: Ranked) -> None:
        """A table of the takes, best first."""
        if self.quiet:
            return
        width = max(len(row.spec) for row in event.takes)
        click.echo(f"take  {'':{width}}  {'asked for':<12}{'heard':<18}{'LUFS':>6}{'voiced':>8}{'syll/s':>8}", err=True)
        for row in event.takes:
            found, wrong = row.measurement, "" if row.as_asked else "  not as asked"
            heard = f"{found.register} ({found.confidence:.0%})"
            click.echo(
                f"{row.number:>4}  {row.spec:{width}}  {row.asked or '-':<12}{heard:<18}{found.lufs:6.1f}"
                f"{found.voiced:8.0%}{found.rate:8.1f}{wrong}",
                err=True,
            )

    def _json(self, event: TakeEvent) -> None:
        if isinstance(event, Written):
            found = event.measurement
            sound = {} if found is None else {
                "register": found.register, "confidence": found.confidence, "lufs": found.lufs, "voiced": found.voiced,
            }  # fmt: skip
            files = [str(path) for path in event.files]
            take = {} if event.take is None else {"take": event.take}
            sound |= {} if event.span is None else {"span": event.span}
            line(event="written", seed=event.seed, **take, files=files, **sound, peak_memory=peak_memory())
        elif isinstance(event, Previewed):
            files = [str(path) for path in event.files]
            line(event="preview", seed=event.seed, index=event.index, total=event.total, files=files)
        elif isinstance(event, Ranked):
            line(event="ranked", seed=event.seed, takes=[_row(row) for row in event.takes])
        elif not isinstance(event, Decoding):
            line(**_facts(event))


def line(**values: Any) -> None:
    """One event on stdout, at once."""
    click.echo(json.dumps(values, ensure_ascii=False))
    sys.stdout.flush()


def _row(row: RankedTake) -> dict[str, Any]:
    found = row.measurement
    return {
        "take": row.number, "spec": row.spec, "asked": row.asked, "as_asked": row.as_asked, "register": found.register,
        "confidence": found.confidence, "lufs": found.lufs, "voiced": found.voiced, "rate": found.rate,
    }  # fmt: skip


def _facts(event: Conditioned | Adapted | Resumed | Step | PartBegun | Suspect | Note) -> dict[str, Any]:
    if isinstance(event, Suspect):
        return {"event": "suspect"} | vars(event)
    if isinstance(event, Adapted):
        return {"event": "adapted", "notes": event.notes}
    if isinstance(event, Note):
        return {"event": "note", "text": event.text}
    if isinstance(event, Resumed):
        return {"event": "resumed"} | {name: getattr(event, name) for name in ("seed", "index", "total")}
    if isinstance(event, Step):
        names = ("seed", "index", "total", "sigma", "seconds", "peak_memory")
        return {"event": "step"} | {name: getattr(event, name) for name in names}
    name = "conditioned" if isinstance(event, Conditioned) else "part"
    return {"event": name} | vars(event)
