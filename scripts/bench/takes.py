"""What takes cost at full size: seconds a forward of many sounds on one picture, with random weights on one GPU.

    python -m scripts.bench.takes
    python -m scripts.bench.takes --takes 1 --takes 16 --voices 4

One locked run is the measure: a forward with one take that has the base's text. Beside it stand 1, 2, 4, 8 and 16
takes, each with a text of its own, first of one voice (an adapter in the weights), then of several (the same adapter at
other strengths, beside the weights); once as one pass, and once as the four passes of a guided step. The counts are
measured in turn, so that drift meets all alike. Prints one JSON object a line; `over_one` is how much longer a count
takes than one locked run. The picture and the base's sound are compared with those of a run without takes.

To try it out on a CPU: --layers 2 --scale 8 --width 128 --height 128 --frames 25 --text-tokens 64 --runs 2
"""

from __future__ import annotations

import functools
from pathlib import Path

import mlx_ltxw.blas  # noqa: F401  first of all, so that OpenBLAS is there before MLX

# isort: split
import click
import mlx.core as mx

from mlx_ltxw.adapter.apply import by_module, round_factors
from mlx_ltxw.adapter.fuse import fuse
from mlx_ltxw.adapter.placing import match
from mlx_ltxw.adapter.rows import attach_rows
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.machine import this_machine
from mlx_ltxw.models.transformer import Transformer, TransformerConfig, Walk
from mlx_ltxw.pipeline.adapters import reads_video
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.denoise import Denoiser, rotaries
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.latents import Latents, noise
from mlx_ltxw.pipeline.streams import AdaptedStream, batch_layout
from mlx_ltxw.weights.dtype import default_dtype
from scripts.bench.lock import SEED, Measured, equal, measured, schedules
from scripts.random_model import (
    GRID,
    as_loaded,
    begin,
    fill_randomly,
    median,
    model_options,
    random_adapter,
    read_sections,
    report,
)

PROMPT, NEGATIVE, OWN = "base", "negative", "take {}"


class Voices:
    """A base with random weights, and streams of any number of takes beside it.

    Args:
        config: The transformer's.
        voices: Different adapters among several takes.
        dtype: Of weights and activations.
    """

    def __init__(self, config: TransformerConfig, voices: int, dtype: mx.Dtype) -> None:
        self.base = Transformer(config)
        fill_randomly(self.base, mx.bfloat16)
        self.base.set_dtype(dtype, lambda one: one == mx.bfloat16)  # the same weights in every dtype
        as_loaded(self.base)
        self.adapter, self.voices, self.dtype = random_adapter(self.base), voices, dtype
        self.fused = self._with_adapter(Strength())

    def plain(self) -> AdaptedStream:
        """The stream of a locked run."""
        return AdaptedStream(self.fused)

    def one_voice(self, takes: int) -> AdaptedStream:
        """Takes of one voice, each with its own text."""
        found = batch_layout([[(row, OWN.format(row)) for row in range(takes)]])
        return AdaptedStream(self.fused, found.rows, found.texts, found.sharing)

    def alone(self, takes: int) -> list[AdaptedStream]:
        """Each take of `several` as a run of its own has it: its adapter in the weights."""
        models = [self._with_adapter(_strength(voice)) for voice in range(min(self.voices, takes))]
        return [AdaptedStream(models[row % len(models)], texts=(OWN.format(row),)) for row in range(takes)]

    def several(self, takes: int) -> AdaptedStream:
        """Takes of several voices, each with its own text."""
        count = min(self.voices, takes)
        rows = [[(row, OWN.format(row)) for row in range(takes) if row % count == voice] for voice in range(count)]
        placement = match(self.adapter, self.base)
        changes = [by_module([(self.adapter, _strength(voice))], [placement]) for voice in range(count)]
        found = batch_layout(rows)
        model = attach_rows(self.base, changes, found.voices, self.dtype)
        return AdaptedStream(model, found.rows, found.texts, found.sharing)

    def _with_adapter(self, strength: Strength) -> Transformer:
        model = fuse(self.base, [(self.adapter, strength)], keep_unfused=reads_video).model
        round_factors(model, self.dtype)
        mx.eval(model.parameters())
        return model


def _strength(voice: int) -> Strength:
    return Strength(1 - 0.1 * voice)


