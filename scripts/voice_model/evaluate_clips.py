"""The clips of an evaluation, made through the project's own pipeline, or kept from an earlier run, and measured."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw.files import replacing, write_bytes
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.measure import measure
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.pipeline.decode import decode_video
from mlx_ltxw.pipeline.events import Decoded, Step
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan, plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.resolve import defaults_for, resolve
from mlx_ltxw.takes.make import follow
from mlx_ltxw.takes.record import clip_record
from mlx_ltxw.takes.write import all_frames
from mlx_ltxw.weights.model_dir import ModelDir
from scripts.voice_model.corpus import SENTENCES, VOICES, caption, gate_captions, quiet_manner
from scripts.voice_model.measure import RATE, nearest
from scripts.voice_model.mouth import correlation, heard_opening, seen_opening
from scripts.voice_model.true_clips import cepstra_of, true_cepstra

BASE = "base"
SAID = ("plain", "whisper", "soft")


@dataclass(frozen=True)
class Condition:
    """One column of the evaluation.

    Attributes:
        subject: `base`, or the adapter's name.
        said: One of `SAID`: the register that the captions' manner names.
        adapter: The adapter's file; None for the base.
        locked: Whether the picture is kept exactly the base's.
    """

    subject: str
    said: str
    adapter: Path | None = None
    locked: bool = True

    @property
    def name(self) -> str:
        """As the table and the clips' folders call it: `whisper-soft-unlocked`."""
        return f"{self.subject}-{self.said}" + ("" if self.locked else "-unlocked")

    @property
    def compared(self) -> str:
        """The register of the true clips its sentences are told apart by."""
        return "normal" if self.subject == BASE or self.said == "plain" else self.said


@dataclass(frozen=True)
class Setup:
    """What all clips share.

    Attributes:
        model: Makes them.
        folder: Holds them, in `clips/`, and the true ones, in `true/`.
        seed: Of the first; the next has the next one. The same in every condition.
        sizes: Fields of the request that are not the model's own.
        again: Measures kept clips again.
    """

    model: ModelDir
    folder: Path
    seed: int
    sizes: dict[str, int]
    again: bool = False


@dataclass(frozen=True)
class Prompt:
    """One line of the evaluation: the number in order, and who says what (places in VOICES and SENTENCES)."""

    number: int
    voice: int
    sentence: int

    def text(self, said: str) -> str:
        """The caption."""
        voice = VOICES[self.voice]
        manner = "" if said == "plain" else quiet_manner(voice, said)
        return caption(voice, manner, SENTENCES[self.sentence])


@dataclass(frozen=True)
class Figures:
    """What was measured on one clip.

    Attributes:
        voiced, lufs: As `mlx-ltxw measure` has them of the file.
        sentence: Whose true clip is nearest.
        mouth: Correlation of the mouth's opening with the sound's envelope.
        change: Relative L2 change of the video latents from the base's clip of the same caption and seed; None for it.
        psnr: Of the frames against that clip's, dB; infinite when equal.
        seconds: Making it took, from the request to the last frame.
    """

    voiced: float
    lufs: float
    sentence: int
    mouth: float
    change: float | None
    psnr: float | None
    seconds: float


def prompts(count: int) -> list[Prompt]:
    """`count` lines over all voices and spread over the sentences: those of the recipe's own gates."""
    _, voices, sentences = gate_captions("", count)
    return [Prompt(number, *pair) for number, pair in enumerate(zip(voices, sentences, strict=True))]


def path_of(setup: Setup, condition: Condition, prompt: Prompt) -> Path:
    """The clip's mp4; its latents (npz) and its figures (json, written last) lie beside it."""
    name = f"{prompt.number:02d}-{VOICES[prompt.voice].name}-{prompt.sentence:02d}.mp4"
    return setup.folder / "clips" / condition.name / name


