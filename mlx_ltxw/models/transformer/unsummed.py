"""A stream inside a block: what is added to it last waits for the norm that comes next, to be one kernel with it."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from mlx_ltxw.models.transformer.adaln import Row, add_gated, added_norms, modulated_norms


class Unsummed(NamedTuple):
    """Tokens, and what is still to be added to them.

    Attributes:
        tokens: (B, T, dim).
        update, gate: Of the sum `tokens + update * gate`; None where nothing is outstanding.
    """

    tokens: mx.array
    update: mx.array | None = None
    gate: Row | None = None

    def plus(self, update: mx.array, gate: Row) -> Unsummed:
        """With `update * gate` to be added."""
        return Unsummed(self.whole(), update, gate)

    def whole(self) -> mx.array:
        """The tokens, added up."""
        if self.update is None or self.gate is None:
            return self.tokens
        return add_gated(self.tokens, self.update, self.gate)

    def normed(self, *rows: tuple[Row, Row], eps: float) -> tuple[Unsummed, list[mx.array]]:
        """Itself, added up, and its norm modulated by each pair of scale and shift."""
        if self.update is None or self.gate is None:
            return self, modulated_norms(self.tokens, rows, eps)
        after, normed = added_norms(self.tokens, self.update, self.gate, rows, eps)
        return Unsummed(after), normed

    @property
    def latest(self) -> mx.array:
        """What was computed last, for whatever hands work to the device."""
        return self.tokens if self.update is None else self.update
