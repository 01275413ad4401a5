"""Every line in every voice's normal register as `given` needs it, small enough to carry: no wave, but the sound's
latents and the mouth's opening. `python -m scripts.voice_model.lines --run DIR` writes `lines.npz` (2.5 MB); needs
espeak-ng and the run's audio VAE."""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.voice_model import data, training
from scripts.voice_model.audio_vae import AudioVAE
from scripts.voice_model.corpus import SENTENCES, VOICES
from scripts.voice_model.faces import mouth_opening
from scripts.voice_model.sound import LogMel
from scripts.voice_model.training import DEVICE


def spoken(takes: list[data.Take], workers: int) -> Tensor:
    """Waves (N, 64000) at 16 kHz in [-1, 1]."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        espeak = data.prepare_espeak(Path(folder))
        rendered = pool.map(data.render, [(take, espeak) for take in takes], chunksize=4)
        return torch.from_numpy(np.stack([moving for _, moving, _ in rendered])).float() / 32768


@torch.no_grad()
def write(path: Path, vae: AudioVAE, takes: list[data.Take], workers: int) -> None:
    """Audio tokens (N, 101, 32) in fp16, openings (N, 97) in fp32, voice and sentence (N,) of the takes."""
    log_mel, audio, opening = LogMel().to(DEVICE), [], []
    for part in spoken(takes, workers).to(DEVICE).split(16):
        audio.append(vae.encode(log_mel(part)).half().cpu().numpy())
        opening.append(mouth_opening(part).cpu().numpy())
    np.savez_compressed(
        path,
        audio=np.concatenate(audio),
        opening=np.concatenate(opening),
        voice=np.array([take.voice for take in takes]),
        sentence=np.array([take.sentence for take in takes]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1, help="only every n-th line, for a smoke test")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    vae = AudioVAE().to(DEVICE).eval()
    vae.load_state_dict(training.load(arguments.run / "audio_vae.pt")["model"])
    takes = [data.Take(v, s, "normal", 0) for v in range(len(VOICES)) for s in range(len(SENTENCES))]
    path = arguments.run / "lines.npz"
    write(path, vae, takes[:: arguments.limit], arguments.workers)
    print(f"{len(takes[:: arguments.limit])} lines written to {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
