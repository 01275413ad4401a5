"""Reads an adapter file of any spelling into one form: official module name -> what changes there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from mlx_ltxw.adapter.container import bad_file, read_tensors, some, tensor_names
from mlx_ltxw.adapter.deltas import Delta, DoRA
from mlx_ltxw.adapter.fields import metadata_notes
from mlx_ltxw.adapter.keys import layout, split_key
from mlx_ltxw.adapter.names import Spellings, is_norm, mlx_name, not_transformer
from mlx_ltxw.adapter.parts import NotImplementedHere, one_change
from mlx_ltxw.adapter.scales import PeftScale, diffusers_config, mlx_config, peft_config
from mlx_ltxw.errors import UserError


@dataclass(frozen=True)
class Adapter:
    """An adapter, whatever file it came from.

    Attributes:
        name: For messages: the file's stem, or the Hub repository.
        format: How the file spelled its modules: `official`, `bare`, `peft`, `diffusers`, `kohya` or `mlx`; joined by
            `+` when it mixes them.
        deltas: Official module path -> the change of its weight.
        biases: Official module path -> (out,) addition to its bias.
        alphas: Official module path -> the alpha stored or configured for it, where there is one.
        metadata: The file's own.
        leftover: Name in the file -> why it has no place in the transformer.
        notes: What had to be assumed.
    """

    name: str
    format: str
    deltas: dict[str, Delta]
    biases: dict[str, mx.array] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    leftover: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def targets(self) -> list[str]:
        """Every module it changes, sorted."""
        return sorted(self.deltas.keys() | self.biases.keys())

    @property
    def alpha(self) -> float | None:
        """The alpha all modules share; None when they differ or none is known."""
        values = set(self.alphas.values())
        return values.pop() if len(values) == 1 and len(self.alphas) == len(self.deltas) else None

    def changes_nothing(self, paths: Iterable[str]) -> bool:
        """Whether every change of these modules is exactly zero."""
        for path in paths:
            delta, bias = self.deltas.get(path), self.biases.get(path)
            if delta is not None and (isinstance(delta, DoRA) or delta.norm() > 0):
                return False
            if bias is not None and mx.any(bias != 0).item():
                return False
        return True


def read(path: Path, modules: Iterable[str] | None = None, config: Path | None = None, name: str = "") -> Adapter:
    """Reads an adapter file.

    Args:
        path: A safetensors file; `source.locate` finds it for a folder or a Hub repository.
        modules: The model's own linears, against which names are looked up; the official list when left out.
        config: PEFT's `adapter_config.json`; looked for beside the file when left out.
        name: For messages; the file's stem when left out.

    Raises:
        UserError: no sound adapter; the message lists what is wrong with which tensor.
    """
    if not any(split[1] != "alpha" for split in map(split_key, tensor_names(path)) if split):  # a vocoder has alphas
        names = ", ".join(_first_names(path))
        fault = f"none of its tensors is named like one ({names})" if names else "it has no tensors at all"
        raise UserError(
            f"'{path}' holds no adapter: {fault}.",
            "Give a LoRA, LoKr, LoHa or DoRA file; a whole model is converted with `mlx-ltxw convert`.",
        )
    file = read_tensors(path)
    groups, leftover = _group(file.tensors)
    if config is None and (config_file := path.parent / "adapter_config.json").is_file():
        config = config_file
    formats = {layout(module) for module in groups}
    scaling = _scaling(formats, config, file.metadata)
    reader = _Reader(Spellings(modules), scaling, leftover)
    for module, parts in groups.items():
        reader.add(module, parts)
    if reader.faults:
        raise bad_file(path, "; ".join(some(reader.faults)))
    if reader.short:
        formats = formats - {"official", "bare"} | {"mlx"}
    return Adapter(
        name or path.stem, "+".join(sorted(formats)), reader.deltas, reader.biases, reader.alphas, file.metadata,
        reader.leftover, tuple(_notes(formats, reader, file.metadata, config)),
    )  # fmt: skip


def _scaling(formats: set[str], config: Path | None, metadata: Mapping[str, str]) -> PeftScale | None:
    """The configuration that belongs to these names, if any."""
    if config and "peft" in formats:
        return peft_config(config)
    if "lora_adapter_metadata" in metadata or not config or "alpha_folded" in metadata:
        return diffusers_config(metadata)
    return mlx_config(config) if formats <= {"official", "bare"} else None


def _first_names(path: Path) -> list[str]:
    return some(tensor_names(path), 3)


def _group(tensors: Mapping[str, mx.array]) -> tuple[dict[str, dict[str, mx.array]], dict[str, str]]:
    """Module name in the file -> role -> tensor; and the tensors that are none of an adapter's."""
    groups: dict[str, dict[str, mx.array]] = {}
    leftover = {}
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            leftover[key] = "not the name of an adapter's tensor"
            continue
        name, role = split
        parts = groups.setdefault(name, {})
        parts["twice" if role in parts else role] = tensor
    return groups, leftover


