"""The Hugging Face Hub, for every room: what is there, at one commit, and errors in a sentence."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError

_SPEC = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?")
_DEFAULT = "main"


@dataclass(frozen=True)
class Spec:
    """What names something on the Hub: `owner/name`, maybe `/path/in/repo`, maybe `@revision`.

    Attributes:
        repo: `owner/name`.
        file: Path in the repo, or ''.
        revision: Branch, tag or commit, or ''.
    """

    repo: str
    file: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> Spec | None:
        """None where the text cannot be one, but a local path."""
        match = _SPEC.fullmatch(text)
        return cls(match["repo"], match["file"] or "", match["revision"] or "") if match else None


def looks_like_repo(text: str) -> bool:
    """Whether a source that is no local path can be a `Spec` (a file `name.safetensors` in a folder is none)."""
    return Spec.parse(text) is not None and not (text.endswith(".safetensors") and text.count("/") == 1)


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

    def pinned(self, file: str = "") -> str:
        """The text that names this very commit of the repo, or of a file in it, in any command: `owner/name@commit`."""
        return f"{self.name}{'/' if file else ''}{file}@{self.commit}"

    def download(self, file: str) -> Path:
        """The local path of one file, from the cache or after a download that continues where an earlier one ended.

        Raises:
            UserError: no such file, no access, no connection, or no space.
        """
        from huggingface_hub import hf_hub_download

        with explained(self.name):
            return Path(hf_hub_download(self.name, file, revision=self.commit, local_files_only=self.offline))

    def fetch(self, files: Sequence[str], folder: Path | None = None) -> Path:
        """Downloads files; those that are there are left alone, and cut ones go on. Bars are drawn on a terminal.

        Args:
            files: Paths in the repo.
            folder: Where they go; the Hub's cache by default.

        Returns:
            The folder that holds them.

        Raises:
            UserError: no access, no connection, or no space.
        """
        if self.offline and folder is None:
            return self.download(files[0]).parents[files[0].count("/")]
        with explained(self.name), _bars_on_terminals():
            return Path(str(self._snapshot(files, folder)))

    def missing(self, files: Sequence[str], folder: Path | None = None) -> tuple[int, int]:
        """Bytes that `fetch` would download, and bytes in all.

        Raises:
            UserError: as `fetch`.
        """
        with explained(self.name), _bars_on_terminals(never=True):
            plans = self._snapshot(files, folder, dry_run=True)
        sizes = [(plan.file_size or 0, plan.will_download) for plan in plans]
        return sum(size for size, absent in sizes if absent), sum(size for size, _ in sizes)

    def _snapshot(self, files: Sequence[str], folder: Path | None, **options: Any) -> Any:
        from huggingface_hub import snapshot_download

        patterns = [escape(file) for file in files]
        return snapshot_download(
            self.name, revision=self.commit, allow_patterns=patterns, local_dir=folder, local_files_only=self.offline,
            **options,
        )  # fmt: skip


@contextmanager
def _bars_on_terminals(never: bool = False) -> Iterator[None]:
    """The Hub's progress bars, drawn where somebody sees them."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = (never or not sys.stderr.isatty()) and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def cached(name: str, patterns: Sequence[str]) -> Path | None:
    """The folder of a repo in the Hub's cache that has files of each pattern, the newest such; asks no network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = [repo for repo in scan_cache_dir().repos if repo.repo_id == name and repo.repo_type == "model"]
    except CacheNotFound:
        return None
    revisions = sorted((one for repo in repos for one in repo.revisions), key=lambda one: one.last_modified)
    for revision in reversed(revisions):
        names = [file.file_name for file in revision.files]
        if all(any(fnmatch(file, pattern) for file in names) for pattern in patterns):
            return Path(revision.snapshot_path)
    return None


def open_repo(name: str, revision: str = "") -> Repo:
    """Resolves a repo to a commit and lists its files.

    Args:
        name: `owner/name`.
        revision: Branch, tag or commit; `main` by default.

    Raises:
        UserError: no such repo or revision, no access, or no connection and nothing in the cache.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    revision = revision or _DEFAULT
    try:
        with explained(name, let_through=True):
            info = HfApi().model_info(name, revision=revision)
    except HFValidationError as error:
        raise UserError(f"'{name}' is no name of a Hub repo.", "Write it as owner/name.") from error
    except HfHubHTTPError as error:
        raise UserError(f"The Hub refused {name}: {_first_line(error)}.", "Try again later.") from error
    except (HTTPError, OSError) as error:
        return _from_cache(name, revision, error)
    files = tuple(sibling.rfilename for sibling in info.siblings or [])
    return Repo(name, str(info.sha), files, offline=False)


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
        f"{repo} at {revision} is not in the local cache, and the Hub cannot be reached ({_first_line(error)}).",
        "Connect once to download it, or give the path of local files.",
    ) from error


