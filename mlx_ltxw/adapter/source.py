"""Finds an adapter: a file, a folder, or a Hugging Face repository."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.hub import Spec, looks_like_repo, open_repo
from mlx_ltxw.paths import local_path
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.split_layout import is_split
from mlx_ltxw.weights.weight_files import is_weights

_KNOWN_NAMES = ("adapter.safetensors", "adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_CONFIG = "adapter_config.json"
_PICKLES = (".pt", ".bin", ".ckpt")
_MOST = 10_000
"""Files and folders that are looked through for an adapter; a disk has more."""


@dataclass(frozen=True)
class Located:
    """An adapter on this machine.

    Attributes:
        name: For messages.
        path: The safetensors file.
        config: PEFT's configuration beside it, if any.
        pinned: What names this very version of an adapter from the Hub: `owner/name@commit`; '' for others.
    """

    name: str
    path: Path
    config: Path | None
    pinned: str = ""


def locate(source: str, builtin: Mapping[str, Path] | None = None) -> Located:
    """Finds, and downloads if need be, what the user named.

    Args:
        source: A file, a folder that holds one adapter, a repository `owner/name`, a file in one
            `owner/name/path.safetensors`, either with `@revision` behind it, or a key of `builtin`.
        builtin: Names of adapters that ship with the program.

    Raises:
        UserError: nothing there, several candidates, or the Hub cannot be reached.
    """
    path = local_path(source)
    if builtin and source in builtin:
        return Located(source, builtin[source], None)
    if path.is_file():
        return _located(path.stem, path)
    if path.is_dir():
        _refuse_model(set(next(os.walk(path), ("", [], []))[2]), source)
        return _located(path.name, _choose(path, source))
    spec = Spec.parse(source)
    if not spec or not looks_like_repo(source) or source.endswith(_PICKLES) or not _is_adapter(spec.file):
        names = f" or {', '.join(builtin)}" if builtin else ""
        raise UserError(
            f"There is no adapter '{source}'.",
            f"Give a .safetensors file, a folder with one, a Hugging Face repository (owner/name){names}.",
        )
    return _from_hub(source, spec)


def _refuse_model(names: set[str], source: str) -> None:
    """Says so where a folder's or repository's files are a whole model."""
    if MANIFEST in names or is_split(names):
        raise UserError(
            f"'{source}' is a model, not an adapter.", f"Give it to `generate` as {{field:model={source}}}."
        )


def _is_adapter(file: str) -> bool:
    return not file or is_weights(file)


def _located(name: str, path: Path) -> Located:
    config = path.parent / _CONFIG
    return Located(name, path, config if config.is_file() else None)


def _choose(folder: Path, source: str) -> Path:
    """The adapter's file in a folder."""
    return folder / _choose_name(sorted(_weights_in(folder, source)), source)


def _weights_in(folder: Path, source: str) -> Iterator[str]:
    """The .safetensors files below a folder, by their path in it; what may not be read is passed over."""
    seen = 0
    for parent, folders, files in os.walk(folder):
        seen += len(folders) + len(files)
        if seen > _MOST:
            raise UserError(f"'{source}' holds more than {_MOST:,} files.", "Give the folder of an adapter.")
        yield from ((Path(parent) / file).relative_to(folder).as_posix() for file in files if is_weights(file))


def _choose_name(names: list[str], source: str) -> str:
    """A name that programs give an adapter, else the only one there is."""
    for name in _KNOWN_NAMES:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    if not names:
        raise UserError(f"'{source}' holds no .safetensors file.", "Give the folder or repository of an adapter.")
    raise UserError(
        f"'{source}' holds {len(names)} .safetensors files: {', '.join(names[:8])}.",
        f"Name one of them: {source.partition('@')[0]}/{names[0]}.",
    )


def _from_hub(source: str, spec: Spec) -> Located:
    """Downloads one adapter file and its configuration into the Hub's cache, at one commit."""
    repo = open_repo(spec.repo, spec.revision)
    if not spec.file:
        _refuse_model({file for file in repo.files if "/" not in file}, source)
    wanted = spec.file or _choose_name(sorted(filter(is_weights, repo.files)), source)
    if wanted not in repo.files:
        raise UserError(f"The repository '{spec.repo}' has no file '{wanted}'.", "Check the spelling.")
    path = repo.download(wanted)
    if (config := str(Path(wanted).with_name(_CONFIG))) in repo.files:
        repo.download(config)
    return replace(_located(spec.repo, path), pinned=repo.pinned(wanted if spec.file else ""))
