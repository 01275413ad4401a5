"""Stage 2: the vocoder and its bandwidth extension. `python -m scripts.voice_model.vocoder --data DIR --run DIR`.

Trains on true mels, and on the audio VAE's as soon as `audio_vae.pt` lies in the run folder. Half-way it looks at
itself: if the intoned voices' pitch does not come out (`--goal`), the rest is trained on flat pitch only.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import tests.reference  # noqa: F401  the official code imports torchaudio: the stand-in first
from scripts.voice_model import training
from scripts.voice_model.activation import speed_up
from scripts.voice_model.audio_vae import AudioVAE
from scripts.voice_model.config import CONFIG
from scripts.voice_model.corpus import REGISTERS, VOICES
from scripts.voice_model.discriminators import Discriminators, discriminator_loss, generator_loss
from scripts.voice_model.measure import Voicing
from scripts.voice_model.sound import LogMel, fill_mel_stft
from scripts.voice_model.training import DEVICE, Captured, Clock, Speech

from ltx_core.model.audio_vae.model_configurator import VocoderConfigurator

BATCH, FRAMES, HOP = 12, 72, 160
GAN_FROM, GAN_RAMP = 0.18, 0.10


def build() -> torch.nn.Module:
    """The official `VocoderWithBWE`, its STFT buffers filled, both output rows equal, the extension near zero."""
    model = VocoderConfigurator.from_config(CONFIG)
    fill_mel_stft(model.mel_stft)
    with torch.no_grad():
        for part, scale in ((model.vocoder, 1.0), (model.bwe_generator, 0.01)):
            row = part.conv_post.weight[:1] * scale
            part.conv_post.weight.copy_(row.expand_as(part.conv_post.weight))
    return model


class SpectralLoss(torch.nn.Module):
    """Multi-resolution STFT, its low bins once more, and log-mel."""

    def __init__(self, sizes: tuple[int, ...] = (2048, 1024, 512, 256, 128), low_hz: float = 1330.0) -> None:
        super().__init__()
        self.sizes, self.low_hz = sizes, low_hz
        for size in sizes:
            self.register_buffer(f"window{size}", torch.hann_window(size))
        self.mel = LogMel(floor=3e-4)

    def spectrum(self, wave: Tensor, size: int) -> Tensor:
        return torch.stft(wave, size, size // 4, window=getattr(self, f"window{size}"), return_complex=True)

    @staticmethod
    def distance(fake: Tensor, real: Tensor) -> Tensor:
        converge = torch.sqrt(((real - fake) ** 2).sum((1, 2)) + 1e-6) / torch.sqrt((real**2).sum((1, 2)) + 1e-2)
        return converge.mean() + (torch.log(real + 2e-2) - torch.log(fake + 2e-2)).abs().mean()

    def forward(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """fake, real (B, N)."""
        stft = low = fake.new_zeros(())
        for size in self.sizes:
            a, b = self.spectrum(fake, size), self.spectrum(real, size)
            x, y = (torch.sqrt(z.real**2 + z.imag**2 + 1e-6) for z in (a, b))
            stft = stft + self.distance(x, y) / len(self.sizes)
            if size >= 1024:
                edge = int(self.low_hz * size / 16000)
                low = low + self.distance(x[:, :edge], y[:, :edge]) / 2
        mel = (self.mel(fake) - self.mel(real)).abs().mean()
        return {"stft": stft, "low": low, "mel": mel}


@dataclass
class Pool:
    """Mels and waves to cut segments from, on the device. The weights and the VAE's mels are written in place."""

    mel: Tensor  # (N, 401, 64)
    vae_mel: Tensor  # (N, 401, 64); the true ones until there is a VAE
    wave: Tensor  # (N, 64160)
    weight: Tensor  # (N,)
    end: Tensor  # (N,) last loud frame
    intoned: Tensor  # (N,) 1 where the pitch moves

    def draw(self, frames: int) -> tuple[Tensor, Tensor]:
        """mel (B, frames, 64), wave (B, frames * 160); half of the mels are the VAE's."""
        which = training.draw(self.weight, BATCH)
        room = (self.end[which] + 10 - frames).clamp(8, 401 - frames)
        start = (torch.rand(BATCH, device=DEVICE) * room).long()[:, None]
        at = start + torch.arange(frames, device=DEVICE)
        mel, other = self.mel[which[:, None], at], self.vae_mel[which[:, None], at]
        choose = (torch.rand(BATCH, 1, 1, device=DEVICE) < 0.5).float()
        samples = start * HOP + torch.arange(frames * HOP, device=DEVICE)
        return choose * mel + (1 - choose) * other, self.wave[which[:, None], samples]


