"""A model by whatever name: the built-in one, a directory, or a repository of the Hub."""

from __future__ import annotations

from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import local_path
from mlx_ltxw.hub import Spec, open_repo
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.model_dir import ModelDir


def open_model(name: str | Path | None = None) -> ModelDir:
    """Opens a model; one of the Hub (`OWNER/REPO[@REVISION]`) is downloaded at one commit into the Hub's cache.

    Raises:
        UserError: there is no such model, it is damaged, or it cannot be downloaded.
    """
    if name is None:
        return ModelDir.open(BUILTIN_MODEL)
    path, spec = local_path(str(name)), Spec.parse(str(name))
    if path.is_dir() or isinstance(name, Path) or spec is None or spec.file:
        return ModelDir.open(path)
    repo = open_repo(spec.repo, spec.revision)
    if MANIFEST not in repo.files:
        raise UserError(
            f"{repo.pinned()} holds no model that convert wrote.",
            "Convert the official checkpoint with `mlx-ltxw convert`, or name another repo.",
        )
    paths = {file: repo.download(file) for file in repo.files}
    return ModelDir.open(paths[MANIFEST].parent)
