"""What a model directory or a safetensors file holds: `mlx-ltxw inspect`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mlx_ltxw.parsing import load_json
from mlx_ltxw.printing import printable, readable
from mlx_ltxw.weights.components import COMPONENTS, TEXT_ENCODER, upsampler_name
from mlx_ltxw.weights.header import Header, Tensor
from mlx_ltxw.weights.model_dir import ModelDir

_MOST_PARTS = 100  # lines; a model has ten


@dataclass(frozen=True)
class TensorGroup:
    """Some tensors in figures: how many, their bytes on disk, and how many have each dtype."""

    tensors: int
    nbytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True)
class Description:
    """A directory or file in figures.

    Attributes:
        name: Its path.
        facts: Label -> value.
        parts: Component, or first part of the tensor names -> figures.
    """

    name: str
    facts: dict[str, str]
    parts: dict[str, TensorGroup]

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [printable(self.name)]
        lines += [f"{printable(label):<16}{printable(value)}" for label, value in self.facts.items()]
        for name, part in list(self.parts.items())[:_MOST_PARTS]:
            dtypes = ", ".join(f"{dtype} x {count}" for dtype, count in part.dtypes.items())
            lines.append(f"  {printable(name):<24}{part.tensors:>6,} tensors {readable(part.nbytes):>10}  {dtypes}")
        if len(self.parts) > _MOST_PARTS:
            lines.append(f"  and {len(self.parts) - _MOST_PARTS:,} more")
        return "\n".join(lines)


def describe_model(model: ModelDir) -> Description:
    """A model directory: version, variant, origin, quantisation, and each network's size.

    Raises:
        UserError: its tensors are not those of its networks.
    """
    from mlx_ltxw.weights.fit import placed

    config, count = model.config, placed(model)
    facts = {
        "model": f"LTX-2.3 {model.variant}, model_version {config.get('model_version') or 'unknown'}",
        "checkpoint": _origin(config.get("source")),
        "text encoder": _text_encoder(model),
        "quantisation": _quantisation(config.get("quantization", {}).get("transformer")),
        "written by": config.get("layout") or f"mlx-ltxw {config.get('library_version', 'of unknown version')}",
        "tensors": f"placed {count:,} of {count:,}",
    }
    present = (name for name in COMPONENTS if name != TEXT_ENCODER or model.has_text_encoder)
    names = (*present, *map(upsampler_name, model.upsamplers))
    return Description(str(model.path), facts, {name: _part(model.tensors(name)) for name in names})


def _text_encoder(model: ModelDir) -> str:
    if not model.has_text_encoder:
        return "none; it lies in a repository of its own"
    return _origin(model.config.get("text_encoder")) if "text_encoder" in model.config else str(model.text_encoder)


def describe_header(header: Header) -> Description:
    """A safetensors file, of whatever model: metadata and sizes, from its header alone."""
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in header.tensors.values():
        first, *rest = tensor.name.split(".")
        groups[f"{first}.{rest[0]}" if first == "model" and len(rest) > 1 else first].append(tensor)
    facts = {"tensors": f"{len(header.tensors):,}"}
    if header.present < header.length:
        facts["truncated"] = f"{header.present:,} of {header.length:,} bytes are there"
    for key, value in header.metadata.items():
        facts[key] = _sections(value) if key == "config" else value.splitlines()[0][:100] if value else ""
    return Description(str(header.path), facts, {name: _part(group) for name, group in groups.items()})


def _part(tensors: Iterable[Tensor]) -> TensorGroup:
    listed = list(tensors)
    counts = Counter(tensor.dtype for tensor in listed)
    return TensorGroup(len(listed), sum(tensor.nbytes for tensor in listed), dict(counts.most_common()))


def _origin(source: Any) -> str:
    if not isinstance(source, dict) or not isinstance(source.get("files"), dict):
        return "unknown"
    files = ", ".join(source["files"])
    if not source.get("repo"):
        return files
    return f"{files} of {source['repo']}" + (f" at {source['revision']}" if source.get("revision") else "")


def _quantisation(settings: dict[str, Any] | None) -> str:
    if not settings:
        return "none"
    layers = sum(isinstance(value, dict) for value in settings.values())
    mode, bits, group = (settings.get(key, "?") for key in ("mode", "bits", "group_size"))
    return f"{mode}, {bits} bits, groups of {group}; {layers} layers"


def _sections(text: str) -> str:
    try:
        return f"sections {', '.join(load_json(text))}"
    except (ValueError, TypeError):
        return "not valid JSON"
