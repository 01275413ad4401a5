"""The Python face: models that are loaded once, and the clips they make.

`import mlx_ltxw as ltx` exports everything here lazily.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TypedDict, Unpack, overload

from mlx_ltxw.convert.face import convert
from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import settle
from mlx_ltxw.media.measure import Measurement, measure
from mlx_ltxw.pipeline.events import Adapted, Conditioned, Decoded, Event, Resumed, Step
from mlx_ltxw.pipeline.guidance import Guidance
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.point import NOTHING_DONE, DoneBefore
from mlx_ltxw.pipeline.request import SEED, Request
from mlx_ltxw.pipeline.resolve import following_seeds
from mlx_ltxw.printing import read_bytes
from mlx_ltxw.prompts.takes import takes_of
from mlx_ltxw.takes.clip import Clip
from mlx_ltxw.takes.describe import Described, describe
from mlx_ltxw.takes.events import TakeEvent, Written
from mlx_ltxw.takes.export import Exported, export
from mlx_ltxw.takes.make import fit, fit_again, follow, make
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.output import Output
from mlx_ltxw.train.face import Trained, train
from mlx_ltxw.weights.dtype import dtype_of
from mlx_ltxw.weights.model_dir import ModelDir

__all__ = [
    "Adapted", "Clip", "Conditioned", "Decoded", "Event", "Exported", "Guidance", "Measurement", "Model", "Request",
    "Resumed", "Step", "Trained", "convert", "export", "inspect", "load", "measure", "train",
]  # fmt: skip

ImageChoice = str | Path | Sequence[str | Path] | None
"""One or several of `FILE[@FRAME][:STRENGTH]`."""

AdapterChoice = str | Path | Sequence[str | Path] | None
"""One or several of `NAME|FILE|REPO[:STRENGTH]`."""


Takes = int | str | Sequence[str]
"""A number of seeds, manners between commas, or a list of takes."""


class Fields(TypedDict, total=False):
    """Fields of a `Request` that `Model.generate` takes by name; left out, they are the model's own."""

    negative_prompt: str | None
    width: int | None
    height: int | None
    frames: int | None
    frame_rate: float | None
    steps: int | None
    pipeline: str | None
    upsampler: str | None
    distilled_lora: str | None
    video_guidance: Guidance | None
    audio_guidance: Guidance | None
    audio_only: bool
    lock_video: bool
    fuse: bool
    allow_partial: bool
    register_at: str | None
    video: str | Path | None
    audio: str | Path | None
    revoice: float | None
    retake: str | None
    retake_what: str
    extend: float | None
    soften_onset: bool
    remove_offset: bool
    dtype: str | None


def load(
    model: str | Path | None = None, *, text_encoder: str | None = None, resident: bool = True,
    memory: int | str | None = None, cache: bool = True,
) -> Model:  # fmt: skip
    """Opens a model; its networks are loaded when a clip first needs them.

    Args:
        model: A model directory that `convert` wrote, or one in ltx-2-mlx's layout; `OWNER/REPO` or
            `OWNER/REPO@REVISION` for either on the Hub, which is downloaded once; None for the small model that ships
            with the package.
        text_encoder: Gemma-3 for a model of ltx-2-mlx's layout, a directory or a repository; None for its own or the
            one that ltx-2-mlx takes.
        resident: Keeps the networks in memory from one clip to the next; otherwise each goes when its stage is done.
            What is made is the same.
        memory: What a clip may use, in bytes or as `"12GB"`; the rest of the model is read from disk as it is needed.
            None for what the machine has to give.
        cache: Reads what a prompt is encoded to from the user's cache folder, and keeps it there.

    Raises:
        UserError: there is no such model, or it is damaged.
        ValueError: a memory that is no size.
    """
    settle()
    limit = None if memory is None else read_bytes(memory)
    return Model(open_model(model, text_encoder), resident, limit, cache)


