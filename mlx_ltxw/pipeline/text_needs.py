"""What prompts hold in memory on their way to contexts."""

from __future__ import annotations

import mlx.core as mx

from mlx_ltxw.models import ops
from mlx_ltxw.pipeline.needs import CONNECTORS, ONCE, PROJECTION, PROMPT, TEXT, Need, Subject, streaming
from mlx_ltxw.weights.components import TEXT_ENCODER, TEXT_PARTS
from mlx_ltxw.weights.memory import layer_bytes, network_bytes

_LETTERS, _MARKS = 5, 12
"""Of a token, in a long text; tokens of a short one that are no words."""


def text_needs(clip: Subject) -> list[Need]:
    """From prompts to contexts."""
    model, machine, itemsize = clip.model, clip.machine, clip.text_itemsize
    dtype = mx.float32 if itemsize == 4 else mx.bfloat16
    projection, connectors = (network_bytes(model, name, dtype) for name in TEXT_PARTS)
    layers, rest = layer_bytes(model, TEXT_ENCODER, dtype, on_disk="embed_tokens")  # but for the prompt's own rows
    read, _ = layer_bytes(model, TEXT_ENCODER, None, on_disk="embed_tokens", stored=True)
    gemma = model.network_config(TEXT_ENCODER)
    token = gemma.states * gemma.hidden_size * itemsize
    longest = max((_tokens(prompt) for prompt in clip.prompts), default=1)
    tokens = sum(map(_tokens, clip.prompts))
    text = clip.contexts // clip.dtype.size * itemsize
    whole, own, made = (5.25, 1.0, 2.6) if machine.in_pieces else (4.2, 0.7, 1.8)
    hidden = int(1.2 * tokens * token) + 2 * longest * gemma.intermediate_size * itemsize
    hidden += 0 if machine.in_pieces else ops.scores_at_once(gemma.heads, longest, longest)
    return [
        Need(
            TEXT, streaming(layers, read, machine, before=0) + rest, hidden + clip.adapters,
            sum(tensor.nbytes for tensor in model.tensors(TEXT_ENCODER)), ONCE,
        ),
        Need(
            PROJECTION, projection,
            int(whole * PROMPT * token + own * tokens * token + made * text) + clip.adapters, projection,
        ),
        Need(CONNECTORS, connectors, _connectors(clip) + clip.adapters, connectors),
    ]  # fmt: skip


def captions_need(name: str, clip: Subject) -> Need:
    """Of many prompts that go through the text encoder and the projection, both of which stay until the last is done;
    so many at once as have the tokens of a padded one. Reading is counted once: how often it is done follows from
    how many prompts there are."""
    text, projection, _ = text_needs(clip)
    return Need(
        name, text.weights + projection.weights, text.activations + projection.activations, text.read + projection.read,
        ONCE,
    )  # fmt: skip


def _tokens(prompt: str) -> int:
    return min(PROMPT, len(prompt) // _LETTERS + _MARKS)


def _connectors(clip: Subject) -> int:
    """Bytes beside the weights of one prompt's way through the connectors: both streams' texts, whatever is made."""
    if clip.machine.in_pieces:
        return 400_000_000
    config = clip.model.network_config("connectors")
    text = PROMPT * (clip.config.video.context_dim + clip.config.audio.context_dim) * clip.text_itemsize
    return int(7.6 * ops.scores_at_once(config.video.heads, PROMPT, PROMPT) + 14.0 * text)
