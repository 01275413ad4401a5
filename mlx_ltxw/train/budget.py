"""What training needs in memory, told before anything is loaded, and whether the base is read anew for each step.

Counted like a clip's parts (`pipeline/needs.py`); a step itself in `step_needs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_ltxw.machine import Machine, this_machine
from mlx_ltxw.pipeline.budget import MARGIN, Budget, keeps_cached, program_memory
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.given_needs import Encoded, picture_encoding, sound_encoding
from mlx_ltxw.pipeline.needs import Need, Subject, streaming
from mlx_ltxw.pipeline.packed import packed, with_packed
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.pipeline.text_needs import captions_need, text_needs
from mlx_ltxw.printing import readable, staying
from mlx_ltxw.train.base import shared_residency
from mlx_ltxw.train.data.cache import CAPTIONS, PICTURES, SOUNDS
from mlx_ltxw.train.refusal import fits, refusal
from mlx_ltxw.train.sample_needs import kept_contexts, sample_needs
from mlx_ltxw.train.step_needs import TrainingStep, state_bytes, step_bytes
from mlx_ltxw.weights.components import of_adapted_audio
from mlx_ltxw.weights.dtype import default_dtype
from mlx_ltxw.weights.memory import layer_bytes
from mlx_ltxw.weights.streaming import RESIDENT, Residency, is_matrix

TRAINING = "training"
_AHEAD = 0.9
"""As `pipeline.needs.AHEAD` has it."""


def budget_for_training(step: TrainingStep, memory: int | None = None, program: int | None = None) -> Budget:
    """Plans a run of training: the base whole in memory if it fits, else as many of its blocks as do.

    Args:
        step: What a forward goes over.
        memory: Bytes to plan for; None for what the machine has to give.
        program: As for `pipeline.refusal.budget_for`.

    Raises:
        UserError: it does not fit with every block read as it is needed; the hint is what would.
    """
    machine = this_machine().within(memory)
    if program is None:
        size = Geometry(*step.config.sizes, latent_grid(step.model))
        program = program_memory(machine, size, given=Encoded(0 if step.audio_only else size.frames))
    budget = _planned(step, machine, program)
    if not fits(step, budget):
        raise refusal(step, machine, budget, lambda other, on: _planned(other, on, program))
    return budget


def _planned(step: TrainingStep, machine: Machine, program: int) -> Budget:
    limit, dtype = int(machine.budget * MARGIN), default_dtype()
    size = Geometry(*step.config.sizes, latent_grid(step.model))
    subject = Subject(step.model, dtype, machine, step.audio_only, [""])
    blocks, outside = _weights(step, lambda _: True)
    outside += kept_contexts(step, subject)
    stored, _ = layer_bytes(step.model, "transformer", None, step.audio_only, stored=True)
    activations = step_bytes(step, size, machine)
    samples = max(need.arrays for need in sample_needs(step, subject, size, 0))
    room = limit - program - outside - packed(TRAINING, subject, [size], step.draws)
    room -= max(activations, samples)
    residency, beside = RESIDENT, 0
    if step.shared:
        residency, again = shared_residency(step.config), 0
        blocks, beside, choice = _shared(step, blocks, residency, machine)
    elif sum(blocks) > room and not step.audio_only:
        audio, picture, read = _sides(step)
        beside = streaming(picture, read, machine, before=int(machine.in_pieces))
        left = room - sum(audio) - beside
        residency = Residency(max(0, min(len(blocks) - 1, left // max(picture))), audio_stays=True)
        stay = [residency.stays(index, len(blocks)) for index in range(len(blocks))]
        again = sum(nbytes for nbytes, kept in zip(read, stay, strict=True) if not kept)
        blocks = [whole if kept else own for whole, own, kept in zip(blocks, audio, stay, strict=True)]
        choice = f"{staying(sum(stay), len(stay))} in memory, the picture's side of the others "
        choice += f"({readable(again)}) is read for each step"
    else:
        again, choice = 0, f"{staying(len(blocks), len(blocks))} in memory"
    weights = sum(blocks) + outside + beside
    read_in_all = sum(stored) + again * step.config.accumulation * step.config.steps
    needs = [*_encoding(step, subject, size), *text_needs(subject)]
    needs.append(Need(f"{TRAINING}, {size.frames} frames", weights, activations, read_in_all, choice))
    needs += sample_needs(step, subject, size, weights)
    needs = with_packed(needs, subject, [size], step.draws)
    return Budget(tuple(needs), keeps_cached(residency, stored, needs), limit, program)


def _shared(
    step: TrainingStep, blocks: Sequence[int], residency: Residency, machine: Machine
) -> tuple[list[int], int, str]:
    """What a machine holds of each block, and of those on their way, where machines share them; and that in words."""
    parts, _ = _weights(step, lambda path: not residency.keeps(0, len(blocks), path))
    there_and_back = sum(parts)
    if step.config.gradient_checkpointing:
        used = of_adapted_audio if not step.config.coupled else lambda _: True
        there_and_back += sum(_weights(step, lambda path: is_matrix(path) and used(path))[0])
    crossing = there_and_back * (step.machines - 1) // step.machines
    held = [whole - part + -(-part // step.machines) for whole, part in zip(blocks, parts, strict=True)]
    choice = f"each of {step.machines} machines holds its part of all {len(blocks)} blocks and gets the rest "
    choice += f"({readable(crossing)}) from the others for each forward"
    return held, streaming(parts, [0], machine, before=1), choice


def _weights(step: TrainingStep, which: Callable[[str], bool]) -> tuple[list[int], int]:
    """Bytes of each block's parameters of some kind, and of those outside the blocks. On a CPU quantised ones are
    unpacked."""
    dense = default_dtype().size * 8 if default_dtype() == mx.float32 else 0
    blocks, rest = layer_bytes(step.model, "transformer", default_dtype(), step.audio_only, which=which, dense=dense)
    return ([nbytes * 3 // 10 for nbytes in blocks] if step.quantised else blocks), rest


def _sides(step: TrainingStep) -> tuple[list[int], list[int], list[int]]:
    """Bytes of each block's audio side, of its picture's side, and of what is read of the latter."""
    blocks, _ = _weights(step, lambda _: True)
    audio, _ = _weights(step, of_adapted_audio)
    stored, _ = layer_bytes(step.model, "transformer", None, step.audio_only, stored=True)
    picture = [whole - own for whole, own in zip(blocks, audio, strict=True)]
    return audio, picture, [n * part // max(1, whole) for n, part, whole in zip(stored, picture, blocks, strict=True)]


def held_in_step(step: TrainingStep, machine: Machine, residency: Residency) -> int:
    """Bytes beyond the base's weights and the run's state that stay in memory, from where on MLX's CPU backend waits
    while it takes a step (`Parts`)."""
    size = Geometry(*step.config.sizes, latent_grid(step.model))
    activations = step_bytes(step, size, machine) - state_bytes(step)  # which is there before
    _, picture, read = _sides(step)
    beside = 0 if residency is RESIDENT else streaming(picture, read, machine, before=int(machine.in_pieces))
    return int(_AHEAD * activations) + beside


def _encoding(step: TrainingStep, subject: Subject, size: Geometry) -> list[Need]:
    """Of clips, before the first step: one at a time, as a clip that a run is given, while both encoders stay; then of
    their captions, many together."""
    dtype, in_pieces = default_dtype(), subject.machine.in_pieces
    made = {SOUNDS: sound_encoding(step.model, dtype, size, in_pieces)}
    if not step.audio_only:
        made[PICTURES] = picture_encoding(step.model, dtype, size.frames, size, in_pieces)
    both = sum(weights for weights, _ in made.values())
    needs = [Need(name, both, held, own, beside=both - own) for name, (own, held) in made.items()]
    return [*needs, captions_need(CAPTIONS, subject)]
