"""The memory plan of a run: what each part needs, told before anything is loaded, and what of the transformer stays.

`needs.py` counts; here is chosen what fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_ltxw.machine import Machine, beside_mlx, host_memory
from mlx_ltxw.models.transformer.tensor import TensorShare
from mlx_ltxw.pipeline.adapter_needs import by_block, copies, fusing, made_factors, read_adapters, used_up
from mlx_ltxw.pipeline.between_needs import given_needs, upsampler_need
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.given_needs import NOTHING, Encoded
from mlx_ltxw.pipeline.needs import (
    AHEAD,
    DENOISING,
    ONCE,
    PARTS,
    PICTURE,
    SOUND,
    Need,
    Subject,
    arriving,
    between_blocks,
    decoding_needs,
    denoising,
    forward,
    libraries,
    previews,
    streaming,
)
from mlx_ltxw.pipeline.packed import packed, with_packed
from mlx_ltxw.pipeline.text_needs import text_needs
from mlx_ltxw.pipeline.work import Work
from mlx_ltxw.printing import duration, readable
from mlx_ltxw.weights.memory import layer_bytes
from mlx_ltxw.weights.streaming import RESIDENT, Residency
from mlx_ltxw.world import World

MARGIN = 0.95
"""Of the budget that a plan may fill."""
_HALVES = ("weights", "activations")
_DECODED = (SOUND, PICTURE)
PREVIEWS, READING = "previews", "reading pictures"


@dataclass(frozen=True)
class Budget:
    """The memory plan of a run.

    Attributes:
        needs: In the order of the run.
        residency: Which of the transformer's blocks stay in memory.
        limit: Bytes that the run may fill.
        program: Bytes that the program has itself, where they come from the same memory.
        seconds: That denoising takes, all seeds together; None where nothing like it has run on this machine.
    """

    needs: tuple[Need, ...]
    residency: Residency
    limit: int
    program: int = 0
    seconds: float | None = None

    @property
    def peak(self) -> int:
        """Bytes at the largest moment."""
        return max(need.peak for need in self.needs) + self.program

    @property
    def fits(self) -> bool:
        """Whether the largest moment is within the limit."""
        return self.peak <= self.limit

    @property
    def decodes_beside(self) -> bool:
        """Whether sound and picture can be decoded while the whole transformer stays in memory."""
        kept = max(need.weights for need in self.needs if need.name.startswith(DENOISING))
        decoding = max((need.peak - need.beside for need in self.needs if need.name in _DECODED), default=0)
        return self.residency is RESIDENT and kept + decoding + self.program <= self.limit

    def beside_transformer(self) -> Budget:
        """The same, of a run whose transformer is in memory before it begins."""
        there = (
            dataclasses.replace(need, beside=need.weights) if need.name.startswith(DENOISING) else need
            for need in self.needs
        )
        return dataclasses.replace(self, needs=tuple(there))

    def decoding_between_clips(self) -> Budget:
        """The same, of a run whose transformer stays in memory while a clip is decoded, for the next one."""
        kept = max(need.weights for need in self.needs if need.name.startswith(DENOISING))
        there = (
            dataclasses.replace(need, weights=need.weights + kept, beside=kept, choice="beside the transformer")
            if need.name in _DECODED
            else need
            for need in self.needs
        )
        return dataclasses.replace(self, needs=tuple(there))

    def part(self, network: str) -> tuple[int, int]:
        """What the part that a network belongs to may hold before MLX's CPU backend waits: bytes of weights, and of all
        else. It looks every tenth operation, so this is less than is counted."""
        name = PARTS.get(network, network)
        beside = [need for need in self.needs if need.name == PREVIEWS] if name == DENOISING else []
        needs = [need for need in self.needs if need.name.startswith(name)] + beside
        weights, activations = (max((getattr(need, what) for need in needs), default=0) for what in _HALVES)
        weights -= max((need.beside for need in needs), default=0)
        ahead = next((share for part, share in AHEAD.items() if name.startswith(part)), 1.0)
        return weights, int(ahead * activations)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; bytes."""
        return {
            "limit": self.limit, "peak": self.peak, "program": self.program, "blocks_in_memory": self.residency.layers,
            "seconds": self.seconds,
            "parts": [dataclasses.asdict(need) | {"peak": need.peak} for need in self.needs],
        }  # fmt: skip

    def table(self) -> str:
        """For a terminal: a line a part, and the sum of it."""
        head = ("part", "weights", "other", "peak", "read")
        rows = [
            (need.name, *map(readable, (need.weights, need.peak - need.weights, need.peak, need.read)))
            for need in self.needs
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in (head, *rows)
        ]
        notes = [f"  {need.choice}" if need.choice else "" for need in self.needs]
        told = [line + note for line, note in zip(lines[1:], notes, strict=True)]
        program = f" The program itself takes {readable(self.program)} of that." if self.program else ""
        return "\n".join([lines[0], *told, f"It {self.line}.{program}"])

    @property
    def line(self) -> str:
        """The plan in a line: `needs 21.80 GB of the 22.00 GB it may use; 22 of 48 blocks stay in memory, ...`."""
        text = f"needs about {readable(self.peak)} of the {readable(self.limit)} it may use"
        choice = next((need.choice for need in self.needs if need.choice not in ("", ONCE)), "")
        parts = [text, choice, f"denoising takes about {duration(self.seconds)}" if self.seconds is not None else ""]
        return "; ".join(filter(None, parts))


