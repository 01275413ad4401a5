"""Prompts to text contexts: Gemma, then features, then connectors, each let go before the next stage loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.models.text import FeatureExtractor
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import STREAMED_ONCE


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

    def row(self, number: int) -> tuple[mx.array, mx.array]:
        """(1, S, Dv) and (1, S, Da) of one prompt."""
        return self.video_contexts[number : number + 1], self.audio_contexts[number : number + 1]

    def audio_of(self, prompts: Sequence[str]) -> mx.array:
        """(len(prompts), S, Da), of prompts that are among those encoded."""
        return self.audio_contexts[mx.array([self.prompts.index(prompt) for prompt in prompts])]


def encode_prompts(
    model_dir: ModelDir, prompts: Sequence[str], dtype: mx.Dtype, begins: Callable[[str], None] = lambda _: None
) -> Contexts:
    """Encodes prompts, each by itself, so that none depends on those beside it.

    Args:
        model_dir: Holds the text encoder, projection and connectors; each is loaded once.
        prompts: The prompt and, where guidance needs it, the negative prompt; then any others.
        dtype: bf16 or fp32, of the contexts.
        begins: Is called with each network's name before it is loaded.

    Raises:
        UserError: a prompt is longer than the model reads.
    """
    begins("text_encoder")
    encoder = model_dir.load_text_encoder(dtype, STREAMED_ONCE)
    ids, mask = encoder.tokenize(list(prompts))
    hidden = encoder.token_states(ids, mask)
    mx.eval(mask, [states for _, states in hidden])
    del encoder
    mx.clear_cache()
    begins("text_projection")
    projection = model_dir.load_text_projection(dtype)
    features = [project(projection, states, mask[row : row + 1]) for row, states in enumerate(hidden)]
    del projection, hidden
    mx.clear_cache()
    begins("connectors")
    connectors = model_dir.load_connectors(dtype)
    made = []
    for row, one in enumerate(features):
        video, audio = connectors(*one, mask[row : row + 1])
        context = video.astype(dtype), audio.astype(dtype)
        mx.eval(context)
        made.append(context)
    del connectors
    mx.clear_cache()
    return joined(prompts, made)


def project(projection: FeatureExtractor, tokens: tuple[int, mx.array], mask: mx.array) -> tuple[mx.array, mx.array]:
    """Features of one prompt, made one prompt at a time: with its padding one of LTX-2.3 has 385 MB.

    Args:
        projection: Of both streams.
        tokens: One of `TextEncoder.token_states`.
        mask: (1, S) bool.

    Returns:
        (1, S, Dv) and (1, S, Da).
    """
    start, states = tokens
    behind = mask.shape[1] - start - states.shape[1]
    features: tuple[mx.array, mx.array] = projection(mx.pad(states, [(0, 0), (start, behind), (0, 0), (0, 0)]), mask)
    mx.eval(features)
    return features


def joined(prompts: Sequence[str], made: Sequence[tuple[mx.array, mx.array]]) -> Contexts:
    """The contexts of several prompts, (1, S, Dv) and (1, S, Da) each, as one."""
    videos, audios = zip(*made, strict=True)
    contexts = Contexts(mx.concatenate(list(videos)), mx.concatenate(list(audios)), tuple(prompts))
    mx.eval(contexts.video_contexts, contexts.audio_contexts)
    return contexts
