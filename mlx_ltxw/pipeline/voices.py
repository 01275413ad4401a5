"""The models of a run: the base, and what makes each take beside it."""

from __future__ import annotations

import dataclasses

from mlx_ltxw.adapter.apply import AdaptedLinear, Changes, adaptable, attach, by_module, round_factors
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.rows import attach_rows, fit_rows
from mlx_ltxw.adapter.streamed import blocks_on_demand, change_each
from mlx_ltxw.models.transformer import Block, Transformer
from mlx_ltxw.pipeline.adapters import LOCKED, Models, apply, reads_video
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.streams import AdaptedStream, batch_layout
from mlx_ltxw.tree import replace, share

Specs = tuple[str, ...]
"""The adapters of one voice."""


def take_rows(job: Plan) -> list[int | None]:
    """The row of each take among `Latents.adapted`; None for one that is the base's own sound.

    Where a sound is made again, the base's is the given one, and no take's.
    """
    rows: list[int | None] = []
    for take in job.takes:
        rows.append(None if job.is_the_base(take) else sum(row is not None for row in rows))
    return rows


def models_of(job: Plan, transformer: Transformer) -> Models:
    """The base, the adapted streams, and what the user is told of them.

    Takes of one voice have its adapters as a run of one sound has them, most of them in the weights. Those of several
    voices have them beside the weights, which are then in memory once.

    Args:
        job: From `plan`.
        transformer: The base; left as it is under the lock, and used up without it.
    """
    voices: dict[Specs, list[tuple[int, str]]] = {}
    for row, take in zip(take_rows(job), job.takes, strict=True):
        if row is not None:
            voices.setdefault(take.adapters, []).append((row, take.prompt))
    if not job.takes:
        return apply(transformer, job.adapters, job.settings, job.geometry, job.dtype, job.split)
    notes = [note for specs in voices for note in job.voices[specs].summaries]
    if len(voices) == 1:
        ((specs, rows),) = voices.items()
        model, more = _fused(job, transformer, specs)
        return Models(transformer, (_stream(model, [rows]),), (*notes, *more))
    changes = _parts(job, voices)
    apart = [specs for specs in voices if job.settings.register_at is not None or not fit_rows(changes[specs])]
    streams = [_stream(_beside(job, transformer, specs), [voices[specs]]) for specs in apart]
    if together := [specs for specs in voices if specs not in apart]:
        rows_of = batch_layout([voices[specs] for specs in together]).voices
        model = attach_rows(transformer, [changes[specs] for specs in together], rows_of, job.dtype)
        streams.append(_stream(_keep_reading(model), [voices[specs] for specs in together]))
    notes += [f"{len(job.takes)} takes of {len(voices)} voices, beside the weights"] if voices else []
    return Models(transformer, tuple(streams), (*dict.fromkeys(notes), LOCKED))


def _stream(model: Transformer, voices: list[list[tuple[int, str]]]) -> AdaptedStream:
    found = batch_layout(voices)
    return AdaptedStream(model, found.rows, found.texts, found.sharing)


def _fused(job: Plan, transformer: Transformer, specs: Specs) -> tuple[Transformer, tuple[str, ...]]:
    """The model of one voice as a run of its own has it, and how its adapters act."""
    if not specs:
        return _keep_reading(transformer), (LOCKED,)
    chosen, settings = job.voices[specs], dataclasses.replace(job.settings, adapters=specs)
    models = apply(transformer, chosen, settings, job.geometry, job.dtype, job.split)
    return models.streams[0].model, models.notes[len(chosen.summaries) :]


def _beside(job: Plan, transformer: Transformer, specs: Specs) -> Transformer:
    """The model of one voice with its adapters beside the weights."""
    if not specs:
        return _keep_reading(transformer)
    if job.settings.register_at is not None:
        return _fused(job, transformer, specs)[0]  # which then has them beside too
    chosen = job.voices[specs]
    model = attach(transformer, chosen.adapters, chosen.placements)
    round_factors(model, job.dtype)
    return model


def _parts(job: Plan, voices: dict[Specs, list[tuple[int, str]]]) -> dict[Specs, Changes]:
    """What the adapters of each voice do; those of one file are the same arrays, whatever their strength."""
    known: dict[object, Adapter] = {}
    changes = {}
    for specs in voices:
        chosen = job.voices[specs]
        adapters = [
            (known.setdefault(located.path, adapter), strength)
            for located, (adapter, strength) in zip(chosen.located, chosen.adapters, strict=True)
        ]
        changes[specs] = by_module(adapters, chosen.placements)
    return changes


def _keep_reading(model: Transformer) -> Transformer:
    """A clone whose bare linears that read the video take what the base's have made of it."""
    clone = share(model)
    if blocks_on_demand(clone) is None:
        for block in clone.transformer_blocks:
            _keep_block_reading(block)
    else:
        change_each(clone, lambda block: _keep_block_reading(share(block)))
    return clone


def _keep_block_reading(block: Block) -> Block:
    """The block, changed in place."""
    for path, linear in adaptable(block).items():
        if reads_video(path):
            replace(block, path, AdaptedLinear(linear, []))
    return block
