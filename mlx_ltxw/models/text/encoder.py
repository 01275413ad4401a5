"""Prompts to Gemma-3 hidden states, in the shape that LTX-2.3's feature extractor takes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.submissions import Submissions
from mlx_ltxw.models.text.gemma import Gemma
from mlx_ltxw.models.text.gemma_config import GemmaConfig
from mlx_ltxw.models.text.tokenizer import PromptTokenizer


class TextEncoder:
    """Gemma-3 and its tokenizer.

    Source: `text_encoders/gemma/encoders/base_encoder.py:LTXGemmaTextEncoder.encode`.

    Attributes:
        config: The Gemma's numbers.
        model: The decoder stack.
        tokenizer: Gives ids and masks as NumPy arrays.

    Raises:
        UserError: the tokenizer knows more tokens than the model.
    """

    def __init__(self, model: Gemma, tokenizer: PromptTokenizer) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"The tokenizer knows {tokenizer.vocab_size} tokens and the text encoder {model.config.vocab_size}.",
                "Put the tokenizer files of the same model beside its weights.",
            )
        self.config: GemmaConfig = model.config
        self.model = model
        self.tokenizer = tokenizer

    def tokenize(self, prompts: list[str], truncate: bool = False) -> tuple[mx.array, mx.array]:
        """Token ids (B, 1024) int32 and mask (B, 1024) bool, padded on the left; see `PromptTokenizer`."""
        ids, mask = self.tokenizer(prompts, truncate)
        return mx.array(ids), mx.array(mask)

    def hidden_states(self, ids: mx.array, mask: mx.array) -> mx.array:
        """Runs the real tokens of each prompt and puts their states back among the padding.

        Rotary positions are relative and the padding is never attended to, so leaving it out changes nothing but the
        time: a prompt of 60 tokens costs 60 tokens, not 1024.

        Args:
            ids: (B, S) token ids.
            mask: (B, S), true on real tokens, which are consecutive in each row.

        Returns:
            (B, S, hidden_size, layers + 1) in the model's dtype, zero on padding.

        Raises:
            ValueError: padding between the tokens of a row.
        """
        total = ids.shape[1]
        rows = [
            mx.pad(states, [(0, 0), (start, total - start - states.shape[1]), (0, 0), (0, 0)])
            for start, states in self.token_states(ids, mask)
        ]
        return mx.concatenate(rows)

    def token_states(self, ids: mx.array, mask: mx.array) -> list[tuple[int, mx.array]]:
        """The same without the padding.

        Returns:
            For each prompt where its tokens begin in its row, and (1, T, hidden_size, layers + 1) of its T tokens.
        """
        spans = [_span(valid) for valid in np.array(mask).astype(bool)]
        prompts = [row[None, start:stop] for row, (start, stop) in zip(np.array(ids), spans, strict=True)]
        # Each layer is waited for, which takes no time beside its reading: it is gone when the next one comes.
        made = iter(self.model.states([mx.array(prompt) for prompt in prompts if prompt.size], Submissions(1, 0)))
        blank = mx.zeros((1, 0, self.config.states, self.config.hidden_size), self.model.norm.weight.dtype)
        return [
            (start, (next(made) if prompt.size else blank).swapaxes(2, 3))  # (1, T, L, D) -> (1, T, D, L)
            for prompt, (start, _) in zip(prompts, spans, strict=True)
        ]


def _span(valid: np.ndarray) -> tuple[int, int]:
    """Where a prompt's tokens begin and end in its row."""
    places = np.flatnonzero(valid)
    if not places.size:
        return 0, 0
    start, stop = int(places[0]), int(places[-1]) + 1
    if stop - start != places.size:
        raise ValueError("the mask has padding between the tokens of a prompt")
    return start, stop
