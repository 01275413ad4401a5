"""Prompts to Gemma token ids, with the `tokenizers` library alone (transformers takes seconds to import)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mlx_ltxw.errors import UserError

PROMPT_TOKENS = 1024
"""Length that every prompt is padded to (`gemma_assets.py:TOKENIZER_MAX_LENGTH`)."""

_HINT = "Use the tokenizer.json and tokenizer_config.json that come with Gemma-3."


class PromptTokenizer:
    """Gemma's tokenizer as LTX-2.3 uses it: stripped prompt, one `<bos>` in front, no end token, no chat template.

    Source: `text_encoders/gemma/tokenizer.py:LTXGemmaTokenizer`, `gemma_assets.py:build_gemma_hf_tokenizer`.

    Attributes:
        bos, pad: Token ids.
        vocab_size: Ids it can give, added tokens included.
    """

    def __init__(self, text: str, settings: Mapping[str, Any], name: str = "tokenizer.json") -> None:
        """Builds the tokenizer.

        Args:
            text: The content of `tokenizer.json`.
            settings: The values of `tokenizer_config.json`.
            name: What messages call the file.

        Raises:
            UserError: it is broken, names no `<bos>` or padding token, or asks for an end token.
        """
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{name} cannot be read: {error}.", _HINT) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.bos = self._special(settings, "bos_token")
        self.pad = self._special(settings, "pad_token" if settings.get("pad_token") else "eos_token")
        if settings.get("add_eos_token") or self._tokenizer.encode("").ids not in ([], [self.bos]):
            raise UserError("The tokenizer adds more than <bos> to a prompt, as Gemma-3's does not.", _HINT)

    def _special(self, settings: Mapping[str, Any], key: str) -> int:
        token = settings.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        number = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        if number is None:
            raise UserError(f"The tokenizer's '{key}' is {token!r}, which is not one of its tokens.", _HINT)
        return number

    def __call__(self, prompts: list[str], truncate: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Tokenises and pads on the left.

        Args:
            prompts: Any length, empty ones too.
            truncate: Cuts a prompt of more than 1024 tokens instead of refusing it.

        Returns:
            Token ids (B, 1024) int32, and a mask (B, 1024) bool that is True on real tokens.

        Raises:
            UserError: a prompt is too long, or no valid text.
        """
        ids = np.full((len(prompts), PROMPT_TOKENS), self.pad, dtype=np.int32)
        mask = np.zeros(ids.shape, dtype=bool)
        for row, prompt in enumerate(prompts):
            tokens = self._encode(prompt)
            if len(tokens) > PROMPT_TOKENS and not truncate:
                raise UserError(
                    f"The prompt is too long: {len(tokens)} tokens, where {PROMPT_TOKENS} fit.",
                    f"Shorten it by at least {len(tokens) - PROMPT_TOKENS} tokens.",
                )
            tokens = tokens[:PROMPT_TOKENS]
            ids[row, PROMPT_TOKENS - len(tokens) :] = tokens
            mask[row, PROMPT_TOKENS - len(tokens) :] = True
        return ids, mask

    def _encode(self, prompt: str) -> list[int]:
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"The prompt is not valid text: {error}.", "Give it as UTF-8.") from error
        return [self.bos, *self._tokenizer.encode(prompt.strip(), add_special_tokens=False).ids]
