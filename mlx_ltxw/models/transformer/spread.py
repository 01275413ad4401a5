"""One clip's video tokens over several machines: each computes its own, and gathers the keys and values of all.

Within a block nothing but attention reads another token. So norms, queries, feed-forward networks and heads run on a
machine's own tokens, and what is gathered are keys, normed and rotated, and values: in the video's attention to itself,
and where audio reads the video (after Ulysses and ring attention, arXiv:2309.14509 and arXiv:2310.01889, whose exchange
of heads or of blocks of keys costs more collectives for the few machines that this is for).
"""

from __future__ import annotations

import mlx.core as mx

from mlx_ltxw.world import Turns, share_of


class Spread:
    """How the tokens of a stream lie over machines: in a row, as evenly as can be.

    A machine may compute some of its neighbours' tokens beside its own, which nobody gathers: of few rows a product may
    be computed in another way than of many, and then its bits differ (`pipeline/same_bits.py`).

    Args:
        turns: The machines.
        tokens: Of the stream, at least one for each machine.
        least: Tokens that this machine computes, if its own are fewer.

    Attributes:
        counts: Tokens of each machine.
        window: Those that this one computes.
    """

    def __init__(self, turns: Turns, tokens: int, least: int = 1) -> None:
        self.turns, self.tokens = turns, tokens
        world = turns.world
        self.counts = share_of(tokens, world.size)
        count = self.counts[world.rank]
        start = sum(self.counts[: world.rank])
        width = min(tokens, max(count, least))
        self.window = window(tokens, start, width)
        self._own = slice(start - self.window.start, start - self.window.start + count)

    def own(self, x: mx.array) -> mx.array:
        """This machine's tokens of (B, T, ...); what is the same for all tokens, (B, 1, ...), stays."""
        return x if x.shape[1] == 1 and self.tokens > 1 else x[:, self.window]

    def keys_and_values(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Those of all tokens (B, T, H, D), of this machine's, in one collective: between two GPUs starting one takes
        as long as carrying ten megabytes. An adapter of one of the two alone gives them other rows."""
        if keys.shape != values.shape:
            return self.whole(keys), self.whole(values)
        both = self.whole(mx.concatenate([keys, values.astype(keys.dtype)], axis=-1))
        width = keys.shape[-1]
        return both[..., :width], both[..., width:].astype(values.dtype)

    def whole(self, x: mx.array) -> mx.array:
        """All tokens (B, T, ...), of this machine's (B, t, ...)."""
        x = x[:, self._own].swapaxes(0, 1)
        most = self.counts[0]
        if len(x) < most:
            x = mx.concatenate([x, mx.zeros((most - len(x), *x.shape[1:]), x.dtype)])
        gathered = self.turns.gather(x)  # (machines, most, B, ...)
        if self.counts[-1] == most:
            return gathered.reshape(-1, *x.shape[1:]).swapaxes(0, 1)
        parts = [gathered[rank, :count] for rank, count in enumerate(self.counts)]
        return mx.concatenate(parts).swapaxes(0, 1)


def window(tokens: int, first: int, count: int) -> slice:
    """Which of a stream's tokens a machine computes.

    Args:
        tokens: Of the stream.
        first: Of those that are the machine's own.
        count: That it computes; some of a neighbour's where its own end with the stream.
    """
    start = min(first, tokens - count)
    return slice(start, start + count)
