"""Latent upsamplers of the split layout: files beside the weights, each with a config of its own.

Source: mlx-forge `recipes/ltx_23.py` (`convert_upscaler`), ltx-2-mlx `ti2vid_two_stages.py`. Names of tensors have the
file's stem in front, or nothing; axes are channels-last, as ours are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.weights.header import Header, Tensor, read_header

_FILE = re.compile(
    r"(?:ltx-2\.3-)?(spatial|temporal)[-_]upscaler[-_]x(\d+)(?:[._](5))?(?:[-_]v?[\d._-]+)?\.safetensors"
)
_CONFIG = "_config.json"
_AGAIN = "Download it again, or name another model."


@dataclass(frozen=True)
class SplitUpsampler:
    """One upsampler.

    Attributes:
        header: Of its file.
        config: Its own, as in the official file.
        entries: Parameter path -> the tensor under our name and shape, and its name in its file.
    """

    header: Header
    config: dict[str, Any]
    entries: Mapping[str, tuple[Tensor, str]]


def kind_of(file: str) -> str | None:
    """`spatial-x2`, `spatial-x1.5`, `temporal-x2` by a file's name; None for any other file."""
    found = _FILE.fullmatch(file)
    return f"{found[1]}-x{found[2]}{f'.{found[3]}' if found[3] else ''}" if found else None


def upsampler_files(names: Iterable[str], kinds: Iterable[str] | None = None) -> list[str]:
    """The files of upsamplers among some, with their configs; of a kind the last version, all kinds or those given."""
    listed = sorted(names)
    newest = {kind: name for name in listed if (kind := kind_of(name)) and (kinds is None or kind in kinds)}
    configs = [name.removesuffix(".safetensors") + _CONFIG for name in newest.values()]
    return [*newest.values(), *(name for name in configs if name in listed)]


def read_upsamplers(directory: Path, names: Iterable[str]) -> dict[str, SplitUpsampler]:
    """The upsamplers that lie in a directory, by kind.

    Raises:
        UserError: a file is cut, or has no config.
    """
    found = {}
    for name in upsampler_files(names):
        if (kind := kind_of(name)) is not None:
            header = read_header(directory / name)
            header.check_complete()
            found[kind] = SplitUpsampler(header, _config(header), _entries(header))
    return found


def _entries(header: Header) -> dict[str, tuple[Tensor, str]]:
    stem = header.path.name.removesuffix(".safetensors") + "."
    entries = {}
    for name, tensor in header.tensors.items():
        path, shape = name.removeprefix(stem), tensor.shape
        if path.endswith(".kernel") and len(shape) == 4:
            shape = shape[0], shape[3], shape[1], shape[2]  # one input channel, whose axis may stand anywhere
        entries[path] = replace(tensor, name=path, shape=shape), name
    return entries


def _config(header: Header) -> dict[str, Any]:
    """The official file's config, which lies beside it or is kept in its metadata."""
    beside = header.path.with_name(header.path.name.removesuffix(".safetensors") + _CONFIG)
    values: Any = None
    if beside.is_file():
        values = parse_json(read_text(beside), str(beside), _AGAIN)
        values = values.get("config", values) if isinstance(values, dict) else None
    elif "config" in header.metadata:
        values = parse_json(header.metadata["config"], f"The config of {header.path}", _AGAIN)
    if not isinstance(values, dict):
        raise UserError(f"{header.path} has no config: there is no {beside.name}.", _AGAIN)
    return values
