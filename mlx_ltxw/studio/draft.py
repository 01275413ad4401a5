"""What is filled in under Make, as texts and choices, and the request that it stands for; both ways."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_ltxw.adapter.strength import parse_adapter
from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import build
from mlx_ltxw.pipeline.guidance import Guidance
from mlx_ltxw.pipeline.keyframes import parse_image
from mlx_ltxw.pipeline.request import RANDOM, Request
from mlx_ltxw.pipeline.resolve import following_seeds
from mlx_ltxw.prompts.registers import build_prompt, parse
from mlx_ltxw.prompts.takes import takes_of
from mlx_ltxw.studio.asked import Asked, AskedPart

SENTENCE, FREE, SCRIPT = "sentence", "free", "script"
GUIDANCE = ("cfg", "stg", "modality", "rescale")
MOST_CLIPS = 64
_PLAIN = (
    "negative_prompt", "steps", "pipeline", "upsampler", "distilled_lora", "register_at", "retake", "extend",
    "revoice", "dtype",
)  # fmt: skip
"""Fields that the draft and the request have alike; None where nothing is said."""
_FLAGS = ("audio_only", "lock_video", "fuse", "allow_partial", "soften_onset", "remove_offset")


@dataclass
class DraftPart:
    """A row of the script; `take` is the last one made of it alone."""

    scene: str = ""
    speaker: str = "woman"
    manner: str = "whispering"
    line: str = ""
    seconds: float | None = None
    seed: int | None = None
    take: int | None = None


@dataclass
class DraftAdapter:
    """One adapter: a name, file or repository, and its strength, `0.8` or `audio_attn1=1,audio_attn2=0.5`."""

    source: str = ""
    strength: str = "1"

    @property
    def spec(self) -> str:
        """As a request has it."""
        strength = self.strength.strip()
        return self.source.strip() + ("" if strength in ("", "1") else f":{strength}")


@dataclass
class DraftImage:
    """A picture that the clip goes through; `file` is a path in the studio's own folder."""

    file: str
    name: str = ""
    frame: str = "0"
    strength: str = "1"

    @property
    def spec(self) -> str:
        """As a request has it."""
        frame = "" if self.frame.strip() in ("", "0") else f"@{self.frame.strip()}"
        strength = "" if self.strength.strip() in ("", "1") else f":{self.strength.strip()}"
        return f"{self.file}{frame}{strength}"


