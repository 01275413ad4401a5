"""What `generate` shows while it runs, and the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from mlx_ltxw import __version__
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.files import check_writable
from mlx_ltxw.media.mp4 import open_mp4, remux
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Decoded, Event, Step, peak_memory
from mlx_ltxw.pipeline.request import Settings
from mlx_ltxw.pipeline.run import Plan
from mlx_ltxw.weights.model_dir import ModelDir


@dataclass(frozen=True)
class Output:
    """The files of one run.

    Attributes:
        path: As the user named it; several seeds get `-SEED` before the ending.
        settings: Written into each file's metadata, with the clip's own seed.
        model: Named there too.
        wav: Whether a wav goes beside the mp4.
        spectrogram: Whether a picture of the spectrum goes beside it.
    """

    path: Path
    settings: Settings
    model: ModelDir
    wav: bool
    spectrogram: bool

    def check(self) -> None:
        """Refuses what cannot be written before any work is done.

        Raises:
            UserError: a wrong ending, a missing folder, no permission.
        """
        wanted = ".wav" if self.settings.audio_only else ".mp4"
        if self.path.suffix.lower() != wanted:
            kind = "Sound alone" if self.settings.audio_only else "A video"
            raise UserError(f"{kind} cannot be written to {self.path.name}.", f"Give a name that ends in {wanted}.")
        for seed in self.settings.seeds:
            for path in self._names(seed):
                check_writable(path)

    def write(self, clip: Decoded) -> list[Path]:
        """Writes the files of one clip, each whole or not at all."""
        settings = self.settings
        main, *beside = self._names(clip.seed)
        metadata = settings.to_dict(clip.seed) | {"mlx_ltxw": __version__, "model": self.model.identity}
        if settings.audio_only:
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
                from mlx_ltxw.media.spectrogram import write_spectrogram

                write_spectrogram(path, clip.waveform, clip.rate)
        return [main, *beside]

    def _names(self, seed: int) -> list[Path]:
        main = self.path if len(self.settings.seeds) == 1 else self.path.with_stem(f"{self.path.stem}-{seed}")
        names = [main]
        if self.wav and main.suffix != ".wav":
            names.append(main.with_suffix(".wav"))
        if self.spectrogram:
            names.append(main.with_suffix(".png"))
        return names


def show(events: Iterator[Event], job: Plan, output: Output, as_json: bool) -> None:
    """Follows a run: progress on stderr, or events as JSON on stdout; writes each clip as it is decoded."""
    note = job.model.note
    if as_json:
        _line(event="started", settings=job.settings.to_dict(), model=job.model.identity, note=note)
    elif note:
        click.echo(f"Note: {note}", err=True)
    bar: Any = None
    for event in events:
        if isinstance(event, Decoded):
            files = output.write(event)
            _finished(event, files, as_json)
        elif isinstance(event, Adapted):
            _adapted(event, as_json)
        elif as_json:
            _line(**_facts(event))
        elif isinstance(event, Conditioned):
            click.echo(
                f"prompt encoded in {event.seconds:.1f} s, peak memory {_gigabytes(event.peak_memory)}", err=True
            )
        else:
            bar = _progress(bar, event)


def _adapted(event: Adapted, as_json: bool) -> None:
    if as_json:
        _line(event="adapted", notes=event.notes)
    for note in () if as_json else event.notes:
        click.echo(note, err=True)


def _progress(bar: Any, step: Step) -> Any:
    if bar is None or step.index == 1:
        bar = tqdm(total=step.total, desc=f"seed {step.seed}", unit="step")
    bar.set_postfix_str(f"{step.seconds:.2f} s/step, peak {_gigabytes(step.peak_memory)}", refresh=False)
    bar.update()
    if step.index == step.total:
        bar.close()
    return bar


def _finished(clip: Decoded, files: list[Path], as_json: bool) -> None:
    if as_json:
        _line(event="written", seed=clip.seed, files=[str(path) for path in files], peak_memory=peak_memory())
        return
    click.echo(f"decoded and written, peak memory {_gigabytes(peak_memory())}", err=True)
    for path in files:
        click.echo(path)


def _facts(event: Conditioned | Step) -> dict[str, Any]:
    if isinstance(event, Conditioned):
        return {"event": "conditioned", "seconds": event.seconds, "peak_memory": event.peak_memory}
    names = ("seed", "index", "total", "sigma", "seconds", "peak_memory")
    return {"event": "step"} | {name: getattr(event, name) for name in names}


def _line(**values: Any) -> None:
    click.echo(json.dumps(values, ensure_ascii=False))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
