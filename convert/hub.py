"""Finds and downloads files on the Hugging Face Hub, always at one commit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.header import Header, parse_header

_REPO = re.compile(r"^\w[\w.-]*/\w[\w.-]*(/[^@]+)?(@[\w./-]+)?$")
_DEFAULT = "main"


def looks_like_repo(text: str) -> bool:
    """Whether a source that is no local path can be `owner/name`, `owner/name/file` or one of them with `@revision`."""
    return bool(_REPO.match(text)) and not (text.endswith(".safetensors") and text.count("/") == 1)


@dataclass(frozen=True)
class Repo:
    """A model repo at one commit.

    Attributes:
        name: `owner/name`.
        commit: sha of the commit.
        files: Paths of its files.
        offline: Whether the list comes from the local cache, because the Hub cannot be reached.
    """

    name: str
    commit: str
    files: tuple[str, ...]
    offline: bool

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """The files that fit one of some shell patterns."""
        return sorted(name for name in self.files if any(fnmatch(name, pattern) for pattern in patterns))

    def download(self, file: str) -> Path:
        """The local path of one file, from the cache or after a download that continues where an earlier one ended."""
        from huggingface_hub import hf_hub_download

        with _explained(self.name):
            return Path(hf_hub_download(self.name, file, revision=self.commit, local_files_only=self.offline))

    def header(self, file: str) -> Header:
        """A file's safetensors header, fetched alone unless the file is in the cache."""
        from huggingface_hub import HfApi, try_to_load_from_cache

        from mlx_ltxw.weights.header import read_header

        cached = try_to_load_from_cache(self.name, file, revision=self.commit)
        if isinstance(cached, str):
            return read_header(Path(cached))
        with _explained(self.name):
            found = HfApi().parse_safetensors_file_metadata(self.name, file, revision=self.commit)
        entries = {
            name: {"dtype": info.dtype, "shape": info.shape, "data_offsets": info.data_offsets}
            for name, info in found.tensors.items()
        }
        return parse_header(Path(file), json.dumps({"__metadata__": found.metadata, **entries}).encode(), 0)


def open_repo(spec: str, revision: str | None = None) -> tuple[Repo, str]:
    """Resolves a repo to a commit and lists its files.

    Args:
        spec: `owner/name`, then maybe `/path/in/repo`, then maybe `@revision`.
        revision: Branch, tag or commit; the spec's own by default, then `main`.

    Returns:
        The repo, and the path in it ('' if the spec names none).

    Raises:
        UserError: no such repo or revision, no access, or no connection and nothing in the cache.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    spec, _, inline = spec.partition("@")
    owner, name, *inside = spec.split("/", 2)
    repo, revision = f"{owner}/{name}", revision or inline or _DEFAULT
    try:
        with _explained(repo, let_through=True):
            info = HfApi().model_info(repo, revision=revision)
    except HfHubHTTPError as error:
        raise UserError(f"The Hub refused {repo}: {error}.", "Try again later.") from error
    except (HTTPError, OSError) as error:
        return _from_cache(repo, revision, error), "".join(inside)
    files = tuple(sibling.rfilename for sibling in info.siblings or [])
    return Repo(repo, str(info.sha), files, offline=False), "".join(inside)


def _from_cache(repo: str, revision: str, error: Exception) -> Repo:
    """The repo as earlier runs left it in the cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cached = [r for r in scan_cache_dir().repos if r.repo_id == repo and r.repo_type == "model"]
    except CacheNotFound:
        cached = []
    revisions = sorted(cached[0].revisions if cached else (), key=lambda r: r.last_modified, reverse=True)
    fitting = [r for r in revisions if revision in r.refs or r.commit_hash.startswith(revision)]
    if revision == _DEFAULT:  # files fetched by commit leave no trace of the branch; take the newest commit
        fitting = fitting or revisions
    for found in fitting:
        root = found.snapshot_path
        files = tuple(file.file_path.relative_to(root).as_posix() for file in found.files)
        return Repo(repo, found.commit_hash, files, offline=True)
    raise UserError(
        f"{repo} at {revision} is not in the local cache, and the Hub cannot be reached ({error}).",
        "Connect once to download it, or give the path of local files.",
    ) from error


@contextmanager
def _explained(repo: str, let_through: bool = False) -> Iterator[None]:
    """Turns the Hub's errors into sentences; `let_through` leaves lost connections to the caller."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: its owner asks you to accept a licence first.",
            f"Accept it at https://huggingface.co/{repo}, then run `hf auth login`.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no such revision.", "Give a branch, tag or commit as {field:revision}.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"There is no file and no Hub repo {repo}.", "Check the spelling; for a private repo run `hf auth login`."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(f"{repo} has no such file ({error}).", "Check the file's name.") from error
    except errors.SafetensorsParsingError as error:
        raise UserError(f"A file of {repo} is not safetensors ({error}).", "Name another file.") from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:
        if let_through:
            raise
        raise UserError(
            f"A file of {repo} cannot be downloaded ({error}).",
            "Check the connection and the free space, and run the same command again: the download continues.",
        ) from error
