"""A finished model to the Hub, its manifest last: a repository without one is no model."""

from __future__ import annotations

from hashlib import sha256

from mlx_ltxw.hub import push
from mlx_ltxw.weights.manifest import NAME as MANIFEST
from mlx_ltxw.weights.manifest import FileRecord, manifest_text, read_manifest
from mlx_ltxw.weights.model_dir import ModelDir

from .gemma import missing_gemma
from .run import Conversion
from .small_files import CARD, card


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
    files[CARD] = FileRecord(len(text.encode()), sha256(text.encode()).hexdigest())
    return push(
        model.path, repo, f"The model is in {model.path}, but", "Run the same command again: it goes on.",
        private=private, last={CARD: text, MANIFEST: manifest_text(files, fingerprint)},
        allow_patterns=sorted(set(files) - {CARD}), commit_message="Weights for mlx-ltxw",
    )  # fmt: skip