@dataclass
class Draft:
    """Everything under Make. What is left empty is the model's own.

    Attributes:
        mode: `sentence`, `free` or `script`.
        scene, speaker, manner, line: Of the sentence.
        prompt: The free one.
        parts: Of the script.
        adapters: In use; none for a plain voice.
        width, height: Pixels; None for the model's own.
        seconds: Length; None for the model's own.
        seed: A number; None for any.
        clips: How many, of as many seeds.
        takes: Sounds on one picture: a number, manners between commas, or one a line.
        model, text_encoder: Names; empty for the server's own.
        memory: GB; None for what there is.
        images, audio, video: What is given, files in the studio's folders.
        given_name: What the given sound or clip was called.
        retake_what: `picture`, `sound` or `both`.
        video_guidance, audio_guidance: Numbers of `GUIDANCE` that are changed.
        base: The request that all of it was taken from; what the page does not show stays as it is there.
    """

    mode: str = SENTENCE
    scene: str = ""
    speaker: str = "woman"
    manner: str = "whispering"
    line: str = ""
    prompt: str = ""
    parts: list[DraftPart] = field(default_factory=lambda: [DraftPart(), DraftPart()])
    adapters: list[DraftAdapter] = field(default_factory=list)
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    seed: int | None = None
    clips: int = 1
    takes: str = ""
    model: str = ""
    text_encoder: str = ""
    memory: float | None = None
    images: list[DraftImage] = field(default_factory=list)
    audio: str | None = None
    video: str | None = None
    given_name: str = ""
    retake_what: str = "both"
    video_guidance: dict[str, float] = field(default_factory=dict)
    audio_guidance: dict[str, float] = field(default_factory=dict)
    negative_prompt: str | None = None
    steps: int | None = None
    pipeline: str | None = None
    upsampler: str | None = None
    distilled_lora: str | None = None
    register_at: str | None = None
    retake: str | None = None
    extend: float | None = None
    revoice: float | None = None
    dtype: str | None = None
    audio_only: bool = False
    lock_video: bool = True
    fuse: bool = False
    allow_partial: bool = False
    soften_onset: bool = True
    remove_offset: bool = True
    base: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, values: dict[str, Any]) -> Draft:
        """From JSON, strictly.

        Raises:
            UserError: it is none.
        """
        return build(cls, values, "What was filled in", "Fill the page in again.")

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)

    def sentence(self) -> str:
        """The prompt that the fields make, or the free one; empty while something is missing.

        Raises:
            UserError: the line has a quote inside.
        """
        if self.mode == FREE:
            return self.prompt.strip()
        if not (self.scene.strip() and self.line.strip()):
            return ""
        return build_prompt(self.scene, self.speaker, self.manner, self.line)

    @property
    def complete(self) -> bool:
        """Whether there is something to make; a line with a fault is."""
        if self.mode == FREE:
            return bool(self.prompt.strip())
        filled = [self.scene.strip() and self.line.strip()]
        if self.mode == SCRIPT:
            filled = [part.scene.strip() and part.line.strip() for part in self.parts if part.line.strip()]
        return bool(filled) and all(filled)

    def asked(self, about: ModelFacts, model: str | None = None) -> Asked:
        """The job.

        Args:
            about: Of the model.
            model: The server's own, where the draft names none.

        Raises:
            UserError: something is missing, or is none.
        """
        base = Request.from_dict({"prompt": "", **self.base})
        changes: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        changes |= {name: getattr(self, name) for name in _FLAGS}
        script = self.mode == SCRIPT
        seeds: tuple[int, ...] = (RANDOM if self.seed is None else self.seed,)
        if not 1 <= self.clips <= MOST_CLIPS:
            raise UserError(f"{self.clips} clips are not one job.", f"Ask for 1 to {MOST_CLIPS}.")
        if self.clips > 1 and not script:
            seeds = (RANDOM,) * self.clips if self.seed is None else following_seeds(self.clips, self.seed)
        frames, rate = self._length(about, base)
        request = dataclasses.replace(
            base, **changes, prompt="" if script else self.sentence(), seeds=seeds,
            adapters=tuple(one.spec for one in self.adapters if one.source.strip()),
            width=self.width, height=self.height, frames=frames, frame_rate=rate,
            images=tuple(image.spec for image in self.images), audio=self.audio, video=self.video,
            retake_what=self.retake_what if self.retake else "both",
            takes=() if script else _takes(self.takes),
            video_guidance=_guided(base.video_guidance, about.video_guidance, self.video_guidance),
            audio_guidance=_guided(base.audio_guidance, about.audio_guidance, self.audio_guidance),
        )  # fmt: skip
        if not script and not request.prompt:
            raise UserError("There is nothing to say yet.", "Fill in the scene and the line.")
        memory = None if self.memory is None else round(self.memory * 1e9)
        parts = tuple(_asked_part(part) for part in self.parts if part.line.strip()) if script else ()
        if script and not parts:
            raise UserError("The script has no line yet.", "Fill in a scene and a line.")
        return Asked(request, self.model.strip() or model, self.text_encoder.strip() or None, memory, parts)

    def _length(self, about: ModelFacts, base: Request) -> tuple[int | None, float | None]:
        """Frames and their rate; None of both where the model, or what is given, decides."""
        rate = base.frame_rate
        if self.seconds is None:
            return None, rate
        if not 0 < self.seconds <= 600:
            raise UserError(f"{self.seconds:g} seconds cannot be made.", "Give up to 600.")
        rate = rate or about.frame_rate
        step = about.frames_step
        return max(0, round((self.seconds * rate - 1) / step)) * step + 1, rate