@contextmanager
def explained(repo: str, let_through: bool = False) -> Iterator[None]:
    """Turns the Hub's errors into sentences; `let_through` leaves lost connections to the caller."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: its owner asks you to accept a licence first.",
            f"Accept it at https://huggingface.co/{repo} with your account, then run `hf auth login` on this machine.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no such revision.", "Give a branch, tag or commit that it has.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"There is no file and no Hub repo {repo}.", "Check the spelling; for a private repo run `hf auth login`."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(f"{repo} has no such file ({_first_line(error)}).", "Check the file's name.") from error
    except errors.SafetensorsParsingError as error:
        raise UserError(f"A file of {repo} is not safetensors ({_first_line(error)}).", "Name another file.") from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:
        if let_through:
            raise
        raise UserError(
            f"A file of {repo} cannot be downloaded ({_first_line(error)}).",
            "Check the connection and the free space, and run the same command again: the download continues.",
        ) from error


def _first_line(error: Exception) -> str:
    """The first line of what a library says, which goes on for paragraphs."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def check_upload(repo: str) -> None:
    """Refuses work whose result could not be pushed at its end: no connection, no login, another's name.

    Raises:
        UserError: says which.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    with _upload_errors(
        f"Nothing can be uploaded to {repo}",
        "Log in with `hf auth login`, or leave {field:upload} out.",
        "Connect and run it again, or leave {field:upload} out.",
    ):
        validate_repo_id(repo)
        account: Any = HfApi().whoami()
    owner, slash, _ = repo.partition("/")
    owners = [account.get("name"), *(org.get("name") for org in account.get("orgs") or [])]
    if slash and owner not in owners:
        raise UserError(
            f"The account {account.get('name')} cannot write to {repo}.",
            f"Name a repository of {' or '.join(map(str, owners))}, or log in with `hf auth login`.",
        )
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise UserError("The Hub's token may only read.", "Log in with one that may write: `hf auth login`.")


def push(
    folder: Path, repo: str, what: str, again: str, *, private: bool | None = None,
    last: Mapping[str, str] | None = None, **options: Any,
) -> str:  # fmt: skip
    """Pushes a folder to the Hub; makes the repository if it is new. What an earlier try left there is not sent again.

    Args:
        folder: Its files.
        repo: `owner/name`.
        what: Begins the sentence if it fails: `The model is in DIR, but`.
        again: What to do then.
        private: Whether a new repository is seen by its owner alone; None leaves it to the Hub.
        last: Texts, by path in the repo, that are committed when all else is there.
        options: Of `HfApi.upload_folder`.

    Returns:
        Its address.

    Raises:
        UserError: what the Hub says.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api: Any = HfApi()
    with _upload_errors(f"{what} could not be uploaded to {repo}", again), _bars_on_terminals():
        address = str(api.create_repo(repo, exist_ok=True, **({} if private is None else {"private": private})))
        api.upload_folder(repo_id=repo, folder_path=str(folder), **options)
        if last:
            texts = [CommitOperationAdd(path, text.encode()) for path, text in last.items()]
            api.create_commit(repo, texts, commit_message=options["commit_message"])
    return address


@contextmanager
def _upload_errors(what: str, hint: str, cut_off: str = "") -> Iterator[None]:
    """What the Hub says, in a sentence; `cut_off` is the hint where nothing was heard from it."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UserError(f"{what}: this machine is not logged in to the Hub.", hint) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise UserError(f"{what}: {_first_line(error)[:300]}.", hint) from error
    except (HTTPError, OSError) as error:
        raise UserError(f"{what}: the Hub cannot be reached ({_first_line(error)[:300]}).", cut_off or hint) from error
    except RuntimeError as error:  # of the client's threads, around what the Hub said
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise UserError(f"{what}: {_first_line(cause)[:300]}.", hint) from error
