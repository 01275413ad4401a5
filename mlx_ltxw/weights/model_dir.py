"""A converted model on disk: opened in milliseconds, loaded one network at a time."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import lost
from mlx_ltxw.paths import inside
from mlx_ltxw.weights.components import (
    TEXT_ENCODER,
    TEXT_PARTS,
    audio_side,
    component_named,
    is_upsampler,
    upsampler_name,
)
from mlx_ltxw.weights.header import Tensor, known_header
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import FileRecord, check_hashes, check_sizes, read_manifest, sha256
from mlx_ltxw.weights.model_files import AGAIN, is_ours, read_json, weight_map

if TYPE_CHECKING:
    import mlx.core as mx
    import mlx.nn as nn

    from mlx_ltxw.models.audio_vae import AudioVAE, VocoderWithBWE
    from mlx_ltxw.models.text import Connectors, FeatureExtractor, PromptTokenizer, TextEncoder
    from mlx_ltxw.models.transformer import Transformer
    from mlx_ltxw.models.transformer.tensor import TensorShare
    from mlx_ltxw.models.upsampler import Upsampler
    from mlx_ltxw.models.video_vae import VideoVAE
    from mlx_ltxw.weights.arriving import Arrival
    from mlx_ltxw.weights.streaming import Residency
    from mlx_ltxw.world import Turns

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def _while_there(
    read: Callable[Concatenate[ModelDir, _Given], _Result],
) -> Callable[Concatenate[ModelDir, _Given], _Result]:
    """A method that says so where a folder of the model has gone since it was opened: a disk that was pulled out."""

    @functools.wraps(read)
    def wrapped(self: ModelDir, *arguments: _Given.args, **options: _Given.kwargs) -> _Result:
        try:
            return read(self, *arguments, **options)
        except UserError as error:
            if gone := [folder for folder in self.folders if not os.path.isdir(folder)]:
                raise lost(gone[0], "it is gone") from error
            raise

    return wrapped


@dataclass(frozen=True)
class ModelDir:
    """What `mlx-ltxw convert` wrote.

    Attributes:
        path: The directory.
        config: Its `config.json`: `config` (the checkpoint's own), `model_version`, `variant`, `source`,
            `quantization` (settings per component and layer; absent when nothing is quantised).
        files: Size and sha256 of every file.
        label: What it is called, where that is not the directory's name: `owner/name@commit`.
    """

    path: Path
    config: dict[str, Any]
    files: dict[str, FileRecord]
    label: str = ""

    @classmethod
    def open(cls, path: str | Path) -> ModelDir:
        """Reads the manifest and the config, and checks that every file is there with its size (`opening.open_dir`
        opens any layout).

        Raises:
            UserError: no such directory, an unfinished conversion, or a damaged model.
        """
        directory = Path(path)
        if not directory.is_dir():
            raise UserError(
                f"There is no model directory {directory}.",
                "Make one with `mlx-ltxw convert`, or download one with `mlx-ltxw pull`.",
            )
        files, _ = read_manifest(directory)
        check_sizes(directory, files)
        config = read_json(directory / "config.json")
        if not is_ours(config):
            raise UserError(f"{directory / 'config.json'} is not what convert writes.", "Convert the checkpoint again.")
        return cls(directory, config, files)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.label or self.path.name

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
    def lines(self) -> list[str]:
        """All that this model can say; empty for LTX-2.3, which says anything."""
        lines = self.checkpoint_config.get("mlx_ltxw", {}).get("lines", [])
        return [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []

    @property
    def identity(self) -> dict[str, Any]:
        """What names this model in the metadata of a file it made."""
        return {"name": self.name, "variant": self.variant, "source": self.config.get("source")}

    @property
    def text_encoder(self) -> Path:
        """The Gemma folder, in mlx-lm's layout."""
        return self.path / TEXT_ENCODER

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that it is read from."""
        return (self.path,)

    @property
    def upsamplers(self) -> list[str]:
        """Kinds of latent upsamplers that the directory holds, such as `spatial-x2`."""
        start, end = upsampler_name(""), ".json"
        names = (name for name in self.files if name.startswith(start) and name.endswith(end))
        return sorted(name[len(start) : -len(end)] for name in names if not name.endswith(f".index{end}"))

    @property
    def has_text_encoder(self) -> bool:
        """Whether it is known where the Gemma folder is; always so for what `convert` wrote."""
        return True

    @property
    def takes_upsamplers(self) -> bool:
        """Whether upsamplers can be added; to what `convert` wrote they can."""
        return True

    @_while_there
    def network_config(self, component: str) -> Any:
        """The config object of one network, such as `VideoVAEConfig`; loads no weights.

        Raises:
            UserError: the config is damaged, or describes another model; or there is no such upsampler.
        """
        if component == TEXT_ENCODER:
            return component_named(component).read_config(read_json(self.text_encoder / "config.json"))
        if is_upsampler(component):
            return component_named(component).read_config(self._upsampler_file(component).get("config", {}))
        numbers = {}
        if component == "text_projection":
            gemma = self.network_config(TEXT_ENCODER)
            numbers = {"text_width": gemma.hidden_size, "text_states": gemma.states}
        return component_named(component).read_config(self.checkpoint_config, **numbers)

    def _upsampler_file(self, name: str) -> dict[str, Any]:
        """What `convert` wrote about an upsampler: its own `config`, `model_version` and `source`."""
        self._held_upsampler(name)
        return read_json(self.path / f"{name}.json")

    def _held_upsampler(self, name: str) -> str:
        """The kind of an upsampler that is there, by its component's name.

        Raises:
            UserError: it is not.
        """
        kind = name.removeprefix(upsampler_name(""))
        if kind not in self.upsamplers:
            held = f"only {', '.join(self.upsamplers)}" if self.upsamplers else "none"
            how = f"Add it with `mlx-ltxw convert {kind} -o {self.path}`; this takes seconds."
            if not self.takes_upsamplers:
                how = (
                    "Put one of its layout's own beside the weights (spatial_upscaler_x2_v1_1.safetensors with its "
                    "_config.json), or give {field:pipeline=one-stage}."
                )
            raise UserError(f"{self.path} has no upsampler '{kind}' ({held}).", how)
        return kind

    def quantized_layers(self, component: str) -> dict[str, dict[str, Any]]:
        """Quantisation settings by layer path."""
        settings = self.config.get("quantization", {}).get(component, {})
        return {path: value for path, value in settings.items() if isinstance(value, dict)}

    def shards(self, component: str, audio_only: bool = False) -> list[Path]:
        """The files of one network; `audio_only` leaves out those that hold the video side alone.

        Raises:
            UserError: the component's index is missing or broken, or names a file that is none of the model's.
        """
        folder = f"{TEXT_ENCODER}/" if component == TEXT_ENCODER else ""
        index = self.path / f"{folder or component}{'model' if folder else ''}.safetensors.index.json"
        chosen = sorted({file for name, file in weight_map(index).items() if not audio_only or audio_side(name)})
        if strange := [file for file in chosen if folder + file not in self.files]:
            raise UserError(f"{index} names {strange[0]!r}, which is no file of the model.", AGAIN)
        return [inside(index.parent, file) for file in chosen]

    def tensors(self, component: str, audio_only: bool = False) -> list[Tensor]:
        """The headers' entries of one network; reads no weights."""
        return [t for file in self.shards(component, audio_only) for t in known_header(file).tensors.values()]

    def arrays(self, component: str, audio_only: bool = False) -> dict[str, mx.array]:
        """All arrays of one network by parameter path; each is read from disk when it is first used."""
        from mlx_ltxw.weights.loading import read_arrays

        return read_arrays(self.shards(component, audio_only))

    @property
    def digest(self) -> str:
        """One for all of the model: the manifest's sha256."""
        return sha256(self.path / MANIFEST).sha256

    def digests(self, *components: str) -> dict[str, str]:
        """What tells whether the files of some networks (of all: none named) are still the same: their sha256."""
        names = (name for name in self.files if name.startswith(components or "") and "README" not in name)
        return {name: self.files[name].sha256 for name in names}

    def text_digests(self) -> dict[str, str]:
        """What tells whether all that makes a text context is still the same: config, text encoder and its tokenizer,
        projection, connectors."""
        parts = (f"{TEXT_ENCODER}/", *TEXT_PARTS)
        return {
            name: record.sha256
            for name, record in self.files.items()
            if name == "config.json" or name.startswith(parts)
        }

    @_while_there
    def load(
        self,
        component: str,
        dtype: mx.Dtype | None = None,
        audio_only: bool = False,
        residency: Residency | None = None,
        share: tuple[TensorShare, Turns] | None = None,
        arriving: bool = False,
    ) -> nn.Module:
        """Builds one network and gives it its weights, which are read from disk when they are first used.

        On a GPU those of the transformer that stay in memory are read now, all together, which is faster.

        Args:
            component: A name of `mlx_ltxw.weights.components.COMPONENTS`, or an upsampler's.
            dtype: Of weights and activations; by default bfloat16 on a GPU and float32 on the CPU. The vocoder and
                the scale-shift tables are float32 in any case, and float16 is the transformer's alone.
            audio_only: For the transformer: builds the audio stream alone and opens none of the video side's files.
            residency: For the transformer and the text encoder: which layers stay in memory, None for all.
            share: For the transformer over several machines: this one's share of it, which alone is read from disk,
                and the machines.
            arriving: Of a transformer that stays in memory whole, on a GPU: its blocks may still be on their way when
                it is given; who asks for one waits for it (`weights/arriving.py`).

        Raises:
            UserError: the files do not fit the network; lists all mismatches.
        """
        from mlx_ltxw.machine import on_cpu
        from mlx_ltxw.models.transformer.tensor import shard_transformer
        from mlx_ltxw.weights.arriving import Arrival, as_needed, let_arrive
        from mlx_ltxw.weights.dtype import default_dtype, memory_dtype, outside_transformer
        from mlx_ltxw.weights.eager import read_now
        from mlx_ltxw.weights.shares import shared_tensors, unread
        from mlx_ltxw.weights.streaming import RESIDENT, staying, stream_layers

        residency = residency or RESIDENT
        target = dtype or default_dtype()
        target = target if component == "transformer" else outside_transformer(target)
        if component == TEXT_ENCODER:
            from mlx_ltxw.weights.text import load_gemma

            return load_gemma(self.text_encoder, target, self.shards(component), residency)
        options = {"with_video": False} if audio_only else {}
        config = self.network_config(component)
        tensors = {tensor.name: tensor for tensor in self.tensors(component, audio_only)}

        def in_memory(name: str, stored: mx.Dtype) -> mx.Dtype:
            return memory_dtype(component, name, stored, target)

        layers_at, arrival = component_named(component).layers_at, None
        at_once = component == "transformer" and (share is not None or not on_cpu())
        if arriving and at_once and share is None and residency is RESIDENT:
            arrival = Arrival(as_needed(layers_at, config.layers, tensors), in_memory)  # while the network is built
        network = component_named(component).build(config, tensors, **options)
        arrays = self.arrays(component, audio_only) if share is None else unread(tensors.values())
        self._fill(component, network, arrays, audio_only, in_memory)
        if share is not None:
            shard_transformer(network, *share)
            tensors = shared_tensors(tensors.values(), share[0], self.quantized_layers(component))
        if arrival is not None:
            let_arrive(network, layers_at, arrival, functools.partial(self._come, arrival))
        elif at_once:
            read_now(network, staying(layers_at, len(network[layers_at]), tensors, residency), in_memory)
        if residency is not RESIDENT:
            stream_layers(network, layers_at, tensors, in_memory, residency)
        return network.eval()

    def _fill(
        self, component: str, network: nn.Module, arrays: Mapping[str, mx.array], audio_only: bool,
        in_memory: Callable[[str, mx.Dtype], mx.Dtype],
    ) -> None:  # fmt: skip
        """Puts arrays of a network into it, in their dtypes in memory, unread."""
        from mlx_ltxw.weights.loading import fill, quantize_layers

        layers = self.quantized_layers(component)
        quantize_layers(network, {p: s for p, s in layers.items() if not audio_only or audio_side(p)})
        arrays = {name: array.astype(in_memory(name, array.dtype)) for name, array in arrays.items()}
        fill(network, arrays, f"{component} of {self.path}")

    @_while_there
    def _come(self, arrival: Arrival, part: int) -> None:
        arrival.wait_for(part)

    def load_transformer(
        self,
        dtype: mx.Dtype | None = None,
        audio_only: bool = False,
        residency: Residency | None = None,
        share: tuple[TensorShare, Turns] | None = None,
        arriving: bool = False,
    ) -> Transformer:
        """As `load`."""
        return self.load("transformer", dtype, audio_only, residency, share, arriving)

    def load_connectors(self, dtype: mx.Dtype | None = None) -> Connectors:
        """As `load`."""
        return self.load("connectors", dtype)

    def load_text_projection(self, dtype: mx.Dtype | None = None) -> FeatureExtractor:
        """As `load`."""
        return self.load("text_projection", dtype)

    def load_video_vae(self, dtype: mx.Dtype | None = None) -> VideoVAE:
        """As `load`."""
        return self.load("video_vae", dtype)

    def load_audio_vae(self, dtype: mx.Dtype | None = None) -> AudioVAE:
        """As `load`."""
        return self.load("audio_vae", dtype)

    def load_vocoder(self) -> VocoderWithBWE:
        """As `load`; its weights are float32."""
        return self.load("vocoder")

    def load_upsampler(self, kind: str, dtype: mx.Dtype | None = None) -> Upsampler:
        """As `load`; `kind` as in `upsamplers`."""
        return self.load(upsampler_name(kind), dtype)

    def load_text_encoder(self, dtype: mx.Dtype | None = None, residency: Residency | None = None) -> TextEncoder:
        """Gemma-3, as `load` gives it, with its tokenizer."""
        from mlx_ltxw.models.text import TextEncoder

        return TextEncoder(self.load(TEXT_ENCODER, dtype, residency=residency), self.load_tokenizer())

    @_while_there
    def load_tokenizer(self) -> PromptTokenizer:
        """The text encoder's tokenizer.

        Raises:
            UserError: its files are missing or broken.
        """
        from mlx_ltxw.weights.text import load_tokenizer

        return load_tokenizer(self.text_encoder)

    def verify(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """Hashes every file against the manifest; `progress` gets the bytes of each step.

        Raises:
            UserError: names every file that differs.
        """
        check_hashes(self.path, self.files, progress)
