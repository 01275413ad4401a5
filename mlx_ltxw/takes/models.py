"""A model by whatever name: the built-in one, a directory, or a repository of the Hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.hub import Repo, Spec, cached, open_repo
from mlx_ltxw.paths import local_path
from mlx_ltxw.pipeline.recipes import UPSAMPLER
from mlx_ltxw.takes.ahead import check_gemma, check_split, no_model
from mlx_ltxw.weights import split_layout
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.components import TEXT_ENCODER
from mlx_ltxw.weights.fit import placed
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import read_manifest
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.opening import open_dir
from mlx_ltxw.weights.split_config import SMALL
from mlx_ltxw.weights.split_dir import GEMMA, SplitDir, choose_transformer
from mlx_ltxw.weights.split_upsamplers import upsampler_files
from mlx_ltxw.weights.weight_files import check_pieces

_WEIGHTS = "model*.safetensors"
_TEXT_FILES = ("config.json", _WEIGHTS, "tokenizer.json", "tokenizer_config.json")
"""What a text encoder cannot do without."""
_TEXT_EXTRAS = ("tokenizer.model", "special_tokens_map.json", "added_tokens.json", "LICENSE*", "NOTICE*")


def open_model(name: str | Path | None = None, text_encoder: str | None = None) -> ModelDir:
    """Opens a model.

    Args:
        name: A directory that `convert` wrote, or one in the split layout of ltx-2-mlx (of several transformers in it
            the one named: `DIR/transformer-dev.safetensors`); `OWNER/REPO[@REVISION]` of either kind on the Hub, whose
            files are downloaded once, at one commit, into the Hub's cache; None for the built-in model.
        text_encoder: Gemma-3, a directory or a repository, for a model of the split layout. By default its own
            `text_encoder/`, or the repository that ltx-2-mlx takes.

    Raises:
        UserError: there is no such model, it is damaged, or it cannot be downloaded.
    """
    if name is None:
        return _without_text_encoder(ModelDir.open(BUILTIN_MODEL), text_encoder)
    path, spec = local_path(str(name)), Spec.parse(str(name))
    if path.exists() or isinstance(name, Path) or spec is None:
        return _local(path, text_encoder)
    repo = open_repo(spec.repo, spec.revision)
    return _opened(repo.fetch(needed_files(repo, spec.file)), repo, spec.file, text_encoder)


def needed_files(repo: Repo, transformer: str = "", folder: Path | None = None) -> list[str]:
    """The files of a repository that make a model.

    Args:
        repo: Either kind.
        transformer: The one to take, where a repository of the split layout has several.
        folder: Where they will lie; None for the Hub's cache.

    Raises:
        UserError: it holds no model, or another, or several transformers and none was named.
    """
    if MANIFEST in repo.files and not transformer:
        files, _ = read_manifest(repo.download(MANIFEST).parent)
        return sorted({MANIFEST, *files})
    names = {file for file in repo.files if "/" not in file}
    if split_layout.is_split(names):
        chosen = choose_transformer(names, transformer, repo.name)
        weights = [chosen if stem == split_layout.TRANSFORMER else f"{stem}.safetensors" for stem in split_layout.STEMS]
        if missing := sorted({*weights, SMALL[0]} - names):
            raise UserError(f"{repo.pinned()} has no {', no '.join(missing)}.", "Name another model.")
        check_split(repo, chosen, folder)
        own = [file for file in repo.files if file.startswith(f"{TEXT_ENCODER}/")]
        upsampler = upsampler_files(names, [UPSAMPLER])
        return sorted({*weights, *upsampler, *(name for name in SMALL if name in names), *own})
    raise no_model(repo)


def text_encoder_files(repo: Repo) -> list[str]:
    """The files of a repository that make a text encoder.

    Raises:
        UserError: it holds none, or another language model.
    """
    if missing := [pattern for pattern in _TEXT_FILES if not repo.matching([pattern])]:
        raise UserError(
            f"{repo.pinned()} holds no text encoder: it has no {missing[0]}.", f"Name one, such as {GEMMA}."
        )
    check_pieces(repo.matching([_WEIGHTS]), repo.pinned(), f"Name another text encoder, such as {GEMMA}.")
    check_gemma(repo)
    return repo.matching([*_TEXT_FILES, *_TEXT_EXTRAS])


def find_text_encoder(source: str | None, download: bool) -> Path | None:
    """The folder of a text encoder.

    Args:
        source: A directory or a repository; None for ltx-2-mlx's.
        download: Whether to fetch that one if it is not in the Hub's cache; one that is named is fetched in any case.

    Raises:
        UserError: it is not there, or cannot be downloaded.
    """
    if source is None:
        folder = cached(GEMMA, _TEXT_FILES)
        return folder if folder or not download else _fetched_text_encoder(Spec(GEMMA, "", ""))
    path, spec = local_path(source), Spec.parse(source)
    if path.is_dir() or spec is None or spec.file:
        if not path.is_dir():
            raise UserError(f"There is no text encoder directory {path}.", "Check {field:text_encoder}.")
        return path
    return _fetched_text_encoder(spec)


def _fetched_text_encoder(spec: Spec) -> Path:
    repo = open_repo(spec.repo, spec.revision)
    return repo.fetch(text_encoder_files(repo))


def _local(path: Path, text_encoder: str | None) -> ModelDir:
    if path.is_file() and split_layout.is_split({file.name for file in path.parent.iterdir()}):
        return _with_text_encoder(open_dir(path.parent, path.name), text_encoder, download=False)
    return _with_text_encoder(open_dir(path), text_encoder, download=False)


def _opened(folder: Path, repo: Repo, transformer: str, text_encoder: str | None) -> ModelDir:
    """What lies in the cache, by the name that it can be had by again."""
    model = open_dir(folder, transformer)
    model = dataclasses.replace(model, label=repo.pinned(transformer))
    return _with_text_encoder(model, text_encoder, download=not repo.offline)


def _with_text_encoder(model: ModelDir, source: str | None, download: bool) -> ModelDir:
    if not isinstance(model, SplitDir):
        return _without_text_encoder(model, source)
    placed(model)  # no conversion has looked at it, and a run would find the last network's faults at its end
    if model.gemma is not None and source is None:
        return model
    return dataclasses.replace(model, gemma=find_text_encoder(source, download))


def _without_text_encoder(model: ModelDir, source: str | None) -> ModelDir:
    if source is not None:
        raise UserError(f"{model.name} has a text encoder of its own.", "Leave {field:text_encoder} out.")
    return model
