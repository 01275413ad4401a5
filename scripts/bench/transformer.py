"""Forwards of the transformer: at each clip's size, in each packing, for a law of tokens and blocks; guided steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_ltxw.models.transformer import NO_SKIPS, Call, Modality, Skips, Transformer, calling, joint_forward
from mlx_ltxw.pipeline.guidance import DEV_VIDEO
from scripts.bench.figures import Figure, timed
from scripts.bench.floors import Rates, operations
from scripts.bench.packings import walk
from scripts.bench.setting import TEXT, Setting
from scripts.random_model import inputs


def _forward(model: Transformer, streams: tuple[Modality, Modality]) -> Callable[[], Any]:
    call = calling(streams[0].latent.shape[1])
    return lambda: walk().together([(joint_forward(model, streams[0], streams[1], call=call), NO_SKIPS)])


def measure(setting: Setting) -> Iterator[Figure]:
    """Forwards at every size, called as the pipeline calls them, beside the official classes."""
    rates = Rates.measured(setting.dtype, setting.rate_size)
    theirs = official_seconds(setting) if setting.official else {}
    model = setting.model
    for size, geometry in setting.geometries().items():
        streams = setting.modalities(geometry)
        seconds = timed(_forward(model, streams), setting.runs)
        least = operations(setting.config, geometry.video_tokens, geometry.audio_tokens, TEXT)
        yield Figure("forward", size, seconds, least.seconds(rates, setting.dtype.size), theirs.get(size, {}))


def official_seconds(setting: Setting) -> dict[str, dict[str, float]]:
    """Size -> the official classes' median seconds, where PyTorch, CUDA and ltx-core are at hand."""
    try:
        import torch

        from scripts.bench.official import build_official, run_official
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    found = {}
    model = build_official(setting.sections["transformer"], torch.bfloat16)
    for size, geometry in setting.geometries().items():
        arrays = inputs(setting.config, geometry, TEXT)
        _, seconds = run_official(model, arrays, torch.bfloat16, setting.runs)
        found[size] = {"official": float(np.median(seconds))}
    del model
    torch.cuda.empty_cache()
    return found


def scaling(setting: Setting) -> Iterator[Figure]:
    """Fewer blocks and fewer tokens, and the law that fits: `a + b blocks + c floor`."""
    model, rates = setting.model, Rates.measured(setting.dtype, setting.rate_size)
    whole, points = model.transformer_blocks, []
    for size, geometry in setting.geometries().items():
        streams = setting.modalities(geometry)
        for count in sorted({max(1, len(whole) // 4), max(1, len(whole) // 2), len(whole)}):
            model.transformer_blocks = whole[:count]  # type: ignore[index]
            seconds = timed(_forward(model, streams), setting.runs)
            least = operations(setting.config, geometry.video_tokens, geometry.audio_tokens, TEXT, count)
            floor = least.seconds(rates, setting.dtype.size)
            points.append((count, floor, float(np.median(seconds))))
            yield Figure(f"{count} blocks", size, seconds, floor)
    model.transformer_blocks = whole
    yield law(points)


def law(points: Sequence[tuple[int, float, float]]) -> Figure:
    """The non-negative law nearest to what was measured, in relative terms.

    Args:
        points: Blocks, floor of all of them, seconds.
    """
    rows = np.array([(1.0, count, floor) for count, floor, _ in points])
    seconds = np.array([each[2] for each in points])
    kept = [0, 1, 2]
    while True:
        weighted = rows[:, kept] / seconds[:, None]
        found, *_ = np.linalg.lstsq(weighted, np.ones(len(seconds)), rcond=None)
        if len(kept) == 1 or found.min() >= 0:
            break
        kept.pop(int(found.argmin()))
    fitted = dict.fromkeys(("a forward, ms", "a block, ms", "over the floor"), 0.0)
    for place, value in zip(kept, found, strict=True):
        name = [*fitted][place]
        fitted[name] = round(float(value) * (1 if place == 2 else 1e3), 3)
    worst = np.abs(rows[:, kept] @ found / seconds - 1).max()
    return Figure("law", "all", [], more=fitted | {"worst, per cent": round(100 * float(worst), 1)})


def guided(setting: Setting) -> Iterator[Figure]:
    """A dev step's four passes side by side, beside as many single forwards; both give the same bits."""
    model, layers = setting.model, setting.config.layers
    block = frozenset(min(index, layers - 1) for index in DEV_VIDEO.stg_blocks)
    skips = [NO_SKIPS, NO_SKIPS, Skips(block, block), Skips(cross=True)]
    for size, geometry in setting.geometries().items():
        own = setting.modalities(geometry)
        video, audio = (one._replace(context=0.5 * one.context) for one in own)
        mx.eval(video, audio)
        negative = video, audio
        texts, call = [own, negative, own, own], calling(geometry.video_tokens)
        single = timed(_forward(model, own), setting.runs)
        seconds = timed(partial(_together, model, own, negative, skips, call), setting.runs)
        apart = [
            walk().together([(joint_forward(model, text[0], text[1], call=call), each)])[0]
            for text, each in zip(texts, skips, strict=True)
        ]
        made = _together(model, own, negative, skips, call)
        equal = all(
            bool(mx.array_equal(one, other))
            for pair in zip(apart, made, strict=True)
            for one, other in zip(*pair, strict=True)
        )
        forwards = round(float(np.median(seconds) / np.median(single)), 3)
        yield Figure("guided step", size, seconds, more={"in forwards": forwards, "equal": equal})


def _together(
    model: Transformer,
    own: tuple[Modality, Modality],
    negative: tuple[Modality, Modality],
    skips: Sequence[Skips],
    call: Call,
) -> list[Any]:
    first = joint_forward(model, own[0], own[1], call=call)
    second = joint_forward(model, negative[0], negative[1], first, call)
    forwards = [first, second, first, first]
    made = walk().together(list(zip(forwards, skips, strict=True)))
    mx.eval(made)
    return made
