"""Reads an adapter file of any spelling into one form: official module name -> what changes there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from mlx_ltxw.adapter.container import bad_file, read_tensors, some, tensor_names
from mlx_ltxw.adapter.deltas import Delta, DoRA, Full, LoHa, LoKr, LowRank, greatest, number
from mlx_ltxw.adapter.fields import metadata_notes
from mlx_ltxw.adapter.keys import layout, split_key
from mlx_ltxw.adapter.names import Spellings, is_norm, mlx_name, not_transformer
from mlx_ltxw.adapter.scales import PeftScale, diffusers_config, mlx_config, peft_config
from mlx_ltxw.errors import UserError

_LARGEST = 1e6  # no trained adapter's greatest value lies near these two; bytes read as the wrong dtype do
_SMALLEST = 1e-12
_LORA = ("lora_A", "lora_B")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


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
    if not any(split_key(key) for key in tensor_names(path)):
        raise UserError(
            f"'{path}' holds no adapter: none of its tensors is named like one ({', '.join(_first_names(path))}).",
            "Give a LoRA, LoKr, LoHa or DoRA file; a whole model is converted with `mlx-ltxw convert`.",
        )
    file = read_tensors(path)
    groups, leftover = _group(file.tensors)
    if config is None and (beside := path.parent / "adapter_config.json").is_file():
        config = beside
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
            delta, bias, alpha = _delta(name, parts, self.scaling)
        except _NotImplementedHere as method:
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


class _NotImplementedHere(Exception):
    """A method of adapting that this program lacks."""


def _delta(
    name: str, parts: dict[str, mx.array], scaling: PeftScale | None
) -> tuple[Delta | None, mx.array | None, float | None]:
    """One module's change, its addition to the bias and its alpha; ValueError when the tensors do not fit together."""
    for role in parts:
        if role.startswith("unsupported:"):
            raise _NotImplementedHere(role.removeprefix("unsupported:"))
    parts = _turned(parts, scaling)
    roles = set(parts)
    if "twice" in roles:
        raise ValueError("the same tensor in two spellings")
    _check_values(parts)
    magnitudes = roles & {"dora_scale", "magnitude"}
    weights = roles - {"alpha", "diff_b", "lora_bias"} - magnitudes
    bias = parts.get("diff_b")
    if not weights:
        if roles != {"diff_b"}:
            raise ValueError(f"{' and '.join(sorted(roles))} without the weights they belong to")
        return None, bias, None
    if weights == {"diff"}:
        if magnitudes or "lora_bias" in roles:
            raise ValueError("a whole difference takes no magnitude and no bias of a LoRA")
        _matrix(parts["diff"], "diff")
        return Full(parts["diff"]), bias, None
    if scaling and scaling.dora is not None and scaling.dora != ("magnitude" in roles):
        raise ValueError(f"{scaling.source} says use_dora {scaling.dora}, its tensors say otherwise")
    stored = _alpha(parts)
    inner = _inner(parts, weights, _scale_rule(name, stored, scaling))
    alpha = scaling.alpha_of(name) if stored is None and scaling else stored
    if inner.rank is None and stored is not None:
        alpha = None  # without a rank it counts for nothing; LyCORIS writes 1e10, ai-toolkit in fp16 infinity
    if not magnitudes:
        return inner, _with_lora_bias(bias, parts, inner), alpha
    if len(magnitudes) > 1:
        raise ValueError("two magnitudes")
    if "lora_bias" in roles:
        raise ValueError("a magnitude and a bias of a LoRA")
    return _dora(inner, parts), bias, alpha


def _turned(parts: dict[str, mx.array], scaling: PeftScale | None) -> dict[str, mx.array]:
    """mlx-lm's factors, which stand the other way round, as PEFT's."""
    if not parts.keys() & {"mlx_a", "mlx_b"}:
        return parts
    if scaling is None:
        raise _NotImplementedHere("mlx-lm's LoRA without its adapter_config.json, which holds the scale,")
    turned = {"mlx_a": "lora_A", "mlx_b": "lora_B"}
    if parts.keys() & set(_LORA):
        return {"twice": next(iter(parts.values()))}
    return {turned.get(role, role): part.T if role in turned else part for role, part in parts.items()}


def _with_lora_bias(bias: mx.array | None, parts: dict[str, mx.array], inner: LowRank | LoKr | LoHa) -> mx.array | None:
    """PEFT's `lora_bias`: the second factor's own bias, scaled as the product is."""
    if "lora_bias" not in parts:
        return bias
    if not isinstance(inner, LowRank) or parts["lora_bias"].shape != (inner.shape[0],) or bias is not None:
        raise ValueError(f"lora_B.bias {parts['lora_bias'].shape} does not fit")
    return inner.scale * parts["lora_bias"].astype(mx.float32)


