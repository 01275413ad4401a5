"""Stage 4b: the picture's side learns what is given. `python -m scripts.voice_model.given --run DIR --seconds 240`.

The transformer is trained on whole clips, where face and caption always agree: a picture given as the first frame of
a clip whose caption names somebody else turns into that one. Here half of a batch has frames given: a first frame, a
keyframe, or all but a stretch; and in half of those face or background are not the caption's. The clip is then of the
picture's face, and says what the caption says in the voice that it names. Only weights that the sound's side does not
use are trained: the sound and the adapters, which read the picture, must find it as it was, so on plain clips and on
clips whose picture is wholly given what they read is held to what it was (`reading`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mlx_ltxw.weights.components import audio_side, of_adapted_audio
from scripts.voice_model import training
from scripts.voice_model.given_batches import Batch, Drawer, velocity
from scripts.voice_model.given_clips import Lines, given_clips
from scripts.voice_model.given_gate import gate
from scripts.voice_model.training import DEVICE, Captured, Clock
from scripts.voice_model.transformer import Model, shifted_logit_normal
from scripts.voice_model.video_vae import VideoVAE

_SOUNDS_OWN = ("av_ca_audio_scale_shift_adaln_single", "av_ca_v2a_gate_adaln_single")


def trained(name: str) -> bool:
    """Whether a parameter of the transformer is the picture's alone."""
    inner = name.split(".", 2)[2] if name.startswith("transformer_blocks.") else name
    return not (audio_side(name) or of_adapted_audio(inner) or name.startswith(_SOUNDS_OWN))


@contextmanager
def reading(model: Model) -> Iterator[list[Tensor]]:
    """What the sound reads of the picture in every block, the context of `video_to_audio_attn`, of the calls within."""
    seen: list[Tensor] = []

    def see(_: object, __: object, given: dict[str, Tensor]) -> None:
        seen.append(given["context"])

    hooks = [
        block.video_to_audio_attn.register_forward_pre_hook(see, with_kwargs=True)
        for block in model.dit.transformer_blocks
    ]
    yield seen
    for hook in hooks:
        hook.remove()


