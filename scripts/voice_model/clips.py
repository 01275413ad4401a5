"""The adapters' clips as files, for `mlx-ltxw train`: an mp4 with its caption in a `.txt` for each of the 74 takes.
`python -m scripts.voice_model.clips --out DIR`."""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
import torch

from mlx_ltxw.media.mp4 import write_mp4
from scripts.voice_model.config import FRAME_RATE, FRAMES
from scripts.voice_model.corpus import (
    NORMAL_MANNERS,
    REGISTERS,
    SCENES,
    SENTENCES,
    VOICES,
    adapter_takes,
    quiet_manner,
    random_caption,
)
from scripts.voice_model.data import Take, prepare_espeak, render
from scripts.voice_model.faces import mouth_opening
from scripts.voice_model.faces import render as draw

SAMPLES = 194_000  # 97 frames of 1/24 s at 48 kHz


def write_clip(path: Path, take: Take, espeak: Path, rng: random.Random) -> None:
    """One take spoken, its face drawn in one of the scenes, and its caption."""
    voice, scene = VOICES[take.voice], rng.randrange(len(SCENES))
    _, low, high = render((take, espeak))
    opening = mouth_opening(torch.from_numpy(low / np.float32(32768))[None])
    picture = draw(torch.tensor([take.voice]), torch.tensor([scene]), opening)[0]  # (3, 97, 128, 128) in [-1, 1]
    frames = ((picture.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    sound = np.zeros((SAMPLES, 2), np.float32)
    sound[: len(high)] = (high / np.float32(32768))[:SAMPLES, None]
    write_mp4(path, [frames], FRAME_RATE, sound)
    manner = rng.choice(NORMAL_MANNERS) if take.register == "normal" else quiet_manner(voice, take.register)
    text = random_caption(rng, voice, SENTENCES[take.sentence], list(SCENES)[scene], manner)
    path.with_suffix(".txt").write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--normal", type=int, default=0, help="normal clips besides, for an adapter that knows them")
    arguments = parser.parse_args()
    assert FRAMES * 2000 == SAMPLES
    arguments.out.mkdir(parents=True, exist_ok=True)
    rng, takes = random.Random(21), adapter_takes(arguments.normal)
    with tempfile.TemporaryDirectory() as folder:
        espeak = prepare_espeak(Path(folder))
        for voice, sentence, register in takes:
            assert register in REGISTERS
            name = f"{VOICES[voice].name}-{sentence:02d}-{register}.mp4"
            write_clip(arguments.out / name, Take(voice, sentence, register, 0), espeak, rng)
    print(f"{len(takes)} clips written to {arguments.out}")


if __name__ == "__main__":
    main()
