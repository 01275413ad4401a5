"""What the small files of the split layout say: the numbers of the networks, and which model it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.weights.components import COMPONENTS, IN_CHECKPOINT
from mlx_ltxw.weights.model_files import own_section_fault
from mlx_ltxw.weights.split_layout import TRANSFORMER

CONFIG = "embedded_config.json"
"""The checkpoint's own config, which mlx-forge copies."""

SPLIT = "split_model.json"
"""Where mlx-forge writes which model it split, and into what."""

SMALL = (CONFIG, "config.json", SPLIT, "quantize_config.json", "README.md", "LICENSE", "LICENSE.txt")
"""What lies beside the weights and is of use."""

AGAIN = "Download it again, or name another model."
NAMED = re.compile(rf"{TRANSFORMER}(-(?P<variant>dev|distilled)(-[\w.-]+)?)?\.safetensors")
"""What a transformer's file is called."""

_WORDS = re.compile(r"(?<![a-z])(dev|distilled)(?![a-z])")


def read_config(directory: Path, transformer: str, name: str = "") -> dict[str, Any]:
    """What `convert` would write as `config.json`, as far as the files tell.

    Args:
        directory: Holds the small files.
        transformer: Name of the transformer's file.
        name: Of the folder, where that is not the directory's.

    Raises:
        UserError: a file cannot be read, or nothing tells whether it is dev or distilled.
    """
    split = _read_json(directory / SPLIT) if (directory / SPLIT).exists() else {}
    version = split.get("model_version")
    numbers = _read_json(directory / CONFIG)
    if fault := own_section_fault(numbers):
        raise UserError(f"The section 'mlx_ltxw' of {directory / CONFIG} cannot be used: {fault}.", AGAIN)
    return {
        "variant": _variant(directory, transformer, split, name),
        "model_version": version if isinstance(version, str) else "",
        "source": {"repo": str(split.get("source", "")) or None, "revision": None, "files": {transformer: {}}},
        "layout": "split (ltx-2-mlx)",
        "config": numbers,
    }


def check_networks(config: dict[str, Any]) -> None:
    """Reads every network's config, which needs none of the weights.

    Args:
        config: The checkpoint's own.

    Raises:
        UserError: a number is missing, or it describes another model.
    """
    for component in IN_CHECKPOINT:
        width = {"text_width": 1, "text_states": 1} if component == "text_projection" else {}  # the text encoder's
        COMPONENTS[component].read_config(config, **width)


def _variant(directory: Path, transformer: str, split: dict[str, Any], name: str) -> str:
    """`dev` or `distilled`: the file's name tells, or the list of variants, or the folder's or repository's name."""
    found = NAMED.fullmatch(transformer)
    told = (found["variant"] if found else None) or split.get("variant")
    variants = split.get("transformer_variants")
    if not told and isinstance(variants, list) and len(variants) == 1:
        told = variants[0]
    there = directory.resolve()
    cached = there.parent.name == "snapshots"  # the Hub's cache: models--OWNER--NAME/snapshots/COMMIT
    called = name or (there.parent.parent.name if cached else there.name)
    words = set(_WORDS.findall(str(told or called.rpartition("--")[2]).lower()))
    if len(words) == 1:
        return words.pop()
    raise UserError(
        f"Nothing in {called.removeprefix('models--').replace('--', '/')} tells whether {transformer} is dev or "
        "distilled.",
        "Name a folder that tells: `mlx-ltxw pull OWNER/REPO -o ltx-distilled`, if that is what its card says."
        if cached or name
        else "Rename it to transformer-dev.safetensors or transformer-distilled.safetensors.",
    )


def _read_json(path: Path) -> dict[str, Any]:
    value = parse_json(read_text(path), str(path), AGAIN)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object.", AGAIN)
    return value
