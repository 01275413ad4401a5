"""Calls of a block's methods as compiled functions, one trace for all blocks of a kind.

Describing a block takes Python about a millisecond, and MLX replays a trace of it in a tenth of that. Where a GPU is
done with a block sooner, that is most of a forward's time. A trace is handed over whole, and its activations stay until
it is done, so it is for small clips. Inside of it MLX fuses over the borders of the compiled pieces, which may round
elsewhere: what is to be equal to the last bit must go the same way.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_ltxw.models import ops
from mlx_ltxw.models.ops.twins import no_gradients
from mlx_ltxw.models.transformer.walk import Done, nothing_done
from mlx_ltxw.tree import share

Out = TypeVar("Out")


class Call(Protocol):
    """How a block's method is called."""

    def __call__(self, method: Callable[..., Out], block: Any, /, *args: Any, done: Done = nothing_done) -> Out: ...


def directly(method: Callable[..., Out], block: Any, /, *args: Any, done: Done = nothing_done) -> Out:
    """As it is."""
    return method(block, *args, done=done)


COMPILED_UP_TO = {"cpu": 0, "cuda": 2048, "metal": 0}
"""Video tokens of a clip whose blocks are compiled, by backend.

- `cuda`: on an H200 the device waits for Python up to about so many (`docs/performance.md`).
- `cpu`: nothing waits, and MLX would call a C++ compiler.
- `metal`: a Mac's GPU takes longer than Python for every size. Not measured.
"""


def compiles(tokens: int) -> bool:
    """Whether blocks are best compiled for so many tokens of video, of all clips that go together."""
    return tokens <= COMPILED_UP_TO[ops.device.backend()]


def calling(tokens: int) -> Call:
    """How blocks are best called for a clip of so many video tokens."""
    return Compiled() if compiles(tokens) else directly


class Compiled:
    """Calls compiled methods, none of which is to have a gradient, and keeps their traces.

    Of two blocks whose modules are of the same classes with the same settings, the second runs the first one's trace
    with arrays of its own. MLX traces anew for other shapes.
    """

    def __init__(self) -> None:
        self._functions: dict[Hashable, Callable[..., Any]] = {}
        self._kinds: dict[int, tuple[weakref.ref[nn.Module], Hashable]] = {}
        self._traced: Any = None

    def __call__(self, method: Callable[..., Out], block: Any, /, *args: Any, done: Done = nothing_done) -> Out:
        """As `directly`, but that the result alone is for the caller to hand over.

        Args:
            method: `(block, *args, done=)`.
            block: A module tree.
            args: Trees of arrays and plain constants, named tuples among them.
            done: Of a call that cannot be compiled.
        """
        kind = self._kind(block)
        if kind is None:
            return directly(method, block, *args, done=done)
        key = method, kind
        if key not in self._functions:
            self._functions[key] = mx.compile(self._over_arrays(method))
        self._traced = block
        try:
            made: Out = self._functions[key](block, *args)
        finally:
            self._traced = None
        return made

    def _over_arrays(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def function(arrays: Any, *args: Any) -> Any:  # a module tree arrives as plain dictionaries
            block = share(self._traced)
            block.update(arrays)
            with no_gradients():
                return method(block, *args, done=nothing_done)

        return function

    def _kind(self, block: nn.Module) -> Hashable:
        """What two blocks must have in common to share a trace: all but their arrays. None for one that has a class
        which says that it does not compile."""
        known = self._kinds.get(id(block))
        if known is None or known[0]() is not block:
            modules = block.named_modules()
            fit = all(getattr(type(module), "compiles", True) for _, module in modules)
            kind = tuple((path, _settings(module)) for path, module in modules) if fit else None
            number = id(block)  # another block's when this one is gone
            known = weakref.ref(block, lambda _: self._kinds.pop(number, None)), kind
            self._kinds[number] = known
        return known[1]


def _settings(module: nn.Module) -> Hashable:
    return type(module), tuple((name, value) for name, value in vars(module).items() if name != "_no_grad")