def contexts_of(config: TransformerConfig, tokens: int, takes: int, dtype: mx.Dtype) -> Contexts:
    """Random ones, of the prompt, the negative prompt and each take's own text."""
    prompts = (PROMPT, NEGATIVE, *(OWN.format(row) for row in range(takes)))
    keys = mx.random.split(mx.random.key(SEED), 2)
    widths = (config.video.context_dim, config.audio.context_dim)
    video, audio = (
        mx.random.normal((len(prompts), tokens, width), key=key).astype(dtype)
        for width, key in zip(widths, keys, strict=True)
    )
    mx.eval(video, audio)
    return Contexts(video, audio, prompts)


def start_of(config: TransformerConfig, geometry: Geometry, takes: int) -> Latents:
    """Noise, with a seed of its own for each take."""
    widths = config.video.in_channels, config.audio.in_channels
    start = noise(geometry, *widths, SEED)
    own = [noise(geometry, *widths, SEED + row).audio for row in range(takes)]
    start = start._replace(adapted=mx.concatenate(own) if own else None)
    mx.eval(start)
    return start


def measure(
    voices: Voices, geometry: Geometry, contexts: Contexts, counts: tuple[int, ...], runs: int, guided: bool
) -> None:
    """Times every kind and count in turn, `runs` times after one that is not counted."""
    config = voices.base.config
    schedule = schedules(config.layers)[0 if guided else 1]
    rotary, walk = rotaries(voices.base, geometry, voices.dtype), Walk.bounded(this_machine().in_pieces)
    streams = {("without takes", 0): [], ("one locked run", 1): [voices.plain()]}
    streams |= {("one voice", takes): [voices.one_voice(takes)] for takes in counts}
    streams |= {("several voices", takes): [voices.several(takes)] for takes in counts if takes > 1}
    starts = {takes: start_of(config, geometry, takes) for takes in {takes for _, takes in streams}}
    sigma, rounds = float(schedule.sigmas[0]), []
    for _ in range(runs + 1):
        one: dict[tuple[str, int], Measured] = {}
        for (kind, takes), own in streams.items():
            denoiser = Denoiser(
                voices.base, own, contexts, schedule.video, schedule.audio, *rotary, voices.dtype, walk=walk
            )
            one[kind, takes] = measured(functools.partial(_evaluated, denoiser, starts[takes], sigma))
        rounds.append(one)
    seconds = {kind: [each[kind].seconds for each in rounds[1:]] for kind in streams}
    whole = median(seconds["one locked run", 1])
    bare = rounds[-1]["without takes", 0].outputs
    for (kind, takes), all_seconds in seconds.items():
        outputs = rounds[-1][kind, takes].outputs
        report(
            what=f"{'guided step' if guided else 'forward'}, {kind}", takes=takes, seconds=all_seconds,
            median=median(all_seconds), over_one=round(median(all_seconds) / whole, 3),
            peak=max(each[kind, takes].peak for each in rounds), beyond=rounds[-1][kind, takes].beyond,
            picture_identical=equal(outputs.video, bare.video), base_sound_identical=equal(outputs.audio, bare.audio),
        )  # fmt: skip


def _evaluated(denoiser: Denoiser, start: Latents, sigma: float) -> Latents:
    latents = denoiser(start, sigma)
    mx.eval(latents)
    return latents


@click.command()
@model_options(704, 480)
@click.option("--takes", "counts", type=int, multiple=True, default=(1, 2, 4, 8, 16), help="Repeat it for more.")
@click.option("--voices", default=4, help="Different adapters among several takes.")
@click.option("--runs", default=5, help="Timed forwards of each kind and count.")
def main(
    width: int, height: int, frames: int, frame_rate: float, text_tokens: int, layers: int | None, scale: int,
    config: Path, counts: tuple[int, ...], voices: int, runs: int,
) -> None:  # fmt: skip
    """Measures what takes add to one locked run, with texts of their own, guided and not."""
    sections = read_sections(config, layers, scale)
    geometry = Geometry(width, height, frames, frame_rate, GRID)
    geometry.check()
    begin(geometry, text_tokens=text_tokens, scale=scale)
    transformer, dtype = TransformerConfig.read(sections["transformer"]), default_dtype()
    made = Voices(transformer, voices, dtype)
    contexts = contexts_of(transformer, text_tokens, max(counts), dtype)
    for guided in (False, True):
        measure(made, geometry, contexts, counts, runs, guided)


if __name__ == "__main__":
    main()