class Trainer:
    def __init__(self, arguments: argparse.Namespace, drawer: Drawer, base: Model) -> None:
        self.arguments, self.drawer = arguments, drawer
        self.base, self.model = base.requires_grad_(False), Model().to(DEVICE)
        self.model.load_state_dict(base.state_dict())
        self.model.requires_grad_(False)
        self.trained = {name: p for name, p in self.model.dit.named_parameters() if trained(name)}
        for parameter in self.trained.values():
            parameter.requires_grad_(True)
        self.parameters = list(self.trained.values())
        self.averages = [p.detach().clone() for p in self.parameters]
        self.optimizer = training.adamw(self.parameters, (0.9, 0.98), decay=0.0)
        self.steps, self.spent = 0, 0.0
        self.path = arguments.run / "given_state.pt"
        if self.path.exists():
            state = training.load(self.path)
            self._take(state["model"], state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.steps, self.spent = state["steps"], state["spent"]
        elif arguments.start:  # an earlier run's weights, with a fresh optimizer
            average = training.load(arguments.start)["average"]
            self._take(average, average)

    @torch.no_grad()
    def _take(self, model: dict[str, Tensor], average: dict[str, Tensor]) -> None:
        for name, parameter, kept in zip(self.trained, self.parameters, self.averages, strict=True):
            parameter.copy_(model[name])
            kept.copy_(average[name])

    def losses(self, batch: Batch, held: int) -> dict[str, Tensor]:
        """Flow matching on all that is made; `sound` and `reading` hold the first rows to the base."""
        sigma = shifted_logit_normal(len(batch.audio))
        level, audio_level = (sigma[:, None] * batch.mask)[..., None], sigma[:, None, None]
        video_noise, audio_noise = torch.randn_like(batch.video), torch.randn_like(batch.audio)
        video = torch.lerp(batch.video, video_noise, level)
        audio = torch.lerp(batch.audio, audio_noise, audio_level)
        with reading(self.model) as seen:
            v, a = velocity(self.model, batch, video, audio, sigma)
        made = (batch.mask > 0).float()
        error = ((v - (video_noise - batch.video)) ** 2).mean(-1)
        losses = {"audio": F.mse_loss(a, audio_noise - batch.audio), "video": (error * made).sum() / made.sum()}
        if held:
            with torch.no_grad(), reading(self.base) as wanted:
                _, before = velocity(self.base, batch.rows(held), video[:held], audio[:held], sigma[:held])
            losses["sound"] = F.mse_loss(a[:held], before)
            apart = [F.mse_loss(x[:held], y) / y.var() for x, y in zip(seen, wanted, strict=True)]
            losses["reading"] = torch.stack(apart).mean()
        return losses

    def stepper(self, draw: Callable[[], Batch], held: int) -> Callable[[], dict[str, Tensor]]:
        weights = {"audio": 0.5, "video": 1.0, "sound": 0.5, "reading": self.arguments.reading}

        def step() -> dict[str, Tensor]:
            losses = self.losses(draw(), held)
            norm = training.update(self.optimizer, torch.stack([weights[k] * x for k, x in losses.items()]).sum(), 1.0)
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 0.002)
            return {**{k: x.detach() for k, x in losses.items()}, "norm": norm}

        return step

    def run(self, seconds: float) -> None:
        training.set_rate(self.optimizer, 0.0)  # the captures' own trial steps change nothing
        mixed = Captured(self.stepper(self.drawer.mixed, self.drawer.held))
        keyframed = Captured(self.stepper(self.drawer.keyframed, 0))
        clock, began, first = Clock(seconds, self.spent), time.monotonic(), self.steps
        while clock.progress < 1:
            training.set_rate(self.optimizer, self.arguments.rate * training.cosine(clock.progress, 0.03, 0.01))
            self.steps += 1
            results = (keyframed if self.steps % 6 == 0 else mixed)()
            if self.steps % self.arguments.log in (0, 1):
                rate = (self.steps - first) / (time.monotonic() - began)
                shown = " ".join(f"{k} {float(x):.4f}" for k, x in results.items())
                print(f"[given] {clock.spent:5.0f} s step {self.steps} ({rate:.1f}/s) {shown}", flush=True)
        self.spent = clock.spent

    def save(self) -> None:
        counts = {"average": dict(zip(self.trained, self.averages, strict=True)), "steps": self.steps}
        model = {name: parameter.detach() for name, parameter in self.trained.items()}
        training.save(self.path, model=model, optimizer=self.optimizer.state_dict(), spent=self.spent, **counts)
        training.save(self.arguments.run / "given.pt", spent=self.spent, **counts)

    def averaged(self) -> Model:
        """The model with the averages, for its gate and for the release."""
        self._take(
            dict(zip(self.trained, self.averages, strict=True)), dict(zip(self.trained, self.averages, strict=True))
        )
        return self.model.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="with transformer.pt, video_vae.pt, lines.npz")
    parser.add_argument("--lines", type=Path, help="lines.npz elsewhere")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--reading", type=float, default=0.2, help="weight of what the sound reads")
    parser.add_argument("--captions", type=int, default=4, help="of each clip and scene")
    parser.add_argument("--part", type=int, default=64, help="clips encoded at a time")
    parser.add_argument("--start", type=Path, help="earlier weights to go on from")
    parser.add_argument("--log", type=int, default=250)
    parser.add_argument("--gate", type=int, default=32, help="clips of each gate")
    parser.add_argument("--before", action="store_true", help="the gate's figures of the base too")
    arguments = parser.parse_args()
    training.prepare(8)
    base, vae = Model().to(DEVICE), VideoVAE().to(DEVICE).eval()
    base.load_state_dict(training.load(arguments.run / "transformer.pt")["average"])
    vae.load_state_dict(training.load(arguments.run / "video_vae.pt")["model"])
    lines, began = Lines.load(arguments.lines or arguments.run / "lines.npz"), time.monotonic()
    clips = given_clips(lines, base.text, vae, arguments.captions, arguments.part)
    print(f"[given] {len(lines.audio)} lines made ready in {time.monotonic() - began:.0f} s", flush=True)
    trainer = Trainer(arguments, Drawer(clips, arguments.batch), base)
    if arguments.before:
        gate("base", base, vae, lines, clips, arguments.gate)
    try:
        trainer.run(arguments.seconds)
    finally:
        trainer.save()
    gate("given", trainer.averaged(), vae, lines, clips, arguments.gate)


if __name__ == "__main__":
    main()
