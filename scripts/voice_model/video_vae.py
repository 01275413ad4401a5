"""Stage 3: the video VAE on rendered faces. `python -m scripts.voice_model.video_vae --data DIR --run DIR`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

import tests.reference  # noqa: F401  the official code imports torchaudio: the stand-in first
from scripts.voice_model import training
from scripts.voice_model.config import CONFIG
from scripts.voice_model.corpus import VOICES
from scripts.voice_model.faces import SCENE_NAMES, correlation, measured_opening, mouth_opening, render
from scripts.voice_model.training import DEVICE, Captured, Clock, Speech

from ltx_core.model.video_vae.model_configurator import VideoDecoderConfigurator, VideoEncoderConfigurator

BATCH, CROP = 12, 33


class VideoVAE(torch.nn.Module):
    """The official encoder and decoder; statistics are identity until `set_statistics`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VideoEncoderConfigurator.from_config(CONFIG)
        self.decoder = VideoDecoderConfigurator.from_config(CONFIG)
        self.forget_statistics()

    def forget_statistics(self) -> None:
        for part in (self.encoder, self.decoder):
            part.per_channel_statistics.get_buffer("std-of-means").fill_(1.0)
            part.per_channel_statistics.get_buffer("mean-of-means").fill_(0.0)

    @torch.no_grad()
    def set_statistics(self, video: Tensor) -> None:
        latent = torch.cat([self.encoder(part) for part in video.split(8)])
        for part in (self.encoder, self.decoder):
            part.per_channel_statistics.get_buffer("std-of-means").copy_(latent.std((0, 2, 3, 4)))
            part.per_channel_statistics.get_buffer("mean-of-means").copy_(latent.mean((0, 2, 3, 4)))


def objective(vae: VideoVAE, video: Tensor) -> dict[str, Tensor]:
    latent = vae.encoder(video)
    made = vae.decoder(latent + 0.03 * torch.randn_like(latent))
    error = (made - video).abs()
    mouth = error[:, :, :, 72:100, 44:84].mean()  # where the speech is
    spread = (latent**2).mean()
    return {"loss": error.mean() + 0.5 * mouth + 1e-4 * spread, "l1": error.mean(), "mouth": mouth, "power": spread}


def train(arguments: argparse.Namespace) -> tuple[VideoVAE, Speech]:
    speech = Speech(arguments.data / "speech.npz")
    openings = torch.cat([mouth_opening(w) for w in speech.moving[speech.where(take=0)].split(256)])
    vae = VideoVAE().to(DEVICE)
    path, clock = arguments.run / "video_vae_state.pt", Clock(arguments.seconds)
    optimizer, done = training.adamw(vae.parameters(), decay=0.001), 0
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

    def draw(count: int, frames: int) -> Tensor:
        which = torch.randint(len(openings), (count, 1), device=DEVICE)
        start = torch.randint(0, 97 - frames + 1, (count, 1), device=DEVICE)
        opening = openings[which, start + torch.arange(frames, device=DEVICE)]
        voice = torch.randint(len(VOICES), (count,), device=DEVICE)
        return render(voice, torch.randint(len(SCENE_NAMES), (count,), device=DEVICE), opening)

    def step() -> dict[str, Tensor]:
        results = objective(vae, draw(arguments.batch, CROP))
        training.update(optimizer, results["loss"], 1.0)
        return {k: v.detach() for k, v in results.items()}

    captured, began, first = Captured(step), time.monotonic(), done
    while clock.progress < 1:
        training.set_rate(optimizer, arguments.rate * training.cosine(clock.progress))
        results = captured()
        done += 1
        if done % arguments.log == 0:
            rate = (done - first) / (time.monotonic() - began)
            shown = " ".join(f"{k} {float(v):.4f}" for k, v in results.items())
            print(f"[video_vae] {clock.spent:5.0f} s step {done} ({rate:.1f}/s) {shown}", flush=True)
    vae.set_statistics(draw(8 * arguments.batch, 97))
    training.save(path, model=vae.state_dict(), optimizer=optimizer.state_dict(), spent=clock.spent, step=done)
    training.save(arguments.run / "video_vae.pt", model=vae.state_dict(), step=done, seconds=clock.spent)
    return vae, speech


@torch.no_grad()
def gate(vae: VideoVAE, speech: Speech) -> dict[str, float]:
    """On held-out takes: L1, and how the decoded mouth follows the speech envelope; the goal there is 0.7."""
    chosen = speech.where("normal", take=1)[::4]
    opening = mouth_opening(speech.moving[chosen])
    voice = torch.as_tensor(speech.voice[chosen], device=DEVICE)
    video = render(voice, torch.arange(len(chosen), device=DEVICE) % len(SCENE_NAMES), opening)
    made = torch.cat([vae.decoder(vae.encoder(part)) for part in video.split(4)])
    figures = {
        "l1": float((made - video).abs().mean()),
        "true_mouth": float(correlation(measured_opening(video), opening).mean()),
        "mouth": float(correlation(measured_opening(made), opening).mean()),
    }
    print("GATE video_vae " + " ".join(f"{k} {v:.3f}" for k, v in figures.items()), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--log", type=int, default=250)
    arguments = parser.parse_args()
    training.prepare(3)
    vae, speech = train(arguments)
    gate(vae.eval(), speech)


if __name__ == "__main__":
    main()
