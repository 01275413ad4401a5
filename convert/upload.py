"""A finished model to the Hub, its manifest last: a repository without one is no model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from glob import escape
from hashlib import sha256

from mlx_ltxw.hub import push
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import FileRecord, manifest_text, read_manifest
from mlx_ltxw.weights.model_dir import ModelDir

from .card import notice
from .gemma import missing_gemma
from .run import Conversion
from .small_files import CARD, card

NOTICE = "NOTICE"
"""What the terms of the weights ask of who passes them on."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")


def upload(conversion: Conversion, model: ModelDir, repo: str, private: bool | None = None) -> str:
    """Pushes a model; a push that was cut goes on with the same call.

    Args:
        conversion: What made the model.
        model: Written by it.
        repo: `owner/name`, which the card names in place of the directory.
        private: Whether a new repository is seen by its owner alone.

    Returns:
        The repository's address.

    Raises:
        UserError: what the Hub says.
    """
    if conversion.text is None:
        raise missing_gemma()
    text = card(
        repo, conversion.source, conversion.checkpoint, conversion.text, model.variant, conversion.quantization,
        conversion.plan,
    )  # fmt: skip
    files, fingerprint = read_manifest(model.path)
    texts = {CARD: text}
    if "mlx_ltxw" not in conversion.checkpoint.config:
        texts[NOTICE] = notice(model.variant, conversion.quantization)
    for name, written in texts.items():
        files[name] = FileRecord(len(written.encode()), sha256(written.encode()).hexdigest())
    return push(
        model.path, repo, f"The model is in {model.path}, but", "Run the same command again: it goes on.",
        private=private, last={**texts, MANIFEST: manifest_text(files, fingerprint)}, mark=MANIFEST,
        allow_patterns=sorted(set(files) - set(texts)), delete_patterns=_any_shards_of(files),
        commit_message="Weights for mlx-ltxw",
    )  # fmt: skip


def _any_shards_of(files: Iterable[str]) -> list[str]:
    """Patterns of shards like these, however many there are: those of an earlier upload that had more leave with it."""
    return sorted(
        {re.sub(r"-\d{5}-of-\d{5}", "-?????-of-?????", escape(name)) for name in files if _SHARD.search(name)}
    )
