"""Speech to learn registers from: espeak-ng in many voices, recorded prompts, and their whispers and soft speech made
with the WORLD vocoder (M. Morise et al., 2016)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile

from mlx_ltxw.media.audio import read_audio

RATE = 16000
SOUNDS = Path("/usr/share/asterisk/sounds")
RECORDED = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
LANGUAGES = (
    "en-us", "en-gb", "de", "fr", "es", "it", "pl", "ru", "pt", "nl", "sv", "tr", "hi", "fi", "el", "cs", "ro", "hu",
)  # fmt: skip
VARIANTS = ("m1", "m2", "m4", "m5", "m6", "m7", "m8", "f1", "f3", "f4", "f5", "klatt2", "Andy", "Alicia", "Michael")


def spoken(voice: str, text: str, *options: str) -> np.ndarray:
    """espeak-ng's (N,) at 16 kHz, peak 0.5, without the silence at its end."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["espeak-ng", "-v", voice, "-w", file.name, *options, text], check=True)
        return trimmed(read_audio(file.name, RATE, 1)[:, 0])


def numbers(draw: np.random.Generator) -> str:
    """Words that every language has."""
    return ", ".join(str(draw.integers(1, 10 ** draw.integers(1, 6))) for _ in range(draw.integers(2, 5)))


def recorded(language: str, draw: np.random.Generator, seconds: float, folder: Path = SOUNDS) -> np.ndarray:
    """Prompts of one recorded speaker one after another, (N,) at 16 kHz; raises FileNotFoundError without them."""
    files = sorted((folder / RECORDED[language]).rglob("*.wav"))
    files = [f for f in files if not any(word in f.name for word in ("tone", "beep", "silence", "tt-monkeys"))]
    if not files:
        raise FileNotFoundError(RECORDED[language])
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        name = files[draw.integers(len(files))]
        wide = name.with_suffix(".g722")
        wave = read_audio(wide if wide.exists() else name, RATE, 1)[:, 0]
        if len(wave) > 0.3 * RATE and np.abs(wave).max() > 0.02:
            parts += [trimmed(wave), np.zeros(int(draw.uniform(0.05, 0.4) * RATE), np.float32)]
    return np.concatenate(parts)


def trimmed(wave: np.ndarray) -> np.ndarray:
    """Peak 0.5, silence cut off at both ends."""
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    wave = wave[loud[0] : loud[-1] + 1] if len(loud) else wave
    return (0.5 * wave / max(float(np.abs(wave).max()), 1e-9)).astype(np.float32)


def revoiced(wave: np.ndarray, *, breath: float, tilt: float = 0.0, first: float = 0.0) -> np.ndarray:
    """Speech (N,) at 16 kHz through WORLD: as whispered with `breath` 1.

    Args:
        breath: Share of the voice that becomes noise above 1.5 kHz; of the whole spectrum where it is 1.
        tilt: dB an octave above 400 Hz, added.
        first: dB added to the first harmonic.
    """
    pyworld = _world()
    x = wave.astype(np.float64)
    f0, times = pyworld.dio(x, RATE)
    f0 = pyworld.stonemask(x, f0, times, RATE)
    spectrum, aperiodicity = pyworld.cheaptrick(x, f0, times, RATE), pyworld.d4c(x, f0, times, RATE)
    hertz = np.linspace(0, RATE / 2, spectrum.shape[1])
    where = 1.0 if breath >= 1 else 1 / (1 + (1500 / np.maximum(hertz, 1)) ** 4)
    aperiodicity = 1 - (1 - aperiodicity) * (1 - breath * where)
    spectrum = spectrum * 10 ** (tilt * np.log2(np.maximum(hertz, 400) / 400) / 10)
    if first:
        near = np.exp(-(((hertz[None] - f0[:, None]) / (0.5 * np.maximum(f0, 80)[:, None])) ** 2))
        spectrum = spectrum * 10 ** (first * near * (f0[:, None] > 0) / 10)
    out = pyworld.synthesize(f0, np.ascontiguousarray(spectrum), np.ascontiguousarray(aperiodicity), RATE)
    return trimmed(out[: len(wave)])


def _world() -> Any:
    """pyworld, which asks setuptools for its own version through a module that new setuptools do not have."""
    stand_in = SimpleNamespace(get_distribution=lambda name: SimpleNamespace(version=version(name)))
    sys.modules.setdefault("pkg_resources", stand_in)  # type: ignore[arg-type]
    import pyworld

    return pyworld


def music_on_hold(
    draw: np.random.Generator, seconds: float, folder: Path = Path("/usr/share/asterisk/moh")
) -> np.ndarray:
    """A piece of recorded music, (N,) at 8 kHz."""
    files = sorted(folder.rglob("*.wav"))
    wave, _ = soundfile.read(files[draw.integers(len(files))])
    at = draw.integers(0, max(1, len(wave) - int(seconds * 8000)))
    return wave[at : at + int(seconds * 8000)]
