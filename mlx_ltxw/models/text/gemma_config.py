"""The numbers of a Gemma-3 text model, from its `config.json`.

Three spellings exist: Google's multimodal wrapper (numbers under `text_config`, many left out), the plain text model,
and either of them saved again by transformers 5, which moves the rotary settings to `rope_parameters` and the order of
the layers to `layer_types`. mlx-lm reads only the older keys, and would lose the rotary factor of 8 without a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mlx_ltxw.errors import UserError

_HINT = "Use google/gemma-3-12b-it-qat-q4_0-unquantized, the text encoder of LTX-2.3, or mlx-lm's conversion of it."

_ASSUMED: dict[str, Any] = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 131072,
}
"""What transformers' `Gemma3TextConfig` assumes for keys that Google's own files leave out."""

_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "attn_logit_softcapping": (None,),
    "use_bidirectional_attention": (False, None),
}
"""Settings that change the hidden states and that no Gemma-3 sets otherwise; the first is the default."""


_SIZES = {
    "vocab_size": 1 << 20, "hidden_size": 1 << 16, "num_hidden_layers": 1000, "intermediate_size": 1 << 18,
    "num_attention_heads": 1000, "num_key_value_heads": 1000, "head_dim": 1 << 12, "sliding_window": 1 << 30,
    "max_position_embeddings": 1 << 30,
}  # fmt: skip
"""Whole numbers from 1, and the most that is believed; Gemma-3 27B has a third of it at the most."""


@dataclass(frozen=True)
class GemmaConfig:
    """A Gemma-3 text model.

    Attributes:
        vocab_size, hidden_size, layers, intermediate_size, heads, key_value_heads, head_dim, eps: As they say.
        query_scalar: Attention scores are divided by its square root.
        window: Tokens that a sliding layer sees, its own included.
        pattern: Every `pattern`-th layer is global, the others slide.
        max_positions: Longest context the model was made for.
        theta, factor: Rotary base of the global layers, and what their positions are divided by.
        local_theta: Rotary base of the sliding layers.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    key_value_heads: int
    head_dim: int
    eps: float
    query_scalar: float
    window: int
    pattern: int
    max_positions: int
    theta: float
    factor: float
    local_theta: float

    @property
    def states(self) -> int:
        """Hidden states a token has: the embedding and every layer's output."""
        return self.layers + 1

    @classmethod
    def read(cls, config: dict[str, Any]) -> GemmaConfig:
        """Reads a parsed `config.json`, wrapper or plain.

        Source: transformers `models/gemma3/configuration_gemma3.py` (`Gemma3TextConfig`).

        Raises:
            UserError: another architecture, a missing size, or a setting that no Gemma-3 has.
        """
        values = _text_section(config)
        for key, allowed in _FIXED.items():
            _require(values.get(key, allowed[0]) in allowed, f"sets '{key}' to {values.get(key)!r}")
        for key in ("hidden_size", "num_hidden_layers", "intermediate_size"):
            _require(key in values, f"lacks '{key}'")
        known = {**_ASSUMED, **values}
        for key, most in _SIZES.items():
            _require(type(known[key]) is int and 1 <= known[key] <= most, f"sets '{key}' to {known[key]!r}")
        for key in ("rms_norm_eps", "query_pre_attn_scalar"):
            _require(_is_positive(known[key]), f"sets '{key}' to {known[key]!r}")
        theta, factor, local_theta = _rotary(values)
        return cls(
            vocab_size=known["vocab_size"],
            hidden_size=known["hidden_size"],
            layers=known["num_hidden_layers"],
            intermediate_size=known["intermediate_size"],
            heads=known["num_attention_heads"],
            key_value_heads=known["num_key_value_heads"],
            head_dim=known["head_dim"],
            eps=known["rms_norm_eps"],
            query_scalar=known["query_pre_attn_scalar"],
            window=known["sliding_window"],
            pattern=_pattern(values),
            max_positions=known["max_position_embeddings"],
            theta=theta,
            factor=factor,
            local_theta=local_theta,
        )

    def mlx_lm(self) -> dict[str, Any]:
        """The keys that mlx-lm's `gemma3_text.ModelArgs` reads."""
        return {
            "model_type": "gemma3_text",
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.eps,
            "vocab_size": self.vocab_size,
            "num_key_value_heads": self.key_value_heads,
            "rope_theta": self.theta,
            "rope_local_base_freq": self.local_theta,
            "query_pre_attn_scalar": self.query_scalar,
            "sliding_window": self.window,
            "sliding_window_pattern": self.pattern,
            "max_position_embeddings": self.max_positions,
            "rope_scaling": {"rope_type": "linear", "factor": self.factor},
        }


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise UserError(f"The text encoder's config {fault}, which no Gemma-3 text model does.", _HINT)


def _text_section(config: dict[str, Any]) -> dict[str, Any]:
    kind = config.get("model_type")
    if kind == "gemma3_text":
        return config
    if kind != "gemma3" or not isinstance(config.get("text_config"), dict):
        raise UserError(f"The text encoder is of type {kind!r}, not a Gemma-3.", _HINT)
    outer = {"vocab_size": config["vocab_size"]} if "vocab_size" in config else {}
    return {**outer, **config["text_config"]}


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    """A table inside the config; empty where it is left out or null."""
    table = values.get(key) or {}
    _require(isinstance(table, dict), f"sets '{key}' to {table!r}")
    return table


def _pattern(values: dict[str, Any]) -> int:
    """Every how many layers one is global."""
    kinds = values.get("layer_types")
    if kinds is None:
        pattern = values.get("sliding_window_pattern", 6)
        _require(type(pattern) is int and pattern >= 1, f"sets 'sliding_window_pattern' to {pattern!r}")
        return pattern
    layers = values["num_hidden_layers"]
    _require(isinstance(kinds, list), f"sets 'layer_types' to {kinds!r}")
    pattern = kinds.index("full_attention") + 1 if "full_attention" in kinds else layers + 1
    regular = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]
    _require(kinds == regular, "orders its 'layer_types' irregularly")
    return pattern


def _rotary(values: dict[str, Any]) -> tuple[float, float, float]:
    """Global theta, global factor, local theta; precedence of `Gemma3TextConfig.convert_rope_params_to_dict`."""
    nested = _table(values, "rope_parameters")
    _require(
        not nested or not {"full_attention", "sliding_attention"}.isdisjoint(nested),
        "has 'rope_parameters' that name no kind of layer",
    )
    whole = {**_table(nested, "full_attention"), **_table(values, "rope_scaling")}
    local = _table(nested, "sliding_attention")
    kind = whole.get("rope_type", whole.get("type", "default"))
    _require(kind in ("default", "linear"), f"scales its rotary positions by {kind!r}")
    _require((kind == "linear") == ("factor" in whole), f"has {kind} rotary positions and a 'factor' that does not fit")
    local_kind = local.get("rope_type", "default")
    _require(local_kind == "default", f"scales the rotary positions of its sliding layers by {local_kind!r}")
    numbers = (
        whole.get("rope_theta", values.get("rope_theta", 1e6)),
        whole["factor"] if kind == "linear" else 1.0,
        local.get("rope_theta", values.get("rope_local_base_freq", 1e4)),
    )
    _require(all(_is_positive(number) for number in numbers), f"has the rotary numbers {numbers}")
    return numbers
