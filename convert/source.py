"""Turns what the user names into files: a local file or directory, or a repo on the Hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.hub import Repo, Spec, looks_like_repo, open_repo
from mlx_ltxw.hub_errors import explained
from mlx_ltxw.paths import local_path
from mlx_ltxw.weights.header import Header, parse_header, read_header
from mlx_ltxw.weights.split_layout import is_split
from mlx_ltxw.weights.text import WEIGHTS
from mlx_ltxw.weights.weight_files import check_pieces, is_one_file, is_weights

from .checkpoint import is_adapter, is_upsampler_file, tell_variant
from .gemma import LICENCES, TOKENIZER, TOKENIZER_EXTRAS, GemmaFiles, read_gemma

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_OTHER_FILES = ("lora", "upscale", "duration")  # words in the names of the Hub's other files


@dataclass(frozen=True)
class Source:
    """Resolved files.

    Attributes:
        label: What the user wrote: a path or `owner/name`.
        headers: One a safetensors file.
        repo, revision: Hub repo and commit, or None for local files.
        left_out: Names of adapters that lie beside a checkpoint.
        upsamplers: Latent upsamplers that lie beside it.
    """

    label: str
    headers: tuple[Header, ...]
    repo: str | None
    revision: str | None
    left_out: tuple[str, ...] = ()
    upsamplers: tuple[Header, ...] = ()

    @property
    def paths(self) -> list[Path]:
        return [header.path for header in self.headers]


@dataclass(frozen=True)
class TextSource:
    """A text encoder's resolved files and what they hold."""

    source: Source
    gemma: GemmaFiles


def open_checkpoint(source: str, revision: str | None, variant: str | None, data: bool) -> Source:
    """Finds a checkpoint's files and reads their headers.

    Args:
        source: A file, a directory of component files, `owner/name` or `owner/name/file`.
        revision: Branch, tag or commit of a Hub repo.
        variant: `dev` or `distilled`; chooses among several files.
        data: Whether the tensors are needed; without, a Hub file's header alone is fetched, and a file may be cut
            after its header.

    Raises:
        UserError: nothing found, several checkpoints found, or not safetensors, or cut.
    """
    path = local_path(source)
    if not path.exists() and (spec := Spec.parse(source)) and looks_like_repo(source):
        if revision and spec.revision and revision != spec.revision:
            raise UserError(f"{source} names another revision than {{field:revision={revision}}}.", "Leave one out.")
        repo = open_repo(spec.repo, revision or spec.revision)
        files = [spec.file] if spec.file else _choose(repo, variant)
        check_pieces(files, source, f"Name the repository, {repo.name}, if that holds them.")
        headers = [read_header(repo.download(file)) if data else remote_header(repo, file) for file in files]
        found = Source(source, tuple(headers), repo.name, repo.commit)
    elif revision:
        raise UserError(f"{{field:revision}} belongs to a Hub repo, and {source} is local.", "Leave it out.")
    else:
        headers = [read_header(file) for file in _local_files(path, variant)]
        beside = [header for header in headers if is_upsampler_file(header)] if len(headers) > 1 else []
        rest = [header for header in headers if header not in beside]
        own = [header for header in rest if not is_adapter(header.tensors)] or rest
        left_out = tuple(header.path.name for header in rest if header not in own)
        found = Source(source, tuple(own), None, None, left_out, tuple(beside))
    if data:
        for header in found.headers:
            header.check_complete()
    return found


def open_gemma(source: str, data: bool) -> TextSource:
    """Finds a text encoder's files; arguments and errors as `open_checkpoint`'s, `@revision` at the end for a repo."""
    folder = local_path(source)
    if not folder.exists() and (spec := Spec.parse(source)) and looks_like_repo(source):
        repo = open_repo(spec.repo, spec.revision)
        small = repo.matching(("config.json", *TOKENIZER, *TOKENIZER_EXTRAS, *LICENCES))
        weights = repo.matching([WEIGHTS])
        if "config.json" not in small or not weights:
            raise UserError(f"{repo.name} holds no text encoder in safetensors.", "Name a Gemma-3 repo.")
        check_pieces(weights, repo.name, "Name another Gemma-3 repo.")
        folder = [repo.download(file) for file in small][small.index("config.json")].parent
        headers = tuple(read_header(repo.download(file)) if data else remote_header(repo, file) for file in weights)
        found = Source(source, headers, repo.name, repo.commit)
    else:
        if not folder.is_dir():
            raise UserError(f"There is no text encoder directory {folder}.", "Check {field:text_encoder}.")
        files = sorted(folder.glob(WEIGHTS))
        if not files:
            raise UserError(f"{folder} has no {WEIGHTS}.", "Give the directory of a Gemma-3 in safetensors.")
        check_pieces([file.name for file in files], folder, "Download the text encoder again; what is there stays.")
        found = Source(source, tuple(read_header(file) for file in files), None, None)
    if data:
        for header in found.headers:
            header.check_complete()
    return TextSource(found, read_gemma(folder, found.headers))