UNPLANNED = Budget((), RESIDENT, 0)
"""Of a plan in the making."""


def best_budget(work: Work, machine: Machine, program: int | None = None) -> Budget:
    """The plan of a run that is as fast as the machine's memory lets it be, whether it fits or not.

    As many of the transformer's blocks stay in memory as fit; the others are read for each step. The text encoder,
    which runs once, is read layer by layer in any case.

    Args:
        work: What is to be made.
        machine: What there is.
        program: Bytes of the program itself; None for what it has now and its libraries will take, on a card with
            memory of its own for nothing.
    """
    limit = int(machine.budget * MARGIN)
    if program is None:
        program = program_memory(machine, work.stages[-1].geometry, work.audio_only, work.given)
    clip = Subject(
        work.model, work.dtype, machine, work.audio_only, work.prompts, work.sounds, read_adapters(work), work.tokens,
        work.given, work.makes_sound, work.makes_picture, work.quantised,
        -(-max(by_block(work, used_up(work)), default=0) // work.tensor), fusing(work),
        made_factors(work),
    )  # fmt: skip
    blocks, fixed, stored = _weights(work)
    second = [-(-nbytes // work.tensor) for nbytes in copies(work)]
    looks = previews(clip, work.stages[-1].geometry) if work.previews else []
    previewing = max((need.peak for need in looks), default=0)
    between = [upsampler_need(clip, s.upsampler, s.geometry, 0).peak for s in work.stages if s.upsampler is not None]
    activations = max(previewing, *between, *(forward(clip, stage) for stage in work.stages))
    sizes = [stage.geometry for stage in work.stages]
    room = limit - program - activations - packed(DENOISING, clip, sizes)
    residency, beside = RESIDENT, fixed + sum(second)
    if sum(blocks) + beside + arriving(clip, blocks, stored) > room:
        room -= max(0, between_blocks(clip) - activations)
        beside = fixed + streaming(blocks, stored, machine, second)
        residency = Residency(max(0, min(len(blocks) - 1, (room - beside) // max(blocks))))
    reading = [Need(READING, 0, clip.held + work.reading, 0)] if work.reading and machine.backend != "cuda" else []
    needs = [*text_needs(clip), *reading, *given_needs(clip, [stage.geometry for stage in work.stages])]
    for stage in work.stages:
        if stage.upsampler is not None:
            needs.append(upsampler_need(clip, stage.upsampler, stage.geometry, needs[-1].weights))
        walks = work.walks * stage.steps // max(1, sum(one.steps for one in work.stages))
        needs.append(denoising(clip, stage, residency, blocks, stored, beside, walks))
    if previewing:
        weights = max(need.weights for need in needs if need.name.startswith(DENOISING))
        needs.append(Need(PREVIEWS, weights, previewing, 0))
    needs = with_packed([*needs, *decoding_needs(clip, work.stages[-1].geometry)], clip, sizes)
    made = Budget(tuple(needs), keeps_cached(residency, stored, needs), limit, program)
    return made.decoding_between_clips() if work.clips > 1 and made.decodes_beside else made


def _weights(work: Work) -> tuple[list[int], int, list[int]]:
    """Bytes of each block in memory, of what is outside of them, and of each block on disk: of several machines that
    share the weights, the largest share's."""
    heads = work.model.network_config("transformer").video.heads
    shares = [TensorShare.of(heads, World(rank, work.tensor)) for rank in range(work.tensor)]
    counted = []
    for share in shares if work.tensor > 1 else [None]:
        blocks, fixed = layer_bytes(work.model, "transformer", work.dtype, work.audio_only, share=share)
        stored, _ = layer_bytes(work.model, "transformer", None, work.audio_only, stored=True, share=share)
        if work.quantised:
            blocks, stored = ([nbytes * 3 // 10 for nbytes in one] for one in (blocks, stored))
        counted.append((blocks, fixed, stored))
    return max(counted, key=lambda one: sum(one[0]))


def keeps_cached(residency: Residency, stored: Sequence[int], needs: Sequence[Need]) -> Residency:
    """A residency with the system keeping what was read in memory, where there is room for all of it.

    Args:
        residency: Of blocks.
        stored: Bytes of each on disk.
        needs: Of the run.
    """
    if residency is RESIDENT:
        return residency
    room = host_memory() - max(need.peak for need in needs)
    return dataclasses.replace(residency, keep_cached=sum(stored) < room)


def program_memory(machine: Machine, last: Geometry, audio_only: bool = False, given: Encoded = NOTHING) -> int:
    """Bytes of the program itself, with what its libraries and a given clip's frames will take; none where a card has
    memory of its own."""
    return 0 if machine.backend == "cuda" else beside_mlx() + libraries(last, audio_only) + given.beside(last)
