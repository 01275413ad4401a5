"""The run: step after step, with progress, checkpoints and listening samples, to the finished adapter."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_ltxw.adapter.apply import attach
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.gpu_errors import gpu_errors, telling_gpu_errors
from mlx_ltxw.links import watched
from mlx_ltxw.machine import Parts, limits, peak_memory, settle, this_machine
from mlx_ltxw.models import ops
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.train import checkpoint, finish
from mlx_ltxw.train.base import load_base
from mlx_ltxw.train.budget import TRAINING, TrainingStep, held_in_step
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.data.cache import CachedClip, load_clip
from mlx_ltxw.train.events import Finished, Progress, Sampled, Saved, Started, Stopped, TrainingEvent
from mlx_ltxw.train.gradient import optimizer
from mlx_ltxw.train.gradient.batches import KEPT_BYTES, Batches
from mlx_ltxw.train.gradient.blocks import IN_MEMORY, shared_blocks
from mlx_ltxw.train.gradient.layout import Layout
from mlx_ltxw.train.gradient.optimizer import State
from mlx_ltxw.train.gradient.step import Objective
from mlx_ltxw.train.held_out import HeldOut
from mlx_ltxw.train.initial import initial_adapter
from mlx_ltxw.train.metrics import Metrics
from mlx_ltxw.train.page import write_page
from mlx_ltxw.train.preview import choose_prompts, encoded, make_samples
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, STREAMED, Residency
from mlx_ltxw.world import World


@dataclass(frozen=True)
class Job:
    """A run, its data prepared.

    Attributes:
        config: Options, sizes included.
        model: The base.
        clips: The cached clips, in the same order on every machine.
        run: Folder of the run.
        world: The machines.
        held_out: Cached clips that are not trained on, but measured.
        seconds: Of the clips together, where it is known; of their windows otherwise.
        notes: What is to be known before it starts.
        residency: Which of the base's blocks stay in memory.
        shared: Whether each machine holds some rows of the others, and all gather them.
        room: Bytes of clips that may stay in memory beside what is planned.
    """

    config: TrainConfig
    model: ModelDir
    clips: Sequence[Path]
    run: Path
    world: World
    held_out: Sequence[Path] = ()
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    residency: Residency = RESIDENT
    shared: bool = False
    room: int = KEPT_BYTES


def check_base(model: ModelDir, force: bool) -> None:
    """Refuses a distilled base: adapters trained on one end near zero and do nothing.

    Raises:
        UserError: it is distilled, and not forced.
    """
    if model.variant == "distilled" and not force:
        raise UserError(
            f"{model.name} is a distilled model; adapters trained on one learn almost nothing.",
            "Train on the dev model, whose adapters work on both, or add {field:force=True}.",
        )


def check_folder(run: Path, resume: bool) -> None:
    """Refuses a folder that holds another run's work.

    Raises:
        UserError: there is a run, and it is not to be resumed.
    """
    if not resume and (checkpoint.saved_steps(run) or (run / finish.ADAPTER).exists()):
        raise UserError(
            f"{run} holds a run already.", "Add {field:resume=True} to continue it, or choose another folder."
        )


@telling_gpu_errors
def train(job: Job, stop: Callable[[], bool] = lambda: False) -> Iterator[TrainingEvent]:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
        job: What to do.
        stop: Asked once a step; when it says yes on any machine, the step is finished and saved, and the run ends.

    Yields:
        Started, then Progress, Saved, Sampling, SuspectSample and Sampled as they come, and Finished or Stopped.
        Whatever was done is saved when Sampling comes, so that a caller may end the run there.

    Raises:
        UserError: the checkpoint belongs to another run, the loss is no number any more, or a machine was lost.
    """
    ops.settle_compile()
    settle()
    world = job.world
    again = "Start the machines again; the last checkpoint goes on."
    with watched(world.rank, world.size, world.exchange, again, pulse=world.pulse), limits(this_machine()) as parts:
        yield from _trained(job, stop, parts)


def _trained(job: Job, stop: Callable[[], bool], parts: Parts) -> Iterator[TrainingEvent]:
    trainer = Trainer(job, parts)
    yield trainer.started()
    with trainer.saving():
        yield from _steps(job, stop, trainer)


def _steps(job: Job, stop: Callable[[], bool], trainer: Trainer) -> Iterator[TrainingEvent]:
    if job.world.leads:
        yield from trainer.samples()
    while trainer.state.step < job.config.steps:
        progress, stopping = trainer.step(stop())
        yield progress
        stopping = stopping and trainer.state.step < job.config.steps
        if job.world.leads:
            yield from trainer.keep(always=stopping)
        if stopping:
            yield Stopped(trainer.state.step)
            return
    if job.world.leads:
        yield from trainer.finish()
    job.world.wait()


class LostLoss(UserError):
    """The loss is no number any more: going on would lose it again."""


