"""A Gemma-3 folder in Hugging Face's layout, read as the language model alone in mlx-lm's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.text import GemmaConfig
from mlx_ltxw.weights.components import COMPONENTS, TEXT_ENCODER
from mlx_ltxw.weights.header import Header, Tensor
from mlx_ltxw.weights.loading import mismatches, parameter_shapes
from mlx_ltxw.weights.text import AGAIN, is_of_text_model, load_tokenizer, read_table, text_tensors

SUGGESTED = "google/gemma-3-12b-it-qat-q4_0-unquantized"
"""The text encoder that LTX-2.3 was trained with."""

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
TOKENIZER_EXTRAS = (
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
_NEEDED = f"Give a directory or repo with Gemma-3 12B, such as {SUGGESTED}, as {{field:text_encoder}}."


@dataclass(frozen=True)
class GemmaFiles:
    """A text encoder to convert.

    Attributes:
        folder: Where the tokenizer files are.
        tensors: By mlx-lm's names (`model.layers.0.…`).
        dropped: How many tensors of the vision tower and the language-model head are left out.
        config: mlx-lm's `gemma3_text` config.
        wanted: Every parameter's shape, by name.
        linear_widths: Input width of every linear, by layer path.
    """

    folder: Path
    tensors: dict[str, Tensor]
    dropped: int
    config: dict[str, Any]
    wanted: dict[str, tuple[int, ...]]
    linear_widths: dict[str, int]

    def faults(self, checkpoint: Mapping[str, Any], projection: Mapping[str, Tensor]) -> list[str]:
        """What does not fit: the folder to its own config, and this Gemma to the checkpoint's text projection.

        Args:
            checkpoint: The checkpoint's `config`.
            projection: Tensors of the component `text_projection`.
        """
        lines = mismatches(self.wanted, {name: tensor.shape for name, tensor in self.tensors.items()})
        states = self.config["hidden_size"] * (self.config["num_hidden_layers"] + 1)
        embed = projection.get("video_aggregate_embed.weight")
        if embed and embed.shape[1:] != (states,):
            wanted = embed.shape[-1] if embed.shape else 1
            lines.append(f"this Gemma gives {states} features a token, and the checkpoint expects {wanted}")
        return lines


def read_gemma(folder: Path, headers: Sequence[Header]) -> GemmaFiles:
    """Reads a folder's config and maps its tensors.

    Args:
        folder: Holds `config.json` and the tokenizer.
        headers: One a weight file.

    Raises:
        UserError: files are missing, the model is no Gemma-3 or is quantised, or its rotary settings are lost.
    """
    settings = _read_config(folder)
    if missing := [name for name in TOKENIZER if not (folder / name).is_file()]:
        raise UserError(f"The text encoder {folder} has no {' and no '.join(missing)}.", _NEEDED)
    config = GemmaConfig.read(settings)
    tensors, dropped = _text_side(folder, headers)
    odd = {tensor.dtype for tensor in tensors.values()} - {"BF16", "F16", "F32", "F64"}
    if odd or settings.get("quantization") or settings.get("quantization_config"):
        raise UserError(f"The text encoder {folder} is quantised already.", f"Use {SUGGESTED}, with -q if you like.")
    network = COMPONENTS[TEXT_ENCODER].build(config, tensors)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"The tokenizer in {folder} knows {tokenizer.vocab_size} tokens and the text encoder {config.vocab_size}.",
            "Put the tokenizer files of the same model beside its weights.",
        )
    widths = {
        name.removesuffix(".weight"): tensor.shape[1]
        for name, tensor in tensors.items()
        if name.endswith("_proj.weight") and len(tensor.shape) == 2
    }
    wanted = {f"model.{name}": shape for name, shape in parameter_shapes(network).items()}
    return GemmaFiles(folder, tensors, dropped, {**config.mlx_lm(), "tie_word_embeddings": True}, wanted, widths)


def missing_gemma() -> UserError:
    """The error of a conversion without a text encoder."""
    return UserError("The text encoder is not in the checkpoint, and {field:text_encoder} is not given.", _NEEDED)


def _text_side(folder: Path, headers: Sequence[Header]) -> tuple[dict[str, Tensor], int]:
    """The language model's tensors by mlx-lm's names, whatever stands in front, and how many others there are."""
    every: dict[str, Tensor] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in every:
                raise UserError(f"The text encoder {folder} holds {name} twice.", "Download it again.")
            every[name] = tensor
    kept = {name: tensor for name, tensor in every.items() if is_of_text_model(name)}
    tensors = {f"model.{name}": tensor for name, tensor in text_tensors(kept).items()}
    if len(tensors) < len(kept):
        raise UserError(f"The text encoder {folder} holds tensors in several spellings.", "Download it again.")
    return tensors, len(every) - len(kept)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder} is no text encoder: it has no config.json.", _NEEDED)
    settings = read_table(path)
    text = settings.get("text_config", settings)
    if not isinstance(text, dict):
        raise UserError(f"{path} holds no JSON object.", AGAIN)
    if "rope_scaling" not in text and "rope_parameters" not in text:
        raise UserError(
            f"{path} has no rotary settings ('rope_scaling' or 'rope_parameters').",
            "Use the config.json that Google ships: Gemma-3 12B scales its positions by 8, and that is never guessed.",
        )
    return settings
