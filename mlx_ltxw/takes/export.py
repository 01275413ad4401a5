"""An adapter, by whatever name, to a file in another program's spelling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.adapter import export as files
from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.source import locate
from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import settle
from mlx_ltxw.takes.output import refuse_existing


@dataclass(frozen=True)
class Exported:
    """A written adapter.

    Attributes:
        path: The file.
        modules: How many it changes.
        notes: What had to be assumed about the source.
    """

    path: Path
    modules: int
    notes: tuple[str, ...]


def export(adapter: str | Path, to: str, out: str | Path | None = None, *, overwrite: bool = False) -> Exported:
    """Writes an adapter the way another program reads it.

    Args:
        adapter: A file, folder, Hub repository or built-in name.
        to: `comfyui` (also the official spelling), `diffusers` or `mlx`.
        out: The new file; None: `NAME.TARGET.safetensors` in the current folder.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        UserError: the adapter cannot be read or written that way, or the file is there.
    """
    settle()
    if to not in files.TARGETS:
        raise UserError(f"There is no spelling '{to}'.", f"There are {', '.join(files.TARGETS)}.")
    located = locate(str(adapter), BUILTIN_ADAPTERS)
    path = Path(out) if out is not None else Path(f"{located.name.rsplit('/', 1)[-1]}.{to}.safetensors")
    refuse_existing([path], overwrite)
    source = read(located.path, config=located.config, name=located.name)
    files.export(source, to, path)
    return Exported(path, len(source.targets), tuple(source.notes))
