"""What `given` learns from: every line, said by every face before every background, and pictures of them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.voice_model.config import CONTEXT
from scripts.voice_model.corpus import NORMAL_MANNERS, QUIET_MANNERS, VOICES
from scripts.voice_model.faces import SCENE_NAMES, render
from scripts.voice_model.latents import VARIANTS, captions_of, tokenise
from scripts.voice_model.text import TextPath
from scripts.voice_model.training import DEVICE
from scripts.voice_model.video_vae import VideoVAE

LEVELS = 8  # openings of the mouth, evenly from closed to wide
TAKEN = 4  # pictures of one face, background and opening: as drawn, decoded once, and twice changed a little


@dataclass
class Lines:
    """`lines.npz` on the device. audio (N, 101, 32), opening (N, 97), voice and sentence (N,)."""

    audio: Tensor
    opening: Tensor
    voice: np.ndarray
    sentence: np.ndarray

    @classmethod
    def load(cls, path: Path) -> Lines:
        with np.load(path) as file:
            audio, opening = (torch.from_numpy(file[name]).float().to(DEVICE) for name in ("audio", "opening"))
            return cls(audio, opening, file["voice"], file["sentence"])


@dataclass
class Shown:
    """A batch. audio (B, 101, 32), video (B, 208, 32), contexts (B, 1024, ..), clip, face and scene (B,)."""

    audio: Tensor
    video: Tensor
    contexts: tuple[Tensor, Tensor]
    clip: Tensor
    face: Tensor
    scene: Tensor


@dataclass
class GivenClips:
    """audio (N, 101, 32), level (N, 97) of the mouth, voice (N,); video (N, faces, scenes, 208, 32) and pictures
    (faces, scenes, LEVELS, TAKEN, 16, 32) in fp16; contexts (N * scenes * captions + 1, 1024, ..), the last empty."""

    audio: Tensor
    level: Tensor
    voice: Tensor
    video: Tensor
    pictures: Tensor
    contexts: tuple[Tensor, Tensor]
    captions: int

    def draw(self, batch: int, first: int, drop: float) -> Shown:
        """Random clips. From row `first` on, in half of them another face than the caption's voice has, another
        background than it names, or both; what is said, and in whose voice, is the caption's always."""

        def pick(count: int) -> Tensor:
            return torch.randint(count, (batch,), device=DEVICE)

        def chance(share: float) -> Tensor:
            return torch.rand(batch, device=DEVICE) < share

        clip, said, variant = pick(len(self.audio)), pick(len(SCENE_NAMES)), pick(self.captions)
        row = (clip * len(SCENE_NAMES) + said) * self.captions + variant
        row = torch.where(chance(drop), torch.full_like(row, len(self.contexts[0]) - 1), row)
        other = chance(0.6) & (torch.arange(batch, device=DEVICE) >= first)
        face = torch.where(other & chance(0.8), pick(len(VOICES)), self.voice[clip])
        scene = torch.where(other & chance(0.6), pick(len(SCENE_NAMES)), said)
        contexts = (self.contexts[0][row].float(), self.contexts[1][row].float())
        return Shown(self.audio[clip], self.video[clip, face, scene].float(), contexts, clip, face, scene)

    def picture(self, shown: Shown, level: Tensor) -> Tensor:
        """Of each clip's face and background with the mouth open so far (B,) -> tokens (B, 16, 32)."""
        taken = torch.randint(TAKEN, level.shape, device=DEVICE)
        return self.pictures[shown.face, shown.scene, level, taken].float()


def _tokens(latent: Tensor) -> Tensor:
    return latent.flatten(2).transpose(1, 2)


def pairs() -> Iterator[tuple[int, int]]:
    """Every face before every background."""
    return ((face, scene) for face in range(len(VOICES)) for scene in range(len(SCENE_NAMES)))


@torch.no_grad()
def pictures(vae: VideoVAE) -> Tensor:
    """(faces, scenes, LEVELS, TAKEN, 16, 32): stills, each also decoded once, and twice a little brighter or darker,
    softer and with noise, as a picture from a file may be."""
    opening, rows = torch.linspace(0, 1, LEVELS, device=DEVICE)[:, None], []
    for face, scene in pairs():
        index = torch.full((LEVELS,), face, device=DEVICE)
        still = render(index, torch.full_like(index, scene), opening)  # (LEVELS, 3, 1, 128, 128)
        taken = [still, vae.decoder(vae.encoder(still))]
        for _ in range(TAKEN - 2):
            soft = F.avg_pool3d(still, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
            blend, gain, shift = (torch.rand(LEVELS, 1, 1, 1, 1, device=DEVICE) for _ in range(3))
            changed = torch.lerp(still, soft, blend) * (0.94 + 0.12 * gain) + 0.06 * (shift - 0.5)
            taken.append((changed + 0.02 * torch.randn_like(changed)).clamp(-1, 1))
        rows.append(torch.stack([_tokens(vae.encoder(one.clamp(-1, 1))) for one in taken], 1).half())
    return torch.stack(rows).unflatten(0, (len(VOICES), len(SCENE_NAMES)))


@torch.no_grad()
def videos(vae: VideoVAE, opening: Tensor, part: int) -> Tensor:
    """openings (N, 97) -> (N, faces, scenes, 208, 32) in fp16."""
    made = torch.zeros(len(opening), len(VOICES), len(SCENE_NAMES), 208, 32, dtype=torch.half, device=DEVICE)
    for face, scene in pairs():
        for start in range(0, len(opening), part):
            some = opening[start : start + part]
            index = torch.full((len(some),), face, device=DEVICE)
            picture = render(index, torch.full_like(index, scene), some)
            made[start : start + part, face, scene] = _tokens(vae.encoder(picture)).half()
    return made


@torch.no_grad()
def contexts(text: TextPath, captions: list[str], part: int) -> tuple[Tensor, Tensor]:
    """The two contexts (N, 1024, 80) and (N, 1024, 160) in fp16."""
    found = []
    for ids, lengths in zip(*(table.split(part) for table in tokenise(captions)), strict=True):
        found.append(tuple(context.half() for context in text(ids, lengths, CONTEXT)))
    video, audio = (torch.cat(side) for side in zip(*found, strict=True))
    return video, audio


def given_clips(lines: Lines, text: TextPath, vae: VideoVAE, captions: int, part: int) -> GivenClips:
    """All of it; `captions` of the `VARIANTS` of each clip and scene, `part` clips at a time."""
    manners = NORMAL_MANNERS * 7 + QUIET_MANNERS * 3  # as the base was trained
    every, _ = captions_of(lines.voice, lines.sentence, [manners] * len(lines.voice), 11)
    chosen = [text for place, text in enumerate(every) if place % VARIANTS < captions]
    return GivenClips(
        lines.audio,
        (lines.opening * (LEVELS - 1)).round().long(),
        torch.as_tensor(lines.voice, device=DEVICE),
        videos(vae, lines.opening, part),
        pictures(vae),
        contexts(text, [*chosen, ""], part),
        captions,
    )
