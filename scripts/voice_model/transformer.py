"""Stage 4: text path and transformer together, flow matching on normal speech.
`python -m scripts.voice_model.transformer --data DIR --run DIR --seconds 300`."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tests.reference  # noqa: F401  the official code imports torchaudio: the stand-in first
from scripts.voice_model import training
from scripts.voice_model.config import AUDIO_TOKENS, CONFIG, CONTEXT, FRAME_RATE, VIDEO_LATENT
from scripts.voice_model.corpus import gate_captions
from scripts.voice_model.latents import Clips, Drawn, Encoders, base_clips, tokenise
from scripts.voice_model.text import TextPath, manner_loss
from scripts.voice_model.training import DEVICE, Captured, Clock, Speech

from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier, get_pixel_coords
from ltx_core.components.schedulers import LTX2Scheduler
from ltx_core.guidance.perturbations import BatchedPerturbationConfig
from ltx_core.model.transformer.attention import Attention
from ltx_core.model.transformer.modality import Modality
from ltx_core.model.transformer.model_configurator import LTXModelConfigurator
from ltx_core.types import AudioLatentShape, SpatioTemporalScaleFactors, VideoLatentShape

BATCH, SHORT, VIDEO_TOKENS = 64, 128, 208


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The official call with half-precision inputs on a GPU, where flash attention takes any head size."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    half = torch.bfloat16 if q.is_cuda else q.dtype
    out = F.scaled_dot_product_attention(q.to(half), k.to(half), v.to(half), attn_mask=mask)
    return out.to(q.dtype).transpose(1, 2).flatten(2)


def positions(batch: int) -> tuple[Tensor, Tensor]:
    """Official token bounds: video (B, 3, 208, 2) in seconds and pixels, audio (B, 1, 101, 2) in seconds."""
    shape = VideoLatentShape(batch=batch, channels=VIDEO_LATENT, frames=13, height=4, width=4)
    bounds = VideoLatentPatchifier(patch_size=1).get_patch_grid_bounds(shape)
    video = get_pixel_coords(bounds, SpatioTemporalScaleFactors(8, 32, 32), causal_fix=True).float()
    video[:, 0] /= FRAME_RATE
    sound = AudioLatentShape(batch=batch, channels=2, frames=AUDIO_TOKENS, mel_bins=16)
    return video.to(DEVICE), AudioPatchifier(patch_size=1).get_patch_grid_bounds(sound).to(DEVICE)


class Model(nn.Module):
    """Text path and official transformer; `velocity` is what training and sampling call."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextPath()
        self.dit = LTXModelConfigurator.from_config(CONFIG)
        self._start_values()
        self.places: dict[int, tuple[Tensor, Tensor]] = {}
        for module in self.modules():
            if isinstance(module, Attention):
                module.attention_function = attention
        for one in (self.dit.video_args_preprocessor, self.dit.audio_args_preprocessor):
            _remember_rope(one.simple_preprocessor)

    def _start_values(self) -> None:
        """Tables start at zero but for the gates; modulations start small (the official constructor leaves memory)."""
        with torch.no_grad():
            for name, table in self.dit.named_parameters():
                if "scale_shift_table" in name:
                    table.zero_()
                    rows = {9: (2, 5, 8), 5: (4,), 2: ()}[len(table)]
                    for row in rows:
                        table[row] = 0.5
                elif "adaln_single.linear.weight" in name:
                    table.normal_(std=0.02)
                elif "adaln_single.linear.bias" in name:
                    table.zero_()
            for head in (self.dit.proj_out, self.dit.audio_proj_out):
                head.weight.mul_(0.1)

    def velocity(
        self, video: Tensor, audio: Tensor, sigma: Tensor, contexts: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """video (B, 208, 32), audio (B, 101, 32), sigma (B,) shared by both -> velocities of the same shapes."""
        batch = len(sigma)
        if batch not in self.places:
            self.places[batch] = positions(batch)
        video_places, audio_places = self.places[batch]
        times = sigma[:, None]
        return self.dit(
            Modality(video, sigma, times, video_places, contexts[0]),
            Modality(audio, sigma, times, audio_places, contexts[1]),
            BatchedPerturbationConfig.empty(batch),
        )


def load(run: Path) -> Model:
    """The run's transformer on the CPU, with what `given` trained of it where that was done."""
    model = Model()
    model.load_state_dict(torch.load(run / "transformer.pt", map_location="cpu", weights_only=True)["average"])
    if (run / "given.pt").exists():
        weights = torch.load(run / "given.pt", map_location="cpu", weights_only=True)["average"]
        unknown = model.dit.load_state_dict(weights, strict=False).unexpected_keys
        assert not unknown, f"{run / 'given.pt'}: {unknown}"
    return model


def _remember_rope(preprocessor: Any) -> None:
    """Rotary tables depend on the positions' shape only, here; computing them copies from the host, which a captured
    step must not do."""
    compute, known = preprocessor._prepare_positional_embeddings, {}

    def remembered(**arguments: Any) -> Any:
        key = (tuple(arguments["positions"].shape), arguments["inner_dim"])
        if key not in known:
            known[key] = compute(**arguments)
        return known[key]

    preprocessor._prepare_positional_embeddings = remembered


def shifted_logit_normal(batch: int, tokens: int = VIDEO_TOKENS) -> Tensor:
    """Sigmas (B,), after the official trainer's `ShiftedLogitNormalTimestepSampler`, one for both modalities."""
    shift = 0.95 + (2.05 - 0.95) * (tokens - 1024) / (4096 - 1024)
    low, high = (1 / (1 + math.exp(-(shift + edge))) for edge in (-2.5758, 3.0902))
    sigma = torch.sigmoid(torch.randn(batch, device=DEVICE) + shift)
    sigma = (sigma - low) / (high - low)
    sigma = torch.where(sigma < 1e-3, 2e-3 - sigma, sigma).clamp(0, 1)
    uniform = torch.rand(batch, device=DEVICE) * 0.999 + 1e-3
    return torch.where(torch.rand(batch, device=DEVICE) < 0.1, uniform, sigma)


def flow_losses(model: Model, drawn: Drawn, contexts: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    audio, video = drawn.audio, drawn.video
    sigma = shifted_logit_normal(len(audio))
    audio_noise, video_noise = torch.randn_like(audio), torch.randn_like(video)
    if drawn.paired:  # the same noise for both, so that the caption alone tells them apart
        sigma, audio_noise, video_noise = (t[::2].repeat_interleave(2, 0) for t in (sigma, audio_noise, video_noise))
    level = sigma[:, None, None]
    noisy_video, noisy_audio = torch.lerp(video, video_noise, level), torch.lerp(audio, audio_noise, level)
    v, a = model.velocity(noisy_video, noisy_audio, sigma, contexts)
    return {
        "audio": F.mse_loss(a, audio_noise - audio),
        "video": F.mse_loss(v, video_noise - video),
    }


class Trainer:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.encoders = Encoders.load(arguments.run)
        self.speech = Speech(arguments.data / "speech.npz")
        self.clips = base_clips(self.encoders, self.speech)
        self.model, self.average = Model().to(DEVICE), Model().to(DEVICE).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.parameters, self.averages = list(self.model.parameters()), list(self.average.parameters())
        self.optimizer = training.adamw(self.parameters, (0.9, 0.98))
        self.steps, self.spent = 0, 0.0
        self.path = arguments.run / "transformer_state.pt"
        kept = next((p for p in (self.path, arguments.run / "transformer.pt") if p.exists()), None)
        if kept:
            state = training.load(kept)
            self.average.load_state_dict(state["average"])
            self.model.load_state_dict(state.get("model", state["average"]))
            self.steps, self.spent = state["steps"], state["spent"]
            if "optimizer" in state:
                self.optimizer.load_state_dict(state["optimizer"])
        elif arguments.start:  # an earlier run's weights, with a fresh optimizer
            weights = training.load(arguments.start)["average"]
            weights = {name: value.float() for name, value in weights.items() if "manner_head" not in name}
            for model in (self.model, self.average):
                model.load_state_dict(weights, strict=False)

    def stepper(self, total: int) -> Callable[[], dict[str, Tensor]]:
        def step() -> dict[str, Tensor]:
            drawn, text = self.clips.draw(self.arguments.batch, 0.1), self.model.text
            contexts = text(drawn.ids, drawn.lengths, total)
            losses = flow_losses(self.model, drawn, contexts)
            losses["manner"] = manner_loss(text.manner_head, contexts[1], drawn.lengths, drawn.manner)
            norm = training.update(self.optimizer, losses["audio"] + losses["video"] + 0.2 * losses["manner"], 1.0)
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 0.002)
            return {**{k: v.detach() for k, v in losses.items()}, "norm": norm}

        return step

    def run(self, seconds: float) -> None:
        clock, began, first = Clock(seconds, self.spent), time.monotonic(), self.steps
        total, captured = 0, None
        while clock.progress < 1:
            progress = clock.progress
            self.spent = clock.spent
            wanted = SHORT if progress < self.arguments.short else CONTEXT
            if wanted != total:  # most of the way with 128 context tokens, the rest with all 1024
                total, captured = wanted, Captured(self.stepper(wanted))
            training.set_rate(self.optimizer, self.arguments.rate * training.cosine(progress, 0.03, 0.01))
            results = captured()  # type: ignore[misc]
            self.steps += 1
            if self.steps % self.arguments.log == 0:
                rate = (self.steps - first) / (time.monotonic() - began)
                shown = " ".join(f"{k} {float(v):.4f}" for k, v in results.items())
                print(f"[transformer] {clock.spent:5.0f} s step {self.steps} ({rate:.1f}/s) {shown}", flush=True)
        self.spent = clock.spent

    def save(self) -> None:
        counts = {"average": self.average.state_dict(), "steps": self.steps, "spent": self.spent}
        training.save(self.path, model=self.model.state_dict(), optimizer=self.optimizer.state_dict(), **counts)
        training.save(self.arguments.run / "transformer.pt", **counts)


@torch.no_grad()
def sample(model: Model, captions: list[str], seed: int, steps: int = 30) -> tuple[Tensor, Tensor]:
    """Euler over the official schedule without guidance -> video (B, 208, 32), audio (B, 101, 32) latents."""
    random = torch.Generator(DEVICE).manual_seed(seed)
    contexts = model.text(*tokenise(captions), CONTEXT)
    video = torch.randn(len(captions), VIDEO_TOKENS, VIDEO_LATENT, device=DEVICE, generator=random)
    audio = torch.randn(len(captions), AUDIO_TOKENS, 32, device=DEVICE, generator=random)
    sigmas = LTX2Scheduler().execute(steps).tolist()
    for now, then in pairwise(sigmas):
        v, a = model.velocity(video, audio, torch.full((len(captions),), now, device=DEVICE), contexts)
        video, audio = video + (then - now) * v, audio + (then - now) * a
    return video, audio


@torch.no_grad()
def gate(model: Model, clips: Clips) -> dict[str, float]:
    """In latents: distance of the samples from the true clip, and which of the voice's clips is nearest."""
    figures = {}
    for manner in ("speaking", "whispering", "speaking softly"):
        captions, voices, sentences = gate_captions(manner)
        video, audio = sample(model, captions, 7)
        right, far, seen = [], [], []
        for i, (voice, sentence) in enumerate(zip(voices, sentences, strict=True)):
            own = np.flatnonzero(clips.voice == voice)
            if sentence not in clips.sentence[own]:  # a smoke test's few clips
                continue
            distance = ((clips.audio[own] - audio[i]) ** 2).mean((1, 2)).sqrt()
            true = int(np.flatnonzero(clips.sentence[own] == sentence)[0])
            right.append(int(distance.argmin()) == true)
            far.append(float(distance[true]))
            seen.append(float(((clips.video[own[true], 0] - video[i]) ** 2).mean().sqrt()))
        figures[manner] = float(np.mean(right))
        print(
            f"GATE transformer '{manner}' sentence {np.mean(right):.3f} of {len(right)}, rms to the normal clip: "
            f"audio {np.mean(far):.3f} video {np.mean(seen):.3f}",
            flush=True,
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--short", type=float, default=0.55, help="share of the time with 128 context tokens")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--log", type=int, default=500)
    arguments = parser.parse_args()
    training.prepare(4)
    trainer = Trainer(arguments)
    try:
        trainer.run(arguments.seconds)
    finally:
        trainer.save()
    gate(trainer.average, trainer.clips)


if __name__ == "__main__":
    main()