def _scale_rule(name: str, alpha: float | None, scaling: PeftScale | None) -> Callable[[int | None], float]:
    """The module's scale as a function of its factors' rank."""

    def scale(rank: int | None) -> float:
        if alpha is None and scaling is not None:
            value = scaling.scale(name, rank)
        elif alpha is None or rank is None:
            return 1.0
        elif not math.isfinite(alpha) or alpha == 0:
            raise ValueError(f"alpha is {alpha:g}, so the module would do nothing")
        else:
            value = alpha / rank
        if not 1 / _LARGEST < abs(value) < _LARGEST:
            raise ValueError(f"alpha makes its scale {value:g}")
        return value

    return scale


def _inner(
    parts: dict[str, mx.array], weights: set[str], scale: Callable[[int | None], float]
) -> LowRank | LoKr | LoHa:
    for role in weights:
        _matrix(parts[role], role)
    if weights <= set(_LORA):
        a, b = _all_of(parts, _LORA)
        if a.shape[0] != b.shape[1]:
            raise ValueError(f"A {a.shape} and B {b.shape} have different ranks")
        return LowRank(a, b, scale(a.shape[0]))
    if weights <= set(_LOHA):
        first, first_b, second, second_b = _all_of(parts, _LOHA)
        if first.shape != second.shape or first_b.shape != second_b.shape or first.shape[1] != first_b.shape[0]:
            raise ValueError(f"factors {first.shape} {first_b.shape} {second.shape} {second_b.shape} do not fit")
        return LoHa((first, first_b), (second, second_b), scale(first.shape[1]))
    if all(role.startswith("lokr_") for role in weights):
        w1, w2 = _lokr_factor(parts, "lokr_w1"), _lokr_factor(parts, "lokr_w2")
        return LoKr(w1, w2, scale(LoKr(w1, w2).rank))
    raise ValueError(f"tensors of several methods: {', '.join(sorted(weights))}")


def _lokr_factor(parts: dict[str, mx.array], name: str) -> tuple[mx.array, ...]:
    """A factor as it is, or as the product of two."""
    if name in parts:
        if f"{name}_a" in parts or f"{name}_b" in parts:
            raise ValueError(f"{name} both whole and as a product")
        return (parts[name],)
    a, b = _all_of(parts, (f"{name}_a", f"{name}_b"))
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"{name}_a {a.shape} and {name}_b {b.shape} have different ranks")
    return a, b


def _dora(inner: LowRank | LoKr | LoHa, parts: dict[str, mx.array]) -> DoRA:
    """Tells by the magnitude's name and shape which lengths it multiplies."""
    out, into = inner.shape
    if "magnitude" in parts:
        if parts["magnitude"].shape not in ((out,), (out, 1)):
            raise ValueError(f"magnitude {parts['magnitude'].shape} for {out} rows")
        return DoRA(inner, parts["magnitude"].reshape(out), "rows")
    lengths = parts["dora_scale"]
    if lengths.shape in ((out,), (out, 1)):
        return DoRA(inner, lengths.reshape(out), "base_rows")
    if lengths.shape == (1, into):
        return DoRA(inner, lengths.reshape(into), "columns")
    raise ValueError(f"dora_scale {lengths.shape} for a weight of {out} by {into}")


def _all_of(parts: dict[str, mx.array], roles: tuple[str, ...]) -> list[mx.array]:
    missing = [role for role in roles if role not in parts]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing")
    return [parts[role] for role in roles]


def _matrix(tensor: mx.array, role: str) -> None:
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(f"{role} {tensor.shape} is no matrix")


def _check_values(parts: dict[str, mx.array]) -> None:
    for role, tensor in parts.items():
        if role == "alpha":
            continue
        if not mx.issubdtype(tensor.dtype, mx.floating):
            raise ValueError(f"{role} holds whole numbers")
        if role == "diff_b" and (tensor.ndim != 1 or tensor.size == 0):
            raise ValueError(f"diff_b {tensor.shape} is no bias")
        size = greatest(tensor)
        if size and not _SMALLEST < size < _LARGEST:
            raise ValueError(f"{role} holds values up to {size:g}: damaged, or stored as another dtype")


def _alpha(parts: dict[str, mx.array]) -> float | None:
    if "alpha" not in parts:
        return None
    if parts["alpha"].size != 1:
        raise ValueError(f"alpha {parts['alpha'].shape} is not one number")
    return number(parts["alpha"])


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
