"""The names of the split layout, in which ltx-2-mlx reads LTX-2.3 and mlx-forge writes it.

Six safetensors files, one a network or half of one, every name with its file's stem in front. Conv weights are
channels-last, as ours are; what is transposed beyond that has one axis of a single element, so each tensor's bytes are
those that `convert` writes and only names and shapes differ.
Source: mlx-forge `recipes/ltx_23.py` (`classify_key`, `sanitize_*`, `maybe_transpose`), ltx-2-mlx `utils/blocks.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple


class SplitRow(NamedTuple):
    """Tensors of one file that go to one network; of a file's rows the first that fits counts.

    Attributes:
        stem: Of the file's name; `transformer` stands for whichever variant is used.
        pattern: What a name begins with, or all of it.
        component: The network.
        spelled: What stands there instead, in `re`'s template form.
    """

    stem: str
    pattern: re.Pattern[str]
    component: str
    spelled: str


TRANSFORMER = "transformer"

ROWS = tuple(
    SplitRow(stem, re.compile(pattern), component, spelled)
    for stem, pattern, component, spelled in (
        (TRANSFORMER, r"transformer\.", "transformer", ""),
        ("connector", r"connector\.text_embedding_projection\.", "text_projection", ""),
        ("connector", r"connector\.(?=(?:video|audio)_embeddings_connector\.)", "connectors", ""),
        ("vae_decoder", r"vae_decoder\.per_channel_statistics\.(mean|std)$", "video_vae",
         r"per_channel_statistics.\1-of-means"),
        ("vae_decoder", r"vae_decoder\.", "video_vae", "decoder."),
        ("vae_encoder", r"vae_encoder\.per_channel_statistics\._(mean|std)_of_means$", "video_vae",
         r"per_channel_statistics.\1-of-means"),
        ("vae_encoder", r"vae_encoder\.", "video_vae", "encoder."),
        ("audio_vae", r"audio_vae\.per_channel_statistics\._(mean|std)_of_means$", "audio_vae",
         r"per_channel_statistics.\1-of-means"),
        ("audio_vae", r"audio_vae\.", "audio_vae", ""),
        ("vocoder", r"vocoder\.(?=(?:bwe_generator|mel_stft)\.)", "vocoder", ""),
        ("vocoder", r"vocoder\.", "vocoder", "vocoder."),
    )
)  # fmt: skip
"""Where each tensor goes."""

STEMS = tuple(dict.fromkeys(row.stem for row in ROWS))
"""The files that a model needs."""

_IN_TRANSFORMER = (
    (re.compile(r"\.to_out\.(?!0\.)"), ".to_out.0."),
    (re.compile(r"ff\.proj_in\."), "ff.net.0.proj."),
    (re.compile(r"ff\.proj_out\."), "ff.net.2."),
    (re.compile(r"\.linear([12])\."), r".linear_\1."),
)
"""Modules that are called otherwise, in the transformer alone; connectors keep the official names, and so may these."""

_FLIPPED = re.compile(r"\.filter$|_basis$")


def is_split(names: Collection[str]) -> bool:
    """Whether a folder's or repository's files are a model in this layout, or what is left of one."""
    files = {f"{stem}.safetensors" for stem in STEMS}
    return "manifest.json" not in names and ("split_model.json" in names or len(files.intersection(names)) > 1)


def place(stem: str, name: str) -> tuple[str, str] | None:
    """The network and the parameter path of a tensor; None where the layout has no such name."""
    for row in ROWS:
        if row.stem == stem and row.pattern.match(name):
            path = row.pattern.sub(row.spelled, name, count=1)
            if row.component == TRANSFORMER:
                for pattern, spelled in _IN_TRANSFORMER:
                    path = pattern.sub(spelled, path)
            return row.component, path
    return None


def our_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape our networks give a tensor: stored filters and Fourier bases (O, K, 1) are (O, 1, K) here."""
    if len(shape) == 3 and shape[-1] == 1 and _FLIPPED.search(name):
        return shape[0], 1, shape[1]
    return shape