def check_access(text_encoder: str) -> None:
    """Fetches the smallest file of a text encoder on the Hub, so that a gated one is told before anything large.

    Raises:
        UserError: no such repo, or its licence is not accepted yet.
    """
    if not local_path(text_encoder).exists() and (spec := Spec.parse(text_encoder)) and looks_like_repo(text_encoder):
        repo = open_repo(spec.repo, spec.revision)
        for file in repo.matching(["config.json"]):
            repo.download(file)


def remote_header(repo: Repo, file: str) -> Header:
    """A file's safetensors header, fetched alone unless the file is in the cache.

    Raises:
        UserError: as `Repo.download`, or it is no safetensors file.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(repo.name, file, revision=repo.commit)
    if isinstance(cached, str):
        return read_header(Path(cached))
    with explained(repo.name):
        found = HfApi().parse_safetensors_file_metadata(repo.name, file, revision=repo.commit)
    entries = {
        name: {"dtype": info.dtype, "shape": info.shape, "data_offsets": info.data_offsets}
        for name, info in found.tensors.items()
    }
    return parse_header(Path(file), json.dumps({"__metadata__": found.metadata, **entries}).encode(), 0)


def _local_files(path: Path, variant: str | None) -> list[Path]:
    if not path.exists():
        raise UserError(f"There is no file {path}.", "Check the path, or name a Hub repo as owner/name.")
    if not path.is_dir():
        check_pieces([path.name], path, f"Name the folder that holds all pieces, such as {path.parent}.")
        return [path]
    if (path / "manifest.json").exists():
        raise UserError(f"{path} is a converted model already.", "Use it with `mlx-ltxw generate -m`.")
    if (path / "model_index.json").exists():
        raise UserError(
            f"{path} has diffusers' layout, which cannot be read.", "Use the official single-file checkpoint."
        )
    files = sorted(file for file in path.iterdir() if is_weights(file.name))
    if is_split({file.name for file in files}):
        raise UserError(
            f"{path} is a model in ltx-2-mlx's layout, which needs no conversion.",
            "Use it with `mlx-ltxw generate -m`.",
        )
    if variant:
        files = [file for file in files if tell_variant([file.name]) in (None, variant)]
    if not files:
        pickles = [file.name for file in sorted(path.iterdir()) if file.suffix in _PICKLES]
        why = f"; {pickles[0]} is a pickle, which can run code and is never opened" if pickles else ""
        raise UserError(f"There is no .safetensors file in {path}{why}.", "Give the checkpoint's own file.")
    check_pieces([file.name for file in files], path, "Download the checkpoint again; what is there stays.")
    return files


def _choose(repo: Repo, variant: str | None) -> list[str]:
    """The one checkpoint in a repo's root, or its pieces."""
    roots = sorted(name for name in repo.files if is_weights(name) and "/" not in name)
    files = [name for name in roots if not any(word in name.lower() for word in _OTHER_FILES)]
    if variant:
        files = [name for name in files if tell_variant([name]) in (None, variant)]
    if is_one_file(files):
        return files
    if not files:
        raise UserError(f"{repo.name} has no checkpoint in its root.", "Name a file as owner/name/path.safetensors.")
    raise UserError(
        f"{repo.name} has several checkpoints: {', '.join(files)}.", f"Name one, such as {repo.name}/{files[0]}."
    )


def variant_of(source: Source, asked: str | None) -> str | None:
    """The given one, else what the file names tell, else what the source's own name tells; None if nothing does."""
    names: Sequence[str] = [path.name for path in source.paths]
    return asked or tell_variant(names) or tell_variant([Path(source.label).name])
