"""The clips that the voices should make, spoken by espeak-ng when first needed, and their cepstra."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_ltxw.files import replacing
from mlx_ltxw.models.audio_vae.config import AudioVAEConfig
from mlx_ltxw.models.audio_vae.mel import log_mel
from scripts.voice_model import data
from scripts.voice_model.corpus import SENTENCES, VOICES
from scripts.voice_model.measure import RATE, cepstra


def path_of(folder: Path, voice: int, register: str) -> Path:
    """The npz of one voice and register; named after all that decides how it sounds."""
    recipe = repr((VOICES[voice], SENTENCES, register)).encode() + Path(data.__file__).read_bytes()
    return folder / f"{VOICES[voice].name}-{register}-{hashlib.sha256(recipe).hexdigest()[:12]}.npz"


def speak_missing(
    folder: Path, wanted: Iterable[tuple[int, str]], sentences: Iterable[int] = range(len(SENTENCES)), workers: int = 2
) -> None:
    """Speaks what is not there yet: of each voice and register take 0 of the sentences, (S, 64000) int16 at 16 kHz."""
    missing = [pair for pair in sorted(set(wanted)) if not path_of(folder, *pair).exists()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,  # MLX's threads do not survive a fork
    ):
        espeak = data.prepare_espeak(Path(temporary))
        for voice, register in missing:
            jobs = [(data.Take(voice, sentence, register, 0), espeak) for sentence in sentences]
            waves = np.stack([moving for _, moving, _ in pool.map(data.render, jobs, chunksize=4)])
            with replacing(path_of(folder, voice, register)) as partial, partial.open("wb") as file:
                np.savez_compressed(file, waves=waves)


@cache
def true_cepstra(folder: Path, voice: int, register: str, config: AudioVAEConfig) -> list[np.ndarray]:
    """The cepstra (200, 12) of one voice's clips, in the sentences' order; computed once a process."""
    with np.load(path_of(folder, voice, register)) as kept:
        waves = kept["waves"]
    return [cepstra_of(wave / np.float32(32768), config) for wave in waves]


def cepstra_of(wave: np.ndarray, config: AudioVAEConfig) -> np.ndarray:
    """Sound (N,) at 16 kHz, of which 4 s count -> (T // 2, 12), through the audio VAE's own log-mel."""
    assert config.sample_rate == RATE, f"the model hears {config.sample_rate} Hz"
    mel = log_mel(mx.array(wave[None, : data.SAMPLES, None].astype(np.float32)), config)
    return cepstra(np.asarray(mel[0, :, :, 0]))
