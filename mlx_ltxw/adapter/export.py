"""Writes adapters the way other programs read them.

| target | names | read by |
|---|---|---|
| `comfyui` | `diffusion_model.<official>.lora_A/B.weight` | ComfyUI, the official loader, diffusers, mlx-ltxw |
| `diffusers` | `transformer.<diffusers>.lora_A/B.weight`, `lora_adapter_metadata`; PEFT's DoRA | diffusers, PEFT |
| `mlx` | `diffusion_model.<official without .0>.lora_A/B.weight` | MLX ports that number no single-element list |

Alpha is folded into B, since half of the readers ignore it: every reader then computes `B @ A` as it stands. Where that
is not exact in the file's dtype, the pair is written in fp32. Alpha and rank also stand in the metadata, for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import mlx.core as mx

from mlx_ltxw.adapter.container import some, write_tensors
from mlx_ltxw.adapter.deltas import Delta, DoRA, Full, LoHa, LoKr, LowRank
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.names import diffusers_name, mlx_name
from mlx_ltxw.errors import UserError

TARGETS = ("comfyui", "diffusers", "mlx")
_DROPPED = ("lora_adapter_metadata", "lora_alpha", "lora_rank", "alpha_folded", "format", "ss_network_alpha")


def export(adapter: Adapter, target: str, path: Path, extra: Mapping[str, str] | None = None) -> Path:
    """Writes an adapter for another program, whole or not at all.

    Args:
        adapter: Placed or not; every part of it must be writable.
        target: One of `TARGETS`.
        path: A .safetensors file.
        extra: Further metadata.

    Returns:
        `path`.

    Raises:
        UserError: a part the target cannot read, a value that is not finite, or an unwritable file.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"'{path}' is no .safetensors file.", "Let the name of the new file end in .safetensors.")
    if adapter.leftover:
        raise UserError(
            f"The adapter '{adapter.name}' holds parts that are not for the transformer: "
            f"{', '.join(some(list(adapter.leftover), 3))}.",
            "Only whole adapters are exported.",
        )
    tensors: dict[str, mx.array] = {}
    for module, delta in adapter.deltas.items():
        name = exported_name(module, target)
        if isinstance(delta, LowRank):
            tensors |= _low_rank(name, delta)
        elif target == "diffusers" and _is_peft_dora(delta):
            tensors |= _peft_dora(name, delta)
        elif target == "comfyui":
            tensors |= _other(name, delta, adapter.name)
        else:
            raise _unreadable(adapter.name, target, type(delta).__name__)
    if target == "diffusers" and len({isinstance(delta, DoRA) for delta in adapter.deltas.values()}) > 1:
        raise _unreadable(adapter.name, target, "both LoRA and DoRA modules, for which its configuration has one field")
    if adapter.biases and target != "comfyui":
        raise _unreadable(adapter.name, target, "a changed bias")
    tensors |= {f"{exported_name(module, target)}.diff_b": bias for module, bias in adapter.biases.items()}
    write_tensors(path, tensors, _metadata(adapter, target) | dict(extra or {}))
    return path


def exported_name(module: str, target: str) -> str:
    """A module's name in the target's spelling.

    Raises:
        UserError: an unknown target.
    """
    if target == "comfyui":
        return f"diffusion_model.{module}"
    if target == "diffusers":
        return f"transformer.{diffusers_name(module)}"
    if target == "mlx":
        return f"diffusion_model.{mlx_name(module)}"
    raise UserError(f"There is no export to '{target}'.", f"Choose one of {', '.join(TARGETS)}.")


def fold(factor: mx.array, scale: float) -> mx.array:
    """`scale * factor`, in the factor's dtype when that is exact, else in fp32."""
    wide = factor.astype(mx.float32) * scale
    narrow = wide.astype(factor.dtype)
    return narrow if mx.array_equal(narrow.astype(mx.float32), wide).item() else wide


def _low_rank(name: str, delta: LowRank) -> dict[str, mx.array]:
    b = fold(delta.b, delta.scale)
    dtype = b.dtype if delta.a.dtype == b.dtype else mx.float32  # readers multiply the two without a cast
    return {f"{name}.lora_A.weight": delta.a.astype(dtype), f"{name}.lora_B.weight": b.astype(dtype)}


def _is_peft_dora(delta: Delta) -> TypeGuard[DoRA]:
    return isinstance(delta, DoRA) and delta.length == "rows" and isinstance(delta.inner, LowRank)


def _peft_dora(name: str, delta: DoRA) -> dict[str, mx.array]:
    assert isinstance(delta.inner, LowRank)
    return _low_rank(name, delta.inner) | {f"{name}.lora_magnitude_vector": delta.magnitude}


def _other(name: str, delta: Delta, adapter: str) -> dict[str, mx.array]:
    """LoKr, LoHa, ComfyUI's own DoRA and whole differences; the scale goes into the first factor."""
    if isinstance(delta, Full):
        return {f"{name}.diff": delta.diff}
    if isinstance(delta, DoRA):
        if delta.length == "rows":
            raise _unreadable(adapter, "comfyui", "a DoRA whose lengths are those of the changed rows (PEFT's)")
        inner = _low_rank(name, delta.inner) if isinstance(delta.inner, LowRank) else _other(name, delta.inner, adapter)
        axis = 0 if delta.length == "columns" else 1
        return inner | {f"{name}.dora_scale": mx.expand_dims(delta.magnitude, axis)}
    assert isinstance(delta, LoKr | LoHa)
    kind = "lokr" if isinstance(delta, LoKr) else "hada"
    tensors: dict[str, mx.array] = {}
    for factor, parts in (("w1", delta.w1), ("w2", delta.w2)):
        parts = (fold(parts[0], delta.scale), *parts[1:]) if factor == "w1" else parts
        endings = ("",) if len(parts) == 1 else ("_a", "_b")
        tensors |= {f"{name}.{kind}_{factor}{end}": part for end, part in zip(endings, parts, strict=True)}
    return tensors


def _metadata(adapter: Adapter, target: str) -> dict[str, str]:
    """The file's own, and what was done to alpha."""
    metadata = {key: value for key, value in adapter.metadata.items() if key not in _DROPPED}
    ranks = {delta.rank for delta in adapter.deltas.values()}
    metadata |= {"format": "mlx" if target == "mlx" else "pt", "alpha_folded": "true"}
    if len(ranks) == 1 and None not in ranks:
        metadata["lora_rank"] = str(ranks.pop())
    if adapter.alpha is not None:
        metadata["lora_alpha"] = f"{adapter.alpha:g}"
    if target == "diffusers":
        metadata["lora_adapter_metadata"] = json.dumps(_peft_metadata(adapter))
    return metadata


def _peft_metadata(adapter: Adapter) -> dict[str, object]:
    """PEFT's configuration with alpha equal to the rank everywhere, so that its scale is 1."""
    ranks = {diffusers_name(path): delta.rank or 0 for path, delta in adapter.deltas.items()}
    common = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {name: rank for name, rank in ranks.items() if rank != common}
    config: dict[str, object] = {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": any(isinstance(delta, DoRA) for delta in adapter.deltas.values()),
    }
    return {f"transformer.{key}": value for key, value in config.items()}


def _unreadable(name: str, target: str, what: str) -> UserError:
    return UserError(
        f"The adapter '{name}' holds {what}, which {target} cannot read.",
        "Export a LoRA, or use the file as it is with mlx-ltxw.",
    )
