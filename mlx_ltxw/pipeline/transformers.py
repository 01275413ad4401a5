"""The transformers of a run, stage by stage: with the distilled LoRA where the stage has it, and the run's adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import mlx.core as mx

from mlx_ltxw.adapter.apply import Adapters, round_factors, settle
from mlx_ltxw.adapter.fuse import fuse
from mlx_ltxw.adapter.sharding import shared_adapters
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.models.transformer.tensor import TensorShare
from mlx_ltxw.pipeline.adapters import Chosen, Models, apply
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.recipes import Stage
from mlx_ltxw.pipeline.voices import models_of


class Transformers:
    """Those of one stage at a time: stages that need the same share them, others take the place of those before.

    Args:
        job: From `plan`.
        networks: Of its model and dtype.
    """

    def __init__(self, job: Plan, networks: Networks) -> None:
        self.networks = networks
        shard = job.split.shard(job.model.network_config("transformer"))
        self._job = job if shard is None else with_share(job, shard)
        self._bare: Transformer | None = None  # as loaded, while nothing has used it up
        self._made_for: Hashable = None
        self._models: Models | None = None

    def of(self, stage: Stage) -> Models:
        """The transformers of a stage, with all that acts in it in place."""
        job = dataclasses.replace(self._job, stages=(stage,))
        if job.settings.locked and not stage.finishes_sound:
            job = job.without_adapters()  # whose sound would end here, unheard
        timed = job.settings.register_at is not None
        distilled = stage.distilled and str(stage.distilled)
        wanted = (distilled, job.settings.adapters, job.takes, stage.geometry if timed else None)
        if self._models is None or wanted != self._made_for:
            self._models = None  # gone before the next ones come
            mx.clear_cache()
            base, self._bare = self._bare or self._load(), None
            self._models, kept = stage_models(job, stage, base)
            self._bare = base if kept else None
            self._made_for = wanted
        return self._models

    def _load(self) -> Transformer:
        job = self._job
        return self.networks.transformer(job.settings.audio_only, job.budget.residency, job.split)


def with_share(job: Plan, shard: TensorShare) -> Plan:
    """The plan with a machine's share of its adapters."""
    layers = job.model.quantized_layers("transformer")

    def cut(chosen: Chosen) -> Chosen:
        shared = shared_adapters(chosen.adapters, shard, layers, job.split.turns.sum)
        return dataclasses.replace(chosen, adapters=shared)

    return dataclasses.replace(
        job, adapters=cut(job.adapters), distilled=None if job.distilled is None else cut(job.distilled),
        voices={specs: cut(chosen) for specs, chosen in job.voices.items()},
    )  # fmt: skip


def stage_models(job: Plan, stage: Stage, transformer: Transformer) -> tuple[Models, bool]:
    """The transformers of one stage.

    Without the lock the distilled LoRA and the run's adapters are fused at once, by the official rule. Under it the
    distilled LoRA is a part of the base that both audio streams have, and the adapters act on top.

    Args:
        job: With this stage alone.
        stage: The stage.
        transformer: As loaded.

    Returns:
        The transformers, and whether the one that was given is left as it was.
    """
    untouched = not job.settings.adapters or job.settings.locked
    if stage.distilled is None or job.distilled is None:
        return models_of(job, transformer), untouched
    chosen, adapters = job.distilled, job.adapters
    pair = [(adapter, stage.distilled) for adapter, _ in chosen.adapters]
    if not untouched and job.settings.register_at is None:
        both = Chosen(
            [*adapters.adapters, *pair], (*adapters.placements, *chosen.placements),
            (*adapters.summaries, *chosen.summaries),
        )  # fmt: skip
        return apply(transformer, both, job.settings, stage.geometry, job.dtype, job.split), False
    transformer, note = _distilled(job, transformer, pair, stage.distilled)
    models = models_of(job, transformer)
    return dataclasses.replace(models, notes=(*chosen.summaries, note, *models.notes)), False


def _distilled(job: Plan, transformer: Transformer, pair: Adapters, strength: Strength) -> tuple[Transformer, str]:
    """A transformer, used up, with the distilled LoRA."""
    assert job.distilled is not None
    fused = fuse(transformer, pair, job.distilled.placements, quantized=job.settings.fuse, consume=True)
    round_factors(fused.model, job.dtype)
    settle(fused.model)
    return fused.model, f"the distilled LoRA acts at {strength}, {fused.summary}"