def make_pool(speech: Speech) -> Pool:
    """Take 0, intoned then flat. Flat clips start with weight 0.2, for the fallback."""
    log_mel, chosen = LogMel().to(DEVICE), speech.where(take=0)
    waves = torch.cat([speech.moving[chosen], speech.flat[chosen]])
    mels = torch.cat([log_mel(part) for part in waves.split(128)])
    register = speech.register[chosen]
    weight = np.choose(register, [2.0, 1.0, 1.0, 0.5])  # normal, whisper, soft, loud
    voiced = register != REGISTERS.index("whisper")
    return Pool(
        mels,
        mels.clone(),
        torch.nn.functional.pad(waves, (0, HOP)),
        _tensor(np.concatenate([weight, 0.2 * weight * voiced])),
        _tensor(np.tile(speech.end[chosen], 2)),
        _tensor(np.concatenate([voiced, np.zeros(len(voiced))])),
    )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values, device=DEVICE, dtype=torch.float32)


def flat_only(pool: Pool) -> None:
    """The fallback: intoned clips no longer drawn (whispers stay)."""
    half = len(pool.weight) // 2
    pool.weight[:half] *= 1 - pool.intoned[:half]
    pool.weight[half:] *= 1 / 0.2


@torch.no_grad()
def use_vae(pool: Pool, path: Path) -> AudioVAE:
    vae = AudioVAE().to(DEVICE).eval()
    vae.load_state_dict(training.load(path)["model"])
    for start in range(0, len(pool.mel), 128):
        pool.vae_mel[start : start + 128] = vae.decode(vae.encode(pool.mel[start : start + 128]))
    return vae


