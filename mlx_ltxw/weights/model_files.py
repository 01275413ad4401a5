"""The small files of a model directory: its config and the indices of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.weights.remembered import remembered

AGAIN = "Convert the checkpoint again."
"""What to do about a damaged one."""


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` has the shape that convert gives it."""
    known = config.get("variant") in ("dev", "distilled") and isinstance(config.get("model_version", ""), str)
    tables = [config.get("config"), config.get("quantization", {}), config.get("source", {})]
    if not known or not all(isinstance(table, dict) for table in tables):
        return False
    own = config["config"].get("mlx_ltxw", {})
    parts = [own, *config.get("quantization", {}).values()]
    return all(isinstance(part, dict) for part in parts) and isinstance(own.get("generation", {}), dict)


@remembered
def weight_map(index: Path) -> Mapping[str, str]:
    """The file of each tensor, from an index.

    Raises:
        UserError: it is missing, or no index.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(file, str) for file in table.values()):
        raise UserError(f"{index} is no index of tensors.", AGAIN)
    return table


def read_json(path: Path) -> dict[str, Any]:
    """The table of a JSON file.

    Raises:
        UserError: it is missing, damaged, or holds something else.
    """
    value = parse_json(read_text(path), str(path), AGAIN)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object.", AGAIN)
    return value
