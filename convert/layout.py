"""The tables that take an official tensor name to a network's parameter: prefixes, axis moves, what is set aside."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlx_ltxw.weights.header import Tensor

DIFFUSION = "model.diffusion_model."
FLOATS = {"BF16", "F16", "F32", "F64", "F8_E4M3"}
"""dtypes that a weight may have; whole numbers belong to quantisations of other programs."""
_CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.")
_PREFIXES = (
    *((DIFFUSION + root, "connectors", DIFFUSION) for root in _CONNECTORS),
    (DIFFUSION, "transformer", DIFFUSION),
    ("text_embedding_projection.", "text_projection", "text_embedding_projection."),
    ("vae.", "video_vae", "vae."),
    ("audio_vae.", "audio_vae", "audio_vae."),
    ("vocoder.", "vocoder", "vocoder."),
)
"""(official prefix, component, what is stripped); the first that fits counts."""
STRIPPED = {component: stripped for _, component, stripped in _PREFIXES}
"""Component -> what its official names have before the parameter's path."""

_TRANSFORMER_ROOTS = (
    *_CONNECTORS, "transformer_blocks.", "scale_shift_table", "audio_scale_shift_table", "patchify_proj.",
    "audio_patchify_proj.", "proj_out.", "audio_proj_out.", "adaln_single.", "audio_adaln_single.",
    "prompt_adaln_single.", "audio_prompt_adaln_single.", "av_ca_",
)  # fmt: skip
_BARE = {
    "diffusion_model.": "model.",
    **dict.fromkeys(_TRANSFORMER_ROOTS, DIFFUSION),
    "video_aggregate_embed.": "text_embedding_projection.",
    "audio_aggregate_embed.": "text_embedding_projection.",
}
"""What files with one component alone leave out: first characters of a name -> what belongs before it."""

_VAE_ROOTS = ("encoder.", "decoder.", "per_channel_statistics.")
_VOCODER_ROOTS = ("vocoder.", "bwe_generator.", "mel_stft.")
_VIDEO_RANK, _AUDIO_RANK = 5, 4  # dims of a conv weight

SET_ASIDE = {
    "scales of fp8 activations, which MLX does not quantise": re.compile(r"\.(input_scale|scale_input)$"),
    "markers of ComfyUI's quantised layers": re.compile(r"(\.comfy_quant|(^|\.)scaled_fp8)$"),
    "latent statistics that no network reads": re.compile(
        r"^(audio_)?vae\.per_channel_statistics\.(?!(mean|std)-of-means$)"
    ),
}
"""Tensors that are left out on purpose, by reason. Anything else that no network takes is an error."""


def official_names(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """One file's tensors by their official names, whichever of the known spellings the file uses."""
    listed = list(tensors)
    vae = _vae_prefix(listed)
    bare_vocoder = any(t.name.startswith("bwe_generator.") for t in listed)
    names = {}
    for tensor in listed:
        before = next((full for start, full in _BARE.items() if tensor.name.startswith(start)), "")
        if tensor.name.startswith(_VAE_ROOTS):
            before = vae
        elif bare_vocoder and tensor.name.startswith(_VOCODER_ROOTS):
            before = "vocoder."
        names[before + tensor.name] = tensor
    return names


def _vae_prefix(tensors: list[Tensor]) -> str:
    """Which autoencoder a file with bare `encoder.` and `decoder.` names holds: video convs have three axes."""
    first = [t for t in tensors if t.name.startswith(_VAE_ROOTS) and t.name.endswith("conv_in.conv.weight")]
    return {_VIDEO_RANK: "vae.", _AUDIO_RANK: "audio_vae."}.get(len(first[0].shape), "") if first else ""


def component_of(name: str) -> tuple[str, str] | None:
    """Component and parameter path of an official name; None where no component has it."""
    for prefix, component, stripped in _PREFIXES:
        if name.startswith(prefix):
            return component, name.removeprefix(stripped)
    return None


def reason_to_set_aside(name: str) -> str | None:
    """Why a tensor is left out on purpose; None for all others."""
    return next((reason for reason, pattern in SET_ASIDE.items() if pattern.search(name)), None)


def axes(component: str, name: str, rank: int) -> tuple[int, ...] | None:
    """How a weight's axes move from PyTorch to MLX; None where they stay.

    Convs [O, I, ...] -> [O, ..., I]; the vocoder's transposed convs [I, O, K] -> [O, K, I]. Stored filters and Fourier
    bases are no weights and stay.
    """
    if rank < 3 or not name.endswith(".weight"):
        return None
    if component == "vocoder" and re.search(r"(^|\.)ups\.\d+\.weight$", name):
        return (1, 2, 0)
    return (0, *range(2, rank), 1)
