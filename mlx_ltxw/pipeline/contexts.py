"""Prompts to text contexts: Gemma, then features, then connectors, each let go before the next stage loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import STREAMED


@dataclass(frozen=True)
class Contexts:
    """What the transformer reads of the prompts.

    Attributes:
        video_contexts, audio_contexts: (P, S, D) where row 0 is the prompt and row 1, if a pass needs it, the negative
            prompt.
        prompts: Of each row.
    """

    video_contexts: mx.array
    audio_contexts: mx.array
    prompts: tuple[str, ...] = ()

    def video(self, negative: bool) -> mx.array:
        """(1, S, Dv)."""
        return self.video_contexts[1:2] if negative else self.video_contexts[:1]

    def astype(self, dtype: mx.Dtype) -> Contexts:
        """In the transformer's dtype."""
        return Contexts(self.video_contexts.astype(dtype), self.audio_contexts.astype(dtype), self.prompts)

    def audio(self, negative: bool) -> mx.array:
        """(1, S, Da)."""
        return self.audio_contexts[1:2] if negative else self.audio_contexts[:1]

    def audio_of(self, prompts: Sequence[str]) -> mx.array:
        """(len(prompts), S, Da), of prompts that are among those encoded."""
        return self.audio_contexts[mx.array([self.prompts.index(prompt) for prompt in prompts])]


def encode_prompts(model_dir: ModelDir, prompts: list[str], dtype: mx.Dtype) -> Contexts:
    """Encodes the prompts.

    Args:
        model_dir: Holds the text encoder, projection and connectors.
        prompts: The prompt and, where guidance needs it, the negative prompt.
        dtype: bf16 or fp32, of the contexts.

    Raises:
        UserError: a prompt is longer than the model reads.
    """
    encoder = model_dir.load_text_encoder(dtype, STREAMED)
    ids, mask = encoder.tokenize(prompts)
    hidden = encoder.hidden_states(ids, mask)
    mx.eval(hidden, mask)
    del encoder
    mx.clear_cache()
    projection = model_dir.load_text_projection(dtype)
    features = projection(hidden, mask)
    mx.eval(features)
    del projection, hidden
    mx.clear_cache()
    connectors = model_dir.load_connectors(dtype)
    video, audio = connectors(*features, mask)
    contexts = Contexts(video.astype(dtype), audio.astype(dtype), tuple(prompts))
    mx.eval(contexts.video_contexts, contexts.audio_contexts)
    del connectors
    mx.clear_cache()
    return contexts
