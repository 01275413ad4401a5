"""Matches an adapter's changes with a model's linears: everything has a place, or the user hears why not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import mlx.nn as nn

from mlx_ltxw.adapter.container import some
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.names import in_audio_stream, kind
from mlx_ltxw.errors import UserError
from mlx_ltxw.tree import Linear, linears, size_of

_REASONS = 2
"""So many are told of why names have no place."""


@dataclass(frozen=True)
class Placement:
    """Where an adapter goes in a model.

    Attributes:
        adapter: The adapter.
        placed: Official paths of the modules it changes, sorted.
        unplaced: Name -> why it has no place.
        left_out: Paths of the video side, which an audio-only model does without.
    """

    adapter: Adapter
    placed: tuple[str, ...]
    unplaced: dict[str, str]
    left_out: tuple[str, ...]

    @property
    def total(self) -> int:
        """Modules the file wants to change."""
        return len(self.placed) + len(self.unplaced) + len(self.left_out)

    @property
    def outside_audio(self) -> tuple[str, ...]:
        """Placed modules that the audio stream does not compute: under the video lock they have no effect."""
        return tuple(path for path in self.placed if not in_audio_stream(path))

    @property
    def summary(self) -> str:
        """`placed 576 of 576 (audio_attn1 192, audio_attn2 192, video_to_audio_attn 192)`."""
        counts = ", ".join(f"{name} {count}" for name, count in sorted(Counter(map(kind, self.placed)).items()))
        text = f"placed {len(self.placed)} of {self.total}" + (f" ({counts})" if counts else "")
        if self.left_out:
            text += f"; {len(self.left_out)} of the video side left out"
        return text + (f"; without a place: {_reasons(self.unplaced)}" if self.unplaced else "")


def place(adapter: Adapter, model: nn.Module, allow_partial: bool = False) -> Placement:
    """Finds every module the adapter changes.

    Args:
        adapter: The adapter.
        model: A `Transformer`, joint or audio-only, its linears plain or quantised.
        allow_partial: Accept an adapter of which only a part has a place.

    Raises:
        UserError: nothing placed, only a part placed, or an adapter whose changes are all zero.
    """
    placement = match(adapter, model)
    if not placement.placed:
        raise UserError(
            f"Nothing of the adapter '{adapter.name}' fits this model: {_reasons(placement.unplaced)}.",
            "Use an adapter for LTX-2.3's transformer.",
        )
    if adapter.changes_nothing(placement.placed):
        raise UserError(
            f"The adapter '{adapter.name}' changes nothing: all its weights are zero.",
            "It was saved before it learned anything; use a later checkpoint.",
        )
    if placement.unplaced and not allow_partial:
        raise UserError(
            f"The adapter '{adapter.name}' fits this model only in part ({placement.summary}).",
            "Use one that fits, or allow the rest to be left out with {field:allow_partial=True}.",
        )
    return placement


def match(adapter: Adapter, model: nn.Module) -> Placement:
    """As `place`, but judges nothing; a freshly made adapter is all zeros and fine."""
    here = linears(model)
    audio_only = not getattr(model, "with_video", True)
    unplaced = dict(adapter.leftover)
    placed, left_out = [], []
    for path in adapter.targets:
        if path not in here:
            if audio_only and (kind(path) == "video_to_audio_attn" or not in_audio_stream(path) or "av_ca" in path):
                left_out.append(path)
            else:
                unplaced[path] = "this model has no such module"
        elif fault := _misfit(adapter, path, here[path]):
            unplaced[path] = fault
        else:
            placed.append(path)
    return Placement(adapter, tuple(placed), unplaced, tuple(left_out))


def _misfit(adapter: Adapter, path: str, linear: Linear) -> str | None:
    out, into = size_of(linear)
    delta, bias = adapter.deltas.get(path), adapter.biases.get(path)
    if delta is not None and tuple(delta.shape) != (out, into):
        return f"it changes a weight of {delta.shape[0]} by {delta.shape[1]}, the model's is {out} by {into}"
    if bias is not None and bias.shape != (out,):
        return f"it changes a bias of {bias.shape[0]}, the model's is {out}"
    return None


def _reasons(unplaced: dict[str, str]) -> str:
    """Names grouped by reason: a few of each, of the most frequent ones."""
    groups: dict[str, list[str]] = {}
    for name, why in unplaced.items():
        groups.setdefault(why, []).append(name)
    told = sorted(groups.items(), key=lambda group: -len(group[1]))[:_REASONS]
    texts = [f"{', '.join(some(names, 3))} ({why})" for why, names in told]
    left = len(unplaced) - sum(len(names) for _, names in told)
    return "; ".join([*texts, f"and {left:,} more for other reasons"] if left else texts)
