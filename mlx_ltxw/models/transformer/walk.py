"""The walk over a model's blocks: one way for every forward, in inference and in training.

It fetches each block when its turn comes and lets it go after its step, tells it what it leaves out, and hands what it
has made to the device, with no more than a window of that unfinished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import mlx.core as mx

from mlx_ltxw.models.submissions import Submissions
from mlx_ltxw.models.transformer.inputs import NO_SKIPS, BlockSkips, Skips

Item = TypeVar("Item")
ItemOut = TypeVar("ItemOut", covariant=True)

Streams = tuple[mx.array, ...]
"""The streams' tokens, (B, T, dim) each."""

Done = Callable[[Any], None]
"""Takes the arrays (a tree of them) that complete a part of the work, so that the device may begin with them."""


def nothing_done(part: Any) -> None:
    """Leaves all work for later."""


BlockStep = Callable[[Item, Streams, BlockSkips, Done], Streams]
"""What is done with one block: `(block, streams before it, what it leaves out, done)` to the streams after it; those
need not be `done`."""


class Blocks(Protocol[ItemOut]):
    """A model's blocks: a list, or whatever makes the block of an index when it is asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ItemOut]: ...

    def __getitem__(self, index: int, /) -> ItemOut: ...


class Abreast(Generic[Item]):
    """The blocks of several models, of one length, side by side."""

    def __init__(self, *models: Blocks[Item]) -> None:
        if len({len(blocks) for blocks in models}) != 1:
            raise ValueError(f"models of {' and '.join(str(len(blocks)) for blocks in models)} blocks")
        self.models = models

    def __len__(self) -> int:
        return len(self.models[0])

    def __iter__(self) -> Iterator[tuple[Item, ...]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int, /) -> tuple[Item, ...]:
        return tuple(blocks[index] for blocks in self.models)


class Forward(NamedTuple):
    """A forward but for its walk over the blocks, so that several passes may go together.

    Attributes:
        blocks: What it goes over (`Blocks`).
        states: Of each stream, what all blocks share (`StreamState`).
        streams: Before the first block.
        prepare: Of a block: what its steps share whatever they leave out.
        step: `(prepared or None, block, streams before it, what it leaves out, done)` to the streams after it.
        finish: Of the streams after the last block: what the forward gives.
    """

    blocks: Any
    states: tuple[Any, ...]
    streams: Streams
    prepare: Callable[[Any], Any]
    step: Callable[[Any, Any, Streams, BlockSkips, Done], Streams]
    finish: Callable[[Streams], Any]

    def alone(self, walk: Walk, skips: Skips = NO_SKIPS) -> Any:
        """What a single pass gives; nothing is prepared, so that a gradient reaches all that a block holds."""
        return self.finish(walk.through(self.blocks, partial(self.step, None), self.streams, skips))


def run_step(step: BlockStep[Any], block: Any, streams: Streams, skips: BlockSkips, done: Done) -> Streams:
    """A step as it is."""
    return step(block, streams, skips, done)


WINDOW = 3
"""Parts of blocks that may be unfinished while a forward goes on.

