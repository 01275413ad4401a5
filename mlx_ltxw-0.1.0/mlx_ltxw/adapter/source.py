"""Finds an adapter: a file, a folder, or a Hugging Face repository."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError

_KNOWN_NAMES = ("adapter.safetensors", "adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_CONFIG = "adapter_config.json"
_REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/(.+\.safetensors))?(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Located:
    """An adapter on this machine.

    Attributes:
        name: For messages.
        path: The safetensors file.
        config: PEFT's configuration beside it, if any.
    """

    name: str
    path: Path
    config: Path | None


def locate(source: str, builtin: Mapping[str, Path] | None = None) -> Located:
    """Finds, and downloads if need be, what the user named.

    Args:
        source: A file, a folder that holds one adapter, a repository `owner/name`, a file in one
            `owner/name/path.safetensors`, either with `@revision` behind it, or a key of `builtin`.
        builtin: Names of adapters that ship with the program.

    Raises:
        UserError: nothing there, several candidates, or the Hub cannot be reached.
    """
    path = Path(source).expanduser()
    if builtin and source in builtin:
        return Located(source, builtin[source], None)
    if path.is_file():
        return _located(path.stem, path)
    if path.is_dir():
        return _located(path.name, _choose(path, source))
    match = _REPOSITORY.fullmatch(source)
    if not match or source.endswith((".pt", ".bin", ".ckpt")):
        names = f" or {', '.join(builtin)}" if builtin else ""
        raise UserError(
            f"There is no adapter '{source}'.",
            f"Give a .safetensors file, a folder with one, a Hugging Face repository (owner/name){names}.",
        )
    return _from_hub(source, match[1], match[3], match[2])


def _located(name: str, path: Path) -> Located:
    config = path.parent / _CONFIG
    return Located(name, path, config if config.is_file() else None)


def _choose(folder: Path, source: str) -> Path:
    """The adapter's file in a folder."""
    return folder / _choose_name(
        sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")), source
    )


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


def _from_hub(source: str, repository: str, revision: str | None, name: str | None) -> Located:
    """Downloads one adapter file and its configuration into the Hub's cache."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        names = HfApi().list_repo_files(repository, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"There is no file, folder or Hugging Face repository '{source}'.",
            "Check the spelling; a private or gated repository needs `hf auth login`.",
        ) from error
    except (HTTPError, OSError) as error:
        return _from_cache(source, repository, revision, name, error)
    wanted = name or _choose_name([n for n in names if n.endswith(".safetensors")], source)
    if wanted not in names:
        raise UserError(f"The repository '{repository}' has no file '{wanted}'.", "Check the spelling.")
    try:
        path = Path(hf_hub_download(repository, wanted, revision=revision))
        config = str(Path(wanted).with_name(_CONFIG))
        if config in names:
            hf_hub_download(repository, config, revision=revision)
    except GatedRepoError as error:
        raise UserError(
            f"'{repository}' is gated: its owner asks you to accept a licence first.",
            f"Accept it at https://huggingface.co/{repository}, then run `hf auth login`.",
        ) from error
    except (HTTPError, OSError) as error:
        raise UserError(
            f"'{source}' could not be downloaded: {error}.", "Try again, or download it by hand."
        ) from error
    return _located(repository, path)


def _from_cache(source: str, repository: str, revision: str | None, name: str | None, why: Exception) -> Located:
    """An earlier download, when the Hub cannot be reached."""
    from huggingface_hub import snapshot_download

    try:
        patterns = [name or "*.safetensors", _CONFIG]
        folder = snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=True)
    except Exception as error:  # every kind of "not in the cache", which the library names differently by version
        raise UserError(
            f"'{source}' is not on this machine and Hugging Face could not be reached ({type(why).__name__}).",
            "Connect to the network once, or give a local file.",
        ) from error
    path = Path(folder) / name if name else _choose(Path(folder), source)
    if not path.is_file():
        raise UserError(f"'{source}' was never downloaded whole.", "Connect to the network once.")
    return _located(repository, path)
