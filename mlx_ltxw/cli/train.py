"""`mlx-ltxw train`: clips in, an adapter out."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_ltxw.cli.fields import FileName, missing, size, spelling
from mlx_ltxw.cli.signals import on_signals
from mlx_ltxw.errors import Spelling, UserError, spelled

if TYPE_CHECKING:
    from mlx_ltxw.train.data.findings import Finding
    from mlx_ltxw.train.events import TrainingEvent
    from mlx_ltxw.train.start import Begun, Clips
    from mlx_ltxw.world import World


class _Command(click.Command):
    """Its help ends with the training options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mlx_ltxw.train.config import TrainConfig, as_yaml

        formatter.write_paragraph()
        formatter.write_text("Training options, for --set and --config (examples/whisper.yaml has them all):")
        for group, options in TrainConfig.by_group().items():
            with formatter.section(group.capitalize()):
                rows = [(o.name, f"{o.metadata['help']}  [default: {as_yaml(o.default)}]") for o in options]
                formatter.write_dl(rows)


@click.command(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data", type=FileName(),
    help="A folder of clips with .txt captions, or JSONL; with --resume the run's own.  [required, but with --plan]",
)  # fmt: skip
@click.option(
    "-o", "--output", "run", type=FileName(path_type=Path), help="Folder of the run.  [required, but with --plan]"
)
@click.option("-m", "--model", type=FileName(), metavar="DIR|REPO", help="A converted model.  [default: the built-in]")
@click.option("--config", "file", type=FileName(path_type=Path), help="Training options, YAML.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One option, over the file; repeat for more."
)
@click.option("--coupled", is_flag=True, help="Train through the video too; short for --set coupled=true.")
@click.option(
    "--init-adapter",
    type=FileName(),
    metavar="NAME|FILE|REPO",
    help="Start from this LoRA; short for --set init_adapter=FILE.",
)
@click.option(
    "--resume", is_flag=True,
    help="Go on from the newest checkpoint, with the run's own options; with --set steps=N beyond its end.",
)  # fmt: skip
@click.option("--prepare-only", is_flag=True, help="Cut, check and encode the clips, and stop.")
@click.option("--transcribe", is_flag=True, help="Let Whisper fill in what is said (extra `asr`).")
@click.option("--speaker", type=click.Choice(["woman", "man"]), help="Of clips that do not tell.")
@click.option("--manner", help="Of clips that do not tell: whispering, soft, normal, or words.")
@click.option("--scene", help="Of clips that do not tell.")
@click.option("--audio-only", is_flag=True, help="Leave pictures out, and train on sound alone.")
@click.option("--cache", type=FileName(), help="Where encoded clips are kept.  [default: in the run]")
@click.option(
    "--memory", metavar="12GB", callback=size, help="Plan for so much memory, not for all that the machine has to give."
)
@click.option("--plan", "plan_only", is_flag=True, help="Show what each part needs, and how it fits; train nothing.")
@click.option("--force", is_flag=True, help="Train on a distilled model all the same.")
@click.option("--upload", metavar="OWNER/NAME", help="Push the adapter to the Hub at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print one event a line.")
def train(
    run: Path | None, file: Path | None, settings: tuple[str, ...], coupled: bool, init_adapter: str | None,
    resume: bool, prepare_only: bool, upload: str | None, as_json: bool, memory: int | None, plan_only: bool,
    **given: Any,
) -> None:  # fmt: skip
    """Train an adapter on clips; the run's folder ends with adapter.safetensors, a model card and index.html."""
    if run is None and (resume or not plan_only):
        raise missing("run")
    if given["data"] is None and not (resume or plan_only):
        raise missing("data")
    from mlx_ltxw.hub import check_upload
    from mlx_ltxw.train import loop
    from mlx_ltxw.train.finish import upload as push
    from mlx_ltxw.train.record import RunArguments
    from mlx_ltxw.train.start import begin, holding, job_of, keep_record
    from mlx_ltxw.world import World

    if prepare_only and (upload is not None or resume):
        raise UserError("{field:prepare_only} trains nothing.", "Leave {field:upload} and {field:resume} out with it.")
    settings += ("coupled=true",) if coupled else ()
    settings += (f"init_adapter={json.dumps(init_adapter)}",) if init_adapter else ()
    world = World.join()
    begun = begin(run, RunArguments(**given), world, file=file, settings=settings, resume=resume, memory=memory)
    if plan_only:
        if world.leads:
            _print_json("planned", begun.budget.as_dict()) if as_json else click.echo(begun.budget.table())
        return
    run = begun.run
    if upload is not None and world.leads:
        check_upload(upload)
    with holding(begun):
        if not prepare_only:
            keep_record(begun)
        clips = _in_turn(world, lambda: _prepared(begun, as_json))
        if prepare_only:
            if world.leads:
                count = len(clips.files) + len(clips.held_out)
                click.echo(f"{count} clips are encoded; {run / 'clips.jsonl'} lists them.", err=True)
            return
        with _asked_to_stop() as asked:
            done = _follow(loop.train(job_of(begun, clips), asked), world, asked, as_json)
        if not done:
            sys.exit(128 + (asked.number or signal.SIGINT))
        if upload is not None and world.leads:
            click.echo(push(run, upload), err=as_json)


