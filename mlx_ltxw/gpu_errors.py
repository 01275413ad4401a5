"""What the errors of a GPU, and of a disk that is gone, mean, and what to do about them.

MLX hands on the system's own words, and one cause has several: on a Mac the driver's (`IOGPUMetalError`, with its
number and name in parentheses), on CUDA the runtime's, and MLX's where it cannot allocate at all, or cannot read a
file when it comes to the weights in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple, ParamSpec, TypeVar

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import BROKEN, WHERE_FROM, WRITE_HINTS

_Given = ParamSpec("_Given")
_Item = TypeVar("_Item")

_FEWER = "make fewer or smaller frames, or convert the model with {field:quantize=4}"


class Cause(NamedTuple):
    """One cause.

    Attributes:
        texts: In lower case; a message that has one of them in it has this cause.
        message, hint: For the user.
    """

    texts: tuple[str, ...]
    message: str
    hint: str


CAUSES = (
    Cause(
        ("outofmemory", "out of memory", "insufficient memory", "unable to allocate", "attempting to allocate",
         "resource limit", "cudaerrormemoryallocation", "bad_alloc", "cublas_status_alloc_failed"),
        "There is not enough memory for this.",
        f"Close other programs, {_FEWER}; `mlx-ltxw doctor` shows what fits.",
    ),
    Cause(
        ("impacting interactivity", "errorimpactinginteractivity"),
        "The system ended the GPU's work because it held up the display.",
        "Let the display sleep while it runs (System Settings, Lock Screen), or set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1, "
        "which lets the display wait instead; or choose a smaller size. Then run it again.",
    ),
    Cause(
        ("caused gpu timeout", "callbackerrortimeout", "caused gpu hang", "callbackerrorhang", "launch timed out",
         "cudaerrorlaunchtimeout"),
        "The system ended the GPU's work because one piece of it took too long.",
        "Close other programs that use the GPU, or choose a smaller size, and run it again.",
    ),
    Cause(
        ("innocentvictim", "victim of gpu error", "submissionsignored", "ignored (for causing prior"),
        "The GPU was reset because of an error before, of this program or another.",
        "Close other programs that use the GPU, and run it again; if it is so again, restart the machine.",
    ),
    Cause(
        ("internal error (0000000e", "callbackerrorinternal", "pagefault", "address fault", "cudaerrorillegaladdress",
         "illegal memory access", "unspecified launch failure", "command buffer execution failed"),
        "The GPU ended its work with an error of its own.",
        f"It is mostly too little memory: close other programs, {_FEWER}. If it is so again, restart the machine and "
        "run `mlx-ltxw doctor`.",
    ),
    Cause(("[read] unable to read",), "A file of the model can no longer be read.", WHERE_FROM),
)  # fmt: skip
"""The first that fits counts."""


def explained(error: BaseException) -> UserError | None:
    """The error for the user, with the system's own words at the end; None for one that is no GPU's nor disk's."""
    if isinstance(error, MemoryError):
        return UserError(CAUSES[0].message, CAUSES[0].hint)
    if isinstance(error, OSError):
        return _explained_file(error)
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    for cause in CAUSES:
        if any(part in text.lower() for part in cause.texts):
            words = " ".join(text.split())
            return UserError(f"{cause.message[:-1]} ({words[:200].rstrip('.')}).", cause.hint)
    return None


def _explained_file(error: OSError) -> UserError | None:
    """Of a disk's fault, or a lack of rights, that nobody expected where it came."""
    reason, name = error.strerror or str(error), error.filename
    if error.errno in BROKEN:
        what = f"{name} cannot" if name else "A file can no longer"
        return UserError(f"{what} be read or written ({reason}).", WHERE_FROM)
    if error.errno in WRITE_HINTS:
        return UserError(f"{name or 'A file'} could not be written: {reason}.", WRITE_HINTS[error.errno])
    if isinstance(error, PermissionError):
        return UserError(f"{name or 'A file'} cannot be read or written ({reason}).", "See who may use that file.")
    return None


@contextmanager
def gpu_errors() -> Iterator[None]:
    """Turns the errors of a GPU and of a broken disk into sentences; all others pass."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        told = explained(error)
        if told is None:
            raise
        raise told from error


def telling_gpu_errors(make: Callable[_Given, Iterator[_Item]]) -> Callable[_Given, Generator[_Item, None, None]]:
    """A generator function whose generators turn a GPU's errors into sentences."""

    @functools.wraps(make)
    def wrapped(*arguments: _Given.args, **options: _Given.kwargs) -> Generator[_Item, None, None]:
        with gpu_errors():
            yield from make(*arguments, **options)

    return wrapped
