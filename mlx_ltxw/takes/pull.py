"""Models of the Hub on this disk, ready to use: `mlx-ltxw pull`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import write_errors
from mlx_ltxw.hub import Repo, Spec, open_repo
from mlx_ltxw.paths import local_path
from mlx_ltxw.printing import readable, some
from mlx_ltxw.takes.models import find_text_encoder, needed_files, text_encoder_files
from mlx_ltxw.weights.components import TEXT_ENCODER
from mlx_ltxw.weights.fit import placed
from mlx_ltxw.weights.header import read_header
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import FileRecord, read_manifest, sha256
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.opening import open_dir
from mlx_ltxw.weights.split_dir import GEMMA, SplitDir
from mlx_ltxw.weights.split_layout import is_split
from mlx_ltxw.weights.weight_files import is_weights

_MARGIN = 1 << 30  # bytes of the disk that stay free
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Pulled:
    """What was downloaded.

    Attributes:
        path: Where it lies.
        use: What to give as `-m` or `--text-encoder`.
        text_encoder: What to give as `--text-encoder` with it; '' where the model finds its own.
        model: None for a text encoder alone.
        tensors: Of the model, each placed in its networks.
    """

    path: Path
    use: str
    text_encoder: str
    model: ModelDir | None
    tensors: int


def pull(
    name: str, folder: Path | None = None, text_encoder: str | None = None, tell: Tell = lambda _: None,
    verify: bool = False,
) -> Pulled:  # fmt: skip
    """Downloads what a model needs of a repository, at one commit, and checks that it is whole.

    Args:
        name: `OWNER/REPO[/transformer-VARIANT.safetensors][@REVISION]`; also the repository of a text encoder.
        folder: Where it goes; the Hub's cache by default, where other programs find it too.
        text_encoder: See `open_model`.
        tell: Gets a line before each download.
        verify: Hashes every file at the end, where the model has hashes.

    Raises:
        UserError: no such repository, no model in it, too little space, no access or no connection, also to the text
            encoder, which is asked for first; what is there by then stays, and the next run goes on.
    """
    spec = Spec.parse(name)
    if spec is None or local_path(name).exists():
        raise UserError(f"{name} is no repository of the Hub.", "Write it as OWNER/REPO.")
    repo = open_repo(spec.repo, spec.revision)
    if not spec.file and _is_text_encoder(repo):
        path = _download(repo, text_encoder_files(repo), folder, tell)
        return Pulled(path, str(path) if folder else repo.pinned(), "", None, 0)
    files = needed_files(repo, spec.file, folder)
    encoder = _text_encoder(repo, files, text_encoder, folder)
    path = _download(repo, files, folder, tell)
    mended = _mend(repo, files, path, folder, verify, tell)
    model = open_dir(path, spec.file)
    named, tensors = "", placed(model)
    if isinstance(model, SplitDir) and encoder is not None:
        inside = folder / TEXT_ENCODER if folder else None
        gemma = encoder if isinstance(encoder, Path) else _download(encoder, text_encoder_files(encoder), inside, tell)
        model = dataclasses.replace(model, gemma=gemma)
        placed(model, "text_projection")  # whose width is the text encoder's
        if text_encoder is not None and gemma != inside:  # else it lies where the model looks for it
            named = str(gemma) if isinstance(encoder, Path) else encoder.pinned()
    if verify and (mended or isinstance(model, SplitDir)):
        model.verify()
    use = str(path / spec.file if spec.file else path) if folder else repo.pinned(spec.file)
    return Pulled(path, use, named, model, tensors)


def _mend(repo: Repo, files: Sequence[str], path: Path, folder: Path | None, verify: bool, tell: Tell) -> bool:
    """Downloads once more what is not what it should be, which the Hub's client takes for whole; whether there was any.

    What is damaged then, too, was published so, and is told when the model is opened.
    """
    records = read_manifest(path)[0] if MANIFEST in files else {}
    damaged = [name for name in files if name in repo.files and _is_damaged(path / name, records.get(name), verify)]
    if damaged and not repo.offline:
        tell(f"Damaged on the way, and downloaded again: {', '.join(some(damaged))}.")
        repo.fetch(damaged, folder, again=True)
    return bool(damaged)


def _is_damaged(file: Path, record: FileRecord | None, verify: bool) -> bool:
    if not file.is_file():
        return True
    if record is not None:
        return file.stat().st_size != record.size or (verify and sha256(file) != record)
    try:
        if is_weights(file.name):
            read_header(file).check_complete()
    except UserError:
        return True
    return False


def _text_encoder(repo: Repo, files: Sequence[str], source: str | None, folder: Path | None) -> Path | Repo | None:
    """Where the text encoder comes from: the one that was named, or ltx-2-mlx's; None where the model has its own.

    That the account may have it is asked here, with its smallest file, before anything large is fetched.
    """
    has_own = any(file.startswith(f"{TEXT_ENCODER}/") for file in files)
    if MANIFEST in files and source is not None:
        raise UserError(f"{repo.pinned()} has a text encoder of its own.", "Leave {field:text_encoder} out.")
    if source is None and (has_own or (folder and _put_there(folder / TEXT_ENCODER))):
        return None
    name = source or GEMMA
    spec = Spec.parse(name)
    if spec is None or local_path(name).is_dir():
        return find_text_encoder(name, download=False)
    found = open_repo(spec.repo, spec.revision)
    text_encoder_files(found)  # refuses what is none
    return found


def _put_there(folder: Path) -> bool:
    """Whether a folder is the user's own, and not what a download left, which goes on."""
    return folder.is_dir() and not (folder / ".cache" / "huggingface").is_dir()


def _refuse_other(folder: Path, files: Sequence[str]) -> None:
    """Refuses a folder whose own files would be replaced, where it is neither an earlier download nor a model."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file.", "Name a folder with -o.")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    replaced = [file for file in files if (folder / file).exists()]
    if replaced and _put_there(folder) and MANIFEST not in there and not is_split(there):
        raise UserError(f"{folder} holds other files, such as {replaced[0]}.", "Name a new or empty folder with -o.")


def _download(repo: Repo, files: Sequence[str], folder: Path | None, tell: Tell) -> Path:
    if folder:
        _refuse_other(folder, files)
    absent, total = repo.missing(files, folder)
    if absent:
        there = f"; {readable(total - absent)} are there already" if absent < total else ""
        tell(f"Downloading {len(files)} files of {repo.pinned()}, {readable(absent)}{there}.")
        _check_space(folder, absent)
    return repo.fetch(files, folder)


def _check_space(folder: Path | None, needed: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    target = folder or Path(HF_HUB_CACHE)
    with write_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if free < needed + _MARGIN:
        raise UserError(
            f"{target} needs {readable(needed + _MARGIN)}, and its disk has {readable(free)} free.",
            "Free some space, or name a folder on another disk with -o.",
        )


def _is_text_encoder(repo: Repo) -> bool:
    names = {file for file in repo.files if "/" not in file}
    weights = any(name.startswith("model") and name.endswith(".safetensors") for name in names)
    return MANIFEST not in names and not is_split(names) and weights and "tokenizer.json" in names
