"""The list of a directory's files with their sizes and sha256, written last: what makes a directory a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_errors, read_text, write_text
from mlx_ltxw.parsing import build, parse_json
from mlx_ltxw.paths import inside

NAME = "manifest.json"
WORK = ".convert"
"""Folder inside an unfinished model directory; it goes when the manifest is written."""
_AGAIN = "Convert the checkpoint again into a new directory."
FORMAT = 1
CHUNK = 16 << 20  # bytes read at a time


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and sha256 (hex) of one file."""

    size: int
    sha256: str


def sha256(path: Path, progress: Callable[[int], object] = lambda _: None) -> FileRecord:
    """Hashes a file of any size in constant memory; `progress` gets the bytes of each step.

    Raises:
        UserError: it is gone, or cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with read_errors(path), path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            progress(len(chunk))
    return FileRecord(size, digest.hexdigest())


def write_manifest(directory: Path, files: Mapping[str, FileRecord], fingerprint: str) -> None:
    """Writes `manifest.json`, atomically; arguments as `manifest_text`'s."""
    write_text(directory / NAME, manifest_text(files, fingerprint))


def manifest_text(files: Mapping[str, FileRecord], fingerprint: str) -> str:
    """What stands in `manifest.json`.

    Args:
        files: Every file but the manifest, by its path relative to the directory with forward slashes.
        fingerprint: Of the sources and options that made the directory.
    """
    records = {name: {"size": record.size, "sha256": record.sha256} for name, record in sorted(files.items())}
    content = {"format": FORMAT, "fingerprint": fingerprint, "files": records}
    return json.dumps(content, indent=1) + "\n"


@dataclass(frozen=True)
class _Manifest:
    """What stands in `manifest.json`."""

    format: int
    fingerprint: str
    files: dict[str, FileRecord]


def read_manifest(directory: Path) -> tuple[dict[str, FileRecord], str]:
    """The files and the fingerprint that `write_manifest` wrote.

    Raises:
        UserError: no manifest, not readable, of another format, or one that names files outside the directory.
    """
    path = directory / NAME
    if not path.exists():
        raise UserError(f"{directory} is not a finished model: it has no {NAME}.", _what_then(directory))
    content = parse_json(read_text(path), str(path), _AGAIN)
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{directory} was written by another version of mlx-ltxw (format {content['format']}).",
            "Update mlx-ltxw, or convert the checkpoint again.",
        )
    manifest = build(_Manifest, content, str(path), _AGAIN)
    for name in manifest.files:
        inside(directory, name)
    return manifest.files, manifest.fingerprint


def is_begun(names: Collection[str]) -> bool:
    """Whether a conversion, or a download of what it writes, has begun among these names and not come to its end."""
    return NAME not in names and (
        WORK in names or any(name.startswith(("transformer.audio-", "transformer.video-")) for name in names)
    )


def _what_then(directory: Path) -> str:
    names = {path.name for path in directory.iterdir()}
    if "tokenizer.json" in names:
        return "It holds a language model; give a text encoder as {field:text_encoder}."
    if names and ".cache" not in names and not is_begun(names):  # the Hub's client makes that one first
        return "Name a directory that `mlx-ltxw convert` or `mlx-ltxw pull` made."
    return "Run the `mlx-ltxw convert` or `mlx-ltxw pull` that makes it again with -o; one that was cut goes on."


def check_sizes(directory: Path, files: Mapping[str, FileRecord]) -> None:
    """Raises a UserError that lists every file that is missing or has another size than the manifest says."""
    faults = []
    for name, record in files.items():
        path = directory / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != record.size:
            faults.append(f"{name} has {path.stat().st_size:,} bytes instead of {record.size:,}")
    if faults:
        raise UserError(
            f"{directory} is damaged: {'; '.join(faults)}.",
            "Copy it again, `mlx-ltxw pull` it again, or convert the checkpoint again.",
        )


def check_hashes(directory: Path, files: Mapping[str, FileRecord], progress: Callable[[int], object]) -> None:
    """Raises a UserError that lists every file whose content is not what the manifest says."""
    faults = [name for name, record in files.items() if sha256(directory / name, progress) != record]
    if faults:
        raise UserError(
            f"{directory} is damaged: the sha256 of {', '.join(faults)} differs from the manifest.",
            "Copy it again, `mlx-ltxw pull --verify` it again, or delete it and convert the checkpoint again.",
        )
