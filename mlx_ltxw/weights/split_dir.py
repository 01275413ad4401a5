"""A directory in the split layout of ltx-2-mlx, used where it lies: nothing is converted and nothing is copied."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.printing import some
from mlx_ltxw.weights.components import (
    COMPONENTS,
    IN_CHECKPOINT,
    TEXT_ENCODER,
    TEXT_PARTS,
    audio_side,
    upsampler_name,
)
from mlx_ltxw.weights.header import Header, Tensor, known_header, read_header
from mlx_ltxw.weights.manifest import FileRecord, sha256
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.names import grouped
from mlx_ltxw.weights.split_config import AGAIN, CONFIG, NAMED, read_config
from mlx_ltxw.weights.split_layout import STEMS, TRANSFORMER, our_shape, place
from mlx_ltxw.weights.split_upsamplers import SplitUpsampler, read_upsamplers
from mlx_ltxw.weights.stored import opened

if TYPE_CHECKING:
    import mlx.core as mx

GEMMA = "mlx-community/gemma-3-12b-it-4bit"
"""The text encoder that ltx-2-mlx takes for this layout, whose repositories hold none."""

_CUT = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
_BITS, _GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)  # that MLX packs
_SHARED_EXPONENTS = {(4, 32): "mxfp4", (8, 32): "mxfp8", (4, 16): "nvfp4"}
"""Bits and group of the modes without biases, whose scales are bytes."""
_SAMPLE = 4096  # bytes of each tensor that tell one model from another


def transformers(names: set[str]) -> list[str]:
    """The transformers among some files: a repository may hold dev and distilled side by side."""
    return sorted(name for name in names if NAMED.fullmatch(name))


def choose_transformer(names: set[str], asked: str, where: str) -> str:
    """The one transformer to use.

    Args:
        names: Of the files.
        asked: The one the user named, or ''.
        where: The directory or repository, for the message.

    Raises:
        UserError: there is no such file, or several and none was named.
    """
    found = transformers(names)
    if asked:
        if asked not in found:
            others = f"It has {', '.join(found)}." if found else AGAIN
            raise UserError(f"{where} has no transformer {asked}.", others)
        return asked
    if not found:
        raise UserError(f"{where} has no transformer.", AGAIN)
    if cut := [name for name in found if _CUT.search(name)]:
        raise UserError(
            f"{where} has its transformer in pieces ({', '.join(cut)}), which the split layout never has.",
            "Use an unchanged model of the split layout, or put the pieces together into one file.",
        )
    if len(found) > 1:
        example = f"{where}/{max(found, key=_newest)}"
        raise UserError(
            f"{where} has several transformers: {', '.join(found)}.",
            f"Name one, such as {example}; dev takes 30 steps with guidance, a distilled one 8 without.",
        )
    return found[0]


def _newest(transformer: str) -> tuple[bool, list[str]]:
    """Orders transformers' files: distilled ones last, of these by their version."""
    return "distilled" in transformer, re.findall(r"\d+", transformer)


Placed = dict[str, dict[str, tuple[Tensor, str]]]
"""Network -> parameter path -> the tensor under our name and shape, and its name in its file."""


