"""Adapters in a run: read and placed before anything long begins, then fused, set beside, or kept under the lock."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_ltxw.adapter.apply import Adapters, attach, round_factors, set_gates
from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.adapter.deltas import DoRA
from mlx_ltxw.adapter.formats import Adapter, read
from mlx_ltxw.adapter.fuse import fuse
from mlx_ltxw.adapter.names import kind, tokens_of
from mlx_ltxw.adapter.placing import Placement, place
from mlx_ltxw.adapter.source import Located, locate
from mlx_ltxw.adapter.strength import parse_adapter
from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer import Transformer, TransformerConfig
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.keyframes import appended_positions, placed
from mlx_ltxw.pipeline.recipes import distilled_lora
from mlx_ltxw.pipeline.request import Settings
from mlx_ltxw.pipeline.split import WHOLE_RUN, Split
from mlx_ltxw.pipeline.streams import AdaptedStream
from mlx_ltxw.prompts.intervals import gate, parse_intervals
from mlx_ltxw.tree import linears


@dataclass(frozen=True)
class Chosen:
    """The adapters of a run, read and known to fit.

    Attributes:
        adapters: Each with its strength.
        placements: Where each goes.
        summaries: `NAME: placed n of N (...)` for each, and what had to be assumed about it.
        located: Where each was found.
    """

    adapters: Adapters
    placements: tuple[Placement, ...]
    summaries: tuple[str, ...]
    located: tuple[Located, ...] = ()


def choose(settings: Settings, config: TransformerConfig, known: dict[Located, Adapter]) -> Chosen:
    """Reads the adapters of a run and matches them with the transformer's modules; no weight of it is loaded.

    Args:
        settings: Of the run.
        config: Of the transformer.
        known: Those read before, which several voices may have; gets what is read.

    Raises:
        UserError: an adapter that cannot be read or does not fit, or that the video lock would make useless.
    """
    if not settings.adapters:
        return Chosen([], (), ())
    skeleton, names = Transformer(config, with_video=not settings.audio_only), list(linears(Transformer(config)))
    adapters, placements, summaries, found = [], [], [], []
    for spec in settings.adapters:
        source, strength = parse_adapter(spec)
        located = locate(source, BUILTIN_ADAPTERS)
        if located not in known:
            known[located] = read(located.path, modules=names, config=located.config, name=located.name)
        adapter = known[located]
        placement = place(adapter, skeleton, settings.allow_partial)
        strength.check(adapter.targets, adapter.name)
        if settings.locked and placement.outside_audio:
            raise UserError(
                f"The adapter '{adapter.name}' changes the picture's own modules ({placement.outside_audio[0]}, …), "
                "which the video lock keeps as they are.",
                "Set {field:lock_video=False} to let it act on the picture.",
            )
        adapters.append((adapter, strength))
        placements.append(placement)
        found.append(located)
        summaries += [f"{located.name}: {line}" for line in (placement.summary, *adapter.notes)]
    return Chosen(adapters, tuple(placements), tuple(summaries), tuple(found))


def choose_distilled(settings: Settings, config: TransformerConfig) -> Chosen | None:
    """Reads the distilled LoRA of a run, which acts on the whole transformer; None without one.

    Its strength is each stage's; the one that stands here is of no account.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    if settings.distilled_lora is None:
        return None
    source, strengths = distilled_lora(settings.distilled_lora, settings.pipeline)
    located = locate(source)
    names = list(linears(Transformer(config)))
    adapter = read(located.path, modules=names, config=located.config, name=located.name)
    placement = place(adapter, Transformer(config, with_video=not settings.audio_only))
    for strength in strengths:
        strength.check(adapter.targets, adapter.name)
    summary = f"{located.name}: {placement.summary}, as the distilled LoRA"
    return Chosen([(adapter, strengths[-1])], (placement,), (summary,), (located,))


def check_together(chosen: Chosen, distilled: Chosen | None, quantized: bool) -> None:
    """Refuses a DoRA on weights that the distilled LoRA lies beside, whose lengths it would not know.

    Raises:
        UserError: as it says.
    """
    doras = [one.name for one, _ in chosen.adapters if any(isinstance(d, DoRA) for d in one.deltas.values())]
    if distilled is not None and quantized and doras:
        raise UserError(
            f"The adapter '{doras[0]}' is a DoRA, which cannot act on quantised weights with a distilled LoRA beside.",
            "Add {field:fuse=True}, or leave {field:distilled_lora} out.",
        )


@dataclass(frozen=True)
class Models:
    """The transformers of a run.

    Attributes:
        base: Makes the picture, and the sound it reads.
        streams: The adapted audio streams under the lock; none without one.
        notes: What the user is told of the adapters.
    """

    base: Transformer
    streams: tuple[AdaptedStream, ...]
    notes: tuple[str, ...]


LOCKED = "the picture is locked: exactly that of a run without the adapter"


def apply(
    transformer: Transformer, chosen: Chosen, settings: Settings, geometry: Geometry, dtype: mx.Dtype,
    split: Split = WHOLE_RUN,
) -> Models:  # fmt: skip
    """Puts the adapters to work.

    Without the lock the adapted transformer takes the base's place. Plain weights are fused; quantised ones keep the
    adapter beside them unless `settings.fuse`. So do, under the lock, the linears that read the video: both audio
    streams read the same one, so the adapted stream adds to what the base made of it. An adapter whose strength changes
    in time always stays beside.

    Args:
        transformer: The base; left as it is under the lock, and used up without it.
        chosen: From `choose`.
        settings: Every choice of the run, resolved.
        geometry: Of the clip, for strengths in time.
        dtype: bf16 or fp32, of the activations.
        split: Which of the video's tokens are here.
    """
    if not chosen.adapters:
        return Models(transformer, (), ())
    notes = list(chosen.summaries)
    if settings.register_at is not None:
        adapted = attach(transformer, chosen.adapters, chosen.placements)
        _set_gates(adapted, settings, geometry, split)
        notes.append("the adapter's strength changes in time (experimental)")
    else:
        fused = fuse(
            transformer,
            chosen.adapters,
            chosen.placements,
            quantized=settings.fuse,
            keep_unfused=lambda path: settings.locked and not settings.fuse and reads_video(path),
            consume=not settings.locked,
        )
        adapted = fused.model
        notes.append(fused.summary)
    round_factors(adapted, dtype)
    if settings.locked:
        return Models(transformer, (AdaptedStream(adapted),), (*notes, LOCKED))
    return Models(adapted, (), tuple(notes))


def reads_video(path: str) -> bool:
    """Whether a linear turns the video into keys or values for the audio."""
    return kind(path) == "video_to_audio_attn" and tokens_of(path) == "video"


def _set_gates(adapted: Transformer, settings: Settings, geometry: Geometry, split: Split) -> None:
    intervals = parse_intervals(settings.register_at or "")
    times = geometry.video_positions()[0, 0]
    if (appended := appended_positions(placed(settings.images, geometry.frames), geometry)) is not None:
        times = np.concatenate([times, appended[0, 0]])
    audio = gate(intervals, geometry.audio_positions()[0, 0])
    video = mx.array(gate(intervals, times))[:, None]
    set_gates(adapted, mx.array(audio)[:, None], video, split.first(len(video)))
