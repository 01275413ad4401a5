"""Prompts to Gemma-3 hidden states, in the shape that LTX-2.3's feature extractor takes."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.text.gemma import Gemma, load_gemma
from mlx_ltxw.models.text.gemma_config import GemmaConfig
from mlx_ltxw.models.text.tokenizer import PromptTokenizer


class TextEncoder:
    """Gemma-3 and its tokenizer.

    Source: `text_encoders/gemma/encoders/base_encoder.py:LTXGemmaTextEncoder.encode`.

    Attributes:
        config: The Gemma's numbers.
        model: The decoder stack.
        tokenizer: Gives ids and masks as NumPy arrays.
        in_pieces: See `load`.
    """

    def __init__(self, model: Gemma, tokenizer: PromptTokenizer, in_pieces: bool = False) -> None:
        self.config: GemmaConfig = model.config
        self.model = model
        self.tokenizer = tokenizer
        self.in_pieces = in_pieces

    @classmethod
    def load(cls, path: Path, dtype: mx.Dtype = mx.bfloat16, in_pieces: bool = False) -> TextEncoder:
        """Opens a Gemma-3 folder in mlx-lm's layout (quantised or not), or Google's own.

        Weights are read from disk when they are first needed.

        Args:
            path: Holds `config.json`, `model*.safetensors`, `tokenizer.json` and `tokenizer_config.json`.
            dtype: Of the activations, and of the weights that are not quantised.
            in_pieces: Evaluates after each layer, which keeps each piece of work on the GPU short enough for the
                system's watchdog.

        Raises:
            UserError: a file is missing or broken, or the model is no Gemma-3.
        """
        if not path.is_dir():
            raise UserError(f"There is no text encoder in {path}.", "Convert one with --text-encoder.")
        model = load_gemma(path, dtype)
        tokenizer = PromptTokenizer(path)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"The tokenizer knows {tokenizer.vocab_size} tokens and the text encoder {model.config.vocab_size}.",
                "Put the tokenizer files of the same model beside its weights.",
            )
        return cls(model, tokenizer, in_pieces)

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
        rows = [self._row(row, valid) for row, valid in zip(np.array(ids), np.array(mask).astype(bool), strict=True)]
        return mx.concatenate(rows).swapaxes(2, 3)  # (B, S, L, D) -> (B, S, D, L)

    def _row(self, ids: np.ndarray, valid: np.ndarray) -> mx.array:
        """The states of one prompt, (1, S, L, D)."""
        places = np.flatnonzero(valid)
        if not places.size:
            shape = (1, len(ids), self.config.states, self.config.hidden_size)
            return mx.zeros(shape, self.model.norm.weight.dtype)
        start, stop = int(places[0]), int(places[-1]) + 1
        if stop - start != places.size:
            raise ValueError("the mask has padding between the tokens of a prompt")
        states = self.model(mx.array(ids[None, start:stop]), self.in_pieces)
        return mx.pad(states, [(0, 0), (start, len(ids) - stop), (0, 0), (0, 0)])
