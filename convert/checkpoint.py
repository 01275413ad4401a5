"""One LTX-2.3 checkpoint, whether it lies in one file or in several: its tensors, config and variant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import parse_json
from mlx_ltxw.printing import some
from mlx_ltxw.weights.header import Header, Tensor
from mlx_ltxw.weights.model_files import own_section_fault
from mlx_ltxw.weights.names import grouped

from .layout import DIFFUSION, FLOATS, component_of, official_names, reason_to_set_aside

_USE_23 = "mlx-ltxw runs LTX-2.3 (22B); use its dev or distilled checkpoint."
_AGAIN = "Download the checkpoint again."
_ONE = "Use files of one checkpoint only."
_SCALE = re.compile(r"\.(weight_scale|scale_weight)$")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint under their official names.

    Attributes:
        tensors: Those that carry weights.
        scales: Per-tensor fp8 scale of a weight, by the weight's name.
        set_aside: Names left out on purpose, by reason.
        config: The checkpoint's own `config`.
        model_version: Such as `2.3.0`.
        license: The licence text that the file carries, or an empty string.
    """

    tensors: dict[str, Tensor]
    scales: dict[str, Tensor]
    set_aside: dict[str, list[str]]
    config: dict[str, Any]
    model_version: str
    license: str


def read_checkpoint(headers: Sequence[Header]) -> Checkpoint:
    """Joins the headers of one checkpoint.

    Raises:
        UserError: another model or generation, no config, the same tensor in two files, or a quantisation that is not
            per-tensor fp8, such as whole numbers.
    """
    names = _join(headers)
    metadata = _merge_metadata(headers)
    _refuse_other_models(names, metadata)
    if fault := own_section_fault(metadata["config"]):
        raise UserError(f"The checkpoint's config section 'mlx_ltxw' cannot be used: {fault}.", _AGAIN)
    set_aside: dict[str, list[str]] = {}
    tensors: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    twice = []
    for name, tensor in names.items():
        if reason := reason_to_set_aside(name):
            set_aside.setdefault(reason, []).append(name)
        elif _SCALE.search(name):
            weight = _SCALE.sub(".weight", name)
            twice += [weight] if weight in scales else []
            scales[weight] = tensor
        else:
            tensors[name] = tensor
    _check_quantisation(tensors, scales, twice)
    return Checkpoint(
        tensors, scales, set_aside, metadata["config"], metadata.get("model_version", ""), metadata.get("license", "")
    )


def tell_variant(names: Sequence[str]) -> str | None:
    """`dev` or `distilled`, where exactly one of the two words stands in the file names; else None."""
    words = {word for name in names for word in re.findall(r"[a-z]+", name.lower())}
    variants = words & {"dev", "distilled"}
    return variants.pop() if len(variants) == 1 else None


def is_adapter(names: Iterable[str]) -> bool:
    """Whether a file of these tensors is a LoRA or its like."""
    return any(_ADAPTER.search(name) for name in names)


def is_upsampler_file(header: Header) -> bool:
    """Whether a file holds a latent upsampler."""
    return any(name.startswith("post_upsample_res_blocks.") for name in header.tensors)


_ADAPTER = re.compile(r"\.(lora_[ABab]|lora[_.](up|down)|lokr_w[12](_[ab])?|hada_w[12]_[ab]|diff|diff_b)(\.|$)")


def _join(headers: Sequence[Header]) -> dict[str, Tensor]:
    names: dict[str, Tensor] = {}
    twice: dict[str, list[str]] = {}
    for header in headers:
        for name, tensor in official_names(header.tensors.values()).items():
            if name in names:
                twice.setdefault(f"{names[name].path.name} and {tensor.path.name}", []).append(name)
            names[name] = tensor
    if twice:
        pairs = "; ".join(f"{files} both hold {len(tensors)}, such as {tensors[0]}" for files, tensors in twice.items())
        raise UserError(
            f"Tensors appear more than once: {pairs}.", "Name the one file, or keep one checkpoint in the directory."
        )
    return names


def _merge_metadata(headers: Sequence[Header]) -> dict[str, Any]:
    """All files' metadata; `config` parsed and joined section by section."""
    merged: dict[str, Any] = {"config": {}}
    for header in headers:
        values = dict(header.metadata)
        config = parse_json(values.pop("config", "{}"), f"The config in {header.path}", _AGAIN)
        if not isinstance(config, dict):
            raise UserError(f"The config in {header.path} is no table.", _AGAIN)
        for section, content in config.items():
            if merged["config"].setdefault(section, content) != content:
                raise UserError(f"The files disagree about the config section '{section}'.", _ONE)
        for key, value in values.items():
            if merged.setdefault(key, value) != value and key == "model_version":
                raise UserError(f"The files disagree about model_version: {merged[key]} and {value}.", _ONE)
    return merged


