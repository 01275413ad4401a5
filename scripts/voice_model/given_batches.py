"""Batches of clips with frames given, as `given` trains on them and its gate samples them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.voice_model.given_clips import GivenClips
from scripts.voice_model.training import DEVICE
from scripts.voice_model.transformer import Model, positions

from ltx_core.guidance.perturbations import BatchedPerturbationConfig
from ltx_core.model.transformer.modality import Modality

FRAME_TOKENS, LATENT_FRAMES = 16, 13
KEYFRAMES = (96, 48, 72, 24, 88, 8, 40, 64)
"""Of the row modulo 8: which frame a row's keyframe is."""


@dataclass
class Batch:
    """Clean video (B, T, 32) and audio (B, 101, 32); mask (B, T), the official denoise mask: 0 where given, 1 where
    made, `1 - strength` between; positions of the tokens, and contexts."""

    video: Tensor
    audio: Tensor
    mask: Tensor
    places: tuple[Tensor, Tensor]
    contexts: tuple[Tensor, Tensor]

    def rows(self, count: int) -> Batch:
        """The first rows alone."""
        places, contexts = ((a[:count], b[:count]) for a, b in (self.places, self.contexts))
        return Batch(self.video[:count], self.audio[:count], self.mask[:count], places, contexts)


def velocity(model: Model, batch: Batch, video: Tensor, audio: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy video and audio, sigma (B,) -> velocities; a token's timestep is sigma times its mask, as in the official
    `timesteps_from_mask`."""
    return model.dit(
        Modality(video, sigma, sigma[:, None] * batch.mask, batch.places[0], batch.contexts[0]),
        Modality(audio, sigma, sigma[:, None], batch.places[1], batch.contexts[1]),
        BatchedPerturbationConfig.empty(len(sigma)),
    )


def keyframes_of(batch: int) -> Tensor:
    """The number of each row's keyframe (B,)."""
    return torch.tensor([KEYFRAMES[row % len(KEYFRAMES)] for row in range(batch)], device=DEVICE)


def places_with_keyframe(batch: int) -> tuple[Tensor, Tensor]:
    """The clip's tokens and 16 of one keyframe, by the official rule: frame and frame + 8, in seconds."""
    video, audio = positions(batch)
    frame = video[:, :, :FRAME_TOKENS].clone()
    start = keyframes_of(batch)
    frame[:, 0] = (torch.stack([start, start + 8], -1)[:, None].float() / 24).expand(-1, FRAME_TOKENS, -1)
    return torch.cat([video, frame], 2), audio


def weakened(batch: int) -> Tensor:
    """Masks (B, 1) of given pictures: 0 in 7 of 10, else up to 0.7 for a strength down to 0.3."""
    partly = (torch.rand(batch, 1, device=DEVICE) < 0.3).float()
    return partly * 0.7 * torch.rand(batch, 1, device=DEVICE)


def by_frame(mask: Tensor) -> Tensor:
    """(B, frames) -> (B, tokens)."""
    return mask.repeat_interleave(FRAME_TOKENS, 1)


class Drawer:
    """Random batches in two shapes; the rows of one kind lie together, so that shapes stay the same."""

    def __init__(self, clips: GivenClips, batch: int) -> None:
        self.clips, self.batch = clips, batch
        eighth = batch // 8
        self.plain, self.whole, self.span = 3 * eighth, eighth, eighth
        self.held = self.plain + self.whole
        """Rows on which the sound must read what it read before."""
        self.places, self.places_keyframe = positions(batch), places_with_keyframe(batch)
        self.keyframes = keyframes_of(batch)

    def mixed(self) -> Batch:
        """Plain clips; pictures wholly given; stretches to be made; first frames given."""
        shown, size = self.clips.draw(self.batch, self.held, 0.1), self.batch
        first = self.held + self.span  # the first row with a first frame
        mask = torch.ones(size, LATENT_FRAMES, device=DEVICE)
        mask[self.plain : self.held] = 0
        mask[self.held : first] = self._stretches(self.span)
        mask[first:, :1] = weakened(size - first)
        video = shown.video.clone()
        video[first:, :FRAME_TOKENS] = self.clips.picture(shown, self._levels(shown.clip, 0))[first:]
        return Batch(video, shown.audio, by_frame(mask), self.places, shown.contexts)

    def keyframed(self) -> Batch:
        """A keyframe behind every clip, and every other clip's first frame given too."""
        shown, size = self.clips.draw(self.batch, 0, 0.1), self.batch
        mask = torch.ones(size, LATENT_FRAMES + 1, device=DEVICE)
        mask[:, -1:] = weakened(size)
        mask[1::2, :1] = weakened(size // 2)
        own = self.clips.level[shown.clip, self.keyframes]
        first = self.clips.picture(shown, self._levels(shown.clip, 0))
        video = torch.cat([shown.video, self.clips.picture(shown, own)], 1)
        video[1::2, :FRAME_TOKENS] = first[1::2]
        return Batch(video, shown.audio, by_frame(mask), self.places_keyframe, shown.contexts)

    def _levels(self, clip: Tensor, frame: int) -> Tensor:
        """How open the mouth of a given picture is: as the clip begins, or in half of them anyhow."""
        random = torch.randint(int(self.clips.pictures.shape[2]), clip.shape, device=DEVICE)
        return torch.where(torch.rand(clip.shape, device=DEVICE) < 0.5, random, self.clips.level[clip, frame])

    @staticmethod
    def _stretches(count: int) -> Tensor:
        """Masks (count, 13): 1 in a stretch of 2 to 10 frames."""
        length = torch.randint(2, 11, (count, 1), device=DEVICE)
        start = (torch.rand(count, 1, device=DEVICE) * (LATENT_FRAMES + 1 - length)).long()
        frame = torch.arange(LATENT_FRAMES, device=DEVICE)[None]
        return ((frame >= start) & (frame < start + length)).float()