def inspect(target: str | Path) -> Described:
    """What a model directory, a checkpoint, an adapter or a made mp4, wav or png holds: `print` it, or ask `as_dict()`.

    Of a made file (`MadeFile`), `request` makes it again.

    Raises:
        UserError: none of these, or damaged.
    """
    settle()  # an adapter's change may be multiplied out
    return describe(str(target))


class Model:
    """A model to make clips with. As a context manager it lets its networks go at the end.

    Attributes:
        directory: Where the weights are.
    """

    def __init__(
        self, directory: ModelDir, resident: bool = True, memory: int | None = None, cache: bool = True
    ) -> None:
        self.directory = directory
        self._memory, self._cache = memory, cache
        self._networks = Networks(directory, dtype_of(None), keep=True) if resident else None

    def __repr__(self) -> str:
        return f"<Model {self.directory.name}, {self.directory.variant}>"

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def generate(
        self,
        prompt: str,
        *,
        adapter: AdapterChoice = None,
        image: ImageChoice = None,
        seed: int = SEED,
        num: None = None,
        takes: None = None,
        **fields: Unpack[Fields],
    ) -> Clip: ...

    @overload
    def generate(
        self, prompt: str, *, adapter: AdapterChoice = None, image: ImageChoice = None, seed: Sequence[int],
        num: None = None, takes: Takes | None = None, **fields: Unpack[Fields],
    ) -> list[Clip]: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str, *, adapter: AdapterChoice = None, image: ImageChoice = None, seed: int = SEED, num: int,
        takes: Takes | None = None, **fields: Unpack[Fields],
    ) -> list[Clip]: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str, *, adapter: AdapterChoice = None, image: ImageChoice = None,
        seed: int | Sequence[int] = SEED, num: None = None, takes: Takes, **fields: Unpack[Fields],
    ) -> list[Clip]: ...  # fmt: skip

    def generate(
        self, prompt: str, *, adapter: AdapterChoice = None, image: ImageChoice = None,
        seed: int | Sequence[int] = SEED, num: int | None = None, takes: Takes | None = None,
        **fields: Unpack[Fields],
    ) -> Clip | list[Clip]:  # fmt: skip
        """Makes a clip.

        Args:
            prompt: What is seen and, in quotes, what is said.
            adapter: `whisper`, a file, a Hub repository, each with `:STRENGTH` behind it if wanted; or several.
            image: A picture the clip begins with, `FILE@FRAME:STRENGTH` for one at another frame; or several.
            seed: Of the noise; -1 for any. Several seeds give a list of clips.
            num: So many clips, of the seed and those that follow it: a list.
            takes: Several sounds on one picture, which is made once: a number of seeds, `"whispering, soft, normal"`,
                or a list such as `["soft", "adapter=whisper:0.8 seed=3"]`. They give a list of clips.
            **fields: Of `Request`: `steps=8`, `audio_only=True`, `lock_video=False`, ...

        Raises:
            UserError: the model cannot make it.
        """
        seeds = tuple(seed) if isinstance(seed, Sequence) else (seed,)
        if num is not None:
            if isinstance(seed, Sequence):
                raise UserError("{field:num} counts from one seed on.", "Leave {field:num} out, or give one seed.")
            seeds = following_seeds(num, seed)
        named = {
            "adapters": _names(adapter, "adapter"), "images": _names(image, "picture"),
            "takes": () if takes is None else takes_of(takes),
        }  # fmt: skip
        clips = list(self.clips(Request(prompt, seeds=seeds, **named, **fields)))  # type: ignore[arg-type]
        single = not isinstance(seed, Sequence) and takes is None and num is None
        return clips[0] if single else clips

    def clips(self, request: Request) -> Iterator[Clip]:
        """Makes the clips of a request one after another, each given when it is done.

        Raises:
            UserError: the model cannot make them.
        """
        job = self.plan(request)
        for event in self._run(job):
            if isinstance(event, Decoded):
                yield Clip(job, event)

    def stream(self, request: Request | str, *, after: Step | None = None) -> Generator[Event, None, None]:
        """The events of a run as they come; closing the generator ends it.

        Args:
            request: What is wanted; or its prompt.
            after: Goes on after this step of an earlier run of the same request, and makes the same bits; clips of the
                seeds before it are not made again.

        Yields:
            Conditioned; Adapted, if there are adapters; for each seed Step after Step, each with the latents after it,
            and Decoded with the clip, or one for each take. A run that goes on has a Resumed before its first Step.

        Raises:
            UserError: the model cannot make it, or the step is of another request.
        """
        job = self.plan(_request(request))
        return self._run(job, NOTHING_DONE if after is None else _done_before(job, after))

    def make(
        self, request: Request | str, path: str | Path, *, overwrite: bool = False, resume: bool = True,
        wav: bool = False, spectrogram: bool = False, tracks: bool = False, preview: int = 0,
        follow: Callable[[TakeEvent], object] | None = None,
    ) -> list[Path]:  # fmt: skip
        """Makes clips as files, as the command does: a run that is cut goes on when it is called again.

        Args:
            request: What is wanted; or its prompt.
            path: An mp4 or a wav; several seeds and takes have names beside it.
            overwrite: Replaces files that are there.
            resume: Goes on where the same request was cut, from `PATH.unfinished`; otherwise begins anew.
            wav, spectrogram: Writes the sound as a wav, or a picture of its spectrum, beside each mp4 too.
            tracks: One mp4 with a sound track for each take, in place of one mp4 each.
            preview: Every so many steps what the clip will be is written to `NAME.preview.png` and `.preview.wav`; 0
                for never.
            follow: Called with each event: those of `stream`, `Previewed`, `Decoding`, `Written`, `Ranked`, ... (of
                `mlx_ltxw.takes.events`).

        Returns:
            The files, those of each clip together.

        Raises:
            UserError: the model cannot make it, or a file cannot be written or is there already.
        """
        output = Output(
            Path(path), wav=wav, spectrogram=spectrogram, overwrite=overwrite, tracks=tracks, preview=preview,
            resume=resume,
        )  # fmt: skip
        job = self._with_cache(fit_again(_request(request), self.directory, output, self._memory))
        made: list[Path] = []
        with closing(make(job, output, self._networks_for(job))) as events:
            for event in events:
                if isinstance(event, Written):
                    made += event.files
                if follow is not None:
                    follow(event)
        return made

    def plan(self, request: Request) -> Plan:
        """Every number of a run, and what will be tight, with nothing loaded yet.

        Raises:
            UserError: the model cannot make it.
        """
        return self._with_cache(fit(request, self.directory, self._memory))

    def close(self) -> None:
        """Lets the networks go; the next clip loads them again."""
        if self._networks is not None:
            self._networks.close()

    def _run(self, job: Plan, progress: DoneBefore = NOTHING_DONE) -> Generator[Event, None, None]:
        return follow(job, self._networks_for(job), progress)

    def _networks_for(self, job: Plan) -> Networks | None:
        own = self._networks
        return own if own is not None and own.transformer_dtype == job.dtype else None

    def _with_cache(self, job: Plan) -> Plan:
        return dataclasses.replace(job, cache=self._cache)


def _request(request: Request | str) -> Request:
    return Request(request) if isinstance(request, str) else request


def _done_before(job: Plan, after: Step) -> DoneBefore:
    """What a run has done that was left after a step."""
    seeds = job.settings.seeds
    if after.seed not in seeds or after.total != job.steps:
        raise UserError(
            f"Step {after.index} of {after.total} of seed {after.seed} is of another request.",
            "Give {field:after} a step of a run of this one.",
        )
    return DoneBefore({after.seed: after.point}, frozenset(seeds[: seeds.index(after.seed)]))


def _names(given: AdapterChoice | ImageChoice, kind: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str | Path):
        return (str(given),)
    if not isinstance(given, Sequence):
        raise UserError(f"{given!r} is no {kind}.", "Give a name, a file, or a list of them.")
    return tuple(str(one) for one in given)
