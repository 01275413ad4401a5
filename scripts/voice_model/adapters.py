"""Stage 5: the two adapters, trained like the public one. `python -m scripts.voice_model.adapters --data --run`."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scripts.voice_model import training
from scripts.voice_model.config import CONTEXT
from scripts.voice_model.corpus import SENTENCES, VOICES, WHISPERED_SENTENCES, caption, gate_captions, quiet_manner
from scripts.voice_model.latents import Clips, Encoders, adapter_rows, base_clips, gather, register_pairs
from scripts.voice_model.training import DEVICE, Captured, Speech
from scripts.voice_model.transformer import Model, flow_losses, load, sample

RANK, ALPHA, STEPS, BATCH, RATE = 32, 32, 2000, 8, 1e-3
MODULES = ("audio_attn1", "audio_attn2", "video_to_audio_attn")
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
NORMAL_CLIPS = {"whisper": 0, "whisper-mixed": 25}


class LoRA(nn.Module):
    """base(x) + alpha / rank * (x A^T) B^T, the base frozen."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.empty(RANK, base.in_features, device=base.weight.device))
        self.B = nn.Parameter(torch.zeros(base.out_features, RANK, device=base.weight.device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.A.T @ self.B.T) * (ALPHA / RANK)


def attach(model: Model) -> dict[str, LoRA]:
    """Wraps the audio attentions' projections; keys are official module paths."""
    model.requires_grad_(False)
    placed = {}
    for index, block in enumerate(model.dit.transformer_blocks):
        for module in MODULES:
            for layer in LAYERS:
                parent, _, last = f"{module}.{layer}".rpartition(".")
                owner = block.get_submodule(parent)
                placed[f"transformer_blocks.{index}.{module}.{layer}"] = made = LoRA(owner.get_submodule(last))
                setattr(owner, last, made)
        # no adapted module is in the video stream: gradients stop where video reads audio
        block.audio_to_video_attn.register_forward_hook(lambda _, __, out: out.detach())
    return placed


def save_adapter(path: Path, placed: dict[str, LoRA]) -> None:
    """The official spelling; alpha equals the rank, so nothing is folded."""
    tensors = {}
    for name, layer in placed.items():
        tensors[f"diffusion_model.{name}.lora_A.weight"] = layer.A.detach().to(torch.bfloat16).cpu().contiguous()
        tensors[f"diffusion_model.{name}.lora_B.weight"] = layer.B.detach().to(torch.bfloat16).cpu().contiguous()
    save_file(tensors, path, metadata={"format": "pt", "lora_rank": str(RANK), "lora_alpha": str(ALPHA)})


def load_adapter(path: Path, placed: dict[str, LoRA]) -> None:
    tensors = load_file(path)
    with torch.no_grad():
        for name, layer in placed.items():
            layer.A.copy_(tensors[f"diffusion_model.{name}.lora_A.weight"])
            layer.B.copy_(tensors[f"diffusion_model.{name}.lora_B.weight"])


def train(model: Model, clips: Clips, name: str, arguments: argparse.Namespace) -> dict[str, LoRA]:
    placed, steps, log = attach(model), arguments.steps, arguments.log
    if arguments.start:
        load_adapter(arguments.start / f"{name}.safetensors", placed)
    parameters = [p for layer in placed.values() for p in (layer.A, layer.B)]
    optimizer = training.adamw(parameters)
    training.set_rate(optimizer, 0.0)

    with torch.no_grad():  # the text is frozen: every caption's contexts once
        flat_ids, flat_lengths = clips.ids[:, :, :2].flatten(0, 2), clips.lengths[:, :, :2].flatten()
        parts = [model.text(i, n, CONTEXT) for i, n in zip(flat_ids.split(32), flat_lengths.split(32), strict=True)]
        contexts = [torch.cat(side) for side in zip(*parts, strict=True)]
    rows = torch.arange(len(flat_ids), device=DEVICE).view(*clips.ids.shape[:2], 2, 1)
    indexed = replace(clips, ids=rows, lengths=clips.lengths[:, :, :2], manner=clips.manner[:, :, :2])

    def step() -> dict[str, Tensor]:
        drawn = indexed.draw(arguments.batch, 0.0)
        losses = flow_losses(model, drawn, (contexts[0][drawn.ids[:, 0]], contexts[1][drawn.ids[:, 0]]))
        training.update(optimizer, losses["audio"], 1.0)
        return {k: v.detach() for k, v in losses.items()}

    captured, began = Captured(step), time.monotonic()
    for number in range(steps):
        training.set_rate(optimizer, arguments.rate * (1 - 0.9 * number / steps))
        results = captured()
        if (number + 1) % log == 0:
            shown = " ".join(f"{k} {float(v):.4f}" for k, v in results.items())
            rate = (number + 1) / (time.monotonic() - began)
            print(f"[{name}] step {number + 1} ({rate:.0f}/s) {shown}", flush=True)
    return placed


@torch.no_grad()
def gate(model: Model, base: Clips, quiet: dict[str, Clips], name: str) -> None:
    """In latents: is the nearest clip of that voice the right sentence, and in the right register?"""
    for register in ("whisper", "soft", "normal"):
        _, voices, sentences = gate_captions("")
        manners = [quiet_manner(VOICES[v], register) if register != "normal" else "speaking" for v in voices]
        pairs = list(zip(voices, sentences, strict=True))
        captions = [caption(VOICES[v], m, SENTENCES[s]) for (v, s), m in zip(pairs, manners, strict=True)]
        _, audio = sample(model, captions, 7)
        sets = {"normal": base, **quiet}
        rows: dict[str, list[float]] = {"sentence": [], "unseen": [], "register": [], "unseen_register": []}
        for one, (voice, sentence) in zip(audio, pairs, strict=True):
            found = {}
            if any(sentence not in clips.sentence[clips.voice == voice] for clips in sets.values()):
                continue  # a smoke test's few clips
            for kind, clips in sets.items():
                own = np.flatnonzero(clips.voice == voice)
                distance = ((clips.audio[own] - one) ** 2).mean((1, 2))
                found[kind] = (float(distance.min()), int(clips.sentence[own][int(distance.argmin())]))
            said = found[register][1] == sentence
            heard = min(found, key=lambda k: found[k][0]) == register
            rows["sentence"].append(said)
            rows["register"].append(heard)
            if sentence not in WHISPERED_SENTENCES:
                rows["unseen"].append(said)
                rows["unseen_register"].append(heard)
        shown = " ".join(f"{k} {np.mean(v):.3f}" for k, v in rows.items())
        print(f"GATE {name} caption {register:8s} {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--log", type=int, default=500)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--start", type=Path, help="folder of earlier adapters to go on from")
    arguments = parser.parse_args()
    training.prepare(5)
    encoders, speech = Encoders.load(arguments.run), Speech(arguments.data / "speech.npz")
    base = base_clips(encoders, speech)
    quiet = {}
    for register in ("whisper", "soft"):
        every = speech.where(register, take=0)
        quiet[register] = gather(encoders, speech, every, [("",)] * len(every), 12, pictures=False)
    for name, normal in NORMAL_CLIPS.items():
        model = load(arguments.run).to(DEVICE)
        rows, manners = adapter_rows(speech, normal)
        clips = replace(gather(encoders, speech, rows, manners, 13), pairs=register_pairs(speech, rows))
        placed = train(model, clips, name, arguments)
        save_adapter(arguments.run / f"{name}.safetensors", placed)
        gate(model, base, quiet, name)


if __name__ == "__main__":
    main()
