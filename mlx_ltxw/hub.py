"""The Hugging Face Hub, for every room: what is there, at one commit, and errors in a sentence."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.hub_errors import FOR_A_WHILE, NO_ANSWER, explained, reason_of, status_of, upload_errors, what_to_do
from mlx_ltxw.waiting import bars, waited_for

_SPEC = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?")
_ADDRESS = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)(?P<repo>\w[\w.-]*/\w[\w.-]*)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[\w.-]+)(?:/(?P<file>[^@?]+?))?)?/?(?:\?.*)?"
)
_DEFAULT = "main"


@dataclass(frozen=True)
class Spec:
    """What names something on the Hub: `owner/name`, maybe `/path/in/repo`, maybe `@revision`; or its page's address.

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
        match = _SPEC.fullmatch(text) or _ADDRESS.fullmatch(text)
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
        revision: The branch, tag or commit that it was asked for by.
    """

    name: str
    commit: str
    files: tuple[str, ...]
    offline: bool
    revision: str = ""

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

        with explained(self.name), self._from_the_cache():
            path = waited_for(
                lambda _: Path(hf_hub_download(self.name, file, revision=self.commit, local_files_only=self.offline))
            )
        self._keep_revision(path.parents[file.count("/")])
        return path

    def fetch(self, files: Sequence[str], folder: Path | None = None, again: bool = False) -> Path:
        """Downloads files; those that are there are left alone, and cut ones go on. Bars are drawn on a terminal.

        Args:
            files: Paths in the repo.
            folder: Where they go; the Hub's cache by default.
            again: Downloads those that are there, too.

        Returns:
            The folder that holds them.

        Raises:
            UserError: no access, no connection, or no space.
        """
        if self.offline and folder is None:
            return self.download(files[0]).parents[files[0].count("/")]
        with explained(self.name), self._from_the_cache(), _bars_on_terminals():
            path = waited_for(
                lambda check: Path(str(self._snapshot(files, folder, force_download=again, tqdm_class=bars(check))))
            )
        if folder is None:
            self._keep_revision(path)
        return path

    def missing(self, files: Sequence[str], folder: Path | None = None) -> tuple[int, int]:
        """Bytes that `fetch` would download, and bytes in all.

        Raises:
            UserError: as `fetch`.
        """
        with explained(self.name), self._from_the_cache(), _bars_on_terminals(never=True):
            plans = self._snapshot(files, folder, dry_run=True)
        sizes = [(plan.file_size or 0, plan.will_download) for plan in plans]
        return sum(size for size, absent in sizes if absent), sum(size for size, _ in sizes)

    def _keep_revision(self, snapshot: Path) -> None:
        """Keeps in the cache which commit a branch or tag is, as the Hub's client does for what it fetches by name."""
        if self.offline or self.commit.startswith(self.revision):
            return
        storage = snapshot.parents[1]
        ref, partial = storage / "refs" / self.revision, storage / f"{os.getpid()}.tmp"
        with suppress(OSError):  # a cache that may only be read
            if not ref.is_file() or ref.read_text() != self.commit:
                ref.parent.mkdir(parents=True, exist_ok=True)
                partial.write_text(self.commit)
                os.replace(partial, ref)

    @contextmanager
    def _from_the_cache(self) -> Iterator[None]:
        """Says what is wrong where the cache alone is asked, and has not all of it."""
        from huggingface_hub.errors import HTTPError

        try:
            yield
        except (HTTPError, OSError) as error:
            if not self.offline:
                raise
            raise UserError(
                f"Only a part of {self.pinned()} is in the local cache, and the Hub cannot be reached.",
                "Connect and run the same command again: the download goes on.",
            ) from error

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


def cached_repos() -> list[Any]:
    """What the Hub's client tells of each repo of models in its cache; nothing where there is no cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except (CacheNotFound, ValueError, OSError):  # it is a file, or may not be read
        return []


def cached(name: str, patterns: Sequence[str]) -> Path | None:
    """The folder of a repo in the Hub's cache that has files of each pattern, the newest such; asks no network."""
    repos = [repo for repo in cached_repos() if repo.repo_id == name]
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
        if status_of(error) in FOR_A_WHILE:
            return _from_cache(name, revision, error)
        raise UserError(f"The Hub refused {name} ({reason_of(error)}).", what_to_do(error, name)) from error
    except (HTTPError, OSError, *NO_ANSWER) as error:
        return _from_cache(name, revision, error)
    files = tuple(sibling.rfilename for sibling in info.siblings or [])
    return Repo(name, str(info.sha), files, offline=False, revision=revision)


