"""Models on this machine, and the account of the Hub."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_ltxw.doctor.diagnosis import Diagnosis
from mlx_ltxw.doctor.machine import current_folder
from mlx_ltxw.errors import UserError
from mlx_ltxw.hub import cached_repos
from mlx_ltxw.printing import readable
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.weights.fit import placed
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import is_begun
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.split_dir import transformers
from mlx_ltxw.weights.split_layout import STEMS, TRANSFORMER, is_split
from mlx_ltxw.weights.weight_files import is_weights

_PATIENCE = 5.0  # seconds for the Hub's answer
_BESIDE = {f"{stem}.safetensors" for stem in STEMS if stem != TRANSFORMER}
_MOST = 50  # folders that are looked into


def login(patience: float = _PATIENCE) -> Diagnosis:
    """Who the Hub takes us for; nothing here needs the network, and without it the answer is `unknown`."""
    from huggingface_hub import get_token

    try:
        token = get_token()
    except OSError as error:
        text = f"the token's file cannot be read ({error.strerror})"
        return Diagnosis("Hub login", "fault", text, "Mend what HF_HOME or HF_TOKEN_PATH names, or log in again: "
                         "`hf auth login`.", {"login": "unreadable"})  # fmt: skip
    if token is None:
        return Diagnosis("Hub login", "note", "not logged in; public models can be downloaded all the same",
                         "For Gemma-3 and private models: `hf auth login`.", {"login": None})  # fmt: skip
    answers: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=lambda: answers.put(_whoami()), daemon=True).start()
    try:
        name, refused = answers.get(timeout=patience)
    except queue.Empty:
        name, refused = None, False
    if refused:
        return Diagnosis("Hub login", "fault", "the Hub does not take this machine's token",
                         "Make a new one and log in again: `hf auth login`.", {"login": "refused"})  # fmt: skip
    if name is None:
        return Diagnosis("Hub login", "note", "unknown: there is a token, and the Hub cannot be asked",
                         "Connect, or unset HF_HUB_OFFLINE and HF_ENDPOINT, and run it again; what is in the cache "
                         "can be used.", {"login": "unknown"})  # fmt: skip
    return Diagnosis("Hub login", "good", f"logged in as {name}", facts={"login": name})


def models(given: str | None = None, verify: bool = False) -> Iterator[Diagnosis]:
    """The models here and in the Hub's cache, each checked: its files, and a place for every tensor.

    Args:
        given: One more to look at, as `-m` takes it.
        verify: Hashes every file too.
    """
    names: list[str | Path] = [*([given] if given else []), *_here(), *_cached()]
    if not names:
        yield Diagnosis("models", "note", "none here and none in the Hub's cache; the built-in one is there",
                        "`mlx-ltxw pull OWNER/REPO` downloads one, `mlx-ltxw convert` makes one.")  # fmt: skip
    seen: set[Path] = set()
    for name in names:
        path = Path(name).resolve()  # the one that is given may lie here too
        if path not in seen:
            yield examined(name, verify, named=name == given)
        seen.add(path)


def examined(name: str | Path, verify: bool = False, named: bool = True) -> Diagnosis:
    """One model.

    Args:
        name: As `-m` takes it.
        verify: Hashes every file too.
        named: Whether somebody asked for it; a conversion under way that merely lies here is no fault.
    """
    facts: dict[str, Any] = {"model": str(name)}
    try:
        model = open_model(name)
        count = placed(model)
        if verify:
            model.verify()
    except UserError as error:
        folder = Path(name)
        cut = _repo_of(folder) is not None and bool(_BESIDE - _names_in(folder))
        waits = not named and (cut or is_begun(_names_in(folder)))
        return Diagnosis.of_error("model", error, "note" if waits else "fault", facts)
    size = sum(record.size for record in model.files.values())
    facts |= {"variant": model.variant, "tensors": count, "bytes": size, "verified": verify}
    called = _repo_of(Path(name)) or name
    text = f"{called}: LTX-2.3 {model.variant}, {_precision(model)}, {readable(size)}, placed {count:,} of {count:,}"
    if not model.has_text_encoder:
        advice = "It needs a text encoder: `mlx-ltxw pull mlx-community/gemma-3-12b-it-4bit`."
        return Diagnosis("model", "note", text, advice, facts)
    return Diagnosis("model", "good", text + (", every file as it was written" if verify else ""), facts=facts)


def _precision(model: ModelDir) -> str:
    layers = model.quantized_layers("transformer")
    return f"{next(iter(layers.values())).get('bits')} bits" if layers else "not quantised"


def _here() -> list[Path]:
    """This folder and those in it."""
    here = current_folder()
    try:
        inside = sorted(path for path in here.iterdir() if path.is_dir())[:_MOST] if here else []
    except OSError:  # it may not be read
        inside = []
    folders = [*([here] if here else []), *inside]
    return [path for folder in folders for path in _models_in(folder)]


def _cached() -> list[Path]:
    repos = sorted(cached_repos(), key=lambda repo: str(repo.repo_id))
    folders = [Path(revision.snapshot_path) for repo in repos for revision in repo.revisions]
    return [path for folder in folders for path in _models_in(folder)]


def _models_in(folder: Path) -> list[Path]:
    """A folder's own model, or its transformers where it holds several."""
    names = _names_in(folder)
    if is_split(names):
        if not any(map(is_weights, names)):  # a repository that was only looked at
            return []
        found = transformers(names)
        return [folder / name for name in found] if len(found) > 1 else [folder]
    return [folder] if (MANIFEST in names and "config.json" in names) or is_begun(names) else []


def _repo_of(path: Path) -> str | None:
    """What `-m` takes for a model in the Hub's cache, or a transformer in it; None for others."""
    folder, file = (path.parent, f"/{path.name}") if is_weights(path.name) else (path, "")
    if folder.parent.name != "snapshots":
        return None
    repo = folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return f"{repo}{file}@{folder.name}"


def _names_in(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()


def _whoami() -> tuple[str | None, bool]:
    """The account's name, and whether the Hub refused the token."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().whoami().get("name")), False
    except HfHubHTTPError as error:
        return None, getattr(error.response, "status_code", None) == 401
    except Exception:  # no connection, in whatever words
        return None, False