def figures_of(setup: Setup, condition: Condition, prompt: Prompt) -> Figures:
    """Makes and measures one clip, or reads what an earlier run has left.

    The base's clip of the same captions must be there for any other condition.
    """
    path = path_of(setup, condition, prompt)
    request = Request(
        prompt=prompt.text(condition.said),
        seeds=(setup.seed + prompt.number,),
        adapters=(str(condition.adapter),) if condition.adapter else (),
        lock_video=condition.locked,
        **setup.sizes,  # type: ignore[arg-type]
    )
    key = _key(setup.model, request, condition.adapter)
    kept = _kept(path, key)
    if kept and not setup.again:
        return Figures(**kept["figures"])
    if not kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path, path_of(setup, Condition(BASE, condition.said), prompt), plan(request, setup.model))
    figures = _measure(setup, condition, prompt)
    write_bytes(path.with_suffix(".json"), json.dumps({"key": key, "figures": asdict(figures)}, indent=1).encode())
    return figures


def _key(model: ModelDir, request: Request, adapter: Path | None) -> str:
    """What decides how a clip turns out: the model's and the adapter's content, and the settings."""
    settings = resolve(request, defaults_for(model.variant, model.generation), model.variant).to_dict()
    settings["adapters"] = hashlib.sha256(adapter.read_bytes()).hexdigest() if adapter else None
    digest = hashlib.sha256((model.path / "manifest.json").read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([digest, settings], sort_keys=True).encode()).hexdigest()


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if kept.get("key") == key and path.exists() else None


def _make(path: Path, base: Path, job: Plan) -> None:
    """One clip's mp4 and npz: final video latents (T, C), the mouth's opening (F,), seconds, and how far it is from
    the base's clip."""
    path.with_suffix(".json").unlink(missing_ok=True)  # what it says is of another clip
    began, latents, decoded = time.perf_counter(), None, None
    for event in follow(job):
        if isinstance(event, Step):
            latents = event.latents
        elif isinstance(event, Decoded):
            decoded = all_frames(event), event.waveform
    seconds = time.perf_counter() - began
    assert latents is not None
    assert decoded is not None
    frames, waveform = decoded
    assert frames is not None
    settings = job.settings
    write_mp4(path, [frames], settings.frame_rate, waveform, metadata=clip_record(job, settings.seeds[0]))
    found: dict[str, Any] = {"video": _tokens(latents), "opening": seen_opening(frames), "seconds": seconds}
    if settings.adapters:
        found |= _difference(job, found["video"], frames, base)
    with replacing(path.with_suffix(".npz")) as partial, partial.open("wb") as file:
        np.savez(file, **found)


def _tokens(latents: Latents) -> np.ndarray:
    assert latents.video is not None
    return np.asarray(latents.video[0])


def _difference(job: Plan, video: np.ndarray, frames: np.ndarray, base: Path) -> dict[str, float]:
    """From the base's clip, whose latents are decoded again; as `mlx_ltxw.pipeline.drift` has it."""
    with np.load(base.with_suffix(".npz")) as kept:
        theirs = kept["video"]
    change = float(np.linalg.norm(video - theirs) / np.linalg.norm(theirs))
    plain = np.concatenate(list(decode_video(Networks(job.model, job.dtype), mx.array(theirs)[None], job.geometry)))
    error = float(((frames.astype(np.float32) - plain) ** 2).mean(dtype=np.float64))
    return {"change": change, "psnr": float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))}


def _measure(setup: Setup, condition: Condition, prompt: Prompt) -> Figures:
    path = path_of(setup, condition, prompt)
    config = setup.model.network_config("audio_vae")
    heard, wave = measure(path), read_audio(path, RATE, 1)[:, 0]
    candidates = true_cepstra(setup.folder / "true", prompt.voice, condition.compared, config)
    with np.load(path.with_suffix(".npz")) as kept:
        made = {name: kept[name] for name in kept.files}
    return Figures(
        voiced=heard.voiced,
        lufs=heard.lufs,
        sentence=nearest(cepstra_of(wave, config), candidates),
        mouth=correlation(made["opening"], heard_opening(wave, len(made["opening"]), _rate(setup))),
        change=float(made["change"]) if "change" in made else None,
        psnr=float(made["psnr"]) if "psnr" in made else None,
        seconds=float(made["seconds"]),
    )


def _rate(setup: Setup) -> float:
    return defaults_for(setup.model.variant, setup.model.generation).frame_rate
