"""One module's tensors -> what they change; whatever does not fit together is said."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx

from mlx_ltxw.adapter.deltas import Delta, DoRA, Full, LoHa, LoKr, LowRank, greatest, number
from mlx_ltxw.adapter.scales import PeftScale

_LARGEST = 1e6  # no trained adapter's greatest value lies near these two; bytes read as the wrong dtype do
_SMALLEST = 1e-12
_LORA = ("lora_A", "lora_B")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


class NotImplementedHere(Exception):
    """A method of adapting that this program lacks."""


def one_change(
    name: str, parts: dict[str, mx.array], scaling: PeftScale | None
) -> tuple[Delta | None, mx.array | None, float | None]:
    """One module's change, its addition to the bias and its alpha; ValueError when the tensors do not fit together."""
    for role in parts:
        if role.startswith("unsupported:"):
            raise NotImplementedHere(role.removeprefix("unsupported:"))
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
        raise NotImplementedHere("mlx-lm's LoRA without its adapter_config.json, which holds the scale,")
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
        elif not math.isfinite(alpha):
            raise ValueError(f"alpha is {alpha:g}, which is no number to scale by")
        elif alpha == 0:
            raise ValueError("alpha is 0, so the module would do nothing")
        else:
            value = alpha / rank
        if not 1 / _LARGEST < abs(value) < _LARGEST:
            raise ValueError(f"alpha makes its scale {value:g}")
        return value

    return scale


def _inner(
    parts: dict[str, mx.array], weights: set[str], scale: Callable[[int | None], float]
) -> LowRank | LoKr | LoHa:
    for role in sorted(weights):
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
