"""Gemma-3's hidden states, through mlx-lm's own model file.

Two places differ from mlx-lm, to agree with transformers: the embedding's scale is rounded to the weights' dtype only
(mlx-lm rounds it to bfloat16 always), and the norms multiply in fp32 and round once (mlx-lm rounds `1 + weight` first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlx_ltxw.models.submissions import Submissions
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

    def __call__(self, ids: mx.array) -> mx.array:
        """All hidden states of prompts (B, T) of one length, without padding; see `states`."""
        return self.states([ids])[0]

    def states(self, prompts: Sequence[mx.array], submissions: Submissions | None = None) -> list[mx.array]:
        """All hidden states of prompts without padding; each layer is needed once for all of them.

        Source: transformers `modeling_gemma3.py:Gemma3TextModel.forward` with `output_hidden_states`.

        Args:
            prompts: (B, T) token ids each, none of them padding.
            submissions: Takes the work layer by layer. None leaves all of it for later.

        Returns:
            For each (B, T, layers + 1, hidden_size) in the weights' dtype: the scaled embedding, the output of each
            layer but the last, and the last one's after the final norm.
        """
        dtype = self.norm.weight.dtype
        scale = mx.array(math.sqrt(self.config.hidden_size), dtype)
        hidden = [self.embed_tokens(ids).astype(dtype) * scale for ids in prompts]
        masks = [(self._mask(h), self._mask(h, window_size=self.config.window)) for h in hidden]
        states = [[h] for h in hidden]
        for index in range(1, len(self.layers) + 1):
            sliding = bool(index % self.config.pattern)
            layer = self.layers[index - 1]
            hidden = [layer(h, mask[sliding]) for h, mask in zip(hidden, masks, strict=True)]
            for own, h in zip(states, hidden, strict=True):
                own.append(h)
            if submissions is not None:
                submissions.add(hidden)
            del layer  # one that is read from disk is not there beside the next
        return [mx.stack([*own[:-1], self.norm(h)], axis=2) for own, h in zip(states, hidden, strict=True)]
