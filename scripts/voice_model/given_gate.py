"""The gate of `given`: clips with pictures given, whose face talks, and does the mouth say the caption's line?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from scripts.voice_model.corpus import SENTENCES, VOICES, caption, default_voice
from scripts.voice_model.faces import SCENE_NAMES, correlation, measured_opening, render
from scripts.voice_model.given_batches import FRAME_TOKENS, Batch, places_with_keyframe, velocity
from scripts.voice_model.given_clips import GivenClips, Lines, contexts, pairs
from scripts.voice_model.training import DEVICE
from scripts.voice_model.transformer import Model, positions
from scripts.voice_model.video_vae import VideoVAE

from ltx_core.components.schedulers import LTX2Scheduler

FACE = slice(6, 79)  # rows of hair, eyes and cheeks, above the mouth


@dataclass(frozen=True)
class Case:
    """`apart`: the picture shows another face and background than the caption names; `named`: it names them at all."""

    name: str
    given: bool = True
    apart: bool = True
    named: bool = True
    strength: float = 1.0
    keyframe: bool = False


CASES = (
    Case("plain", given=False, apart=False),
    Case("agreeing", apart=False),
    Case("apart"),
    Case("apart, strength 0.7", strength=0.7),
    Case("hair not named", named=False),
    Case("apart, keyframe", keyframe=True),
)


@torch.no_grad()
def sample(model: Model, batch: Batch, seed: int, steps: int = 20) -> tuple[Tensor, Tensor]:
    """Euler over the official schedule without guidance; what is given is put back in every step, as the official
    `post_process_latent` does. `batch.video` holds it, `batch.audio` is not looked at. -> video, audio tokens."""
    random = torch.Generator(DEVICE).manual_seed(seed)
    mask = batch.mask[..., None]
    noise = torch.randn(batch.video.shape, device=DEVICE, generator=random)
    video = torch.lerp(batch.video, noise, mask)
    audio = torch.randn(batch.audio.shape, device=DEVICE, generator=random)
    for now, then in pairwise(LTX2Scheduler().execute(steps).tolist()):
        sigma = torch.full((len(video),), now, device=DEVICE)
        v, a = velocity(model, batch, video, audio, sigma)
        clean = torch.lerp(batch.video, video - now * mask * v, mask)
        video, audio = video + (then - now) / now * (video - clean), audio + (then - now) * a
    return video, audio


@torch.no_grad()
def known_faces() -> Tensor:
    """(faces * scenes, 3, rows, 128): every face before every background, above the mouth."""
    index = torch.tensor(list(pairs()), device=DEVICE)
    return render(index[:, 0], index[:, 1], torch.zeros(len(index), 1, device=DEVICE))[:, :, 0, FACE]


def judge(model: Model, vae: VideoVAE, lines: Lines, clips: GivenClips, case: Case, count: int) -> dict[str, float]:
    """`count` clips of one case -> means: `face` and `both` (face and background) the share of frames nearest to
    what the picture shows, `worst` the lowest of a clip, `mouth` against the line's true opening, `audio` and
    `video` the rms from the true clip in latents, `line` whether the nearest of the voice's lines is said."""
    fitting = [i for i, v in enumerate(lines.voice) if case.named or VOICES[v] is default_voice(VOICES[v].gender)]
    chosen = np.array([fitting[(i * 53) % len(fitting)] for i in range(count)])
    number, voice = np.arange(count), lines.voice[chosen]
    said = number % len(SCENE_NAMES)
    face = (voice + 1 + number // 3 % 7) % len(VOICES) if case.apart else voice
    scene = (said + 1 + number // 2 % 4) % len(SCENE_NAMES) if case.apart else said
    texts = [
        caption(VOICES[v], "", SENTENCES[s], SCENE_NAMES[n] if case.named else "", name_hair=case.named)
        for v, s, n in zip(voice, lines.sentence[chosen], said, strict=True)
    ]
    read = tuple(context.float() for context in contexts(model.text, texts, count))
    where = tuple(torch.as_tensor(x, device=DEVICE) for x in (chosen, face, scene))
    truth = clips.video[where].float()
    batch = _given(clips, case, where, truth, lines.audio[where[0]], (read[0], read[1]))
    video, audio = sample(model, batch, 7)
    video = video[:, : truth.shape[1]]
    figures = _seen(vae, video, lines.opening[where[0]], face * len(SCENE_NAMES) + scene)
    own = torch.as_tensor(lines.voice[None] == voice[:, None], device=DEVICE)
    apart = ((audio[:, None] - lines.audio[None]) ** 2).mean((2, 3)).sqrt().masked_fill(~own, float("inf"))
    right = apart.argmin(1) == where[0]
    made = slice(FRAME_TOKENS if case.given and not case.keyframe else 0, None)
    figures["audio"] = float(apart.gather(1, where[0][:, None]).mean())
    figures["video"] = float(((video - truth)[:, made] ** 2).mean((1, 2)).sqrt().mean())
    figures["line"] = float(right.float().mean())
    return figures


def _given(
    clips: GivenClips,
    case: Case,
    where: tuple[Tensor, ...],
    truth: Tensor,
    audio: Tensor,
    read: tuple[Tensor, Tensor],
) -> Batch:
    """The batch to sample: pictures with the mouth half open, which the clips do not begin with."""
    count = len(truth)
    picture = clips.pictures[where[1], where[2], clips.pictures.shape[2] // 2, 2].float()
    mask, video, places = torch.ones(truth.shape[:2], device=DEVICE), torch.zeros_like(truth), positions(count)
    kept = torch.full((count, FRAME_TOKENS), 1 - case.strength, device=DEVICE)
    if case.keyframe:
        mask, video, places = torch.cat([mask, kept], 1), torch.cat([video, picture], 1), places_with_keyframe(count)
    elif case.given:
        mask[:, :FRAME_TOKENS], video[:, :FRAME_TOKENS] = kept, picture
    return Batch(video, audio, mask, places, read)


@torch.no_grad()
def _seen(vae: VideoVAE, video: Tensor, opening: Tensor, shown: np.ndarray) -> dict[str, float]:
    known, rows = known_faces(), []
    for part, line, index in zip(video.split(4), opening.split(4), torch.as_tensor(shown).split(4), strict=True):
        frames = vae.decoder(part.transpose(1, 2).unflatten(2, (13, 4, 4))).clamp(-1, 1)
        parts = frames[:, :, :, FACE].transpose(1, 2)  # (B, F, 3, rows, 128)
        apart = torch.stack([(parts - one).abs().mean((2, 3, 4)) for one in known], -1)  # (B, F, known)
        found, index = apart.argmin(-1), index.to(DEVICE)[:, None]
        face = (found // len(SCENE_NAMES) == index // len(SCENE_NAMES)).float().mean(1)
        both = (found == index).float().mean(1)
        rows.append(torch.stack([face, both, correlation(measured_opening(frames), line)]))
    face, both, mouth = torch.cat(rows, 1).cpu()
    return {"face": float(face.mean()), "worst": float(face.min()), "both": float(both.mean()),
            "mouth": float(mouth.mean()), "mouth_worst": float(mouth.min())}  # fmt: skip


def gate(title: str, model: Model, vae: VideoVAE, lines: Lines, clips: GivenClips, count: int) -> None:
    """One line of figures a case."""
    for case in CASES:
        figures = judge(model, vae, lines, clips, case, count)
        print(
            f"GATE {title} '{case.name}' {' '.join(f'{k} {v:.3f}' for k, v in figures.items())} of {count}", flush=True
        )
