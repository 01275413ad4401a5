"""What a page shows of a file's sound: its waveform, its spectrogram and what it measures as, found once and kept.

Beside `take.mp4` lies `take.mp4.shown/` with `shown.json`, `spectrogram.png` and `sound.flac`. A page draws the first
two, and plays the last, which begins with the picture's first frame: of several takes it can then play each sample of
one and another at the very same moment, which media elements cannot.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import read_text, replacing, write_bytes, write_errors
from mlx_ltxw.media.containers import collected_notes, probe
from mlx_ltxw.media.loudness import SILENCE_LUFS
from mlx_ltxw.media.measure import Measurement, measure
from mlx_ltxw.media.sound import opened_sound
from mlx_ltxw.media.spectrogram import Spectrogram, spectrogram_of, top_of
from mlx_ltxw.parsing import build, parse_json

FORMAT = 1
"""Raised when the same file would be shown otherwise than before."""

SHOWN, WAVE, PICTURE, SOUND = "shown.json", "wave.json", "spectrogram.png", "sound.flac"
SUFFIX = ".shown"

COLUMNS = 1600
"""Of the waveform."""
DARKEST_DB, DB_PER_LEVEL = -143.0, 0.5
"""A grey level g of the spectrogram's picture is -143 + g / 2 dBFS per Hz; a full-scale sine has -15.7."""

_EXTREMES = 1000  # of the waveform, a second
_SHORTEST_SECOND = 0.5  # seconds of sound that a second must have, to be measured


@dataclass(frozen=True)
class Second:
    """One second of a file.

    Attributes:
        register: As `Measurement.by_second` has it.
        confidence, lufs, voiced: Measured of this second alone; the loudness is never less than -70.
    """

    register: str
    confidence: float
    lufs: float
    voiced: float


@dataclass(frozen=True)
class Shown:
    """One `shown.json`.

    Attributes:
        format: `FORMAT`.
        made_of: Size and time of the file, by which a changed one is told.
        seconds: Of its sound.
        rate: Samples a second of the sound.
        top: Hz, the spectrogram's upper edge; its rows are equally far apart in mel.
        low, high: Waveform: least and greatest sample of each of `COLUMNS` equal stretches, in 1/127 of full scale.
        measured: `Measurement.as_dict`.
        by_second: One a second.
        frame_rate: Frames a second of the picture; None without one.
        notes: What reading the file said about it.
    """

    format: int
    made_of: tuple[int, int]
    seconds: float
    rate: int
    top: float
    low: tuple[int, ...]
    high: tuple[int, ...]
    measured: dict[str, Any]
    by_second: tuple[Second, ...]
    frame_rate: float | None
    notes: tuple[str, ...]


Kept = TypeVar("Kept", "Shown", "Waveform")


def shown_folder(path: Path) -> Path:
    """Where what is shown of a file is kept, if nothing else is said: beside it."""
    return path.with_name(path.name + SUFFIX)


def show(path: Path, folder: Path | None = None) -> Shown:
    """What is shown of a file, from its folder, or found now and kept there.

    Args:
        path: A file with sound; an hour of it takes no more memory than a minute.
        folder: Where it is kept; beside the file by default.

    Raises:
        UserError: the file cannot be read or holds no sound; or the folder cannot be written.
    """
    folder = folder or shown_folder(path)
    if (known := kept(path, folder)) is not None:
        return known
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    made_of = _made_of(path)
    with collected_notes() as notes:
        info, measured = probe(path), measure(path)
        rate, low, high, seconds = _copied(path, folder / SOUND, measured.by_second)
        length, top = measured.duration, top_of(rate)
        _write_levels(folder / PICTURE, spectrogram_of(folder / SOUND, length, top))
    frame_rate = None if info.fps is None or info.width is None else float(info.fps)
    found = Shown(
        FORMAT, made_of, length, rate, top, low, high, _plain(measured), seconds, frame_rate, tuple(notes)
    )  # fmt: skip
    write_bytes(folder / SHOWN, json.dumps(dataclasses.asdict(found), ensure_ascii=False, allow_nan=False).encode())
    return found


@dataclass(frozen=True)
class Waveform:
    """The quick part of what is shown, one `wave.json`; see `Shown`."""

    format: int
    made_of: tuple[int, int]
    seconds: float
    low: tuple[int, ...]
    high: tuple[int, ...]


def waveform(path: Path, folder: Path | None = None) -> Waveform:
    """A file's waveform alone, which takes a tenth of the time of `show`.

    Raises:
        UserError: as `show`.
    """
    folder = folder or shown_folder(path)
    made_of = _made_of(path)
    if (known := _read(folder / WAVE, Waveform, made_of)) is not None:
        return known
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    low: list[np.ndarray] = []
    high: list[np.ndarray] = []
    samples = 0
    with collected_notes(), opened_sound(path) as (rate, _, blocks):
        for block in blocks:
            _extremes(block, rate, low, high)
            samples += len(block)
    if not samples:
        raise UserError(f"{path} is empty.", "Give a clip with sound.")
    found = Waveform(FORMAT, made_of, samples / rate, *peaks(np.concatenate(low), np.concatenate(high), COLUMNS))
    write_bytes(folder / WAVE, json.dumps(dataclasses.asdict(found)).encode())
    return found


