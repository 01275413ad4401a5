"""A procedural talking face: hair, head, eyes and a mouth that opens with the speech. PyTorch, any device."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.voice_model.config import FRAME_RATE, FRAMES, SIZE
from scripts.voice_model.corpus import SCENES, VOICES

MOUTH_CENTRE, MOUTH_HALF_WIDTH, MOUTH_MAX = 0.17, 0.095, 0.075  # below the middle, of the picture's height
SCENE_NAMES = tuple(SCENES)


def mouth_opening(wave: Tensor) -> Tensor:
    """wave (B, N) at 16 kHz -> opening (B, 97) in [0, 1]: the envelope over 50 ms around each frame's time, relative
    to the clip's own loudest, so that a whisper moves the lips as far as a shout."""
    power = F.avg_pool1d(wave[:, None] ** 2, 801, stride=80, padding=400)[:, 0]  # every 5 ms
    envelope = power.sqrt()
    times = (torch.arange(FRAMES, device=wave.device) + 0.5) / FRAME_RATE
    index = (times / 0.005).long().clamp_max(envelope.shape[1] - 1)
    peak = torch.quantile(envelope, 0.98, dim=1, keepdim=True).clamp_min(1e-4)
    return (envelope[:, index] / peak).clamp(0, 1) ** 0.7


def _soft(distance: Tensor) -> Tensor:
    """1 inside (distance < 0), 0 outside, one pixel of blur."""
    return torch.sigmoid(-distance * SIZE * 1.5)


def _ellipse(y: Tensor, x: Tensor, centre: tuple[float, float], radii: tuple[Tensor, Tensor]) -> Tensor:
    ry, rx = radii
    norm = torch.sqrt(((y - centre[0]) / ry) ** 2 + ((x - centre[1]) / rx) ** 2 + 1e-9)
    return _soft((norm - 1) * torch.minimum(ry, rx))


@functools.cache
def _tables(device: torch.device) -> dict[str, Tensor]:
    """Looks by voice and colours by scene, on the device once: a captured step may not copy from the host."""
    rows = {
        "skin": [v.skin_rgb for v in VOICES],
        "hair": [v.hair_rgb for v in VOICES],
        "shape": [v.shape for v in VOICES],
        "long": [(1.0 if v.gender == "woman" else 0.0,) for v in VOICES],
        "scene": list(SCENES.values()),
        "lips": [(0.72, 0.30, 0.30)],
    }
    return {name: torch.tensor(values, device=device) for name, values in rows.items()}


def render(voice: Tensor, scene: Tensor, opening: Tensor) -> Tensor:
    """voice, scene (B,) indices, opening (B, F) -> video (B, 3, F, 128, 128) in [-1, 1]."""
    device, frames = opening.device, opening.shape[1]
    grid = (torch.arange(SIZE, device=device) + 0.5) / SIZE - 0.5
    y, x = grid[:, None], grid[None, :]

    def paint(picture: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
        return picture + mask * (colour - picture)

    tables = _tables(device)
    skin, hair, long_hair = (tables[name][voice][:, :, None, None] for name in ("skin", "hair", "long"))
    shape = tables["shape"][voice][:, :, None, None, None]  # (B, 2, 1, 1, 1)
    back = tables["scene"][scene][:, :, None, None]
    light = (0.35 + 0.8 * back.mean(1, keepdim=True)).clamp(max=1.0)
    ry, rx = shape[:, 0], shape[:, 1]
    still = back * (1 - 0.35 * (y + 0.5))
    still = paint(still, _ellipse(y, x, (-0.10, 0.0), (ry * (0.93 + 0.27 * long_hair), rx * 1.22)), hair * light)
    still = paint(still, _ellipse(y, x, (0.0, 0.0), (ry, rx)), skin * light)
    still = paint(still, _ellipse(y, x, (-0.33, 0.0), (ry * 0.42, rx * 1.02)), hair * light)
    for side in (-0.11, 0.11):
        one = torch.ones_like(ry)
        still = paint(still, _ellipse(y, x, (-0.04, side), (0.028 * one, 0.045 * one)), light * 0.95)
        still = paint(still, _ellipse(y, x, (-0.04, side), (0.020 * one, 0.020 * one)), light * 0.12)
    tall = (0.010 + MOUTH_MAX * opening)[:, None, :, None, None]  # (B, 1, F, 1, 1)
    wide = torch.full_like(tall, MOUTH_HALF_WIDTH)
    lips = _ellipse(y, x, (MOUTH_CENTRE, 0.0), (tall + 0.014, wide + 0.014))
    mouth = _ellipse(y, x, (MOUTH_CENTRE, 0.0), (tall, wide))
    red = tables["lips"][:, :, None, None, None] * light[:, :, None]
    video = paint(still[:, :, None].expand(-1, -1, frames, -1, -1), lips, red)
    return paint(video, mouth, 0.12 * red) * 2 - 1


def measured_opening(video: Tensor) -> Tensor:
    """video (B, 3, F, 128, 128) -> opening (B, F): how dark the middle column through the mouth is, summed."""
    low, high = int((0.5 + MOUTH_CENTRE - 0.10) * SIZE), int((0.5 + MOUTH_CENTRE + 0.10) * SIZE)
    column = video[:, :, :, low:high, SIZE // 2 - 4 : SIZE // 2 + 4].mean((1, 4))  # (B, F, rows)
    bright = column.amax(dim=(1, 2), keepdim=True)
    return (bright - column).clamp_min(0).sum(2)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation along the last axis."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-9)
