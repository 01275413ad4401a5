"""What the official runs are given: pictures, a sound, a stretch of a clip, on the states of `reference.pipeline`.

The conditioning items are those of ltx_core 1.0.0. What 1.2.0 changed of them is set by hand: a keyframe's tokens last
for one video frame, not for eight, and appended tokens start from noise as far as their mask lets them, where 1.0.0
started them from the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

import tests.reference  # noqa: F401
from tests.reference.official import Official
from tests.reference.pipeline import Job, latent_tools

from ltx_core.conditioning.types.keyframe_cond import VideoConditionByKeyframeIndex
from ltx_core.conditioning.types.latent_cond import VideoConditionByLatentIndex
from ltx_core.model.audio_vae.ops import AudioProcessor
from ltx_core.types import Audio, LatentState


@dataclass(frozen=True)
class Picture:
    """A picture (H, W, 3), 0 to 255, of the clip's size, its frame, and how strongly it is kept."""

    pixels: np.ndarray
    frame: int
    strength: float


@torch.no_grad()
def with_pictures(
    official: Official, job: Job, state: LatentState, pictures: list[Picture], noise: np.ndarray
) -> LatentState:
    """A noisy state with pictures as `combined_image_conditionings` gives them; `noise` is that of appended tokens."""
    tools, drawn = latent_tools(official, job)[0], state.latent
    for picture in pictures:
        pixels = torch.from_numpy(picture.pixels).float().permute(2, 0, 1)[None, :, None] / 127.5 - 1
        latent = official.video_encoder(pixels)
        if picture.frame == 0:
            item = VideoConditionByLatentIndex(latent, picture.strength, 0)
            state = item.apply_to(state, tools)
            continue
        before = state.positions.shape[2]
        state = VideoConditionByKeyframeIndex(latent, picture.frame, picture.strength).apply_to(state, tools)
        state.positions[:, 0, before:, 0] = picture.frame / job.frame_rate
        state.positions[:, 0, before:, 1] = (picture.frame + 1) / job.frame_rate
    noisy = torch.cat([drawn, torch.from_numpy(noise)], dim=1)
    return replace(state, latent=torch.lerp(state.clean_latent, noisy, state.denoise_mask))


@torch.no_grad()
def encoded_sound(official: Official, wave: np.ndarray, tokens: int) -> np.ndarray:
    """A sound (N, 2) at 16 kHz as clean tokens (1, tokens, C), cropped as `a2vid_two_stage.py` does."""
    encoder = official.audio_encoder
    processor = AudioProcessor(
        target_sample_rate=encoder.sample_rate, mel_bins=encoder.mel_bins, mel_hop_length=encoder.mel_hop_length,
        n_fft=encoder.n_fft,
    )  # fmt: skip
    mel = processor.waveform_to_mel(Audio(waveform=torch.from_numpy(wave.T.copy())[None], sampling_rate=16000))
    latent = encoder(mel)[:, :, :tokens]  # (1, C, T, F)
    return latent.permute(0, 2, 1, 3).flatten(2).numpy()


@torch.no_grad()
def encoded_frames(official: Official, frames: np.ndarray) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 as clean tokens (1, T, C)."""
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return official.video_encoder(pixels).flatten(2).transpose(1, 2).numpy()


def frozen(state: LatentState, clean: np.ndarray) -> LatentState:
    """A state that is held fast: mask and noise level 0."""
    tokens = torch.from_numpy(clean)
    return replace(state, latent=tokens, clean_latent=tokens, denoise_mask=torch.zeros_like(state.denoise_mask))
