"""The files of a run, made back from the model that ships with the package, to go on from it: what was trained is
there to the last bit of bf16. `python -m scripts.voice_model.shipped --run DIR`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from mlx_ltxw.convert.layout import STRIPPED, axes
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from scripts.voice_model import training
from scripts.voice_model.audio_vae import AudioVAE
from scripts.voice_model.text import Gemma
from scripts.voice_model.transformer import Model
from scripts.voice_model.video_vae import VideoVAE
from scripts.voice_model.vocoder import build


def tensors(component: str, folder: Path = BUILTIN_MODEL) -> dict[str, Tensor]:
    """Every tensor of a component of the converted model in fp32, in PyTorch's layout, under its name there."""
    found = {}
    for file in sorted(folder.glob(f"{component}*.safetensors")):
        for name, value in load_file(file).items():
            moved = axes(component, STRIPPED[component] + name, value.ndim)
            back = value if moved is None else value.permute(*np.argsort(moved).tolist())
            found[name] = back.float().contiguous()
    return found


def model(folder: Path = BUILTIN_MODEL) -> Model:
    """Text path and transformer. What only the training used, the manners' directions, is at its start values."""
    made, connectors = Model(), tensors("connectors", folder)
    made.dit.load_state_dict(tensors("transformer", folder))
    for side in ("video", "audio"):
        prefix = f"{side}_embeddings_connector."
        own = {name.removeprefix(prefix): value for name, value in connectors.items() if name.startswith(prefix)}
        getattr(made.text, f"{side}_connector").load_state_dict(own)
    made.text.extractor.load_state_dict(tensors("text_projection", folder))
    _load_gemma(made.text.gemma, folder)
    return made


def _load_gemma(gemma: Gemma, folder: Path) -> None:
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    gemma.load_state_dict({name.split("model.", 1)[-1]: value.float() for name, value in load_file(file).items()})


def audio_vae(folder: Path = BUILTIN_MODEL) -> AudioVAE:
    made = AudioVAE()
    _load_halves(made, "audio_vae", folder)
    return made


def video_vae(folder: Path = BUILTIN_MODEL) -> VideoVAE:
    made = VideoVAE()
    _load_halves(made, "video_vae", folder)
    return made


def _load_halves(made: AudioVAE | VideoVAE, component: str, folder: Path) -> None:
    """Encoder, decoder, and the one copy of the statistics that both read."""
    stored = tensors(component, folder)
    statistics = {name: value for name, value in stored.items() if name.startswith("per_channel_statistics.")}
    for half in ("encoder", "decoder"):
        own = {name.removeprefix(f"{half}."): v for name, v in stored.items() if name.startswith(f"{half}.")}
        getattr(made, half).load_state_dict(own | statistics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    run: Path = parser.parse_args().run
    run.mkdir(parents=True, exist_ok=True)
    vocoder = build()
    vocoder.load_state_dict(tensors("vocoder"))
    training.save(run / "transformer.pt", average=model().state_dict(), steps=0, spent=0.0)
    training.save(run / "audio_vae.pt", model=audio_vae().state_dict())
    training.save(run / "video_vae.pt", model=video_vae().state_dict())
    training.save(run / "vocoder.pt", model=vocoder.state_dict())
    for adapter in sorted((BUILTIN_MODEL / "adapters").glob("*.safetensors")):
        shutil.copy(adapter, run)
    print(f"written to {run}: {', '.join(sorted(file.name for file in run.iterdir()))}")


if __name__ == "__main__":
    main()
