"""What comes before the first step: the options, the folder, and the data checked and encoded."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import locked_folder, sweep, write_bytes, write_errors
from mlx_ltxw.machine import Parts, limits, this_machine
from mlx_ltxw.pipeline.budget import Budget
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.train.budget import TrainingStep
from mlx_ltxw.train.checkpoint import check_options, saved_config, saved_steps
from mlx_ltxw.train.config import TrainConfig, read_config
from mlx_ltxw.train.data.cache import build_cache
from mlx_ltxw.train.data.captions import Labels
from mlx_ltxw.train.data.dataset import write_listing
from mlx_ltxw.train.data.findings import Finding, OnProgress, refuse_errors
from mlx_ltxw.train.data.known import Known
from mlx_ltxw.train.data.prepare import DataOptions, prepare
from mlx_ltxw.train.gradient.batches import KEPT_BYTES
from mlx_ltxw.train.gradient.optimizer import learning_rate
from mlx_ltxw.train.held_out import hold_out
from mlx_ltxw.train.loop import Job, check_base, check_folder
from mlx_ltxw.train.metrics import check_trackio
from mlx_ltxw.train.record import NAME, RunArguments, RunRecord, absolute, read_run, write_run
from mlx_ltxw.train.sharing import agreed_budget
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.world import World


@dataclass(frozen=True)
class Begun:
    """A run whose options are known.

    Attributes:
        run: Its folder; of a plan without one a name that stands for it, and that nothing uses.
        given: What was said beside the training options, paths absolute; `data` is there.
        config: The training options, sizes included.
        model: The base.
        world: The machines.
        budget: What it needs in memory, and which of the base's blocks stay there.
        shared: Whether each machine holds a part of the others, and all gather them.
    """

    run: Path
    given: RunArguments
    config: TrainConfig
    model: ModelDir
    world: World
    budget: Budget
    shared: bool = False

    @property
    def cache(self) -> Path:
        """Where encoded clips are kept."""
        return Path(self.given.cache) if self.given.cache else self.run / "cache"


@dataclass(frozen=True)
class Clips:
    """The encoded data.

    Attributes:
        files: The cached clips to train on.
        held_out: Those kept back.
        seconds: Sound of the clips to train on, together.
        note: How those kept back were chosen; empty without any.
    """

    files: tuple[Path, ...]
    held_out: tuple[Path, ...]
    seconds: float
    note: str


def begin(
    run: Path | None,
    given: RunArguments,
    world: World,
    *,
    file: Path | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    model: ModelDir | None = None,
    memory: int | None = None,
) -> Begun:
    """The options of a run; those of the one that is resumed where nothing else is said. Writes nothing.

    Args:
        run: Its folder; None where no more than the plan is wanted.
        given: What is said beside the training options.
        world: The machines; one that does not share the disk takes all options as they are said.
        file: Training options, YAML.
        settings: `key=value` over them.
        resume: Whether a run is gone on with.
        model: In place of `given.model`.
        memory: Bytes to plan for; None for what the machine has to give.

    Raises:
        UserError: the options, the model or the folder will not do; there is no run to resume, or too little memory.
    """
    before = read_run(run) if run and resume and (world.leads or (run / NAME).exists()) else None
    given = (given.over(before.given) if before else given).absolute()
    if run and given.data is None:
        raise UserError("There is no data to train on.", "Give {field:data}: a folder of clips, or a JSONL.")
    model = model or open_model(given.model)
    check_base(model, given.force)
    if run:
        check_folder(run, resume)
    config = read_config(file, settings, before.config.to_dict() if before else None).with_sizes(model.generation)
    config = dataclasses.replace(config, init_adapter=absolute(config.init_adapter))
    if run and before:
        check_options(run, before.config.with_sizes(model.generation), config)
    if config.trackio:
        check_trackio()
    budget, shared = agreed_budget(TrainingStep(model, config, given.audio_only, world.size), world, memory)
    return Begun(run or Path("run"), given, config, model, world, budget, shared)


@contextmanager
def holding(begun: Begun) -> Iterator[None]:
    """Holds the run's folder against other processes, and removes what a killed one left half-written there.

    Raises:
        UserError: another process has it.
    """
    if not begun.world.leads:
        yield
        return
    with locked_folder(begun.run, "training run"):
        sweep(begun.run, deep=True)
        yield


def keep_record(begun: Begun) -> None:
    """Writes the run's record, from which `resume` goes on; before any work."""
    if begun.world.leads:
        write_run(begun.run, RunRecord(begun.given, begun.config))