@dataclass(frozen=True)
class SplitDir(ModelDir):
    """A model in the split layout; reads like any `ModelDir`.

    Attributes:
        transformer: Name of the transformer's file.
        gemma: Folder of the text encoder; None until one is known.
        headers: Of the six files, by name.
        placed: Where each tensor goes.
        own_upsamplers: Those that lie beside the weights, by kind.
    """

    transformer: str = ""
    gemma: Path | None = None
    headers: dict[str, Header] = field(default_factory=dict, repr=False)
    placed: Placed = field(default_factory=dict, repr=False)
    own_upsamplers: dict[str, SplitUpsampler] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | Path, transformer: str = "", gemma: Path | None = None) -> SplitDir:
        """Reads the configs and the headers.

        Args:
            path: The directory.
            transformer: Name of the file to use, where there are several.
            gemma: The text encoder's folder, where it does not lie in `text_encoder/`.

        Raises:
            UserError: a file is missing or cut, there are several transformers, no config, or tensors that the layout
                has no place for, all at once.
        """
        directory = Path(path)
        names = {file.name for file in directory.iterdir() if file.is_file()}
        chosen = choose_transformer(names, transformer, str(directory))
        files = [chosen if stem == TRANSFORMER else f"{stem}.safetensors" for stem in STEMS]
        if missing := [name for name in (*files, CONFIG) if name not in names]:
            why = f" {CONFIG} holds the numbers of its networks." if CONFIG in missing else ""
            raise UserError(f"{directory} has no {', no '.join(missing)}.{why}", AGAIN)
        headers = {file: read_header(directory / file) for file in files}
        for header in headers.values():
            header.check_complete()
        placed = _place_all(headers, chosen, directory)
        config = read_config(directory, chosen)
        if layers := _packings(placed[TRANSFORMER], config["config"]):
            config["quantization"] = {TRANSFORMER: layers}
        own = directory / TEXT_ENCODER
        gemma = gemma or (own if own.is_dir() else None)
        records = {name: FileRecord(header.present, "") for name, header in headers.items()}
        own_upsamplers = read_upsamplers(directory, names)
        for kind, one in own_upsamplers.items():
            placed[upsampler_name(kind)] = dict(one.entries)
        return cls(directory, config, records, "", chosen, gemma, headers, placed, own_upsamplers)

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that it is read from."""
        return (self.path, *([self.gemma] if self.gemma is not None else []))

    @property
    def upsamplers(self) -> list[str]:
        """Kinds of latent upsamplers that lie beside the weights."""
        return sorted(self.own_upsamplers)

    @property
    def takes_upsamplers(self) -> bool:
        """Only files of the layout's own, put beside the weights by hand."""
        return False

    def _upsampler_file(self, name: str) -> dict[str, Any]:
        return {"config": self.own_upsamplers[self._held_upsampler(name)].config}

    @property
    def has_text_encoder(self) -> bool:
        """Whether a Gemma folder is known."""
        return self.gemma is not None

    @property
    def text_encoder(self) -> Path:
        """The Gemma folder.

        Raises:
            UserError: none is known.
        """
        if self.gemma is None:
            raise UserError(
                f"{self.name} has no text encoder: this layout leaves Gemma-3 12B to another repository.",
                f"Run `mlx-ltxw pull {GEMMA}` once (8 GB), or name one with {{field:text_encoder}}.",
            )
        return self.gemma

    def shards(self, component: str, audio_only: bool = False) -> list[Path]:
        """The files of one network."""
        if component == TEXT_ENCODER:
            from mlx_ltxw.weights.text import weight_files

            return weight_files(self.text_encoder)
        return list(dict.fromkeys(tensor.path for tensor in self.tensors(component, audio_only)))

    def tensors(self, component: str, audio_only: bool = False) -> list[Tensor]:
        """The headers' entries of one network, by the names and shapes they have here; reads no weights."""
        if component == TEXT_ENCODER:
            from mlx_ltxw.weights.text import is_of_text_model

            found = [t for file in self.shards(component) for t in known_header(file).tensors.values()]
            return [tensor for tensor in found if is_of_text_model(tensor.name)]
        entries = self.placed[component].items()
        return [tensor for name, (tensor, _) in entries if not audio_only or audio_side(name)]

    def arrays(self, component: str, audio_only: bool = False) -> dict[str, mx.array]:
        """All arrays of one network but the text encoder; each is read from its file when it is first used."""
        from mlx_ltxw.weights.loading import read_arrays

        wanted = {name: one for name, one in self.placed[component].items() if not audio_only or audio_side(name)}
        read = read_arrays(list(dict.fromkeys(tensor.path for tensor, _ in wanted.values())))
        return {
            name: read[key] if tuple(read[key].shape) == tensor.shape else read[key].reshape(tensor.shape)
            for name, (tensor, key) in wanted.items()
        }

    @property
    def digest(self) -> str:
        """One for all of the model: sha256 of `digests`."""
        return hashlib.sha256(repr(self.digests()).encode()).hexdigest()

    def digests(self, *components: str) -> dict[str, str]:
        """What tells whether files are still the same: sha256 of header, size, and the first 4 KiB of each tensor."""
        named = components or (*COMPONENTS, *map(upsampler_name, self.upsamplers))
        files = {path.name: path for name in named for path in self.shards(name)}
        return {name: _sampled(path) for name, path in sorted(files.items())}

    def text_digests(self) -> dict[str, str]:
        """As `digests` of the text side, and sha256 of its small files."""
        small = [self.path / CONFIG, *sorted(self.text_encoder.glob("*.json")), *self.text_encoder.glob("*.model")]
        return {**self.digests(TEXT_ENCODER, *TEXT_PARTS), **{path.name: sha256(path).sha256 for path in small}}

    def verify(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """The layout carries no hashes: checks that every tensor has a place and every file its length.

        Raises:
            UserError: names what has not.
        """
        for header in self.headers.values():
            read_header(header.path).check_complete()
            progress(header.present)


def _place_all(headers: Mapping[str, Header], transformer: str, directory: Path) -> Placed:
    """Puts every tensor where it goes.

    The latent statistics stand in both halves of the video autoencoder; the second copy has to be the first.

    Raises:
        UserError: lists every tensor that has no place, or two.
    """
    spots: Placed = {name: {} for name in IN_CHECKPOINT}
    faults: list[str] = []
    for file, header in headers.items():
        stem = TRANSFORMER if file == transformer else file.removesuffix(".safetensors")
        for name, tensor in header.tensors.items():
            spot = place(stem, name)
            if spot is None:
                faults.append(f"{name} of {file}")
                continue
            component, path = spot
            ours = replace(tensor, name=path, shape=our_shape(path, tensor.shape))
            twin = spots[component].setdefault(path, (ours, name))[0]
            if twin is not ours and _bytes(twin) != _bytes(ours):
                faults.append(f"{name} of {file}, which differs from {twin.path.name}'s")
    if faults:
        total = sum(len(header.tensors) for header in headers.values())
        raise UserError(
            f"placed {total - len(faults):,} of {total:,} tensors of {directory}; no place for "
            f"{'; '.join(some(grouped(faults)))}.",
            "Use an unchanged model of the split layout.",
        )
    return spots


def _packings(entries: Mapping[str, tuple[Tensor, str]], config: Mapping[str, Any]) -> dict[str, Any]:
    """Quantisation settings by layer, from the shapes that were stored and the widths that the config asks for.

    Raises:
        UserError: a packed layer that no bits and group size explain.
    """
    parts = (name.rpartition(".") for name in entries)
    layers = list(dict.fromkeys(layer for layer, _, leaf in parts if leaf in ("scales", "biases")))
    if not layers:
        return {}
    from mlx_ltxw.weights.loading import parameter_shapes

    component = COMPONENTS[TRANSFORMER]
    widths = parameter_shapes(component.build(component.read_config(config), entries))
    tensors = {name: tensor for name, (tensor, _) in entries.items()}
    settings = {layer: _packing(layer, tensors, widths.get(f"{layer}.weight", ())) for layer in layers}
    return {**settings[layers[0]], **settings}


def _packing(layer: str, entries: dict[str, Tensor], wanted: tuple[int, ...]) -> dict[str, Any]:
    parts = weight, scales, biases = [entries.get(f"{layer}.{leaf}") for leaf in ("weight", "scales", "biases")]
    if weight and scales and all(len(part.shape) == 2 for part in parts if part) and len(wanted) == 2:
        rows, width = wanted
        bits, odd = divmod(weight.shape[1] * 32, width)
        group, uneven = divmod(width, scales.shape[1])
        if biases:
            mode = "affine" if bits in _BITS and group in _GROUPS and biases.shape == scales.shape else ""
        else:
            mode = _SHARED_EXPONENTS.get((bits, group), "") if scales.dtype == "U8" else ""
        if mode and not odd and not uneven and weight.shape[0] == scales.shape[0] == rows:
            return {"group_size": group, "bits": bits, "mode": mode}
    shown = ", ".join(str(list(part.shape)) if part else "missing" for part in parts)
    raise UserError(f"The quantised layer {layer} cannot be read (weight, scales, biases: {shown}).", AGAIN)


def _bytes(tensor: Tensor) -> bytes:
    with opened(tensor.path) as read:
        return read(tensor.start, tensor.nbytes).tobytes()


def _sampled(path: Path) -> str:
    header = read_header(path)
    digest = hashlib.sha256(str(header.length).encode())
    for piece in _samples(header):
        digest.update(piece)
    return digest.hexdigest()


def _samples(header: Header) -> Iterator[bytes]:
    with opened(header.path) as read:
        for name, tensor in header.tensors.items():
            yield f"{name} {tensor.dtype} {tensor.shape}".encode()
            yield read(tensor.start, min(_SAMPLE, tensor.nbytes)).tobytes()