def _from_cache(repo: str, revision: str, error: Exception) -> Repo:
    """The repo as earlier runs left it in the cache."""
    cached = [one for one in cached_repos() if one.repo_id == repo]
    revisions = sorted(cached[0].revisions if cached else (), key=lambda r: r.last_modified, reverse=True)
    fitting = [r for r in revisions if revision in r.refs or r.commit_hash.startswith(revision)]
    if revision == _DEFAULT:  # files fetched by commit leave no trace of the branch; take the newest commit
        fitting = fitting or revisions
    for found in fitting:
        root = found.snapshot_path
        files = tuple(file.file_path.relative_to(root).as_posix() for file in found.files)
        return Repo(repo, found.commit_hash, files, offline=True)
    busy = status_of(error) in FOR_A_WHILE
    raise UserError(
        f"{repo} at {revision} is not in the local cache, and the Hub cannot {'serve' if busy else 'be reached'} "
        f"({reason_of(error)}).",
        f"{'Wait a while and run it again' if busy else 'Connect once to download it'}, or give the path of local "
        "files.",
    ) from error


def check_upload(repo: str) -> None:
    """Refuses work whose result could not be pushed at its end: no connection, no login, another's name.

    Raises:
        UserError: says which.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    owner, slash, _ = repo.partition("/")
    try:
        validate_repo_id(repo)
        sound = bool(slash)
    except HFValidationError:
        sound = False
    if not sound:
        raise UserError(f"'{repo}' is no name of a Hub repo.", "Write {field:upload} as OWNER/REPO.")
    with upload_errors(
        f"Nothing can be uploaded to {repo}",
        "Log in with `hf auth login`, or leave {field:upload} out.",
        "Connect and run it again, or leave {field:upload} out.",
    ):
        account: Any = HfApi().whoami()
        owners = [account.get("name"), *(org.get("name") for org in account.get("orgs") or [])]
    if owner not in owners:
        raise UserError(
            f"The account {account.get('name')} cannot write to {repo}.",
            f"Name a repository of {' or '.join(map(str, owners))}, or log in with `hf auth login`.",
        )
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise UserError("The Hub's token may only read.", "Log in with one that may write: `hf auth login`.")


def push(
    folder: Path, repo: str, what: str, again: str, *, private: bool | None = None,
    last: Mapping[str, str] | None = None, mark: str = "", **options: Any,
) -> str:  # fmt: skip
    """Pushes a folder to the Hub; makes the repository if it is new. What an earlier try left there is not sent again.

    Args:
        folder: Its files.
        repo: `owner/name`.
        what: Begins the sentence if it fails: `The model is in DIR, but`.
        again: What to do then.
        private: Whether a new repository is seen by its owner alone; None leaves it to the Hub.
        last: Texts, by path in the repo, that are committed when all else is there.
        mark: The one of them without which what is there counts as unfinished: an earlier one that says otherwise is
            taken away before anything is sent.
        options: Of `HfApi.upload_folder`.

    Returns:
        Its address.

    Raises:
        UserError: what the Hub says.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api: Any = HfApi()
    with upload_errors(f"{what} could not be uploaded to {repo}", again), _bars_on_terminals():
        address = str(api.create_repo(repo, exist_ok=True, **({} if private is None else {"private": private})))
        if last and _says_otherwise(api, repo, mark, last.get(mark)):
            api.create_commit(repo, [CommitOperationDelete(mark)], commit_message=options["commit_message"])
        api.upload_folder(repo_id=repo, folder_path=str(folder), **options)
        if last:
            texts = [CommitOperationAdd(path, text.encode()) for path, text in last.items()]
            api.create_commit(repo, texts, commit_message=options["commit_message"])
    return address


def _says_otherwise(api: Any, repo: str, path: str, text: str | None) -> bool:
    """Whether a repo has a file that is not this text, by git's own hash of it."""
    if text is None:
        return False
    raw = text.encode()
    digest = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
    found = api.model_info(repo, revision=_DEFAULT, files_metadata=True).siblings or []
    return any(one.rfilename == path and one.blob_id != digest for one in found)
