"""How much of `B @ A` an adapter file asks for: each format's rule for alpha.

| file | scale |
|---|---|
| a stored `.alpha` (kohya, musubi, ComfyUI, LyCORIS) | alpha / rank of that very module |
| PEFT with `adapter_config.json`, diffusers with `lora_adapter_metadata` | their alpha / rank, patterns, rsLoRA |
| official trainer, ai-toolkit, musubi for ComfyUI, official distilled LoRA | 1: alpha is not stored, or folded in |

A `lora_alpha` in the metadata alone is not applied: the official distilled LoRA says 384 for modules of rank 32 to 384,
and its scale is 1 (ComfyUI `weight_adapter/lora.py`, `ltx_core/loader/fuse_loras.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mlx_ltxw.errors import UserError


@dataclass(frozen=True)
class PeftScale:
    """Scale by a PEFT configuration (`peft/tuners/lora/layer.py:update_layer`).

    Attributes:
        source: Where the configuration was read, for messages.
        prefix: What stands before the module names that the patterns match.
        alpha, rank: Of all modules but those the patterns name.
        alphas, ranks: Pattern of a module name's end -> value.
        rslora: Divide by the rank's square root.
    """

    source: str
    prefix: str
    alpha: float
    rank: int
    alphas: Mapping[str, float]
    ranks: Mapping[str, int]
    rslora: bool

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


def peft_config(path: Path) -> PeftScale:
    """Reads PEFT's `adapter_config.json`.

    Raises:
        UserError: unreadable, or of a method other than LoRA, LoKr and LoHa.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _bad(str(path), "it cannot be read") from error
    if not isinstance(config, dict):
        raise _bad(str(path), "it is no table")
    method = config.get("peft_type", "LORA")
    if method not in ("LORA", "LOKR", "LOHA"):
        raise _bad(str(path), f"its method is {method}; LoRA, LoKr and LoHa are implemented")
    for key in ("fan_in_fan_out", "modules_to_save"):
        if config.get(key):
            raise _bad(str(path), f"it sets {key}, which is not implemented")
    return _read(config, str(path), "base_model.model.", "lora_alpha" if method == "LORA" else "alpha")


def diffusers_config(metadata: Mapping[str, str]) -> PeftScale | None:
    """Reads the `lora_adapter_metadata` that diffusers writes; None when the file has none for the transformer."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return None
    source = "its lora_adapter_metadata"
    try:
        table = json.loads(text)
    except ValueError as error:
        raise _bad(source, "it is no JSON") from error
    if not isinstance(table, dict):
        raise _bad(source, "it is no table")
    prefix = "transformer."
    config = {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}
    return _read(config, source, prefix, "lora_alpha") if config else None


def _read(config: dict[str, Any], source: str, prefix: str, alpha_key: str) -> PeftScale:
    rank, alpha = config.get("r"), config.get(alpha_key)
    if type(rank) is not int or rank < 1:
        raise _bad(source, "its rank 'r' is missing or no positive number")
    if not _is_number(alpha):
        raise _bad(source, f"its '{alpha_key}' is missing or no number")
    patterns = [config.get(key) or {} for key in ("alpha_pattern", "rank_pattern")]
    for pattern in patterns:
        if not isinstance(pattern, dict) or not all(_is_number(v) and v > 0 for v in pattern.values()):
            raise _bad(source, "a pattern of ranks or alphas is damaged")
        for key in pattern:
            try:
                re.compile(key)
            except re.error as error:
                raise _bad(source, f"its pattern '{key}' is damaged") from error
    return PeftScale(source, prefix, float(alpha), rank, patterns[0], patterns[1], bool(config.get("use_rslora")))


def _by_pattern(patterns: Mapping[str, float], name: str, default: float) -> float:
    """PEFT's own matching (`peft/utils/other.py:get_pattern_key`): the first pattern that fits the name's end."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 1e9


def _bad(source: str, why: str) -> UserError:
    return UserError(f"The adapter's configuration ({source}) cannot be used: {why}.", "Export the adapter again.")
