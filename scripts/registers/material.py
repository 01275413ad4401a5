"""Clips of known kind in many channels: rates, codecs, rooms, microphones and noise, each made from its own seed."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from mlx_ltxw.media.audio import read_audio, resample, to_frames
from mlx_ltxw.media.ear import to_mono
from mlx_ltxw.media.pitch import Frames, analyse
from scripts.registers import noises, voices

RATES = (8000, 11025, 16000, 22050, 24000, 44100, 48000)
SENTENCES = (
    "the red car turned left at the second light", "nobody knows how long the winter will last",
    "please bring me a glass of cold water", "close your eyes and listen to the rain outside",
    "she sells fresh bread at the corner shop every morning", "why would anyone leave the window open at night",
)  # fmt: skip
HELD_OUT = ("en", "it")  # speakers of recorded speech that nothing is fitted to


@dataclass(frozen=True)
class Spec:
    """What is to be made: `kind` is what `Item.kind` says."""

    kind: str
    source: str
    detail: str
    number: int


@dataclass(frozen=True)
class Item:
    """A clip: normal, soft (by effort), whispering, noise or music; what made it, and its frames."""

    kind: str
    source: str
    detail: str
    rate: int
    frames: Frames


def make_all(part: str, size: float) -> list[Item]:
    """All clips of `fitted` or `held-out`; `size` 1 is some 1,900 and 700."""
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(make, list(_specs(part, size)), chunksize=4))


def _specs(part: str, size: float) -> Iterator[Spec]:
    counts: list[tuple[str, str, str, int]] = []
    fitted = part == "fitted"
    first = 0 if fitted else 1000
    counts += [("noise", "made", kind, 60 if fitted else 15) for kind in noises.MAKERS]
    counts += [("music", "recorded", "", 100 if fitted else 40)]
    for language in (name for name in voices.RECORDED if (name in HELD_OUT) != fitted):
        counts += [(kind, "recorded", language, n) for kind, n in (("normal", 85), ("whispering", 70), ("soft", 40))]
    for language in voices.LANGUAGES if fitted else ():
        counts += [("normal", "espeak", language, 12), ("whispering", "espeak", language, 8)]
        counts += [("whispering", "espeak and WORLD", language, 5), ("soft", "espeak", language, 5)]
    for kind, source, detail, count in counts:
        yield from (Spec(kind, source, detail, first + i) for i in range(max(1, round(size * count))))


def make(spec: Spec) -> Item:
    """One clip of 2.2 to 4.5 s, through a channel."""
    draw = np.random.default_rng(zlib.crc32(repr(spec).encode()))
    wave, rate = _sound(spec, draw, draw.uniform(2.2, 4.5))
    wave, rate = through_a_channel(wave, rate, draw)
    return Item(spec.kind, spec.source, spec.detail, rate, analyse([to_mono(wave, rate)]))


def _sound(spec: Spec, draw: np.random.Generator, seconds: float) -> tuple[np.ndarray, int]:
    if spec.kind == "noise":
        return noises.make(spec.detail, draw, seconds), noises.RATE
    if spec.kind == "music":
        return voices.music_on_hold(draw, seconds), 8000
    if spec.source == "recorded":
        wave = voices.recorded(spec.detail, draw, seconds)
    else:
        own = spec.kind == "whispering" and spec.source == "espeak"
        voice = draw.choice(["whisper", "whisperf"] if own else voices.VARIANTS)
        text = str(draw.choice(SENTENCES)) if spec.detail.startswith("en") else voices.numbers(draw)
        options = ("-s", str(draw.integers(120, 200)), "-p", str(draw.integers(25, 75)))
        wave = voices.spoken(f"{spec.detail}+{voice}", text, *options)
    if spec.kind == "whispering" and spec.source != "espeak":
        wave = voices.revoiced(wave, breath=1.0, tilt=draw.uniform(-1, 4))
    elif spec.kind == "soft":
        wave = voices.revoiced(
            wave, breath=draw.uniform(0.3, 0.85), tilt=draw.uniform(-7, -3.5), first=draw.uniform(2, 7)
        )
    elif spec.kind == "normal" and draw.random() < 0.15:
        wave = voices.revoiced(wave, breath=0.0)  # or WORLD itself would be what is learned
    return wave, voices.RATE


def through_a_channel(wave: np.ndarray, rate: int, draw: np.random.Generator) -> tuple[np.ndarray, int]:
    """Noise, a room, a microphone's tilt, another rate, mp3 and few bits, each sometimes."""
    if draw.random() < 0.35:
        noise = noises.coloured(draw, len(wave), draw.uniform(-6, 2))
        wave = wave + noise * np.sqrt((wave**2).mean()) * 10 ** (-draw.uniform(12, 45) / 20)
    if draw.random() < 0.25:
        tail = int(draw.uniform(0.05, 0.5) * rate)
        room = draw.standard_normal(tail) * np.exp(-np.arange(tail) / tail * 6.9) * draw.uniform(1, 6) / np.sqrt(tail)
        room[0] = 1
        points = len(wave) + tail
        wave = np.fft.irfft(np.fft.rfft(wave, points) * np.fft.rfft(room, points), points)[: len(wave)]
    if draw.random() < 0.4:
        hertz = np.maximum(np.fft.rfftfreq(len(wave), 1 / rate), 100)
        tilt = 10 ** (draw.uniform(-3, 3) * np.log2(hertz / 1000) / 20)
        wave = np.fft.irfft(np.fft.rfft(wave) * tilt, len(wave))
    target = int(draw.choice(RATES))
    wave = resample(np.asarray(wave, np.float32)[:, None], rate, target)[:, 0]
    wave = 0.5 * wave / max(float(np.abs(wave).max()), 1e-9)
    if draw.random() < 0.3 and target != 11025:
        wave = through_mp3(wave, target)
    if draw.random() < 0.15:
        level = 10 ** (draw.uniform(-40, 0) / 20) * 32767
        wave = np.round(wave * level) / level
    return wave, target


def through_mp3(wave: np.ndarray, rate: int, bits: int = 64000) -> np.ndarray:
    """(N,) through FFmpeg's mp3 encoder and back, mono."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=rate, layout="mono")
        stream.bit_rate = bits
        for frame in to_frames(np.asarray(wave, np.float32)[:, None], rate):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate([part.mean(axis=0) for part in parts])


def read(path: str, rate: int) -> np.ndarray:
    """(N,) of a file."""
    return read_audio(path, rate, 1)[:, 0]
