"""What `generate` shows while it runs, and the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from mlx_ltxw import __version__
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import check_writable
from mlx_ltxw.machine import peak_memory
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.measure import measure
from mlx_ltxw.media.mp4 import open_mp4
from mlx_ltxw.media.remux import remux
from mlx_ltxw.media.spectrogram import write_spectrogram
from mlx_ltxw.pipeline.denoise import Latents
from mlx_ltxw.pipeline.drift import drift
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Decoded, Event, Step
from mlx_ltxw.pipeline.request import Settings
from mlx_ltxw.pipeline.run import Plan
from mlx_ltxw.printing import readable
from mlx_ltxw.prompts.registers import check as check_prompt


@dataclass(frozen=True)
class Output:
    """The files a user asked for.

    Attributes:
        path: As the user named it; several seeds get `-SEED` before the ending. A wav of a clip with a picture gets
            its sound alone.
        wav: Whether a wav goes beside the mp4.
        spectrogram: Whether a picture of the spectrum goes beside it.
        as_json: Whether events go to stdout as JSON, instead of progress to stderr.
        told: Notes that have been shown; each is shown once.
    """

    path: Path
    wav: bool
    spectrogram: bool
    as_json: bool
    told: set[str] = field(default_factory=set, compare=False)

    def tell(self, note: str) -> None:
        """Shows a note on stderr, unless it has been shown."""
        if note not in self.told:
            self.told.add(note)
            click.echo(note, err=True)

    def check(self, settings: Settings) -> None:
        """Refuses what cannot be written before any work is done.

        Raises:
            UserError: a wrong ending, a missing folder, no permission.
        """
        endings = (".wav",) if settings.audio_only else (".mp4",) if settings.video else (".mp4", ".wav")
        if self.path.suffix.lower() not in endings:
            kind = "Sound alone" if settings.audio_only else "A video"
            wanted = " or ".join(endings)
            raise UserError(f"{kind} cannot be written to {self.path.name}.", f"Give a name that ends in {wanted}.")
        for seed in settings.seeds:
            for path in self.names(settings, seed):
                check_writable(path)

    def write(self, clip: Decoded, job: Plan) -> list[Path]:
        """Writes the files of one clip, each whole or not at all."""
        settings = job.settings
        main, *beside = self.names(settings, clip.seed)
        metadata = settings.to_dict(clip.seed) | {"mlx_ltxw": __version__, "model": job.model.identity}
        if main.suffix.lower() == ".wav":
            write_wav(main, clip.waveform, clip.rate, metadata=metadata)
        elif settings.video is not None:
            remux(settings.video, clip.waveform, main, metadata=metadata)
        elif clip.video is not None:
            with open_mp4(main, settings.width, settings.height, settings.frame_rate, metadata=metadata) as file:
                for frames in clip.video:
                    file.frames(frames)
                file.audio(clip.waveform)
        for path in beside:
            if path.suffix == ".wav":
                write_wav(path, clip.waveform, clip.rate, metadata=metadata)
            else:
                write_spectrogram(path, clip.waveform, clip.rate)
        return [main, *beside]

    def names(self, settings: Settings, seed: int) -> list[Path]:
        """The files of one clip: the main one first."""
        main = self.path if len(settings.seeds) == 1 else self.path.with_stem(f"{self.path.stem}-{seed}")
        names = [main]
        if self.wav and main.suffix.lower() != ".wav":
            names.append(main.with_suffix(".wav"))
        if self.spectrogram:
            names.append(main.with_suffix(".png"))
        return names


def show(events: Iterator[Event], job: Plan, output: Output) -> dict[int, Latents]:
    """Follows a run: progress on stderr, or events as JSON on stdout; writes each clip as it is decoded.

    Returns:
        The final latents by seed.
    """
    _started(job, output)
    made: dict[int, Latents] = {}
    bar = Progress()
    for event in events:
        if isinstance(event, Decoded):
            _finished(event, output.write(event, job), output.as_json)
            continue
        if isinstance(event, Step):
            made[event.seed] = event.latents
        if output.as_json:
            line(**_facts(event))
        elif isinstance(event, Step):
            bar.step(event)
        elif isinstance(event, Adapted):
            for note in event.notes:
                output.tell(note)
        else:
            click.echo(f"prompt encoded in {event.seconds:.1f} s, peak memory {readable(event.peak_memory)}", err=True)
    return made


def show_drifts(job: Plan, made: dict[int, Latents], output: Output) -> None:
    """Runs without the adapters too, and says how far the picture and the sound moved."""
    bar = Progress("without adapters, seed")
    for change in drift(job, made, (lambda _: None) if output.as_json else bar.step):
        if output.as_json:
            line(event="drift", seed=change.seed, video=change.video, audio=change.audio, psnr=change.psnr)
        else:
            click.echo(
                f"seed {change.seed}: the adapters moved the picture by {change.video:.2%} "
                f"({change.psnr:.1f} dB PSNR) and the sound by {change.audio:.2%} (latents, relative)",
                err=True,
            )


class Progress:
    """One bar a clip."""

    def __init__(self, label: str = "seed") -> None:
        self._label = label
        self._bar: Any = None

    def step(self, step: Step) -> None:
        """Moves the bar, or begins the next clip's."""
        if self._bar is None or step.index == 1:
            self._bar = tqdm(total=step.total, desc=f"{self._label} {step.seed}", unit="step")
        self._bar.set_postfix_str(f"{step.seconds:.2f} s/step, peak {readable(step.peak_memory)}", refresh=False)
        self._bar.update()
        if step.index == step.total:
            self._bar.close()


def line(**values: Any) -> None:
    """One event on stdout."""
    click.echo(json.dumps(values, ensure_ascii=False))


def _started(job: Plan, output: Output) -> None:
    settings = job.settings
    hints = [str(hint) for hint in check_prompt(settings.prompt, job.geometry.seconds, bool(settings.adapters))]
    notes = [*job.model.notes(job.settings.audio_only), *job.warnings, *hints]
    if output.as_json:
        line(event="started", settings=settings.to_dict(), model=job.model.identity, notes=notes)
    for note in () if output.as_json else notes:
        output.tell(f"Note: {note}")


def _finished(clip: Decoded, files: list[Path], as_json: bool) -> None:
    found = measure(clip.waveform, clip.rate)
    if as_json:
        names = [str(path) for path in files]
        line(
            event="written", seed=clip.seed, files=names, register=found.register, confidence=found.confidence,
            lufs=found.lufs, voiced=found.voiced, peak_memory=peak_memory(),
        )  # fmt: skip
        return
    heard = f"{found.register} ({found.confidence:.0%})" if found.register else "no speech"
    click.echo(
        f"written, peak memory {readable(peak_memory())}; heard: {heard}, {found.lufs:.1f} LUFS, "
        f"{found.voiced:.0%} voiced",
        err=True,
    )
    for path in files:
        click.echo(path)


def _facts(event: Conditioned | Adapted | Step) -> dict[str, Any]:
    if isinstance(event, Adapted):
        return {"event": "adapted", "notes": event.notes}
    if isinstance(event, Conditioned):
        return {"event": "conditioned", "seconds": event.seconds, "peak_memory": event.peak_memory}
    names = ("seed", "index", "total", "sigma", "seconds", "peak_memory")
    return {"event": "step"} | {name: getattr(event, name) for name in names}