@dataclass(frozen=True)
class ModelFacts:
    """What the page knows of a model (`answers.about_model`).

    Attributes:
        name, variant: Of the model.
        notes: What is to be known of it.
        width, height, frames, frame_rate, steps: Its own.
        frames_step: Frames of one latent.
        lines: All that a small model can say; empty for others.
        sizes: That it and this machine can make: width and height.
        adapters: Built in, for it.
        upsamplers: Its own.
        video_guidance, audio_guidance: Its own.
    """

    name: str
    notes: tuple[str, ...]
    variant: str
    width: int
    height: int
    frames: int
    frame_rate: float
    steps: int
    frames_step: int
    lines: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    adapters: tuple[str, ...]
    upsamplers: tuple[str, ...]
    video_guidance: Guidance
    audio_guidance: Guidance

    @property
    def seconds(self) -> float:
        """Of its usual clip."""
        return self.frames / self.frame_rate

    @classmethod
    def read(cls, values: dict[str, Any]) -> ModelFacts:
        """From the helper's answer."""
        return build(cls, values, "What is known of the model", "Restart the studio.")


def draft_of(requests: list[Request], model: str | None) -> Draft:
    """A draft that makes a record again: of a clip, or of a script's parts."""
    first = requests[0]
    draft = Draft(base={key: value for key, value in dataclasses.asdict(first).items() if key not in _SHOWN})
    for name in (*_PLAIN, *_FLAGS, "width", "height", "audio", "video", "retake_what"):
        setattr(draft, name, getattr(first, name))
    draft.model = model or ""
    draft.adapters = [DraftAdapter(*_split(spec)) for spec in first.adapters]
    draft.images = [_image(spec) for spec in first.images]
    draft.given_name = Path(first.audio or first.video or "").name
    draft.seed, draft.clips = first.seeds[0], len(first.seeds)
    if first.frames and first.frame_rate:
        draft.seconds = round(first.frames / first.frame_rate, 3)
    draft.takes = "\n".join(first.takes)
    if len(requests) > 1:
        draft.mode, draft.parts = SCRIPT, [_draft_part(one) for one in requests]
        draft.adapters = [DraftAdapter(*_split(spec)) for spec in _shared_adapters(requests)]
        return draft
    part = _draft_part(first)
    draft.scene, draft.speaker, draft.manner, draft.line = part.scene, part.speaker, part.manner, part.line
    draft.prompt = first.prompt
    try:
        draft.mode = SENTENCE if draft.sentence() == first.prompt else FREE
    except UserError:
        draft.mode = FREE
    return draft


_SHOWN = {
    "prompt", "seeds", "frames", "adapters", "width", "height", "images", "audio", "video", "takes", "retake_what",
    *_PLAIN, *_FLAGS,
}  # fmt: skip


def _shared_adapters(requests: list[Request]) -> tuple[str, ...]:
    return next((one.adapters for one in requests if one.adapters), ())


def _draft_part(request: Request) -> DraftPart:
    prompt = parse(request.prompt)
    turn = prompt.turns[0] if len(prompt.turns) == 1 else None
    if turn is None or turn.speaker not in ("woman", "man"):
        return DraftPart(scene=request.prompt, line="")
    manner = "whispering" if "whisper" in turn.manner else "soft" if "soft" in turn.manner else "normal"
    seconds = request.frames / request.frame_rate if request.frames and request.frame_rate else None
    rounded = None if seconds is None else round(seconds, 3)
    return DraftPart(prompt.scene, turn.speaker, manner, turn.line, rounded, request.seeds[0])


def _asked_part(part: DraftPart) -> AskedPart:
    return AskedPart(part.scene, part.speaker, part.manner, part.line, part.seconds, part.seed)


def _split(spec: str) -> tuple[str, str]:
    source, _ = parse_adapter(spec)
    return source, spec[len(source) + 1 :] or "1"


def _image(spec: str) -> DraftImage:
    image = parse_image(spec)
    frame = "last" if image.frame == -1 else str(image.frame)
    return DraftImage(image.file, Path(image.file).name, frame, f"{image.strength:g}")


def _takes(text: str) -> tuple[str, ...]:
    """A number, manners between commas, or a take a line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return takes_of(lines if len(lines) > 1 else lines[0]) if lines else ()


def _guided(base: Guidance | None, own: Guidance, changes: dict[str, float]) -> Guidance | None:
    return dataclasses.replace(base or own, **changes) if changes else base  # type: ignore[arg-type]
