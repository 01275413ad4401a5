"""Module names of LTX-2.3's linears, and how other programs spell them. Tables only; loads no mlx.

The official names are those of the checkpoint (`transformer_blocks.0.audio_attn1.to_out.0`). Every other spelling is
turned into one of them by looking it up, never by guessing where an underscore stands for a dot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache

LAYERS = 48
ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
PROJECTIONS = ("to_q", "to_k", "to_v", "to_gate_logits", "to_out.0")
FEED_FORWARDS = ("ff.net.0.proj", "ff.net.2", "audio_ff.net.0.proj", "audio_ff.net.2")
WHISPER_MODULES = ("audio_attn1", "audio_attn2", "video_to_audio_attn")
"""What the public whisper adapter changes."""

_ADALNS = (
    "adaln_single",
    "audio_adaln_single",
    "prompt_adaln_single",
    "audio_prompt_adaln_single",
    "av_ca_video_scale_shift_adaln_single",
    "av_ca_audio_scale_shift_adaln_single",
    "av_ca_a2v_gate_adaln_single",
    "av_ca_v2a_gate_adaln_single",
)
_ADALN_LINEARS = ("emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2", "linear")
_ENDS = ("patchify_proj", "audio_patchify_proj", "proj_out", "audio_proj_out")

DIFFUSERS_TOP = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}
"""diffusers' name of a top-level module -> the official one (`convert_ltx2_to_diffusers.py`); blocks are alike."""

_MLX_PARTS = (("ff.net.0.proj", "ff.proj_in"), ("ff.net.2", "ff.proj_out"), ("to_out.0", "to_out"))
_MLX_LEAVES = (("linear_1", "linear1"), ("linear_2", "linear2"))

PREFIXES = (
    "base_model.model.",
    "model.",
    "diffusion_model.",
    "transformer.",
    "velocity_model.",
)
"""Wrappers put in front of a dotted module name."""

FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
"""Wrappers in front of a name whose dots became underscores; `PREFIXES`, made flat, or more underscores may follow."""

_ELSEWHERE = (
    (r"(audio_|video_)?embeddings_connector[._]", "the text connectors"),
    (r"(audio_|video_)?connector[._]", "the text connectors"),
    (r"connectors[._]", "the text connectors"),
    (r"text_embedding_projection[._]", "the text projection"),
    (r"(feature_extractor|audio_text_proj_in|video_text_proj_in|text_proj_in)[._]", "the text projection"),
    (r"(text_encoder|lora_te\d?_?)[._]?", "the text encoder"),
    (r"(audio_)?vae[._]", "a VAE"),
    (r"vocoder[._]", "the vocoder"),
)


def official_linears(layers: int = LAYERS) -> Iterator[str]:
    """Every linear of the transformer, by its official name."""
    for adaln in _ADALNS:
        for leaf in _ADALN_LINEARS:
            yield f"{adaln}.{leaf}"
    yield from _ENDS
    for layer in range(layers):
        for attention in ATTENTIONS:
            for projection in PROJECTIONS:
                yield f"transformer_blocks.{layer}.{attention}.{projection}"
        for linear in FEED_FORWARDS:
            yield f"transformer_blocks.{layer}.{linear}"


def kind(path: str) -> str:
    """What a path belongs to: `audio_attn1` for `transformer_blocks.3.audio_attn1.to_q`, else its first part."""
    parts = path.split(".")
    return parts[2] if parts[0] == "transformer_blocks" and len(parts) > 2 else parts[0]


def in_audio_stream(path: str) -> bool:
    """Whether the audio stream computes this module; under the video lock no other adapted module has an effect."""
    name = kind(path)
    return name in _AUDIO_READS or (name.startswith("audio_") and name != "audio_to_video_attn")


_AUDIO_READS = ("video_to_audio_attn", "av_ca_audio_scale_shift_adaln_single", "av_ca_v2a_gate_adaln_single")


def tokens_of(path: str) -> str:
    """Whose tokens enter this linear: `audio`, `video`, `text`, or `noise` (the noise-level embeddings)."""
    name, leaf = kind(path), path.rsplit(".", 1)[-1]
    if "adaln" in name:
        return "noise"
    reads = leaf in ("to_k", "to_v")
    if name in ("attn2", "audio_attn2") and reads:
        return "text"
    if name == "audio_to_video_attn":
        return "audio" if reads else "video"
    if name == "video_to_audio_attn":
        return "video" if reads else "audio"
    return "audio" if name.startswith("audio_") else "video"


def mlx_name(path: str) -> str:
    """The spelling of MLX ports, which number no single-element list: `to_out` for `to_out.0`."""
    for official, short in _MLX_PARTS:
        if path.endswith(official):
            return path.removesuffix(official) + short
    for official, short in _MLX_LEAVES:
        if path.endswith("." + official):
            return path.removesuffix(official) + short
    return path


def diffusers_name(path: str) -> str:
    """The name diffusers gives this module."""
    top, dot, rest = path.partition(".")
    return _DIFFUSERS_NAMES.get(top, top) + dot + rest


_DIFFUSERS_NAMES = {official: theirs for theirs, official in DIFFUSERS_TOP.items()}


@cache
def _official() -> frozenset[str]:
    return frozenset(official_linears())


@lru_cache(maxsize=4)
def _tables(modules: frozenset[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The module that each spelling names, with dots and without; a run reads many adapters for one model."""
    dotted = {spell(path): path for spell in (mlx_name, diffusers_name, str) for path in modules}
    return dotted, {name.replace(".", "_"): path for name, path in dotted.items()}


class Spellings:
    """Looks names up among a model's own linears.

    Args:
        modules: The official names that exist; those of the 48-layer model when left out.
    """

    def __init__(self, modules: Iterable[str] | None = None) -> None:
        self.modules = _official() if modules is None else frozenset(modules)
        self._dotted, self._flat = _tables(self.modules)

    def resolve(self, name: str) -> str | None:
        """The official name of a module as some program spells it; None when no module is meant."""
        for prefix in FLAT_PREFIXES:
            if name.startswith(prefix):
                rest = _strip_flat(name.removeprefix(prefix))
                return next((self._flat[bare] for bare in rest if bare in self._flat), None)
        return self._dotted.get(_strip(name))


def not_transformer(name: str) -> str | None:
    """Which other part of the system a name belongs to, if it is a known one."""
    bare = _strip(name)
    for prefix in FLAT_PREFIXES:
        if bare.startswith(prefix):
            bare = list(_strip_flat(bare.removeprefix(prefix)))[-1]
    for pattern, part in _ELSEWHERE:
        if re.match(pattern, bare):
            return part
    return None


def is_norm(name: str) -> bool:
    """Whether a name is that of a query's or key's norm."""
    return re.search(r"[._](q_norm|k_norm|norm_q|norm_k)$", name) is not None


def _strip_flat(name: str) -> Iterator[str]:
    """A flat name, and what remains of it as wrapper by wrapper goes; `transformer_blocks` begins like one."""
    name = name.lstrip("_")
    yield name
    for prefix in PREFIXES:
        flat = prefix.replace(".", "_")
        if name.startswith(flat) and not name.startswith("transformer_blocks_"):
            yield from _strip_flat(name.removeprefix(flat))
            return


def _strip(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name