def _prepared(begun: Begun, as_json: bool) -> Clips:
    from mlx_ltxw.machine import slow_blas
    from mlx_ltxw.train.data.findings import table
    from mlx_ltxw.train.start import prepare_clips

    leads, tell, spell = begun.world.leads, _teller(), _spelling()
    for note in slow_blas() if leads else ():
        tell(f"Note: {note}")

    def show(findings: Sequence[Finding]) -> None:
        if not leads:
            return
        tell(table(findings))
        if as_json:
            told = [dataclasses.replace(finding, text=spelled(finding.text, spell)) for finding in findings]
            _print_json("data", {"findings": [dataclasses.asdict(finding) for finding in told]})

    return prepare_clips(begun, progress=_Bars(leads and not as_json), tell=show)


def _teller() -> Callable[[str], None]:
    """Prints for people, with fields as this command's flags."""
    spell = _spelling()
    return lambda text: click.echo(spelled(text, spell), err=True)


def _spelling() -> Spelling:
    context = click.get_current_context(silent=True)
    return spelling(context.command if context else train)


def _in_turn(world: World, work: Callable[[], Clips]) -> Clips:
    """The lead machine's work first; the others then find it done, or do their own where they share no disk."""
    result = work() if world.leads else None
    world.wait()
    return work() if result is None else result


class _Bars:
    """A bar for each stage of the data's preparation.

    Args:
        speaks: Whether to show them.
    """

    def __init__(self, speaks: bool) -> None:
        self.speaks = speaks
        self.stage = ""
        self.bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if not self.speaks:
            return
        if stage != self.stage:
            self.stage = stage
            self.bar = tqdm(total=total, desc=stage, file=sys.stderr, leave=False)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.close()


class _Asked:
    """Whether somebody asked the run to end.

    Attributes:
        number: Of the first signal; Ctrl-C's where another machine asked.
        at_once: Whether nothing is under way that must be finished first.
    """

    def __init__(self) -> None:
        self.number = 0
        self.at_once = False

    def __call__(self) -> bool:
        return bool(self.number)


@contextmanager
def _asked_to_stop() -> Iterator[_Asked]:
    """Whether Ctrl-C was pressed, or the system asked to end; a second Ctrl-C ends at once."""
    asked = _Asked()

    def note(number: int) -> None:
        again = asked()
        asked.number = asked.number or number
        if asked.at_once or (again and number == signal.SIGINT):
            raise KeyboardInterrupt
        click.echo("\nfinishing the step …", err=True)

    with on_signals(note):
        yield asked


def _follow(events: Iterator[TrainingEvent], world: World, asked: _Asked, as_json: bool = False) -> bool:
    """Shows a run; whether it came to its end."""
    from mlx_ltxw.train.events import Finished, Sampling, Stopped

    ended, tell, line = False, _teller(), _Line()
    asked.at_once = alone = world.size == 1  # while the models are loaded, and samples made: all is saved then
    try:
        for event in events:
            asked.at_once = alone and isinstance(event, Sampling)
            ended = ended or isinstance(event, Finished)
            if not world.leads:
                ended = not isinstance(event, Stopped)
            elif as_json:
                _print_json(type(event).__name__.lower(), event_values(event))
            else:
                _show(event, line, tell)
    except KeyboardInterrupt:
        if not asked.at_once:
            raise
        line.leave()
        tell("Stopped at once; every finished step is saved. Go on with {field:resume=True}.")
    return ended


def event_values(event: TrainingEvent) -> dict[str, Any]:
    """An event's fields as JSON takes them."""
    return {
        name: [dataclasses.asdict(one) for one in value] if name == "samples" and isinstance(value, tuple)
        else dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else str(value) if isinstance(value, Path)
        else value
        for name, value in ((field.name, getattr(event, field.name)) for field in dataclasses.fields(event))
    }  # fmt: skip


def _print_json(name: str, values: dict[str, Any]) -> None:
    click.echo(json.dumps({"event": name, **values}, ensure_ascii=False))


def _show(event: TrainingEvent, line: _Line, tell: Callable[[str], None]) -> None:
    """One event for people."""
    from mlx_ltxw.train.events import Progress, Sampling, Started

    if isinstance(event, Progress):
        line.show(str(event), event.delta_rms is not None)
    elif isinstance(event, Sampling):
        line.show(str(event), event.done == 0)
    else:
        line.leave()
        tell(str(event))
        for note in event.notes if isinstance(event, Started) else ():
            tell(f"Note: {note}")


class _Line:
    """One line of progress, written over where there is a terminal, else every so often."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.length = 0

    def show(self, text: str, always: bool) -> None:
        """Writes it; `always`, where there is no terminal."""
        if self.terminal:
            click.echo(f"\r{text:<{self.length}}", err=True, nl=False)
            self.length = len(text)
        elif always:
            click.echo(text, err=True)

    def leave(self) -> None:
        """Goes to a new line."""
        if self.length:
            click.echo(err=True)
        self.length = 0
