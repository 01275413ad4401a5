"""`mlx-ltxw train`: clips in, an adapter out."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_ltxw.cli.fields import spelling
from mlx_ltxw.errors import UserError, spelled

if TYPE_CHECKING:
    from mlx_ltxw.train.events import Event
    from mlx_ltxw.world import World


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="A folder of clips with .txt captions, or JSONL."
)
@click.option("-o", "--output", "run", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("-m", "--model", metavar="DIR|REPO", help="A converted model.  [default: the built-in]")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Training options, YAML.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One option, over the file; repeat for more."
)
@click.option("--coupled", is_flag=True, help="Train through the video too; short for --set coupled=true.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint.")
@click.option("--prepare-only", is_flag=True, help="Cut, check and encode the clips, and stop.")
@click.option("--transcribe", is_flag=True, help="Let Whisper fill in what is said (extra `asr`).")
@click.option("--speaker", type=click.Choice(["woman", "man"]), help="Of clips that do not tell.")
@click.option("--manner", help="Of clips that do not tell: whispering, soft, normal, or words.")
@click.option("--scene", help="Of clips that do not tell.")
@click.option("--audio-only", is_flag=True, help="Leave pictures out, and train on sound alone.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where encoded clips are kept.  [default: in the run]")
@click.option("--force", is_flag=True, help="Train on a distilled model all the same.")
@click.option("--upload", metavar="REPO", help="Push the adapter to the Hub at the end.")
def train(
    data: Path, run: Path, model: str | None, file: Path | None, settings: tuple[str, ...], coupled: bool,
    resume: bool, prepare_only: bool, cache: Path | None, force: bool, upload: str | None, **told: Any,
) -> None:  # fmt: skip
    """Train an adapter on clips; the run's folder ends with adapter.safetensors, a model card and index.html."""
    from mlx_ltxw.files import locked_folder, sweep
    from mlx_ltxw.machine import slow_blas
    from mlx_ltxw.takes.models import open_model
    from mlx_ltxw.train import loop
    from mlx_ltxw.train.data.captions import Labels
    from mlx_ltxw.train.data.findings import table
    from mlx_ltxw.train.data.prepare import DataOptions
    from mlx_ltxw.train.start import prepare_clips, run_config, write_config
    from mlx_ltxw.world import World

    if prepare_only and (upload or resume):
        raise UserError("{field:prepare_only} trains nothing.", "Leave {field:upload} and {field:resume} out with it.")
    model_dir = open_model(model)
    loop.check_base(model_dir, force)
    loop.check_folder(run, resume)
    settings += ("coupled=true",) if coupled else ()
    config = run_config(file, settings, run if resume else None, model_dir)
    world = World.join()
    if world.leads:  # for as long as the process lives
        click.get_current_context().with_resource(locked_folder(run, "training run"))
        sweep(run, deep=True)
    tell = _teller()
    for note in slow_blas() if world.leads else ():
        tell(f"Note: {note}")
    options = DataOptions(
        Labels(speaker=told["speaker"], manner=told["manner"], scene=told["scene"]),
        told["transcribe"], told["audio_only"],
    )  # fmt: skip
    clips = _in_turn(
        world,
        lambda: prepare_clips(
            data, run, cache or run / "cache", model_dir, config, options, leads=world.leads,
            progress=_Bars(world.leads), tell=lambda found: tell(table(found)) if world.leads else None,
        ),
    )  # fmt: skip
    if prepare_only:
        if world.leads:
            click.echo(f"{len(clips)} clips are encoded; {run / 'clips.jsonl'} lists them.", err=True)
        return
    if world.leads:
        write_config(run, config)
    with _asked_to_stop() as asked:
        done = _follow(loop.train(loop.Job(config, model_dir, clips, run, world), asked), world)
    if not done:
        sys.exit(128 + (asked.number or signal.SIGINT))
    if upload and world.leads:
        from mlx_ltxw.train.finish import upload as push

        click.echo(push(run, upload))


def _teller() -> Callable[[str], None]:
    """Prints for people, with fields as this command's flags."""
    spell = spelling(click.get_current_context().command)
    return lambda text: click.echo(spelled(text, spell), err=True)


def _in_turn(world: World, work: Callable[[], list[Path]]) -> list[Path]:
    """The lead machine's work first; the others then find it done, or do their own where they share no disk."""
    result = work() if world.leads else []
    world.wait()
    return result if world.leads else work()


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
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        return bool(self.number)


@contextmanager
def _asked_to_stop() -> Iterator[_Asked]:
    """Whether Ctrl-C was pressed, or the system asked to end; a second Ctrl-C ends at once."""
    asked = _Asked()

    def note(number: int, frame: Any) -> None:
        if asked() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.number = asked.number or number
        click.echo("\nfinishing the step …", err=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(events: Iterator[Event], world: World) -> bool:
    """Shows a run on one line; whether it came to its end."""
    from mlx_ltxw.train.events import Finished, Progress, Stopped

    ended = False
    line = _Line()
    for event in events:
        ended = ended or isinstance(event, Finished)
        if not world.leads:
            ended = not isinstance(event, Stopped)
        elif isinstance(event, Progress):
            line.show(event)
        else:
            line.leave()
            click.echo(_told(event), err=True)
    return ended


class _Line:
    """One line of progress, written over where there is a terminal, else every so often."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.length = 0

    def show(self, progress: Any) -> None:
        text = str(progress)
        if self.terminal:
            click.echo(f"\r{text:<{self.length}}", err=True, nl=False)
            self.length = len(text)
        elif progress.delta_rms is not None:
            click.echo(text, err=True)

    def leave(self) -> None:
        """Goes to a new line."""
        if self.length:
            click.echo(err=True)
        self.length = 0


def _told(event: Event) -> str:
    from mlx_ltxw.train.events import Finished, Sampled, Saved, Started, Stopped
    from mlx_ltxw.train.finish import heard

    if isinstance(event, Started):
        begin = f", from step {event.step}" if event.step else ""
        machines = f" on {event.machines} machines" if event.machines > 1 else ""
        return (
            f"training {event.parameters:,} numbers in {event.linears} linears on {event.data.clips} clips "
            f"({event.data.seconds:.0f} s), {event.total} steps{begin}{machines}"
        )
    if isinstance(event, Saved):
        return f"saved {event.folder}"
    if isinstance(event, Sampled):
        return "\n".join([f"samples of step {event.step}: {event.page}", *(f"  {heard(s)}" for s in event.samples)])
    if isinstance(event, Stopped):
        return f"Stopped after step {event.step}, which is saved; go on with --resume."
    if not isinstance(event, Finished):
        return str(event)
    lines = [f"  step {sample.step}: {heard(sample)}: {sample.prompt}" for sample in event.samples]
    return "\n".join([f"{event.adapter}: delta rms {event.delta_rms:.3e}", *lines])
