"""Stage 7: what is heard and seen. Samples base or adapter, decodes, and measures.
`python -m scripts.voice_model.gates --data DIR --run DIR [--adapter FILE] --count 64`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile
from torch import Tensor

from scripts.voice_model import measure, training
from scripts.voice_model.adapters import attach, load_adapter
from scripts.voice_model.corpus import SENTENCES, VOICES, WHISPERED_SENTENCES, caption, gate_captions, quiet_manner
from scripts.voice_model.export import load
from scripts.voice_model.faces import correlation, measured_opening, mouth_opening
from scripts.voice_model.measure import Voicing
from scripts.voice_model.sound import LogMel
from scripts.voice_model.training import DEVICE, Speech
from scripts.voice_model.transformer import sample

ROWS = {  # name: the register of the manner in the caption, and the register of the true clips it is compared with
    "base": (("plain", "normal", "normal"), ("whisper", "whisper", "normal"), ("soft", "soft", "normal")),
    "adapter": (("whisper", "whisper", "whisper"), ("soft", "soft", "soft"), ("plain", "normal", "normal")),
}


@dataclass
class Models:
    model: torch.nn.Module
    audio: torch.nn.Module
    video: torch.nn.Module
    vocoder: torch.nn.Module

    @torch.no_grad()
    def generate(self, captions: list[str], seed: int, batch: int) -> tuple[Tensor, Tensor]:
        """-> waves (N, 64160) at 16 kHz, mouth openings (N, 97)."""
        waves, openings = [], []
        for start in range(0, len(captions), batch):
            video, audio = sample(self.model, captions[start : start + batch], seed + start)
            mel = self.audio.decode(audio)
            for one in mel.split(4):
                waves.append(self.vocoder.vocoder(one[:, None].expand(-1, 2, -1, -1))[:, 0].clamp(-1, 1))
            for one in video.transpose(1, 2).unflatten(2, (13, 4, 4)).split(4):
                openings.append(measured_opening(self.video.decoder(one)))
        return torch.cat(waves), torch.cat(openings)


def true_mels(speech: Speech, register: str, voice: int) -> tuple[list[np.ndarray], np.ndarray]:
    rows = [i for i in speech.where(register, take=0) if speech.voice[i] == voice]
    mels = LogMel().to(DEVICE)(speech.moving[rows]).cpu().numpy()
    return list(mels), speech.sentence[rows]


def judge(models: Models, speech: Speech, row: tuple[str, str, str], arguments: argparse.Namespace, name: str) -> None:
    title, said, compared = row
    _, voices, sentences = gate_captions("", arguments.count)
    pairs = list(zip(voices, sentences, strict=True))
    manners = ["" if said == "normal" else quiet_manner(VOICES[v], said) for v in voices]
    captions = [caption(VOICES[v], m, SENTENCES[s]) for (v, s), m in zip(pairs, manners, strict=True)]
    waves, openings = models.generate(captions, 7, arguments.batch)
    mels = LogMel().to(DEVICE)(waves[:, :64000]).cpu().numpy()
    envelope = correlation(openings, mouth_opening(waves[:, :64000])).cpu().numpy()
    known = {v: true_mels(speech, compared, v) for v in set(voices)}
    table: dict[str, dict[str, list[float]]] = {}
    for i, (v, s) in enumerate(pairs):
        wave, (candidates, said_in) = waves[i, :64000].cpu().numpy(), known[v]
        heard = Voicing.of(wave)
        right = float(said_in[measure.identify(mels[i], candidates)] == s)
        cell = table.setdefault(VOICES[v].gender, {k: [] for k in ("voiced", "level", "identity", "unseen", "mouth")})
        for key, value in (("voiced", heard.fraction), ("level", heard.level), ("identity", right)):
            cell[key].append(value)
        cell["mouth"].append(float(envelope[i]))
        if s not in WHISPERED_SENTENCES:
            cell["unseen"].append(right)
        if arguments.wav:
            path = arguments.wav / f"{name}_{title}_{VOICES[v].name}_{s:02d}.wav"
            wavfile.write(path, 16000, (wave * 32767).astype(np.int16))
    for gender, cell in sorted(table.items()):
        shown = " ".join(f"{k} {np.mean(x):.2f}" for k, x in cell.items() if x)
        print(f"GATE {name} {title:8s} {gender:6s} {shown} of {len(cell['voiced'])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--wav", type=Path, help="folder to write the clips to")
    arguments = parser.parse_args()
    training.prepare(6)
    models = Models(*(part.to(DEVICE).eval() for part in load(arguments.run)))
    name = "base"
    if arguments.adapter:
        name = arguments.adapter.stem
        load_adapter(arguments.adapter, attach(models.model))
    if arguments.wav:
        arguments.wav.mkdir(parents=True, exist_ok=True)
    speech = Speech(arguments.data / "speech.npz")
    for row in ROWS["adapter" if arguments.adapter else "base"]:
        judge(models, speech, row, arguments, name)


if __name__ == "__main__":
    main()
