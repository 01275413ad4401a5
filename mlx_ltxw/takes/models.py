"""A model by whatever name: the built-in one, a directory, or a repository of the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir

_REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")


def open_model(name: str | Path | None = None) -> ModelDir:
    """Opens a model; one of the Hub (`OWNER/REPO[@REVISION]`) is downloaded at one commit into the Hub's cache.

    Raises:
        UserError: there is no such model, it is damaged, or it cannot be downloaded.
    """
    if name is None:
        return ModelDir.open(BUILTIN_MODEL)
    path = Path(name).expanduser()
    repository = _REPOSITORY.fullmatch(str(name))
    if path.is_dir() or isinstance(name, Path) or not repository or str(name).startswith((".", "~", "/")):
        return ModelDir.open(path)
    return ModelDir.open(_downloaded(repository[1], repository[2]))


def _downloaded(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision))
    except Exception as error:
        raise UserError(
            f"There is no model directory {repo}, and the Hub gives none: {str(error).splitlines()[0]}.",
            "Check the name; a private or gated repository needs `hf auth login`.",
        ) from error