class Trainer:
    """Generator, discriminators, their optimizers, and the two captured steps: without and with the discriminators."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.speech = Speech(arguments.data / "speech.npz")
        self.pool = make_pool(self.speech)
        self.model = build().to(DEVICE)
        self.judges = Discriminators().to(DEVICE)
        speed_up(self.model, compiled=DEVICE.type == "cuda" and not arguments.eager)
        self.loss = SpectralLoss().to(DEVICE)
        self.ramp = torch.zeros((), device=DEVICE)
        self.steps, self.spent, self.fallen_back = 0, 0.0, False
        self.optimizer = training.adamw(self.model.vocoder.parameters(), (0.8, 0.99))
        self.judge_optimizer = training.adamw(self.judges.parameters(), (0.8, 0.99))
        self.vae: AudioVAE | None = None
        self.path = arguments.run / "vocoder_state.pt"
        kept = self.path if self.path.exists() else arguments.start
        if kept:
            state = training.load(kept)
            self.model.load_state_dict(state["model"])
            self.judges.load_state_dict(state["judges"])
            if kept == self.path:
                self.optimizer.load_state_dict(state["optimizer"])
                self.judge_optimizer.load_state_dict(state["judge_optimizer"])
                self.spent = state["spent"]
            self.steps, self.fallen_back = state["steps"], state["fallen_back"]
            if self.fallen_back:
                flat_only(self.pool)

    def generate(self, mel: Tensor) -> Tensor:
        """mel (B, T, 64) -> wave (B, T * 160): both rows are equal, their mean is trained."""
        generator = self.model.vocoder
        generator.apply_final_activation = False  # a clamp would stop gradients
        return generator(mel[:, None].expand(-1, 2, -1, -1)).mean(1)

    def judge(self, wave: Tensor) -> list[list[Tensor]]:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda", cache_enabled=False):
            judged = self.judges(wave)
        return [[feature.float() for feature in part] for part in judged]

    def step_plain(self) -> dict[str, Tensor]:
        mel, real = self.pool.draw(FRAMES)
        parts = self.loss(self.generate(mel), real)
        total = parts["stft"] + 0.5 * parts["low"] + parts["mel"]
        norm = training.update(self.optimizer, total, 1.0)
        return {**{k: v.detach() for k, v in parts.items()}, "norm": norm}

    def step_gan(self) -> dict[str, Tensor]:
        mel, real = self.pool.draw(FRAMES)
        fake = self.generate(mel)
        judged = self.judge(torch.cat([real, fake.detach()]))
        halves = [[f.chunk(2) for f in part] for part in judged]
        judge = discriminator_loss([[f[0] for f in part] for part in halves], [[f[1] for f in part] for part in halves])
        training.update(self.judge_optimizer, judge, 3.0)
        truth = [[f[0].detach() for f in part] for part in halves]
        adversarial, matching = generator_loss(truth, self.judge(fake))
        parts = self.loss(fake, real)
        total = 3 * (parts["stft"] + 0.5 * parts["low"] + parts["mel"])
        total = total + self.ramp * (0.1 * adversarial + 0.2 * matching)
        norm = training.update(self.optimizer, total, 3.0)
        shown = {**parts, "adv": adversarial, "fm": matching, "judge": judge, "norm": norm}
        return {k: v.detach() for k, v in shown.items()}

    def run(self, seconds: float) -> None:
        clock = Clock(seconds, self.spent)
        plain, gan, gan_from = None, None, GAN_FROM
        if self.arguments.start:
            gan_from = -GAN_RAMP  # an earlier run's discriminators
        elif clock.progress < gan_from:
            plain = Captured(self.step_plain)
        checked, began, first = self.fallen_back, time.monotonic(), self.steps
        while clock.progress < 1:
            progress = clock.progress
            self.spent = clock.spent
            training.set_rate(self.optimizer, self.arguments.rate * training.cosine(progress, 0.02, 0.04))
            training.set_rate(self.judge_optimizer, 3e-4)
            if progress >= gan_from and gan is None:
                gan = Captured(self.step_gan)
            self.ramp.fill_(min(1.0, max(0.0, (progress - gan_from) / GAN_RAMP)))
            results = gan() if gan else plain()  # type: ignore[misc]
            self.steps += 1
            if self.steps % self.arguments.log == 0:
                rate = (self.steps - first) / (time.monotonic() - began)
                shown = " ".join(f"{k} {float(v):.3f}" for k, v in results.items())
                print(f"[vocoder] {clock.spent:5.0f} s step {self.steps} ({rate:.1f}/s) {shown}", flush=True)
            if self.vae is None and self.steps % 100 == 0 and (self.arguments.run / "audio_vae.pt").exists():
                self.vae = use_vae(self.pool, self.arguments.run / "audio_vae.pt")
                print(f"[vocoder] {clock.spent:5.0f} s step {self.steps}: half of the mels are the VAE's", flush=True)
            if not checked and progress > self.arguments.check:
                checked = True
                self.decide()
        self.spent = clock.spent

    def decide(self) -> None:
        right = gate(self.model, self.vae, self.speech, "moving", sentences=1, label="half-way")["pitch"]
        if right < self.arguments.goal:
            self.fallen_back = True
            flat_only(self.pool)
        print(f"[vocoder] intoned pitch right in {right:.2f}: {'flat from here' if self.fallen_back else 'kept'}")

    def save(self) -> None:
        counts = {"steps": self.steps, "spent": self.spent, "fallen_back": self.fallen_back}
        states = {"optimizer": self.optimizer.state_dict(), "judge_optimizer": self.judge_optimizer.state_dict()}
        weights = {"model": self.model.state_dict(), "judges": self.judges.state_dict()}
        training.save(self.path, **weights, **states, **counts)
        training.save(self.arguments.run / "vocoder.pt", **weights, **counts)


def train_bwe(trainer: Trainer, seconds: float) -> None:
    """The extension on the vocoder's own output against 48 kHz truth: STFT distance of the whole signal."""
    speech, model, clock = trainer.speech, trainer.model, Clock(seconds)
    log_mel, loss = LogMel().to(DEVICE), SpectralLoss((2048, 1024, 512), 0.0).to(DEVICE)
    model.eval()
    waves, lows = torch.from_numpy(speech.high).to(DEVICE).float() / 32768, []
    with torch.no_grad():
        for index in torch.as_tensor(speech.high_index).split(32):
            source = speech.flat if trainer.fallen_back else speech.moving
            lows.append(model.vocoder(log_mel(source[index])[:, None].expand(-1, 2, -1, -1))[:, 0])
    low, frames = torch.cat(lows), 60
    keep = model.bwe_generator.train()
    speed_up(keep, compiled=False)
    optimizer = training.adamw(keep.parameters(), (0.8, 0.99))
    span = torch.arange(frames * HOP, device=DEVICE)

    def step() -> dict[str, Tensor]:
        which = torch.randint(len(low), (8, 1), device=DEVICE)
        start = torch.randint(0, 380 - frames, (8, 1), device=DEVICE) * HOP
        x = low[which, start + span][:, None].expand(-1, 2, -1)
        real = waves[which, start * 3 + torch.arange(3 * frames * HOP, device=DEVICE)]
        fake = (keep(model._compute_mel(x).transpose(2, 3)) + model.resampler(x)).mean(1)
        parts = sum(
            loss.distance(loss.spectrum(fake, n).abs() + 1e-6, loss.spectrum(real, n).abs()) for n in loss.sizes
        )
        training.update(optimizer, parts, 1.0)
        return {"loss": parts.detach()}

    captured, steps = Captured(step), 0
    total: list[Tensor] = []
    while clock.progress < 1 or not total:
        training.set_rate(optimizer, 1e-3 * training.cosine(clock.progress))
        total.append(captured()["loss"].clone())
        steps += 1
    trace = torch.stack(total)
    print(
        f"[bwe] {steps} steps, distance {float(trace[:50].mean()):.3f} -> {float(trace[-50:].mean()):.3f}", flush=True
    )
    trainer.save()