class Trainer:
    """Everything a run holds in memory.

    Attributes:
        state: What changes from step to step.

    Args:
        job: What to do.
        parts: Is told what a step may hold; None for nobody.
    """

    def __init__(self, job: Job, parts: Parts | None = None) -> None:
        self.job, self._parts = job, parts
        config = job.config
        clips = [load_clip(file) for file in job.clips]
        self.audio_only = all(clip.video is None for clip in clips)
        self.prompts = choose_prompts([clip.caption for clip in clips], config)
        self.networks = encoded(self.prompts if job.world.leads else (), job.model, self.audio_only, config)
        together = job.world if job.shared else None
        self.base, trained, layers = load_base(job.model, self.audio_only, job.residency, together)
        self.blocks = IN_MEMORY if layers is None else shared_blocks(layers, config)
        step = TrainingStep(job.model, config, self.audio_only, job.world.size)
        self._held = held_in_step(step, this_machine(), job.residency)
        adapter, notes, self.initial_sha256 = initial_adapter(trained, config)
        self.notes = (*job.notes, *notes)
        self.layout, parameters = Layout.of(adapter)
        adapted = attach(trained, [(adapter, Strength())])
        self.objective = Objective(self.base, adapted, self.layout, config, self.blocks)
        share = (job.world.rank, job.world.size)
        grid = latent_grid(job.model)
        self.batches = Batches(job.clips, self.base, grid, config, share, job.room)
        self.held_out = None
        if job.held_out and (job.world.leads or job.shared):  # all go over the blocks with the one that tells
            self.held_out = HeldOut(job.held_out, self.base, grid, config, self.objective)
        self.weight = mx.array(1 / config.clips_per_step)
        self.data = finish.Data.of(clips, job.seconds, len(job.held_out))
        self.origin = checkpoint.Origin(config, finish.base_sha256(job.model), _fingerprint(clips), self.layout.paths)
        if job.world.leads:
            finish.check_space(job.run, self.layout.size, config.keep_checkpoints)
        self.state = self._begin(State.fresh(parameters))
        self.metrics = Metrics(job.run, config, self.state.step) if job.world.leads else None
        self.pace = 0.0
        mx.reset_peak_memory()

    def started(self) -> Started:
        """What is about to be trained."""
        config, layout = self.job.config, self.layout
        return Started(
            self.state.step, config.steps, len(layout.paths), layout.size, self.data, self.job.world.size, self.notes
        )

    def step(self, stop: bool) -> tuple[Progress, bool]:
        """One optimizer step.

        Args:
            stop: Whether this machine wants to end the run.

        Returns:
            Figures of the step, and whether any machine wants to end.
        """
        clock = time.perf_counter()
        state, config = self.state, self.job.config
        if self._parts is not None and not self.job.shared:  # with others' shares of blocks on their way besides
            self._parts.begin(TRAINING, 0, self._held)
        try:
            gradient, tail = self._gradient(stop)
        except RuntimeError as error:
            self._lost(error)
            raise
        audio, video, stops, length = (float(x) for x in tail)
        if not math.isfinite(audio + video + length):
            raise LostLoss(
                f"The loss or its gradient is no number any more at step {state.step + 1}.",
                "Lower learning_rate and start again, or, if it was a fault, go on with {field:resume=True}.",
            )
        rate = optimizer.learning_rate(config, state.step)
        state.advance(gradient, length, config)
        logged = state.step % config.log_every == 0 or state.step in (1, config.steps)
        delta = float(self.layout.delta_rms(state.parameters)) if logged else None
        seconds = time.perf_counter() - clock
        self.pace = seconds if not self.pace else 0.9 * self.pace + 0.1 * seconds
        measured = state.step % config.held_out_every == 0 or state.step in (1, config.steps)
        held_out = self.held_out.loss(state.parameters) if self.held_out and measured else None
        progress = Progress(
            state.step, config.steps, audio, video if config.video_loss else None, rate, length, delta,
            seconds, self.pace * (config.steps - state.step), peak_memory(), held_out,
        )  # fmt: skip
        if self.metrics is not None:
            self.metrics.add(progress.to_dict())
        return progress, stops > 0

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Saves the last whole step when a disk or the device ends the run, and says in the error what is saved.

        Raises:
            UserError: that error.
        """
        try:
            with gpu_errors():
                yield
        except LostLoss:
            raise
        except UserError as error:
            with suppress(UserError, RuntimeError, OSError):  # the very disk may be full or gone
                if self.job.world.size == 1 and self.state.step not in checkpoint.saved_steps(self.job.run):
                    self._save()
            saved = checkpoint.saved_steps(self.job.run)[-1:]
            told = [f"Step {step} is saved, and {{field:resume=True}} goes on from there." for step in saved]
            raise (error.followed_by(told[0]) if told and self.job.world.size == 1 else error) from error

    def keep(self, always: bool = False) -> Iterator[TrainingEvent]:
        """Saves and makes samples when it is time; the lead machine's work."""
        config, step = self.job.config, self.state.step
        if always or step % config.checkpoint_every == 0 or step == config.steps:
            yield Saved(step, self._save())
        if not always:
            yield from self.samples()

    def samples(self) -> Iterator[TrainingEvent]:
        """Listening samples of this step, if it is one that has some and they were not made yet."""
        config, step = self.job.config, self.state.step
        if step and (not config.preview_every or step % config.preview_every or step == config.steps):
            return  # the last step's are made of the finished adapter
        if step or config.preview_every:
            yield (yield from self._sample(step, self._step_adapter() if step else None))

    def finish(self) -> Iterator[TrainingEvent]:
        """The finished adapter, what it does, its card and the page."""
        job, state = self.job, self.state
        if state.step not in checkpoint.saved_steps(job.run):
            yield Saved(state.step, self._save())
        path = finish.write_adapter(
            job.run, state.parameters, self.layout, job.config, job.model, self.data, self.initial_sha256
        )
        without = yield from self._sample(0, None)
        with_it = yield from self._sample(state.step, path)
        yield with_it
        samples = [*without.samples, *with_it.samples]
        delta = float(self.layout.delta_rms(state.parameters))
        finish.write_card(job.run, job.config, job.model, self.data, delta, samples)
        write_page(job.run, job.config, self.metrics.lines if self.metrics else [])  # with a link to the card
        if self.metrics is not None:
            self.metrics.close()
        yield Finished(path, delta, tuple(samples))

    def _begin(self, fresh: State) -> State:
        """The newest checkpoint's state, read by the lead machine and sent to the others."""
        world = self.job.world
        found = checkpoint.restore(self.job.run, self.origin, self.layout.size) if world.leads else None
        state = found or fresh
        if world.size == 1:
            return state
        own = mx.concatenate([mx.array([float(state.step)]), state.parameters, state.first, state.second])
        shared = world.sum(own if world.leads else mx.zeros_like(own))
        step, *arrays = mx.split(shared, [1, 1 + self.layout.size, 1 + 2 * self.layout.size])
        mx.eval(step, *arrays)
        return State(int(float(step)), *arrays)

    def _gradient(self, stop: bool) -> tuple[mx.array, mx.array]:
        """The gradient of all machines; and (4,) the losses of audio and video, how many want to stop, its norm."""
        first, *others = self.batches.step(self.state.step)
        gradient, losses = self.objective(self.state.parameters, first, self.weight)
        for group in others:
            mx.eval(gradient, losses)  # one group's activations in memory at a time
            self.blocks.done()
            more, further = self.objective(self.state.parameters, group, self.weight)
            gradient, losses = gradient + more, losses + further
        if self.job.shared:
            mx.eval(gradient, losses)  # before the sums, on every machine
            self.blocks.done()
            for _ in range(1 + len(others), self.batches.rounds(self.state.step)):
                self.blocks.keep_pace()
        if self.job.world.size > 1:
            mx.eval(gradient, losses)  # this machine's own work is done, and what follows is everybody's
        with self.job.world.pulse:
            gradient = self.job.world.sum_in_order(gradient)
            sums = self.job.world.sum_in_order(mx.concatenate([losses, mx.array([float(stop)])]))
            tail = mx.concatenate([sums, optimizer.norm(gradient)[None]])
            mx.eval(gradient, tail)
        return gradient, tail

    def _lost(self, error: RuntimeError) -> None:
        """Saves what there is when another machine is gone."""
        if self.job.world.size == 1 or not any(word in str(error).lower() for word in ("[ring]", "peer", "connection")):
            return
        saved = f"; step {self.state.step} is saved" if self.job.world.leads else ""
        if self.job.world.leads:
            self._save()
        raise UserError(
            f"Another machine of the run was lost{saved}.", "Start the machines again with {field:resume=True}."
        ) from error

    def _save(self) -> Path:
        return checkpoint.save(self.job.run, self.state, self.layout, self.origin)

    def _step_adapter(self) -> Path:
        """The adapter of this step in a file of its own, for the pipeline to read."""
        folder = checkpoint.checkpoint_folder(self.job.run, self.state.step)
        if not all((folder / f"{name}.safetensors").is_file() for name in ("state", "adapter")):
            self._save()
        return folder / "adapter.safetensors"

    def _sample(self, step: int, adapter: Path | None) -> Generator[TrainingEvent, None, Sampled]:
        job = self.job
        base = self.base if not job.shared else load_base(job.model, self.audio_only, STREAMED).transformer
        samples = yield from make_samples(job.run, step, adapter, self.prompts, self.networks, base, job.config)
        page = write_page(job.run, job.config, self.metrics.lines if self.metrics else [])
        mx.clear_cache()
        return Sampled(step, tuple(samples), page)


def _fingerprint(clips: Sequence[CachedClip]) -> str:
    return hashlib.sha256("\n".join(clip.key for clip in clips).encode()).hexdigest()