def _refuse_other_models(names: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Says what a file is when it is not an LTX-2.3 checkpoint."""
    config, version = metadata["config"], version_of(metadata.get("model_version", ""))
    section = config.get("transformer")
    transformer = section if isinstance(section, dict) else {}  # another one is told when it is read
    block = f"{DIFFUSION}transformer_blocks.0."
    if is_adapter(names):
        raise UserError("This is an adapter (LoRA), not a checkpoint.", "Give it to `generate` with {field:adapters}.")
    if config.get("_class_name") == "LatentUpsampler":
        raise UserError(
            "This is a latent upsampler, not a checkpoint.",
            "Give it with {field:upsamplers} beside a checkpoint, or alone with {field:out} of a finished model.",
        )
    if any(name.endswith(".weight_scale_2") for name in names):
        raise UserError(
            "This checkpoint is quantised to NVFP4 for CUDA, which cannot be read.",
            "Use the bf16 or fp8 checkpoint, with -q nvfp4 if you want that size.",
        )
    if version >= (2, 4) or transformer.get("use_keyframes_abs_pos_embedding") or transformer.get("ff_bias") is False:
        generation = ".".join(map(str, version[:2])) if version > (2, 5) else "2.5"
        raise UserError(f"This is an LTX-{generation} checkpoint{_named(metadata)}.", _USE_23)
    old = any("caption_projection." in name or name.endswith("projection.aggregate_embed.weight") for name in names)
    if old or (2,) <= version < (2, 3):
        raise UserError(f"This is an LTX-2 (19B) checkpoint{_named(metadata)}.", _USE_23)
    known = any(name.startswith((DIFFUSION, "vae.", "audio_vae.", "vocoder.")) for name in names)
    if not known or (block + "attn1.to_q.weight" in names and block + "audio_attn1.to_q.weight" not in names):
        example = next((name or repr(name) for name in names), "no tensor at all")
        raise UserError(f"This is not an LTX-2.3 checkpoint: it holds {example}.", _USE_23)
    if not config:
        raise UserError(
            "The checkpoint has no 'config' in its metadata.",
            "Use a file that keeps the official metadata; architecture numbers are never guessed.",
        )


def version_of(text: str) -> tuple[int, ...]:
    """The leading numbers: `2.3.0` and `2.3.rc1` both start with (2, 3); `constants.py:detect_model_version`."""
    match = re.match(r"\d+([.-]\d+)*", text)
    return tuple(int(n) for n in re.split(r"[.-]", match.group())) if match else ()


def _named(metadata: dict[str, Any]) -> str:
    version = metadata.get("model_version")
    return f" (model_version {version})" if version else ""


def _check_quantisation(tensors: dict[str, Tensor], scales: dict[str, Tensor], twice: Sequence[str]) -> None:
    """Accepts fp8 e4m3 weights with one scale each, or with no scale in the whole file (plain casts).

    Args:
        tensors, scales: See `Checkpoint`.
        twice: Weights with a scale in either spelling.
    """
    strange = {n: t.dtype for n, t in tensors.items() if t.dtype not in FLOATS and component_of(n)}
    faults = [f"{name} has dtype {dtype}" for name, dtype in strange.items()]
    faults += [f"the scale of {name} belongs to no weight" for name in scales if name not in tensors]
    faults += [f"{name} has two scales" for name in twice]
    for name, scale in scales.items():
        if scale.elements != 1 or scale.dtype not in {"F32", "BF16", "F16"}:
            faults.append(f"{name} has a scale {list(scale.shape)} {scale.dtype} instead of one number")
    if scales:
        faults += [
            f"{n} is fp8 without a scale" for n, t in tensors.items() if t.dtype == "F8_E4M3" and n not in scales
        ]
        faults += [
            f"{n} has a scale but is {tensors[n].dtype}" for n in scales if n in tensors and not _is_fp8(tensors[n])
        ]
    if faults:
        raise UserError(
            f"The checkpoint is quantised in a way that cannot be read: {'; '.join(some(grouped(faults)))}.",
            "Use the bf16 checkpoint, or the official fp8 one.",
        )


def _is_fp8(tensor: Tensor) -> bool:
    return tensor.dtype == "F8_E4M3"