def kept(path: Path, folder: Path | None = None) -> Shown | None:
    """What was found of a file before; None if there is nothing, or if the file has changed since.

    Raises:
        UserError: the file is gone.
    """
    folder = folder or shown_folder(path)
    made_of = _made_of(path)
    if not all((folder / name).is_file() for name in (SHOWN, PICTURE, SOUND)):
        return None
    return _read(folder / SHOWN, Shown, made_of)


def peaks(low: np.ndarray, high: np.ndarray, columns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The least and the greatest of (T,) extremes in each of so many equal stretches, in 1/127 of full scale.

    No peak is drawn smaller than it is: values are rounded away from zero. What goes beyond full scale is drawn at it.
    """
    edges = np.linspace(0, len(low), columns + 1).astype(int)[:-1].clip(0, len(low) - 1)
    return _rounded(np.minimum.reduceat(low, edges)), _rounded(np.maximum.reduceat(high, edges))


def measured_alone(piece: np.ndarray, rate: int, register: str) -> Second:
    """One second, (N, C), whose register the whole file tells; half a second of sound is needed."""
    if len(piece) < _SHORTEST_SECOND * rate or not piece.any():
        return Second(register, 0.0, SILENCE_LUFS, 0.0)
    one = measure(piece, rate)
    return Second(register, one.confidence, one.lufs, one.voiced)


def matched_gains(lufs: Sequence[float], true_peaks: Sequence[float], *, ceiling: float = -1.0) -> list[float]:
    """The gains, in dB, that make sounds equally loud without driving one over the ceiling.

    All get the loudness of the one that can be turned up least, and none is louder than -16 LUFS. Silence stays.

    Args:
        lufs: Integrated loudness of each.
        true_peaks: dBTP of each.
        ceiling: dBTP that none may exceed.
    """
    heard = [number for number, value in enumerate(lufs) if value > SILENCE_LUFS]
    if not heard:
        return [0.0] * len(lufs)
    target = min(_LOUDEST, *(lufs[number] + ceiling - true_peaks[number] for number in heard))
    return [target - value if value > SILENCE_LUFS else 0.0 for value in lufs]


_LOUDEST = -16.0  # LUFS; what streaming services and podcasts aim at (AES TD1008)


def _read(file: Path, cls: type[Kept], made_of: tuple[int, int]) -> Kept | None:
    """What was kept; None if there is nothing, or of another version, or of another file."""
    if not file.is_file():
        return None
    try:
        known = build(cls, parse_json(read_text(file), file.name), file.name)
    except UserError:
        return None
    return known if known.format == FORMAT and known.made_of == made_of else None


def _plain(measured: Measurement) -> dict[str, Any]:
    """As it comes back from JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in measured.as_dict().items()}


def _made_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Put it back, or remove it here.") from error
    return found.st_size, found.st_mtime_ns


def _copied(
    path: Path, copy: Path, registers: Sequence[str]
) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[Second, ...]]:
    """Writes the sound as 24-bit FLAC at its own level, -> its rate, its waveform's extremes, and its seconds."""
    import soundfile

    low: list[np.ndarray] = []
    high: list[np.ndarray] = []
    found: list[Second] = []
    rest: np.ndarray | None = None
    with (
        opened_sound(path) as (rate, channels, blocks),
        replacing(copy) as partial,
        soundfile.SoundFile(partial, "w", rate, channels, "PCM_24", format="FLAC") as file,
    ):
        for block in blocks:
            file.write(block.clip(-1, 1))
            _extremes(block, rate, low, high)
            rest = block if rest is None else np.concatenate([rest, block])
            while len(rest) >= rate and len(found) < len(registers):
                found.append(measured_alone(rest[:rate], rate, registers[len(found)]))
                rest = rest[rate:]
    if rest is not None and len(found) < len(registers):
        found.append(measured_alone(rest, rate, registers[len(found)]))
    return rate, *peaks(np.concatenate(low), np.concatenate(high), COLUMNS), tuple(found)


def _extremes(block: np.ndarray, rate: int, low: list[np.ndarray], high: list[np.ndarray]) -> None:
    """Adds those of a block (N, C), a thousand a second."""
    if len(block):
        starts = np.arange(0, len(block), max(1, rate // _EXTREMES))
        low.append(np.minimum.reduceat(block.min(axis=1), starts))
        high.append(np.maximum.reduceat(block.max(axis=1), starts))


def _rounded(values: np.ndarray) -> tuple[int, ...]:
    outwards = np.sign(values) * np.ceil(np.abs(values) * 127 - 1e-6)
    return tuple(outwards.clip(-127, 127).astype(int).tolist())


def _write_levels(path: Path, picture: Spectrogram) -> None:
    """The spectrogram as grey levels; who draws them chooses the colours, and one scale for several."""
    from PIL import Image

    grey = np.round((picture.level - DARKEST_DB) / DB_PER_LEVEL).clip(0, 255).astype(np.uint8)
    with replacing(path) as partial:
        Image.fromarray(grey).save(partial, "png")
