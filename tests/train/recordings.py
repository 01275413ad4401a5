"""Made recordings: voices and whispers by espeak-ng where it is there, else buzzes and noises; and sets of clips."""

import functools
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile

from mlx_ltxw.media.mp4 import open_mp4
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from scripts.voice_model.corpus import SENTENCES

RATE = 22050
GRID = LatentGrid(frames=8, height=32, width=32, mel_seconds=0.01, mel_frames=4)
SIZE = Geometry(64, 64, 97, 24.0, GRID)
LEVELS = {"whispering": -30.0, "soft": -36.0, "normal": -20.0}  # dB rms
VOICES = {"anna": ("woman", "f2"), "bella": ("woman", "f5"), "erik": ("man", "m2"), "frank": ("man", "m7")}


@functools.lru_cache(maxsize=128)
def spoken(line, voice="f2", manner="normal", seconds=3.2):
    """(N,) fp32 at 22050 Hz: the line, 0.1 s in, at the manner's level, then silence up to `seconds`."""
    wave = _espeak(line, voice, manner) if shutil.which("espeak-ng") else _synthesised(line, voice, manner)
    wave = wave * 10 ** (LEVELS[manner] / 20) / np.sqrt((wave**2).mean())
    wave = np.clip(np.pad(wave, (round(0.1 * RATE), 0)), -0.95, 0.95)
    length = round(seconds * RATE)
    return np.pad(wave, (0, max(0, length - len(wave))))[:length].astype(np.float32)


def _espeak(line, voice, manner):
    whispers = {"f": "whisperf", "m": "whisper"}
    name = f"en+{whispers[voice[0]] if manner == 'whispering' else voice}"
    command = ["espeak-ng", "-v", name, "-s", "150", "--stdout", line]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    return soundfile.read(io.BytesIO(output), dtype="float32")[0]


def _synthesised(line, voice, manner):
    """A syllable a vowel, of a gliding buzz or of noise in a voice's band."""
    random = np.random.default_rng([*line.encode(), *voice.encode()])
    vowels = max(3, sum(letter in "aeiou" for letter in line))
    time = np.arange(round(0.2 * vowels * RATE)) / RATE
    if manner == "whispering":
        noise = np.fft.rfft(random.standard_normal(len(time)))
        hertz = np.fft.rfftfreq(len(time), 1 / RATE)
        wave = np.fft.irfft(noise * np.exp(-(((hertz - 2000) / 1200) ** 2)), len(time))
    else:
        f0 = (200 if voice[0] == "f" else 110) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time + random.uniform(0, 6)))
        phase = 2 * np.pi * np.cumsum(f0) / RATE
        wave = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (wave * (0.25 + 0.75 * np.sin(np.pi * time / 0.2) ** 2)).astype(np.float32)


def write(path, wave, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **options)


def pictures(frames, width=64, height=64, seed=0):
    """(frames, height, width, 3) uint8: a brightness that moves over a gradient."""
    ramp = np.linspace(0, 200, width)[None, None, :, None] + np.zeros((frames, height, 1, 3))
    return ((ramp + 5 * np.arange(frames)[:, None, None, None] + 17 * seed) % 256).astype(np.uint8)


def write_mp4(path, frames, wave=None, rate=24.0, seed=0):
    """An mp4 of 64x64; `wave` (N,) at 48 kHz."""
    with open_mp4(path, 64, 64, rate, sound=wave is not None) as file:
        file.frames(pictures(frames, seed=seed))
        if wave is not None:
            file.audio(np.repeat(wave[:, None], 2, axis=1))


def clean_set(folder: Path):
    """40 clips without a fault: four voices, ten lines each, half of them whispered and half of them soft."""
    lines = iter(SENTENCES)
    for name, (gender, voice) in VOICES.items():
        for manner in ("whispering", "soft"):
            for number in range(5):
                line = next(lines)
                path = folder / f"{name}-{gender}-{manner}" / f"{number}.wav"
                write(path, spoken(line, voice, manner))
                words = {"soft": "speaking softly", "whispering": "whispering"}[manner]
                whole = f'a {gender} in dim light, ({gender}, {words}): "{line}"'
                path.with_suffix(".txt").write_text(whole if number % 2 else f"{line}\n")
