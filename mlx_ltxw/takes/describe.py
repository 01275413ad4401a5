"""What a path or name holds: a model directory, a checkpoint, an adapter, or a file that was made here."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.adapter import describe as adapters
from mlx_ltxw.media.containers import probe
from mlx_ltxw.paths import local_path
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.printing import printable
from mlx_ltxw.takes.record import Record, read_record
from mlx_ltxw.weights.describe import Description, describe_header, describe_model
from mlx_ltxw.weights.header import Header, read_header
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.opening import open_dir
from mlx_ltxw.weights.split_layout import is_split
from mlx_ltxw.weights.weight_files import is_weights

_MOST_LOOKED_AT = 100  # files of a folder
MADE = (".mp4", ".wav", ".png")
_ADAPTER_KEY = re.compile(r"lora|lokr|hada_w|\.diff(_b)?$|dora_scale")


def _is_adapter(header: Header) -> bool:
    return any(_ADAPTER_KEY.search(name) for name in header.tensors)


@dataclass(frozen=True)
class MadeFile:
    """A clip, script or listening sample.

    Attributes:
        name: Its path.
        record: What it says of itself.
        seconds: Its length; None for a picture.
    """

    name: str
    record: Record
    seconds: float | None

    @property
    def request(self) -> Request:
        """What makes it again; of a script the first part."""
        return self.record.requests[0]

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"name": self.name, "seconds": self.seconds, **asdict(self.record)}

    def __str__(self) -> str:
        record = self.record
        length = "" if self.seconds is None else f", {self.seconds:.2f} s"
        facts = {"kind": f"{record.kind}{length}", "written by": f"mlx-ltxw {record.version or 'unknown'}"}
        if record.model:
            facts["model"] = f"{record.model.get('name')} ({record.model.get('variant')})"
        if record.training_step is not None:
            facts["training step"] = str(record.training_step)
        lines = [self.name, *(f"{label:<16}{value}" for label, value in facts.items())]
        for number, request in enumerate(record.requests, 1):
            if record.kind == "script":
                lines.append(f"part {number}")
            lines += [f"{label:<16}{value}" for label, value in facts_of(request).items()]
        lines += [f"{'sha256':<16}{digest}  {name}" for name, digest in record.adapter_sha256.items()]
        return printable("\n".join(lines), keep="\n")


Described = Description | adapters.AdapterDescription | MadeFile


def describe(target: str) -> Described:
    """Says what a model directory, a .safetensors checkpoint, an adapter (file, folder, repo, name) or a made mp4, wav
    or png holds.

    Raises:
        UserError: none of these, or damaged.
    """
    path = local_path(target)
    if path.is_dir() and not _holds_adapter(path):
        return describe_model(open_dir(path))
    if path.suffix.lower() in MADE:
        record = read_record(path)
        return MadeFile(str(path), record, None if path.suffix.lower() == ".png" else probe(path).duration)
    if path.is_file():
        header = read_header(path)
        if not _is_adapter(header):
            return describe_header(header)
    return adapters.describe_adapter_file(target)


def _holds_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter's and no model's: PEFT's, a training run's, or one with a LoRA in it."""
    names = set(next(os.walk(folder), ("", [], []))[2])
    if MANIFEST in names or is_split(names):
        return False
    files = [folder / name for name in sorted(names) if is_weights(name)]
    return "adapter_config.json" in names or any(_is_adapter(read_header(file)) for file in files[:_MOST_LOOKED_AT])


def facts_of(request: Request) -> dict[str, str]:
    """Label -> value, of what a request says."""
    size = f"{request.width} x {request.height}, " if request.width and not request.audio_only else ""
    facts = {
        "prompt": request.prompt,
        "seed": ", ".join(map(str, request.seeds)),
        "size": f"{size}{request.frames} frames at {request.frame_rate:g} a second" if request.frame_rate else "",
        "steps": str(request.steps or ""),
        "pipeline": " ".join(filter(None, (request.pipeline, request.upsampler))),
        "distilled LoRA": request.distilled_lora or "",
        "adapters": ", ".join(request.adapters),
        "video lock": ("on" if request.lock_video else "off") if request.adapters and not request.audio_only else "",
        "takes": "; ".join(request.takes),
        "register at": request.register_at or "",
        "picture of": request.video or "",
        "pictures": ", ".join(request.images),
        "sound of": request.audio or "",
        "voice again": "" if request.revoice is None else f"from strength {request.revoice:g}",
        "made anew": f"{request.retake} s ({request.retake_what})" if request.retake else "",
        "longer by": "" if request.extend is None else f"{request.extend:g} s",
        "sound alone": "yes" if request.audio_only else "",
    }
    return {label: value for label, value in facts.items() if value}
