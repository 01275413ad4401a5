"""Speech for the voice model: espeak-ng with flat pitch, then an intonation whose phase is tied to the mel frames.

A vocoder sees magnitudes of 10 ms frames and is shift-equivariant by one frame, so on a steady mel only multiples of
100 Hz can come out in phase. The voices therefore rest at exactly 100 or 200 Hz; intonation is made of accents of one
fixed shape, each of which adds a whole number of periods, so that the phase of every frame follows from what the
vocoder can see around it (a final fall to 80 % was tried too: the vocoder kept the base there).
`python -m scripts.voice_model.data --out DIR` writes `speech.npz`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

from scripts.voice_model.corpus import HELD_OUT_SENTENCES, REGISTERS, SENTENCES, VOICES, Voice

RATE, HIGH_RATE, SAMPLES = 16000, 48000, 64000  # 4 s, 401 mel frames, 101 latent frames
ONSET = 0.12
ACCENT_SECONDS, ACCENT_PERIODS = 0.30, {100.0: 3, 200.0: 6}  # a fifth above the base at the top
AMPLITUDE = {"normal": 90, "loud": 170, "soft": 26, "whisper": 100}


@dataclass(frozen=True)
class Take:
    voice: int
    sentence: int
    register: str
    take: int  # 0 trains, 1 is held out
    natural: bool = False


def takes() -> list[Take]:
    """Take 0 of everything, take 1 (other speed) of the held-out sentences; a few with espeak's own intonation."""
    every = [Take(v, s, r, 0) for r in REGISTERS for v in range(len(VOICES)) for s in range(len(SENTENCES))]
    held = [Take(v, s, r, 1) for r in REGISTERS[:3] for v in range(len(VOICES)) for s in HELD_OUT_SENTENCES]
    natural = [Take(v, s, "normal", 1, True) for v in range(len(VOICES)) for s in HELD_OUT_SENTENCES[:2]]
    return every + held + natural


def voice_file(voice: Voice, whisper: bool, natural: bool) -> str:
    """An espeak-ng voice file: formants of the voice; flat pitch (P 109 gives 100 Hz, 209 gives 200 Hz) or its own."""
    base = 109 if voice.gender == "man" else 209
    lines = [f"language variant\nname {voice.name}\ngender {'male' if voice.gender == 'man' else 'female'}"]
    lines.append(f"pitch {base} {round(base * 1.45) if natural else base}\nflutter 0\nroughness 0")
    for index, (frequency, height, width) in enumerate(voice.formants):
        lines.append(f"formant {index} {frequency} {0 if whisper and index == 0 else height} {width}")
    if whisper:
        level = 17 if voice.gender == "man" else 20
        lines.append(f"voicing {level}\nbreath 75 75 50 40 15 10\nbreathw 150 150 200 200 400 400")
    return "\n".join((*lines, *voice.extra)) + "\n"


def espeak_data() -> Path:
    """espeak-ng's own data folder: `ESPEAK_DATA`, or what the program says (`... Data at: FOLDER`)."""
    if "ESPEAK_DATA" in os.environ:
        return Path(os.environ["ESPEAK_DATA"])
    said = subprocess.run(["espeak-ng", "--version"], check=True, capture_output=True, text=True).stdout
    return Path(said.partition("Data at:")[2].strip())


def prepare_espeak(folder: Path) -> Path:
    """A copy of espeak-ng's English data with our voice files in it, for `espeak-ng --path`."""
    source = espeak_data()
    target = folder / "espeak-ng-data"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("phontab", "phonindex", "phondata", "intonations", "en_dict"):
        shutil.copy(source / name, target / name)
    shutil.copytree(source / "lang" / "gmw", target / "lang" / "gmw", dirs_exist_ok=True)
    variants = target / "voices" / "!v"
    variants.mkdir(parents=True, exist_ok=True)
    for voice in VOICES:
        (variants / voice.name).write_text(voice_file(voice, whisper=False, natural=False))
        (variants / f"{voice.name}w").write_text(voice_file(voice, whisper=True, natural=False))
        (variants / f"{voice.name}n").write_text(voice_file(voice, whisper=False, natural=True))
    return folder


