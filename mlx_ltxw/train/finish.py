"""The end of a run: the adapter in the official spelling, its model card, what it does to the voice, and its upload."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_ltxw import __version__
from mlx_ltxw.adapter.export import export
from mlx_ltxw.files import check_free, write_bytes
from mlx_ltxw.hub import push
from mlx_ltxw.printing import counted
from mlx_ltxw.prompts.registers import parse
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.data.cache import CachedClip
from mlx_ltxw.train.gradient.layout import Layout
from mlx_ltxw.train.preview import Sample
from mlx_ltxw.weights.model_dir import ModelDir

ADAPTER = "adapter.safetensors"
CARD = "README.md"


@dataclass(frozen=True)
class Data:
    """What the clips are, in figures.

    Attributes:
        clips: How many.
        seconds: Sound of all clips together.
        with_picture: How many have one.
        kinds: `speaker, manner` as captions write them -> clips; `no speaker` where a caption names none.
        captions: Different ones.
        held_out: More clips, which were not trained on.
    """

    clips: int
    seconds: float
    with_picture: int
    kinds: dict[str, int]
    captions: int
    held_out: int = 0

    @classmethod
    def of(cls, clips: Sequence[CachedClip], seconds: float | None = None, held_out: int = 0) -> Data:
        """Counts the clips.

        Args:
            clips: Those trained on.
            seconds: Of what is heard in them, where it is known; otherwise that of their windows.
            held_out: How many more there are.
        """
        kinds: Counter[str] = Counter()
        for clip in clips:
            turns = parse(clip.caption).turns
            kinds[", ".join(filter(None, (turns[0].speaker, turns[0].manner))) if turns else "no speaker"] += 1
        return cls(
            len(clips), sum(clip.frames / clip.frame_rate for clip in clips) if seconds is None else seconds,
            sum(clip.video is not None for clip in clips), dict(sorted(kinds.items())),
            len({clip.caption for clip in clips}), held_out,
        )  # fmt: skip


def base_sha256(model: ModelDir) -> str:
    """Of the checkpoint the model was converted from; of several files, the hash of their hashes."""
    files = (model.config.get("source") or {}).get("files") or {}
    hashes = [str(files[name]["sha256"]) for name in sorted(files) if "sha256" in files[name]]
    if not hashes:
        hashes = [digest for _, digest in sorted(model.digests("transformer").items())]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write_adapter(
    run: Path, parameters: mx.array, layout: Layout, config: TrainConfig, model: ModelDir, data: Data, initial: str = ""
) -> Path:
    """Writes `adapter.safetensors`, alpha folded in.

    Raises:
        UserError: a number is not finite, or the file cannot be written.
    """
    metadata = {
        "target_modules": json.dumps(sorted({".".join(path.split(".")[2:]) for path in layout.paths})),
        "base_model": model.name.partition("@")[0],
        "base_model_sha256": base_sha256(model),
        "training_steps": str(config.steps),
        "training_options": json.dumps(config.to_dict()),
        "register_words": json.dumps(list(data.kinds)),
        "software": f"mlx-ltxw {__version__}",
    }
    if initial:
        metadata["init_adapter_sha256"] = initial
    return export(layout.adapter(parameters, run.resolve().name), "comfyui", run / ADAPTER, metadata)


def write_card(
    run: Path, config: TrainConfig, model: ModelDir, data: Data, delta_rms: float, samples: Sequence[Sample]
) -> Path:
    """Writes the model card.

    Args:
        run: Folder of the run.
        config: Its options.
        model: The base.
        data: How many clips there are, and their seconds.
        delta_rms: Root mean square of all elements of the adapter's changes.
        samples: Of the base model (step 0) and of the finished adapter.
    """
    source = model.config.get("source") or {}
    front = ["---", "library_name: mlx", "tags: [lora, text-to-video, text-to-speech, ltx-2]"]
    front += [f"base_model: {source['repo']}", "base_model_relation: adapter"] if source.get("repo") else []
    kinds = "\n".join(f"| {kind} | {count} |" for kind, count in data.kinds.items())
    rows = "\n".join(_row(pair) for pair in _pairs(samples))
    held_out = f"Kept back and not trained on: {data.held_out} more." if data.held_out else ""
    begun = f"| started from | {Path(config.init_adapter).name} |\n" if config.init_adapter else ""
    mode = "through the video too" if config.coupled else "under the exact video lock"
    clips, each = counted(data.clips, "clip"), counted(config.clips_per_step, "clip")
    text = f"""{chr(10).join(front)}
---
# {run.resolve().name}

A LoRA for LTX-2.3 ({model.name}, {model.variant}), trained with mlx-ltxw {__version__}.

    mlx-ltxw generate PROMPT -o out.mp4 --adapter {ADAPTER}

| | |
|---|---|
| rank, alpha | {config.rank}, {config.alpha:g} |
| modules | {", ".join(config.modules)} ({", ".join(config.projections)}) |
| steps | {config.steps}, {each} each, learning rate {config.learning_rate:g}, {mode} |
{begun}| base sha256 | `{base_sha256(model)}` |
| root mean square of the change | {delta_rms:.3e} |

## Data
{clips}, {data.seconds:.0f} s together, {data.with_picture} with a picture, {counted(data.captions, "caption")}.
{held_out}

| speaker and manner | clips |
|---|---|
{kinds}

## What it does
One sample each from the same noise, as measured.

| prompt | without | with |
|---|---|---|
{rows}
"""
    path = run / CARD
    write_bytes(path, text.encode())
    return path


def _pairs(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Each prompt's sample of the base, and of the last step."""
    first = {sample.prompt: sample for sample in samples if sample.step == 0}
    last = max((sample.step for sample in samples), default=0)
    return [(first[s.prompt], s) for s in samples if s.step == last and last > 0 and s.prompt in first]


def _row(pair: tuple[Sample, Sample]) -> str:
    prompt = pair[0].prompt.replace("|", "\\|").replace("\n", " ")
    return f"| {prompt} | {register_text(pair[0])} | {register_text(pair[1])} |"


def register_text(sample: Sample) -> str:
    """`whispering, -24.1 LUFS, 3% voiced`."""
    return f"{sample.register}, {sample.lufs:.1f} LUFS, {sample.voiced:.0%} voiced"


def check_space(run: Path, size: int, checkpoints: int) -> None:
    """Refuses a run whose checkpoints will not fit on the disk.

    Args:
        run: Its folder, which is there.
        size: Numbers of the adapter.
        checkpoints: How many are kept; one more is there while it is written.

    Raises:
        UserError: there is too little space.
    """
    needed = 4 * size * (4 * (checkpoints + 1) + 1)  # parameters, two moments and the adapter, fp32
    check_free(run, needed, "the checkpoints need", "give {field:keep_checkpoints} fewer, or choose another folder.")


def upload(run: Path, repo: str) -> str:
    """Pushes the adapter, its card and its samples to the Hub; makes the repository if it is new.

    Returns:
        Its address.

    Raises:
        UserError: what the Hub says.
    """
    patterns = [ADAPTER, CARD, "index.html", "samples/**"]
    again = "Run it again with {field:resume=True}."
    return push(run, repo, f"The adapter is in {run}, but", again, allow_patterns=patterns, commit_message="Adapter")