def prepare_clips(
    begun: Begun,
    *,
    progress: OnProgress = lambda *_: None,
    tell: Callable[[Sequence[Finding]], object] = lambda _: None,
) -> Clips:
    """Cuts, checks and encodes the clips.

    Args:
        begun: The run; its folder is made if need be.
        progress: Hears how far it is.
        tell: Gets what was found in the data, before errors among it end the run.

    Raises:
        UserError: there is no data, or faults in it; or another process encodes into the same cache.
    """
    run, given, config, leads = begun.run, begun.given, begun.config, begun.world.leads
    geometry = Geometry(*config.sizes, latent_grid(begun.model))
    with write_errors(run):
        run.mkdir(parents=True, exist_ok=True)
    labels = Labels(speaker=given.speaker, manner=given.manner, scene=given.scene)
    known = Known(begun.cache / "checks.jsonl", writes=leads)
    options = DataOptions(labels, given.transcribe, given.audio_only)
    prepared = prepare(Path(given.data or ""), geometry, options, run, progress=progress, known=known)
    if prepared.findings:
        tell(prepared.findings)
    refuse_errors(prepared.findings)
    if leads:
        write_listing(run / "clips.jsonl", prepared.clips)
        findings = [dataclasses.asdict(finding) for finding in prepared.findings]
        facts = {**prepared.statistics, "findings": findings}
        write_bytes(run / "data.json", json.dumps(facts, indent=1, ensure_ascii=False).encode())
    with limits(this_machine()) as parts:
        files = build_cache(prepared.clips, begun.model, begun.cache, progress, _begins(parts, begun.budget))
    kept_back, note = hold_out(prepared.clips, config.held_out, config.seed)
    trained = [number for number in range(len(files)) if number not in kept_back]
    lengths = [min(clip.end - clip.start, clip.geometry.seconds) for clip in prepared.clips]
    return Clips(
        tuple(files[number] for number in trained), tuple(files[number] for number in sorted(kept_back)),
        sum(lengths[number] for number in trained), note,
    )  # fmt: skip


def _begins(parts: Parts, budget: Budget) -> Callable[[str], None]:
    return lambda part: parts.begin(part, *budget.part(part))


def job_of(begun: Begun, clips: Clips) -> Job:
    """What `loop.train` takes."""
    schedule = schedule_note(begun.run, begun.config) if begun.world.leads else ""
    notes = tuple(filter(None, (begun.budget.line, clips.note, schedule)))
    room = min(KEPT_BYTES, max(0, begun.budget.limit - begun.budget.peak))
    return Job(
        begun.config, begun.model, clips.files, begun.run, begun.world, clips.held_out, clips.seconds, notes,
        begun.budget.residency, begun.shared, room,
    )  # fmt: skip


def schedule_note(run: Path, config: TrainConfig) -> str:
    """What a resumed run with another number of steps is told of its learning rate; empty where it goes on smoothly."""
    before, step = saved_config(run), max(saved_steps(run), default=0)
    if before is None or step >= config.steps:
        return ""
    was, now = (learning_rate(one, step) for one in (before, config))
    if math.isclose(was, now, rel_tol=1e-6):
        return ""
    return (
        f"The learning rate falls over {config.steps} steps now, not {before.steps}: at step {step} it goes from "
        f"{was:.3g} to {now:.3g}."
    )