@torch.no_grad()
def gate(
    model: torch.nn.Module, vae: AudioVAE | None, speech: Speech, kind: str, sentences: int = 4, label: str = ""
) -> dict[str, float]:
    """Voicing, pitch and loudness of held-out takes after VAE and vocoder, per register and gender. Prints rows."""
    model.eval()
    log_mel, source, rights = LogMel().to(DEVICE), getattr(speech, kind), []
    for register in REGISTERS[:3]:
        for gender in ("man", "woman"):
            chosen = [i for i in speech.where(register, take=1) if VOICES[speech.voice[i]].gender == gender]
            chosen = [i for i in chosen if speech.sentence[i] in np.unique(speech.sentence[chosen])[:sentences]]
            if not chosen:  # a smoke test's few clips
                continue
            mel = log_mel(source[chosen])
            decoded = mel if vae is None else vae.decode(vae.encode(mel))
            made = model.vocoder(decoded[:, None].expand(-1, 2, -1, -1))[:, 0].clamp(-1, 1).float().cpu().numpy()
            truth = source[chosen].cpu().numpy()
            figures = _figures(made, truth)
            if register == "normal":
                rights.append(figures["pitch"])
            shown = " ".join(f"{k} {v:.2f}" for k, v in figures.items())
            print(f"GATE vocoder {label} {kind} {register:8s} {gender:6s} {shown}", flush=True)
    model.train()
    model.vocoder.apply_final_activation = False
    return {"pitch": float(np.mean(rights)) if rights else 0.0}


def _figures(made: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    pairs = [(Voicing.of(m), Voicing.of(t)) for m, t in zip(made, truth, strict=True)]
    rows = {
        "true_voiced": [t.fraction for _, t in pairs],
        "voiced": [m.fraction for m, _ in pairs],
        "pitch": [m.pitch_match(t) for m, t in pairs],
        "level": [m.level - t.level for m, t in pairs],
    }
    return {k: float(np.mean(v)) for k, v in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--bwe-seconds", type=float, default=20)
    parser.add_argument("--check", type=float, default=0.5, help="share of the time after which the pitch is judged")
    parser.add_argument("--goal", type=float, default=0.7, help="share of right pitch that keeps the intonation")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--log", type=int, default=500)
    parser.add_argument("--eager", action="store_true")
    arguments = parser.parse_args()
    training.prepare(2)
    trainer = Trainer(arguments)
    trainer.model.train()
    try:
        trainer.run(arguments.seconds)
    finally:
        trainer.save()  # also when stopped: the next call goes on from here
    train_bwe(trainer, arguments.bwe_seconds)
    if trainer.vae is None and (arguments.run / "audio_vae.pt").exists():
        trainer.vae = use_vae(trainer.pool, arguments.run / "audio_vae.pt")
    gate(trainer.model, trainer.vae, trainer.speech, "moving", sentences=4, label="vae-mel")
    gate(trainer.model, trainer.vae, trainer.speech, "flat", sentences=2, label="vae-mel")
    gate(trainer.model, None, trainer.speech, "moving", sentences=2, label="true-mel")


if __name__ == "__main__":
    main()
