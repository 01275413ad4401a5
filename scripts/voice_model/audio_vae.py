"""Stage 1: the audio VAE. `python -m scripts.voice_model.audio_vae --data DIR --run DIR --seconds 150`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tests.reference  # noqa: F401  the official code imports torchaudio: the stand-in first
from scripts.voice_model import training
from scripts.voice_model.config import CONFIG
from scripts.voice_model.corpus import REGISTERS
from scripts.voice_model.sound import LogMel
from scripts.voice_model.training import DEVICE, Captured, Clock, Speech

from ltx_core.model.audio_vae.model_configurator import AudioDecoderConfigurator, AudioEncoderConfigurator

BATCH, CROP = 32, 193


class AudioVAE(torch.nn.Module):
    """The official encoder and decoder side by side; statistics are identity until `set_statistics`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = AudioEncoderConfigurator.from_config(CONFIG)
        self.decoder = AudioDecoderConfigurator.from_config(CONFIG)
        self.forget_statistics()

    def forget_statistics(self) -> None:
        for part in (self.encoder, self.decoder):
            part.per_channel_statistics.get_buffer("std-of-means").fill_(1.0)
            part.per_channel_statistics.get_buffer("mean-of-means").fill_(0.0)

    def moments(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """mel (B, T, 64) -> mean and log-variance (B, 2, T', 16) before normalisation."""
        h = self.encoder.conv_in(mel[:, None].expand(-1, 2, -1, -1))
        h = self.encoder._run_downsampling_path(h)
        h = self.encoder.mid.block_2(self.encoder.mid.attn_1(self.encoder.mid.block_1(h, temb=None)), temb=None)
        mean, log_variance = self.encoder._finalize_output(h).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 2)

    def encode(self, mel: Tensor) -> Tensor:
        """mel (B, T, 64) -> normalised tokens (B, T', 32), index channel * 16 + band."""
        latent = self.encoder(mel[:, None].expand(-1, 2, -1, -1))
        return latent.permute(0, 2, 1, 3).flatten(2)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens (B, T', 32) -> mel (B, 4T' - 3, 64), the mean of both channels."""
        latent = tokens.unflatten(2, (2, 16)).permute(0, 2, 1, 3)
        return self.decoder(latent).mean(1)

    @torch.no_grad()
    def set_statistics(self, mels: Tensor) -> None:
        mean = torch.cat([self.moments(part)[0] for part in mels.split(64)])
        tokens = mean.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        for part in (self.encoder, self.decoder):
            part.per_channel_statistics.get_buffer("std-of-means").copy_(tokens.std(0))
            part.per_channel_statistics.get_buffer("mean-of-means").copy_(tokens.mean(0))


def objective(vae: AudioVAE, mel: Tensor) -> dict[str, Tensor]:
    mean, log_variance = vae.moments(mel)
    latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    both = vae.decoder(latent)  # (B, 2, T, 64)
    target = mel[:, None].expand_as(both)
    error = both - target
    l1 = error.abs().mean() + error[..., :12].abs().mean() * (12 / 64)  # the lowest 12 bins count twice: pitch
    shape = (error.diff(dim=3).abs().mean()) * 0.5 + error.diff(dim=2).abs().mean() * 0.25
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return {"loss": l1 + shape + 0.003 * kl, "l1": error.abs().mean(), "kl": kl}


def training_mels(speech: Speech) -> tuple[Tensor, Tensor, np.ndarray]:
    """Log-mels (N, 401, 64) of take 0, flat and moving, with how often each is drawn and its last loud frame."""
    log_mel = LogMel().to(DEVICE)
    chosen = speech.where(take=0)
    waves = torch.cat([speech.moving[chosen], speech.flat[chosen]])
    mels = torch.cat([log_mel(part) for part in waves.split(128)])
    weight = np.choose(speech.register[chosen], [2.0, 1.0, 1.5, 0.5])  # normal, whisper, soft, loud
    return mels, torch.tensor(np.concatenate([weight, 0.15 * weight]), device=DEVICE).float(), speech.end[chosen]


def train(arguments: argparse.Namespace) -> AudioVAE:
    speech = Speech(arguments.data / "speech.npz")
    mels, weight, _ = training_mels(speech)
    vae = AudioVAE().to(DEVICE)
    path, clock = arguments.run / "audio_vae_state.pt", Clock(arguments.seconds)
    optimizer = training.adamw(vae.parameters(), decay=0.001)
    done = 0
    if path.exists():
        state = training.load(path)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        clock, done = Clock(arguments.seconds, state["spent"]), state["step"]
    elif arguments.start:  # an earlier run's weights, with a fresh optimizer
        state = training.load(arguments.start)
        vae.load_state_dict(state["model"])
        done = state["step"]
    vae.forget_statistics()

    span = torch.arange(CROP, device=DEVICE)

    def step() -> dict[str, Tensor]:
        which = training.draw(weight, BATCH)
        start = torch.randint(0, (401 - CROP) // 4 + 1, (BATCH, 1), device=DEVICE) * 4
        results = objective(vae, mels[which[:, None], start + span])
        training.update(optimizer, results["loss"], 1.0)
        return {k: v.detach() for k, v in results.items()}

    captured, began, first = Captured(step), time.monotonic(), done
    while clock.progress < 1:
        training.set_rate(optimizer, arguments.rate * training.cosine(clock.progress))
        results = captured()
        done += 1
        if done % arguments.log == 0:
            rate = (done - first) / (time.monotonic() - began)
            shown = " ".join(f"{k} {float(v):.3f}" for k, v in results.items())
            print(f"[audio_vae] {clock.spent:5.0f} s step {done} ({rate:.1f}/s) {shown}", flush=True)
    vae.set_statistics(
        mels[: len(mels) // 2][torch.as_tensor(speech.register[speech.where(take=0)] == 0, device=DEVICE)]
    )
    training.save(path, model=vae.state_dict(), optimizer=optimizer.state_dict(), spent=clock.spent, step=done)
    training.save(arguments.run / "audio_vae.pt", model=vae.state_dict(), step=done, seconds=clock.spent)
    return vae


@torch.no_grad()
def gate(vae: AudioVAE, speech: Speech) -> dict[str, Any]:
    """Log-mel L1 on the held-out takes of each register; the goal is 0.12."""
    log_mel, figures = LogMel().to(DEVICE), {}
    for register in REGISTERS[:3]:
        mel = log_mel(speech.moving[speech.where(register, take=1)])
        error = (vae.decode(vae.encode(mel)) - mel).abs()
        figures[register] = (float(error.mean()), float(error[..., :12].mean()))
        print(
            f"GATE audio_vae {register:8s} log-mel L1 {figures[register][0]:.3f} lowest 12 {figures[register][1]:.3f}"
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--log", type=int, default=500)
    arguments = parser.parse_args()
    training.prepare(1)
    gate(train(arguments).eval(), Speech(arguments.data / "speech.npz"))


if __name__ == "__main__":
    main()