class _Reader:
    """Collects changes, and everything that is wrong, module by module."""

    def __init__(self, spellings: Spellings, scaling: PeftScale | None, leftover: dict[str, str]) -> None:
        self.spellings = spellings
        self.scaling = scaling
        self.leftover = leftover
        self.deltas: dict[str, Delta] = {}
        self.biases: dict[str, mx.array] = {}
        self.alphas: dict[str, float] = {}
        self.faults: list[str] = []
        self.short = False  # the MLX spelling was met

    def add(self, name: str, parts: dict[str, mx.array]) -> None:
        """Takes one module's tensors in."""
        path = self.spellings.resolve(name)
        if path is None and parts.keys() <= {"diff", "diff_b"}:  # of any shape: norms, tables, convolutions
            self.leftover[name] = "a norm's change is not implemented" if is_norm(name) else _elsewhere(name)
            return
        try:
            delta, bias, alpha = one_change(name, parts, self.scaling)
        except NotImplementedHere as method:
            self.leftover[name] = f"{method} is not implemented"
            return
        except ValueError as fault:
            self.faults.append(f"{name}: {fault}")
            return
        if path is None:
            self.leftover[name] = _elsewhere(name)
            return
        if path in self.deltas or path in self.biases:
            self.faults.append(f"{name}: a second change of {path}")
            return
        self.short |= name.endswith(mlx_name(path)) and mlx_name(path) != path
        if delta is not None:
            self.deltas[path] = delta
        if bias is not None:
            self.biases[path] = bias
        if alpha is not None:
            self.alphas[path] = alpha


def _elsewhere(name: str) -> str:
    part = not_transformer(name)
    return f"belongs to {part}" if part else "no such module in the transformer"


def _notes(formats: set[str], reader: _Reader, metadata: Mapping[str, str], config: Path | None) -> Iterator[str]:
    """What the user should know: scales that no file states, fields passed over, what a strength does."""
    scaling = reader.scaling
    ranks = {delta.rank for delta in reader.deltas.values() if delta.rank is not None}
    scaled = all(path in reader.alphas or delta.rank is None for path, delta in reader.deltas.items())
    if not reader.alphas and formats & {"peft", "mlx"} and "alpha_folded" not in metadata and ranks:
        origin = "adapter_config.json is missing" if "peft" in formats else "this spelling stores no alpha"
        yield f"Scale 1 is assumed ({origin}); if alpha was not equal to the rank, set the strength to alpha / rank."
    if scaling:
        yield from scaling.notes
    elif "lora_adapter_metadata" in metadata and not scaled:
        yield "Its lora_adapter_metadata says nothing about the transformer, so scale 1 is used."
    if config and not (scaling and scaling.source == str(config)) and not scaled and "alpha_folded" not in metadata:
        yield from _passed_over(config, ranks)
    yield from metadata_notes(metadata, ranks, scaled)
    if any(isinstance(delta, DoRA) and delta.length == "rows" for delta in reader.deltas.values()):
        yield "A strength other than 1 scales B A before the lengths of its DoRA are set, as PEFT and diffusers do it."


def _passed_over(config: Path, ranks: set[int]) -> Iterator[str]:
    """About an `adapter_config.json` beside a file whose names are not PEFT's."""
    try:
        scales = peft_config(config).spread(ranks)
    except UserError:
        yield f"'{config}' is not applied: it is not of PEFT, or of another method."
        return
    if scales != {1.0}:
        text = " or ".join(f"{scale:g}" for scale in sorted(scales)[:4])
        yield (
            f"'{config}' gives scale {text}, which is not applied, since the names in the file are not PEFT's: the "
            "scale is 1. If the two belong together, set the strength to that scale."
        )
