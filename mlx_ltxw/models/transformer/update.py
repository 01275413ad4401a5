"""One update of a stream: what a block is made of, four to a stream.

Each adds to the stream what a network makes of it, normed and modulated: `x + gate * network(norm(x) (1 + scale) +
shift)`. The block describes them; inference folds them forwards (`Update.__call__`), training backwards
(`train/gradient/audio_stream.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from mlx_ltxw.models.transformer.adaln import Modulation
from mlx_ltxw.models.transformer.attention import Attention, Read
from mlx_ltxw.models.transformer.feed_forward import FeedForward
from mlx_ltxw.models.transformer.rope import Rope
from mlx_ltxw.models.transformer.spread import Spread
from mlx_ltxw.models.transformer.unsummed import Unsummed
from mlx_ltxw.models.transformer.walk import Done, nothing_done


class Attending(NamedTuple):
    """What an attention is given besides its queries.

    Attributes:
        context: (B, S, context_dim); the stream itself when None.
        base_read: What the attention that this one was adapted from has read of the context, if that is known.
        rope, key_rope: As for `Attention`.
        values_only: As for `Attention`.
        counts: How many rows of the stream share each context; empty for equally many.
        spread: How the context's tokens lie over machines, where only this machine's are here.
    """

    context: mx.array | None = None
    base_read: Read | None = None
    rope: Rope | None = None
    key_rope: Rope | None = None
    values_only: bool = False
    counts: tuple[int, ...] = ()
    spread: Spread | None = None


class Update(NamedTuple):
    """An update and everything it needs but the stream.

    Attributes:
        network: An attention, or the feed-forward network.
        modulation: Shift, scale and gate.
        eps: Added to the mean square in the RMS norm.
        attending: For an attention; the feed-forward network has no use for it.
    """

    network: Attention | FeedForward
    modulation: Modulation
    eps: float
    attending: Attending = Attending()

    def read(self, dtype: mx.Dtype) -> Read:
        """Keys and values of an attention's context, which is read in `dtype`, the stream's; adapters included."""
        assert not isinstance(self.network, FeedForward)
        context, shared, counts = self.attending.context, self.attending.base_read, self.attending.counts
        assert context is not None
        return self.network.read(context.astype(dtype), shared, counts)

    def __call__(
        self, x: Unsummed, read: Read | None = None, done: Done = nothing_done, queries: mx.array | None = None
    ) -> Unsummed:
        """The stream (B, T, dim) after the update.

        Args:
            x: The stream before it.
            read: What `read` gave, if that has been asked for already.
            done: Takes each part of the work as it is described.
            queries: `x`, normed and modulated, if that has been made already.
        """
        if queries is None:
            x, (queries,) = x.normed(self.modulation.rows, eps=self.eps)
        return x.plus(self._change(queries, read, done), self.modulation.gate)

    def _change(self, queries: mx.array, read: Read | None, done: Done) -> mx.array:
        if isinstance(self.network, FeedForward):
            return self.network(queries, done)
        context, _, rope, key_rope, values_only, _, spread = self.attending
        if context is not None and read is None:
            read = self.read(queries.dtype)
        return self.network(queries, read, rope, key_rope, values_only, done, spread)
