"""Gemma-3's hidden states, through mlx-lm's own model file.

Two places differ from mlx-lm, to agree with transformers: the embedding's scale is rounded to the weights' dtype only
(mlx-lm rounds it to bfloat16 always), and the norms multiply in fp32 and round once (mlx-lm rounds `1 + weight` first).
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlx_ltxw.models.text.gemma_config import GemmaConfig
from mlx_ltxw.models.text.mlx_lm_models import gemma3_text


class ExactRMSNorm(nn.Module):
    """RMS norm whose weight is stored around zero: normalised and scaled in fp32, rounded once.

    Source: transformers `models/gemma3/modeling_gemma3.py:Gemma3RMSNorm`.
    """

    def __init__(self, weight: mx.array, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        scale = 1.0 + self.weight.astype(mx.float32)
        return mx.fast.rms_norm(x.astype(mx.float32), scale, self.eps).astype(x.dtype)


class Gemma(nn.Module):
    """The decoder stack of a Gemma-3 (`embed_tokens`, `layers`, `norm`), without a language-model head."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        source = gemma3_text()
        model = source.Gemma3Model(source.ModelArgs.from_dict(config.mlx_lm()))
        self.config = config
        self._mask = source.create_attention_mask
        self.embed_tokens = model.embed_tokens
        self.layers = model.layers
        self.norm = model.norm
        exact = tree_map(
            lambda leaf: ExactRMSNorm(leaf.weight, leaf.eps) if isinstance(leaf, source.RMSNorm) else leaf,
            self.leaf_modules(),
            is_leaf=nn.Module.is_module,
        )
        self.update_modules(exact)

    def __call__(self, ids: mx.array, in_pieces: bool = False) -> mx.array:
        """All hidden states of prompts without padding.

        Source: transformers `modeling_gemma3.py:Gemma3TextModel.forward` with `output_hidden_states`.

        Args:
            ids: (B, T) token ids, none of them padding.
            in_pieces: Evaluates after each layer, so that no single piece of work on the GPU gets too long for the
                system's watchdog.

        Returns:
            (B, T, layers + 1, hidden_size) in the weights' dtype: the scaled embedding, the output of each layer but
            the last, and the last one's after the final norm.
        """
        h = self.embed_tokens(ids).astype(self.norm.weight.dtype)
        h = h * mx.array(math.sqrt(self.config.hidden_size), h.dtype)
        whole, sliding = self._mask(h), self._mask(h, window_size=self.config.window)
        states = [h]
        for index, layer in enumerate(self.layers, start=1):
            h = layer(h, sliding if index % self.config.pattern else whole)
            states.append(h)
            if in_pieces:
                mx.eval(h)
        return mx.stack([*states[:-1], self.norm(h)], axis=2)