On an H200 (bf16, 48 blocks) a forward at 704x480x97 then holds 0.75 GB beyond the weights, in place of 7.4 with no
bound, in the same time; at 1280x704x121 1.9 GB in place of 20.6. A window of 1 takes 8 % more time at the smaller size,
of 0 50 %; whole blocks hold 2.0 and 6.3 GB with a window of 1 (`docs/log.md`).
MLX's CPU backend bounds by itself what is in flight.
"""


@dataclass(frozen=True)
class Walk:
    """How to go over the blocks.

    Attributes:
        submit_every: Blocks in one submission to the device, 0 for the whole forward in one. A GPU begins while Python
            goes on describing the work, and a submission is short enough for the display's watchdog on a Mac. Leave at
            0 inside a gradient or a compiled function.
        window: Submissions that may be unfinished while the next one is described, None for any number: each holds
            its activations in memory. 0 waits for each.
        run: How a step is called; training may put a way here that computes it again in the backward pass.
        in_parts: Whether each part of a block that the step calls `done` is a submission of its own.
        finished: Called when a submission is.
    """

    submit_every: int = 0
    window: int | None = None
    run: Callable[[BlockStep[Any], Any, Streams, BlockSkips, Done], Streams] = run_step
    in_parts: bool = False
    finished: Callable[[], None] = lambda: None

    @classmethod
    def bounded(cls, in_parts: bool = True, finished: Callable[[], None] = lambda: None) -> Walk:
        """In submissions of which few are unfinished: parts of blocks, of which no more than `WINDOW` are; otherwise
        whole ones, one beside that at work."""
        return cls(1, WINDOW if in_parts else 1, in_parts=in_parts, finished=finished)

    def submissions(self) -> Submissions:
        """Takes the work of one pass, forwards or backwards, block by block."""
        return Submissions(self.submit_every, self.window, self.finished)

    def over(
        self, blocks: Blocks[Item], step: BlockStep[Item], streams: Streams, skips: Skips = NO_SKIPS
    ) -> Iterator[Streams]:
        """Yields the streams after each block, submitted; closing the iterator stops between two blocks."""
        submissions = self.submissions()
        done = submissions.add if self.in_parts else nothing_done
        for index in range(len(blocks)):
            # The block has no name here, so that nothing holds it while the next one is fetched.
            streams = self.run(step, blocks[index], streams, skips.of(index), done)
            submissions.add(streams)
            yield streams

    def through(
        self, blocks: Blocks[Item], step: BlockStep[Item], streams: Streams, skips: Skips = NO_SKIPS
    ) -> Streams:
        """The streams after the last block."""
        for after in self.over(blocks, step, streams, skips):
            streams = after
        return streams

    def together(self, passes: Sequence[tuple[Forward, Skips]]) -> list[Any]:
        """What each pass gives, of several that go over the same blocks side by side.

        Each block is fetched once. Until two passes of one forward leave out something else they are one, and what a
        forward's steps share of a block is made once; every result is that of a walk of its own, to the last bit. Of
        the other passes no more than their streams are in memory while one is at work.

        Args:
            passes: Each a forward and what it leaves out, all over the same blocks.
        """
        spans = [(0, len(forward.blocks)) for forward, _ in passes]
        streams = self.stretch(passes, [forward.streams for forward, _ in passes], spans)
        return [forward.finish(after) for (forward, _), after in zip(passes, streams, strict=True)]

    def stretch(
        self, passes: Sequence[tuple[Forward, Skips]], before: Sequence[Streams], spans: Sequence[tuple[int, int]]
    ) -> list[Streams]:
        """The streams of passes after some of the blocks.

        Args:
            passes: As for `together`.
            before: Of each its streams; passes that are one so far have the very same.
            spans: Of each the blocks that it goes over: from the first to before the second.
        """
        submissions, streams = self.submissions(), list(before)
        for index in range(min(start for start, _ in spans), max(stop for _, stop in spans)):
            here = [number for number, (start, stop) in enumerate(spans) if start <= index < stop]
            if here:
                block = passes[0][0].blocks[index]
                those = [passes[number] for number in here], [streams[number] for number in here]
                after = self._side_by_side(block, index, *those, submissions)
                del block  # nothing holds it while the next one is fetched
                for number, one in zip(here, after, strict=True):
                    streams[number] = one
        return streams

    def _side_by_side(
        self, block: Any, index: int, passes: Sequence[tuple[Forward, Skips]], before: list[Streams],
        submissions: Submissions,
    ) -> list[Streams]:  # fmt: skip
        """The streams of every pass after a block."""
        done = submissions.add if self.in_parts else nothing_done
        prepared: dict[int, Any] = {}
        made: dict[tuple[int, int, BlockSkips], Streams] = {}
        after = []
        for (forward, skips), streams in zip(passes, before, strict=True):
            one, here = id(forward), skips.of(index)
            if one not in prepared:
                prepared[one] = forward.prepare(block)
            key = one, id(streams), here
            if key not in made:
                made[key] = self.run(partial(forward.step, prepared[one]), block, streams, here, done)
                submissions.add(made[key])
            after.append(made[key])
        return after


DIRECT = Walk()
"""The whole forward in one submission, whenever its result is evaluated."""
