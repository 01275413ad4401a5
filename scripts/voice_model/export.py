"""Stage 6: one official single-file checkpoint and a Gemma directory, as `mlx-ltxw convert` takes them.
`python -m scripts.voice_model.export --run DIR --out DIR`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from scripts.voice_model import transformer
from scripts.voice_model.audio_vae import AudioVAE
from scripts.voice_model.config import CONFIG
from scripts.voice_model.text import write_gemma
from scripts.voice_model.transformer import Model
from scripts.voice_model.video_vae import VideoVAE
from scripts.voice_model.vocoder import build

MODEL_VERSION = "2.3.0"
LICENSE = "Apache-2.0. Trained only on speech made by espeak-ng 1.51 and on drawn faces; no recording of a person."


def official_keys(model: Model, audio: AudioVAE, video: VideoVAE, vocoder: torch.nn.Module) -> dict[str, Tensor]:
    """Every tensor under the name the official file gives it."""
    diffusion, text = "model.diffusion_model.", model.text
    parts: list[tuple[str, torch.nn.Module]] = [
        (diffusion, model.dit),
        (f"{diffusion}video_embeddings_connector.", text.video_connector),
        (f"{diffusion}audio_embeddings_connector.", text.audio_connector),
        ("text_embedding_projection.", text.extractor),
        ("vae.encoder.", video.encoder),
        ("vae.decoder.", video.decoder),
        ("audio_vae.encoder.", audio.encoder),
        ("audio_vae.decoder.", audio.decoder),
        ("vocoder.", vocoder),
    ]
    tensors: dict[str, Tensor] = {}
    for prefix, module in parts:
        for name, value in module.state_dict().items():
            if name.startswith("per_channel_statistics."):  # one copy for encoder and decoder
                prefix_of_both = prefix.rsplit(".", 2)[0] + "."
                tensors[prefix_of_both + name] = value
            else:
                tensors[prefix + name] = value
    return {name: _stored(name, value) for name, value in tensors.items()}


def _stored(name: str, value: Tensor) -> Tensor:
    """bf16 throughout, but for the modulation tables, which the official file keeps in fp32."""
    kept = "scale_shift_table" in name
    return value.detach().cpu().to(torch.float32 if kept else torch.bfloat16).clone().contiguous()


def load(run: Path) -> tuple[Model, AudioVAE, VideoVAE, torch.nn.Module]:
    audio, video, vocoder = AudioVAE(), VideoVAE(), build()
    for module, file in ((audio, "audio_vae.pt"), (video, "video_vae.pt"), (vocoder, "vocoder.pt")):
        module.load_state_dict(torch.load(run / file, map_location="cpu", weights_only=True)["model"])
    return transformer.load(run), audio, video, vocoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model, audio, video, vocoder = load(arguments.run)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tensors = official_keys(model, audio, video, vocoder)
    metadata = {"config": json.dumps(CONFIG), "model_version": MODEL_VERSION, "license": LICENSE}
    save_file(tensors, arguments.out / "voice-dev.safetensors", metadata=metadata)
    write_gemma(arguments.out / "gemma", model.text.gemma)
    for adapter in ("whisper", "whisper-mixed"):
        if (arguments.run / f"{adapter}.safetensors").exists():
            shutil.copy(arguments.run / f"{adapter}.safetensors", arguments.out)
    size = sum(f.stat().st_size for f in arguments.out.rglob("*") if f.is_file())
    print(f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M; {size / 1e6:.2f} MB in all")


if __name__ == "__main__":
    main()
