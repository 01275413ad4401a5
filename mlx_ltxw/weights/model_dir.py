"""A converted model on disk: opened in milliseconds, loaded one network at a time."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.components import COMPONENTS, TEXT_ENCODER, audio_side
from mlx_ltxw.weights.header import Tensor, read_header
from mlx_ltxw.weights.manifest import FileRecord, check_hashes, check_sizes, read_manifest

if TYPE_CHECKING:
    import mlx.core as mx
    import mlx.nn as nn


@dataclass(frozen=True)
class ModelDir:
    """What `mlx-ltxw convert` wrote.

    Attributes:
        path: The directory.
        config: Its `config.json`: `config` (the checkpoint's own), `model_version`, `variant`, `source`,
            `quantization` (settings per component and layer; absent when nothing is quantised).
        files: Size and sha256 of every file.
    """

    path: Path
    config: dict[str, Any]
    files: dict[str, FileRecord]

    @classmethod
    def open(cls, path: str | Path) -> ModelDir:
        """Reads the manifest and the config, and checks that every file is there with its size.

        Raises:
            UserError: no such directory, an unfinished conversion, or a damaged model.
        """
        directory = Path(path)
        if not directory.is_dir():
            raise UserError(f"There is no model directory {directory}.", "Make one with `mlx-ltxw convert`.")
        files, _ = read_manifest(directory)
        check_sizes(directory, files)
        config = _read_json(directory / "config.json")
        if config.get("variant") not in ("dev", "distilled") or not isinstance(config.get("config"), dict):
            raise UserError(f"{directory / 'config.json'} is not what convert writes.", "Convert the checkpoint again.")
        return cls(directory, config, files)

    @property
    def variant(self) -> str:
        """`dev` or `distilled`."""
        return self.config["variant"]

    @property
    def checkpoint_config(self) -> dict[str, Any]:
        """The checkpoint's own `config`, with its sections `transformer`, `vae`, `audio_vae`, `vocoder`."""
        return self.config["config"]

    @property
    def generation(self) -> dict[str, Any]:
        """Defaults of its own for `generate`, from the checkpoint config's section `mlx_ltxw`; empty for LTX-2.3."""
        return self.checkpoint_config.get("mlx_ltxw", {}).get("generation", {})

    def notes(self, audio_only: bool) -> list[str]:
        """What a user of this model is told before each run, and before one without a picture; nothing for LTX-2.3."""
        section = self.checkpoint_config.get("mlx_ltxw", {})
        wanted = ("note", "note_audio_only") if audio_only else ("note",)
        return [section[name] for name in wanted if name in section]

    @property
    def identity(self) -> dict[str, Any]:
        """What names this model in the metadata of a file it made."""
        return {"name": self.path.name, "variant": self.variant, "source": self.config.get("source")}

    @property
    def text_encoder(self) -> Path:
        """The Gemma folder, in mlx-lm's layout."""
        return self.path / TEXT_ENCODER

    def network_config(self, component: str) -> Any:
        """The config object of one network, such as `VideoVAEConfig`; loads no weights."""
        numbers = {}
        if component == "text_projection":
            gemma = _read_json(self.text_encoder / "config.json")
            numbers = {"text_width": gemma["hidden_size"], "text_states": gemma["num_hidden_layers"] + 1}
        return COMPONENTS[component].read_config(self.checkpoint_config, **numbers)

    def quantized_layers(self, component: str) -> dict[str, dict[str, Any]]:
        """Quantisation settings by layer path."""
        settings = self.config.get("quantization", {}).get(component, {})
        return {path: value for path, value in settings.items() if isinstance(value, dict)}

    def shards(self, component: str, audio_only: bool = False) -> list[Path]:
        """The files of one network; `audio_only` leaves out those that hold the video side alone.

        Raises:
            UserError: the component's index is missing or broken.
        """
        weight_map = _read_json(self.path / f"{component}.safetensors.index.json")["weight_map"]
        chosen = {file for name, file in weight_map.items() if not audio_only or audio_side(name)}
        return [self.path / file for file in sorted(chosen)]

    def tensors(self, component: str, audio_only: bool = False) -> list[Tensor]:
        """The headers' entries of one network; reads no weights. `text_encoder` is a component too."""
        if component == TEXT_ENCODER:
            files = sorted(self.text_encoder.glob("model*.safetensors"))
        else:
            files = self.shards(component, audio_only)
        return [tensor for file in files for tensor in read_header(file).tensors.values()]

    def load(self, component: str, dtype: mx.Dtype | None = None, audio_only: bool = False) -> nn.Module:
        """Builds one network and gives it its weights, which are read from disk when they are first used.

        Args:
            component: A name of `mlx_ltxw.weights.components.COMPONENTS`.
            dtype: Of weights and activations; by default bfloat16 on a GPU and float32 on the CPU. The vocoder and
                the scale-shift tables are float32 in any case.
            audio_only: For the transformer: builds the audio stream alone and opens none of the video side's files.

        Raises:
            UserError: the files do not fit the network; lists all mismatches.
        """
        from mlx_ltxw.weights.dtype import default_dtype, memory_dtype
        from mlx_ltxw.weights.loading import fill, quantize_layers, read_arrays

        options = {"with_video": False} if audio_only else {}
        network = COMPONENTS[component].build(self.network_config(component), **options)
        layers = self.quantized_layers(component)
        quantize_layers(network, {p: s for p, s in layers.items() if not audio_only or audio_side(p)})
        target = dtype or default_dtype()
        arrays = {
            name: array.astype(memory_dtype(component, name, array.dtype, target))
            for name, array in read_arrays(self.shards(component, audio_only)).items()
        }
        fill(network, arrays, f"{component} of {self.path}")
        return network.eval()

    def load_text_encoder(self, dtype: mx.Dtype | None = None, in_pieces: bool = False) -> Any:
        """The `mlx_ltxw.models.text.TextEncoder`; `dtype` as for `load`, `in_pieces` for `TextEncoder.load`."""
        from mlx_ltxw.weights.dtype import default_dtype

        text = importlib.import_module("mlx_ltxw.models.text")
        return text.TextEncoder.load(self.text_encoder, dtype or default_dtype(), in_pieces)

    def verify(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """Hashes every file against the manifest; `progress` gets the bytes of each step.

        Raises:
            UserError: names every file that differs.
        """
        check_hashes(self.path, self.files, progress)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).", "Convert the checkpoint again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object.", "Convert the checkpoint again.")
    return value
