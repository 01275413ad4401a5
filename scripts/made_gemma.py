"""A made Gemma-3 directory in the layout of `google/gemma-3-12b-it`: config, two shards with an index, tokenizer.

The weights are random; the tokenizer is a real byte-fallback BPE, trained on a few sentences, with Gemma's special
tokens, its space marker and a BOS in front.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from scripts.made_file import Entry, plan, write
from scripts.made_weights import generator

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]  # ids 0 to 3, as in Gemma
# `transformers` names -> the names in the published files.
PUBLISHED = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
CORPUS = [
    "a woman in dim light, (woman, whispering): close your eyes and listen to the rain on the window",
    "a man at a desk, (man, whispering quietly): nobody else is awake, keep your voice low",
    "a kitchen in the morning, (woman, speaking softly): the coffee is ready, take your time",
    "a garden after the storm, (man, speaking softly): the water is still running down the path",
    "worst quality, inconsistent motion, blurry, jittery, distorted, subtitles, watermark, music, noise",
    "the camera moves slowly towards the speaker, her lips move with the words, warm and quiet room",
    "A close shot of an old lighthouse keeper who says: we should leave before the tide comes in.",
]


def gemma_config(text: dict[str, Any]) -> dict[str, Any]:
    """The directory's config.json; the vision tower is as small as it can be."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "image_token_index": text["vocab_size"] - 1,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 4,
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", **text},
        "torch_dtype": "bfloat16",
        "vision_config": {"image_size": 28, "patch_size": 14, "vision_use_head": False, **vision},
        "vocab_size": text["vocab_size"],
    }


def gemma_shapes(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Published key -> shape of every tensor; the head is tied to the embeddings and not stored."""
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(Gemma3Config.from_dict(gemma_config(text)))
    shapes = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("lm_head."):
            continue
        old, new = next(pair for pair in PUBLISHED if name.startswith(pair[0]))
        shapes[new + name.removeprefix(old)] = tuple(tensor.shape)
    return shapes


def gemma_values(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """One tensor's values: unit-variance linears, embeddings that the factor sqrt(width) brings to order one."""
    noise = torch.randn(shape, generator=generator(name, seed))
    if "norm" in name and len(shape) == 1:
        return 0.1 * noise  # Gemma multiplies by 1 + weight
    if name.endswith("bias"):
        return 0.05 * noise
    return noise / math.sqrt(noise[0].numel())


def make_gemma(directory: Path, text: dict[str, Any], seed: int, *, keys_only: bool = False) -> Path:
    """Writes the directory and returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(min(text["vocab_size"], 512) - 1)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), indent=2) + "\n")
    (directory / "special_tokens_map.json").write_text(
        json.dumps({f"{token[1:-1]}_token": token for token in SPECIAL}, indent=2) + "\n"
    )
    (directory / "config.json").write_text(json.dumps(gemma_config(text), indent=2) + "\n")
    shapes = gemma_shapes(text)
    names = list(shapes)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, start=1):
        shard = f"model-{number:05d}-of-{len(halves):05d}.safetensors"
        entries = {name: Entry(shapes[name], torch.bfloat16) for name in half}
        made = ((name, gemma_values(name, shapes[name], seed).to(torch.bfloat16)) for name in half)
        write(directory / shard, plan(entries, {"format": "pt"}), None if keys_only else made)
        weight_map |= dict.fromkeys(half, shard)
    total = 2 * sum(math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return directory


def make_tokenizer(size: int) -> Tokenizer:
    """A byte-fallback BPE of at most `size` tokens with Gemma's normaliser, decoder and BOS template."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    # The trainer cannot be given byte tokens but as special ones; below they become plain vocabulary again.
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json as `transformers` reads it."""
    return {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        **{f"{token[1:-1]}_token": token for token in SPECIAL},
        "added_tokens_decoder": {
            str(index): {
                "content": token,
                "special": True,
                "normalized": False,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
            }
            for index, token in enumerate(SPECIAL)
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
        "padding_side": "left",
    }
