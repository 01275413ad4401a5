"""What a repository of the Hub holds, told by its list of files and its small ones, before any weights are fetched."""

from __future__ import annotations

import re
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.hub import Repo
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.weights.components import COMPONENTS, TEXT_ENCODER
from mlx_ltxw.weights.split_config import CONFIG, SPLIT, check_networks, read_config
from mlx_ltxw.weights.weight_files import is_weights

_OFFICIAL = re.compile(r"ltx-2\.3-22b-(dev|distilled)(-[\d.]+)?\.safetensors")
_ADAPTERS = ("adapter_config.json", "adapter.safetensors", "adapter_model.safetensors")


def check_split(repo: Repo, transformer: str, folder: Path | None) -> None:
    """Reads the small files of a model in the split layout, whose weights are 12 GB and more.

    Args:
        repo: Holds them.
        transformer: Name of the file that is used.
        folder: Where it will lie; None for the Hub's cache.

    Raises:
        UserError: they describe another model, or nothing tells which; or they cannot be downloaded.
    """
    there = [repo.download(name) for name in (CONFIG, SPLIT) if name in repo.files]
    name = folder.resolve().name if folder else ""
    check_networks(read_config(there[0].parent, transformer, name)["config"])


def check_gemma(repo: Repo) -> None:
    """Reads the config of a text encoder.

    Raises:
        UserError: it is another language model's; or it cannot be downloaded.
    """
    again = "Name another text encoder."
    path = repo.download("config.json")
    config = parse_json(read_text(path), str(path), again)
    try:
        COMPONENTS[TEXT_ENCODER].read_config(config if isinstance(config, dict) else {})
    except UserError as error:
        raise UserError(f"{repo.pinned()} is no text encoder for LTX-2.3. {error.message}", error.hint) from error


def no_model(repo: Repo) -> UserError:
    """The error for a repository that holds no model; its hint says what can be done with what it does hold."""
    weights = [name for name in repo.files if is_weights(name)]
    official = [name for name in weights if _OFFICIAL.fullmatch(name)]
    hint = "Convert the official checkpoint with `mlx-ltxw convert`, or name another repo."
    if official:
        hint = f"It holds checkpoints: make a model of one with `mlx-ltxw convert {repo.name}/{official[0]} -o DIR`."
    elif any(name in _ADAPTERS or "lora" in name.lower() for name in repo.files) or "lora" in repo.name.lower():
        hint = f"If it holds an adapter, give it to `generate` as {{field:adapter={repo.name}}}."
    elif "model_index.json" in repo.files:
        hint = "It is in diffusers' layout, which is not read; convert the official checkpoint with `mlx-ltxw convert`."
    elif not weights and any(name.lower().endswith(".gguf") for name in repo.files):
        hint = "GGUF files are not read; convert the official checkpoint with `mlx-ltxw convert`."
    elif weights:
        command = f"`mlx-ltxw convert {repo.name}/{weights[0]} -o DIR`"
        hint = f"If {weights[0]} is a whole checkpoint, make a model of it with {command}; else name another repo."
    return UserError(f"{repo.pinned()} holds no model that convert wrote, nor one of ltx-2-mlx's.", hint)
