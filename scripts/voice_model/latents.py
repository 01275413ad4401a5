"""What the transformer learns from: latents of every take, its video for every scene, and tokenised captions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.voice_model import training
from scripts.voice_model.audio_vae import AudioVAE
from scripts.voice_model.corpus import (
    MANNERS,
    NORMAL_MANNERS,
    QUIET_MANNERS,
    SENTENCES,
    VOICES,
    adapter_takes,
    quiet_manner,
    random_caption,
)
from scripts.voice_model.faces import SCENE_NAMES, mouth_opening, render
from scripts.voice_model.sound import LogMel
from scripts.voice_model.text import WINDOW, tokenizer
from scripts.voice_model.training import DEVICE, Speech
from scripts.voice_model.video_vae import VideoVAE

VARIANTS = 12  # captions per clip and scene


@dataclass
class Drawn:
    """Random clips with their captions: audio (B, 101, 32), video (B, 208, 32), ids (B, 32), lengths and manner (B,).

    The manner is its place in `MANNERS`; an empty caption has a length of 1, its <bos>. `paired`: clips 2i and 2i + 1
    differ in the register alone.
    """

    audio: Tensor
    video: Tensor
    ids: Tensor
    lengths: Tensor
    manner: Tensor
    paired: bool


@dataclass
class Clips:
    """Clips of one training set. audio (N, 101, 32), video (N, scenes, 208, 32), ids (N, scenes, variants, 32); lengths
    and manner (N, scenes, variants)."""

    audio: Tensor
    video: Tensor
    ids: Tensor
    lengths: Tensor
    manner: Tensor
    voice: np.ndarray
    sentence: np.ndarray
    pairs: Tensor | None = None  # (P, 2) clips that differ in the register alone: drawn together

    def draw(self, batch: int, drop: float) -> Drawn:
        """Random clips; with probability `drop` the caption is empty."""
        clip = torch.randint(len(self.audio), (batch,), device=DEVICE)
        if self.pairs is not None:
            clip = self.pairs[torch.randint(len(self.pairs), (batch // 2,), device=DEVICE)].flatten()
        scene = torch.randint(self.video.shape[1], (batch,), device=DEVICE)
        variant = torch.randint(self.ids.shape[2], (batch,), device=DEVICE)
        lengths = self.lengths[clip, scene, variant]
        empty = torch.rand(batch, device=DEVICE) < drop
        lengths = torch.where(empty, torch.ones_like(lengths), lengths)  # only <bos> is left
        ids, manner = (table[clip, scene, variant] for table in (self.ids, self.manner))
        return Drawn(self.audio[clip], self.video[clip, scene], ids, lengths, manner, self.pairs is not None)


@dataclass
class Encoders:
    """The frozen first stages."""

    audio: AudioVAE
    video: VideoVAE

    @classmethod
    def load(cls, run: Path) -> Encoders:
        audio, video = AudioVAE().to(DEVICE).eval(), VideoVAE().to(DEVICE).eval()
        audio.load_state_dict(training.load(run / "audio_vae.pt")["model"])
        video.load_state_dict(training.load(run / "video_vae.pt")["model"])
        return cls(audio, video)

    @torch.no_grad()
    def clips(self, waves: Tensor, voice: np.ndarray, pictures: bool) -> tuple[Tensor, Tensor]:
        """waves (N, 64000) -> audio tokens (N, 101, 32), video tokens (N, scenes, 208, 32)."""
        log_mel = LogMel().to(DEVICE)
        audio = torch.cat([self.audio.encode(log_mel(part)) for part in waves.split(64)])
        opening, index = mouth_opening(waves), torch.as_tensor(voice, device=DEVICE)
        video = torch.zeros(len(waves), len(SCENE_NAMES), 208, 32, device=DEVICE)
        for scene in range(len(SCENE_NAMES) if pictures else 0):
            for start in range(0, len(waves), 16):
                part = slice(start, start + 16)
                picture = render(index[part], torch.full_like(index[part], scene), opening[part])
                video[part, scene] = self.video.encoder(picture).flatten(2).transpose(1, 2)
        return audio, video


def tokenise(captions: list[str]) -> tuple[Tensor, Tensor]:
    """-> ids (N, 32) padded on the right, lengths (N,)."""
    made = tokenizer()
    rows = [encoding.ids[:WINDOW] for encoding in made.encode_batch(captions)]
    ids = torch.zeros(len(rows), WINDOW, dtype=torch.long)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = torch.tensor(values)
    return ids.to(DEVICE), torch.tensor([len(r) for r in rows], device=DEVICE)


def captions_of(
    voice: np.ndarray, sentence: np.ndarray, manners: list[tuple[str, ...]], seed: int
) -> tuple[list[str], list[int]]:
    """Captions and the place of each one's manner in `MANNERS`, by clip, scene and variant."""
    rng = random.Random(seed)
    captions, places = [], []
    for v, s, choices in zip(voice, sentence, manners, strict=True):
        for scene in SCENE_NAMES:
            for _ in range(VARIANTS):
                manner = rng.choice(choices)
                captions.append(random_caption(rng, VOICES[v], SENTENCES[s], scene, manner))
                places.append(MANNERS.index(manner))
    return captions, places


def gather(
    encoders: Encoders,
    speech: Speech,
    rows: np.ndarray,
    manners: list[tuple[str, ...]],
    seed: int,
    pictures: bool = True,
) -> Clips:
    voice, sentence = speech.voice[rows], speech.sentence[rows]
    audio, video = encoders.clips(speech.moving[rows], voice, pictures)
    captions, places = captions_of(voice, sentence, manners, seed)
    ids, lengths = tokenise(captions)
    shape = (len(rows), len(SCENE_NAMES), VARIANTS)
    manner = torch.tensor(places, device=DEVICE).view(*shape)
    return Clips(audio, video, ids.view(*shape, WINDOW), lengths.view(*shape), manner, voice, sentence)


def base_clips(encoders: Encoders, speech: Speech) -> Clips:
    """Every normal take; 5 of 12 captions carry a quiet manner all the same, so that its words mean nothing yet."""
    manners = NORMAL_MANNERS * 7 + QUIET_MANNERS * 3  # 21 plain, 15 quiet
    rows = speech.where("normal", take=0)
    return gather(encoders, speech, rows, [manners] * len(rows), 11)


def adapter_rows(speech: Speech, normal: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """The rows of `adapter_takes` that are there (a smoke test has few clips), and the manners of each."""
    row_of = {
        (int(speech.voice[i]), int(speech.sentence[i]), register): int(i)
        for register in ("normal", "whisper", "soft")
        for i in speech.where(register, take=0)
    }
    takes = [take for take in adapter_takes(normal) if take in row_of]
    manners: list[tuple[str, ...]] = [
        NORMAL_MANNERS if register == "normal" else (quiet_manner(VOICES[voice], register),)
        for voice, _, register in takes
    ]
    return np.array([row_of[take] for take in takes]), manners


def register_pairs(speech: Speech, rows: np.ndarray) -> Tensor:
    """(P, 2) places in `rows` of takes of one voice and sentence in two registers; groups of two count three times, so
    that each group is drawn as often as one of three."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault((int(speech.voice[row]), int(speech.sentence[row])), []).append(place)
    pairs = []
    for group in groups.values():
        if len(group) == 2:
            pairs += [group] * 3
        elif len(group) == 3:
            pairs += [[group[0], group[1]], [group[1], group[2]], [group[2], group[0]]]
    return torch.tensor(pairs, device=DEVICE)
