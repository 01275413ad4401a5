"""How much of `B @ A` an adapter file asks for: each format's rule for alpha.

| file | scale |
|---|---|
| a stored `.alpha` (kohya, musubi, ComfyUI, LyCORIS) | alpha / rank of that very module |
| PEFT with `adapter_config.json`, diffusers with `lora_adapter_metadata` | their alpha / rank, patterns, rsLoRA |
| mlx-lm with `adapter_config.json` | its `scale` |
| official trainer, ai-toolkit, musubi for ComfyUI, official distilled LoRA | 1: alpha is not stored, or folded in |

A `lora_alpha` in the metadata alone is not applied: the official distilled LoRA says 384 for modules of rank 32 to 384,
and its scale is 1 (ComfyUI `weight_adapter/lora.py`, `ltx_core/loader/fuse_loras.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mlx_ltxw.adapter.fields import Refused, check_peft
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_bytes
from mlx_ltxw.parsing import Unsound, load_json, sound

_MAX_CONFIG = 10_000_000  # bytes


@dataclass(frozen=True)
class PeftScale:
    """Scale by a PEFT configuration (`peft/tuners/lora/layer.py:update_layer`).

    Attributes:
        source: Where the configuration was read, for messages.
        prefix: What stands before the module names that the patterns match.
        alpha, rank: Of all modules but those the patterns name.
        alphas, ranks: Pattern of a module name's end -> value.
        rslora: Divide by the rank's square root.
        dora: Whether its modules are DoRA; None when the configuration does not say.
        notes: Fields of the configuration that are set and unknown.
    """

    source: str
    prefix: str
    alpha: float
    rank: int
    alphas: Mapping[str, float]
    ranks: Mapping[str, int]
    rslora: bool
    dora: bool | None = None
    notes: tuple[str, ...] = ()

    def scale(self, name: str, rank: int | None) -> float:
        """For one module, whose factors have this rank (None: whole factors).

        Raises:
            ValueError: the configuration gives this module another rank, so it belongs to another file.
        """
        configured = int(_by_pattern(self.ranks, name.removeprefix(self.prefix), self.rank))
        if rank is not None and rank != configured:
            raise ValueError(f"rank {rank}, but {self.source} says {configured}")
        return self.alpha_of(name) / (math.sqrt(configured) if self.rslora else configured)

    def alpha_of(self, name: str) -> float:
        """The alpha configured for one module."""
        return float(_by_pattern(self.alphas, name.removeprefix(self.prefix), self.alpha))

    def spread(self, ranks: Iterable[int]) -> set[float]:
        """Every scale it can give to modules of these ranks."""
        alphas = {self.alpha, *self.alphas.values()}
        return {alpha / (math.sqrt(rank) if self.rslora else rank) for alpha in alphas for rank in ranks}


def peft_config(path: Path) -> PeftScale:
    """Reads PEFT's `adapter_config.json`.

    Raises:
        UserError: unreadable, of a method other than LoRA, LoKr and LoHa, or with a field that is not implemented.
    """
    return _read(_table(path), str(path), "base_model.model.")


def mlx_config(path: Path) -> PeftScale | None:
    """Reads mlx-lm's `adapter_config.json`, whose `scale` multiplies `B A` as it is; None when it is another's.

    Raises:
        UserError: its rank or scale is missing.
    """
    try:
        config = _table(path)
    except UserError:
        return None
    inner = config.get("lora_parameters", config if "scale" in config and "lora_alpha" not in config else None)
    if inner is None:
        return None
    rank, scale = (inner.get("rank"), inner.get("scale")) if isinstance(inner, dict) else (None, None)
    if not _is_rank(rank):
        raise _bad(str(path), "its rank is missing or no positive number")
    if not _is_number(scale):
        raise _bad(str(path), "its scale is missing or no number")
    return PeftScale(str(path), "", scale * rank, rank, {}, {}, False)


def diffusers_config(metadata: Mapping[str, str]) -> PeftScale | None:
    """Reads diffusers' `lora_adapter_metadata`; None when the file has none, or none for the transformer.

    A pipeline writes its fields as `transformer.r`, a model by itself (`save_lora_adapter`) as `r`.
    """
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return None
    source = "its lora_adapter_metadata"
    try:
        table = sound(load_json(text))
    except Unsound as error:
        raise _bad(source, f"it is no JSON ({error})") from error
    if not isinstance(table, dict):
        raise _bad(source, "it is no table")
    prefix = "transformer."
    config = {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}
    config = config or {key: value for key, value in table.items() if "." not in key}
    return _read(config, source, prefix) if config else None


def _table(path: Path) -> dict[str, Any]:
    """A configuration file, in whatever UTF and with or without a byte order mark."""
    try:
        config = sound(load_json(read_bytes(path, _MAX_CONFIG)))
    except UserError as error:
        raise _bad(str(path), "it cannot be read", error.hint) from error
    except Unsound as error:
        raise _bad(str(path), f"it cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise _bad(str(path), "it is no table")
    return config


def _read(config: dict[str, Any], source: str, prefix: str) -> PeftScale:
    method = config.get("peft_type") or ("LORA" if "lora_alpha" in config or "alpha" not in config else "LOKR")
    if method not in ("LORA", "LOKR", "LOHA"):
        raise _bad(source, f"its method is {str(method)[:40]}; LoRA, LoKr and LoHa are implemented")
    alpha_key = "lora_alpha" if method == "LORA" else "alpha"
    try:
        unknown = check_peft(config)
    except Refused as error:
        raise _bad(source, error.why, error.hint) from error
    rank, alpha = config.get("r"), config.get(alpha_key)
    if not _is_rank(rank):
        raise _bad(source, "its rank 'r' is missing or no positive number")
    if not _is_number(alpha):
        raise _bad(source, f"its '{alpha_key}' is missing or no number")
    notes = (f"Fields of {source} that are unknown here are not applied: {', '.join(unknown)[:200]}.",)
    return PeftScale(
        source, prefix, float(alpha), rank, _pattern(config, "alpha_pattern", source),
        _pattern(config, "rank_pattern", source), bool(config.get("use_rslora")),
        bool(config["use_dora"]) if "use_dora" in config else None, notes if unknown else (),
    )  # fmt: skip


def _pattern(config: dict[str, Any], field: str, source: str) -> dict[str, Any]:
    pattern = config.get(field) or {}
    if not isinstance(pattern, dict) or not all(_is_number(v) and v > 0 for v in pattern.values()):
        raise _bad(source, "a pattern of ranks or alphas is damaged")
    for key in pattern:
        try:
            re.compile(key)
        except (re.error, RecursionError, OverflowError) as error:
            raise _bad(source, f"its pattern '{key[:80]}' is damaged") from error
        if len(key) > 500 or _NESTED.search(key):
            raise _bad(source, f"its pattern '{key[:80]}' is no module's name")
    return pattern


_NESTED = re.compile(r"[*+}]\)[*+{]")  # a repeated repetition takes exponential time where it does not fit


def _by_pattern(patterns: Mapping[str, float], name: str, default: float) -> float:
    """PEFT's own matching (`peft/utils/other.py:get_pattern_key`): the first pattern that fits the name's end."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def _is_rank(value: Any) -> TypeGuard[int]:
    return type(value) is int and 1 <= value < 10**6


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 1e9


def _bad(source: str, why: str, hint: str = "Export the adapter again.") -> UserError:
    return UserError(f"The adapter's configuration ({source}) cannot be used: {why}.", hint)