def speak(take: Take, espeak: Path) -> np.ndarray:
    """Flat-pitched speech (HIGH_RATE * 4,) float64 straight from espeak-ng, onset at 0.12 s."""
    voice = VOICES[take.voice]
    rng = random.Random(f"{take.voice}/{take.sentence}/{take.take}")
    speed = rng.randint(116, 136) - (10 if take.register == "soft" else 0)
    variant = voice.name + ("w" if take.register == "whisper" else "n" if take.natural else "")
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["espeak-ng", f"--path={espeak}", "-v", f"en+{variant}", "-s", str(speed)]
        command += ["-a", str(AMPLITUDE[take.register]), "-w", file.name, SENTENCES[take.sentence]]
        subprocess.run(command, check=True, capture_output=True)
        rate, samples = wavfile.read(file.name)
    assert rate == 22050, f"espeak-ng wrote {rate} Hz"
    speech = resample_poly(samples / 32768.0, 320, 147)
    loud = np.flatnonzero(np.abs(speech) > 0.02 * np.abs(speech).max())
    speech = speech[loud[0] : loud[-1] + 960]
    clip = np.zeros(HIGH_RATE * SAMPLES // RATE)
    start = round(ONSET * HIGH_RATE)
    length = min(len(speech), len(clip) - start - 960)
    clip[start : start + length] = speech[:length]
    return clip


def voicing(speech: np.ndarray, period: int) -> np.ndarray:
    """Frame-wise (10 ms) voicing of flat speech: normalised autocorrelation at one period over 30 ms, above 0.5."""
    hop, window = HIGH_RATE // 100, 3 * HIGH_RATE // 100
    padded = np.pad(speech, (window // 2, window + 2 * period))
    starts = np.arange(0, len(speech), hop)[:, None] + np.arange(window)[None]
    here, there = padded[starts], padded[starts + period]
    energy = np.sqrt((here**2).sum(1) * (there**2).sum(1))
    loud = np.sqrt((here**2).mean(1)) > 0.02 * np.abs(speech).max()
    return ((here * there).sum(1) > 0.5 * energy) & loud


def contour(voiced: np.ndarray, energy: np.ndarray, base: float) -> np.ndarray:
    """f0 in Hz per 10 ms frame (T,): the base, and up to two accents on the strongest voiced frames."""
    rise, where = np.zeros(len(voiced)), np.flatnonzero(voiced)
    accent = int(ACCENT_SECONDS * 100)
    top = 2 * ACCENT_PERIODS[base] / ACCENT_SECONDS  # Hz above the base; the bump's mean is half of it
    bump = top * 0.5 * (1 - np.cos(2 * np.pi * (np.arange(accent) + 0.5) / accent))
    taken: list[int] = []
    for frame in where[np.argsort(-energy[where], kind="stable")]:
        centre, begin = int(frame), int(frame) - accent // 2
        clear = all(abs(centre - other) >= 60 for other in taken) and len(taken) < 2
        if clear and where[0] + 5 <= centre and begin >= 0 and begin + accent <= len(voiced):
            taken.append(centre)
            rise[begin : begin + accent] += bump
    return base + rise


def intone(speech: np.ndarray, base: float) -> np.ndarray:
    """Flat speech given accents by pitch-synchronous overlap-add; unvoiced parts stay as they are."""
    period, hop = round(HIGH_RATE / base), HIGH_RATE // 100
    voiced = voicing(speech, period)
    frames = np.pad(speech, (0, hop * 2))[: len(voiced) * hop].reshape(-1, hop)
    f0 = contour(voiced, np.sqrt((frames**2).mean(1)), base)
    phase = np.cumsum(np.repeat(f0, hop)[: len(speech)]) / HIGH_RATE
    marks = np.searchsorted(phase, np.arange(1, int(phase[-1])))
    power = np.convolve(speech**2, np.hanning(97), mode="same")
    window = np.hanning(2 * period + 1)[: 2 * period]
    padded, power = np.pad(speech, 2 * period), np.pad(power, 2 * period)
    out, last = np.zeros(len(padded)), None
    for mark in marks + 2 * period:
        source = _analysis_mark(power, int(mark), period, last)
        last = source
        out[mark - period : mark + period] += window * padded[source - period : source + period]
    out = out[2 * period : -2 * period]
    blend = np.convolve(np.repeat(voiced.astype(float), hop)[: len(speech)], np.hanning(481) / 240, mode="same")
    return blend * out + (1 - blend) * speech


def _analysis_mark(power: np.ndarray, mark: int, period: int, last: int | None) -> int:
    """The pulse of the source nearest to `mark`: one whole number of periods from the last, refined by its energy."""
    low = mark - period // 2
    best = low + int(np.argmax(power[low : low + period]))
    if last is None:
        return best
    guess = last + round((mark - last) / period) * period
    near = guess - 8 + int(np.argmax(power[guess - 8 : guess + 9]))
    return near if power[near] > 0.3 * power[best] else best


def render(job: tuple[Take, Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(flat at 16 kHz, intoned at 16 kHz, intoned at 48 kHz), each int16."""
    take, espeak = job
    flat = speak(take, espeak)
    moving = flat if take.register == "whisper" or take.natural else intone(flat, VOICES[take.voice].pitch)
    return tuple(_int16(wave) for wave in (resample_poly(flat, 1, 3), resample_poly(moving, 1, 3), moving))  # type: ignore[return-value]


def _int16(wave: np.ndarray) -> np.ndarray:
    return np.clip(np.round(wave * 32767), -32767, 32767).astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=0, help="only every n-th take, for a smoke test")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    every = takes()[:: arguments.limit or 1]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(arguments.workers) as pool:
        espeak = prepare_espeak(Path(folder))
        rendered = list(pool.map(render, [(take, espeak) for take in every], chunksize=8))
    flat, moving, high = (np.stack(waves) for waves in zip(*rendered, strict=True))
    keep_high = np.array([i for i, take in enumerate(every) if take.take == 0 and take.sentence % 4 == 1])
    np.savez(
        arguments.out / "speech.npz",
        voice=np.array([t.voice for t in every]),
        sentence=np.array([t.sentence for t in every]),
        register=np.array([REGISTERS.index(t.register) for t in every]),
        take=np.array([t.take for t in every]),
        natural=np.array([t.natural for t in every]),
        flat=flat,
        moving=moving,
        high=high[keep_high],
        high_index=keep_high,
    )
    print(f"{len(every)} takes written to {arguments.out / 'speech.npz'}")


if __name__ == "__main__":
    main()
