"""What each stage of a run needs in memory and from disk, told from headers before anything is loaded.

Weights are counted exactly. Activations follow from the sizes by factors measured on one H200 in bf16, where work is
handed over in bounded pieces, and on a CPU in fp32 (`docs/log.md`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine, beside_mlx, host_memory
from mlx_ltxw.models.transformer import TransformerConfig
from mlx_ltxw.models.video_vae import Tiling
from mlx_ltxw.pipeline.adapters import Chosen, reads_video
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.guidance import passes
from mlx_ltxw.pipeline.recipes import Stage
from mlx_ltxw.printing import readable
from mlx_ltxw.weights.components import TEXT_ENCODER, upsampler_name
from mlx_ltxw.weights.memory import layer_bytes, weights_in_memory
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, Residency

DENOISING, SOUND, PICTURE = "denoising", "sound", "picture"

_PER_TOKEN, _PER_TOKEN_WHOLE = 18.0, 24.0
"""Arrays of a stream's size that a forward holds, where it is handed over in pieces and where it is not."""
_PER_TEXT_TOKEN = 4.0
_GATHERED = 6.0
"""Of those, the whole keys and values that a machine holds of which each computes some: gathered, then turned for the
attention, in two blocks."""
_SCORES = 1.35
"""On a CPU, attention scores held at once, in those of all heads."""
_HIDDEN_STATES = 3.0
"""All hidden states of a padded prompt: so many times over while they are projected."""
_LETTERS = 3
"""Of a token, at least as a rule."""
_PER_FRAME_PIXEL = 4.25
"""Arrays of the last layers' width that decoding a whole tile holds."""
_TILE, _PER_TILE_PIXEL = 600_000_000, 1830
"""Bytes that decoding a tile in pieces holds at most: these, and so many for each of its pixels."""
_SOUND, _PER_SOUND_TOKEN = 600_000_000, 3_050_000
_CONNECTORS = 200_000_000
BUFFERS = 3
"""Layers in memory beside those that stay: the one at work, the one before it, and the one that is being read."""
LIBRARIES = 700_000_000
"""What encoding a clip, measuring it, and freed memory that the system does not get back come to on two cores."""
MARGIN = 0.95
"""Of the budget that a plan may fill."""


@dataclass(frozen=True)
class Need:
    """What one part of a run needs.

    Attributes:
        name: `text encoder`, `denoising 704x480, 97 frames`, ...
        weights: Bytes of the networks' weights in memory.
        activations: Bytes of everything else.
        read: Bytes from disk in all, the first time included.
        choice: How it is done, where there is a choice, and why; or nothing.
    """

    name: str
    weights: int
    activations: int
    read: int
    choice: str = ""

    @property
    def peak(self) -> int:
        """Bytes at once."""
        return self.weights + self.activations


@dataclass(frozen=True)
class Budget:
    """The memory plan of a run.

    Attributes:
        needs: In the order of the run.
        residency: Which of the transformer's blocks stay in memory.
        limit: Bytes that the run may fill.
        program: Bytes that the program has itself, where they come from the same memory.
    """

    needs: tuple[Need, ...]
    residency: Residency
    limit: int
    program: int = 0

    @property
    def peak(self) -> int:
        """Bytes at the largest moment."""
        return max(need.peak for need in self.needs) + self.program

    @property
    def decodes_beside(self) -> bool:
        """Whether sound and picture can be decoded while the whole transformer stays in memory."""
        kept = max(need.weights for need in self.needs if need.name.startswith(DENOISING))
        decoding = max(need.peak for need in self.needs if need.name in (SOUND, PICTURE))
        return self.residency is RESIDENT and kept + decoding + self.program <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; bytes."""
        return {
            "limit": self.limit, "peak": self.peak, "program": self.program, "blocks_in_memory": self.residency.layers,
            "parts": [dataclasses.asdict(need) | {"peak": need.peak} for need in self.needs],
        }  # fmt: skip

    def table(self) -> str:
        """For a terminal: a line a part, and the sum of it."""
        head = ("part", "weights", "other", "peak", "read")
        rows = [
            (need.name, *map(readable, (need.weights, need.activations, need.peak, need.read))) for need in self.needs
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
        choice = next((need.choice for need in self.needs if need.name.startswith(DENOISING) and need.choice), "")
        return f"{text}; {choice}" if choice else text


UNPLANNED = Budget((), RESIDENT, 0)
"""Of a plan in the making."""


@dataclass(frozen=True)
class Work:
    """What a budget is made for.

    Attributes:
        model: Where the weights are.
        dtype: Of the transformer.
        audio_only: Whether there is no picture.
        stages: Of the run.
        prompts: What is encoded.
        chosen: The adapters of each take.
        distilled: The distilled LoRA, if any.
        locked: Whether adapters act on a second audio stream.
        fuse: Whether they go into quantised weights too.
        sounds: Adapted sounds beside the picture.
        walks: Over the blocks, of all stages and seeds; the passes of a guided step go together.
        tokens: Machines that the video's tokens are spread over.
        tensor: Machines that the blocks' weights are spread over; each keeps its share in memory.
    """

    model: ModelDir
    dtype: mx.Dtype
    audio_only: bool
    stages: tuple[Stage, ...]
    prompts: Sequence[str]
    chosen: Sequence[Chosen]
    distilled: Chosen | None
    locked: bool
    fuse: bool
    sounds: int
    walks: int
    tokens: int = 1
    tensor: int = 1


def budget_for(work: Work, machine: Machine, program: int | None = None) -> Budget:
    """Plans a run: everything as fast as the machine's memory lets it.

    As many of the transformer's blocks stay in memory as fit; the others are read for each step. The text encoder,
    which runs once, is read layer by layer in any case.

    Args:
        work: What is to be made.
        machine: What there is.
        program: Bytes of the program itself; None for what it has now and its libraries will take, on a card with
            memory of its own for nothing.

    Raises:
        UserError: it does not fit with every block read as it is needed, or a decoder does not.
    """
    limit = int(machine.budget * MARGIN)
    if program is None:
        program = program_memory(machine)
    config: TransformerConfig = work.model.network_config("transformer")
    weights = weights_in_memory(work.model, work.dtype, work.audio_only)
    blocks, rest = layer_bytes(work.model, "transformer", work.dtype, work.audio_only)
    blocks = [nbytes // work.tensor for nbytes in blocks]
    if work.distilled is not None and work.model.quantized_layers("transformer") and not work.fuse:
        rest += work.distilled.located[0].path.stat().st_size  # it stays beside the packed weights
    activations = max(_forward(work, stage, config, machine) for stage in work.stages)
    copies = [nbytes // work.tensor for nbytes in _copies(work)]
    whole = sum(blocks) + rest + sum(copies) + activations
    fixed = rest + activations + BUFFERS * (max(blocks) + max(copies, default=0))
    residency, needed = RESIDENT, whole
    if whole > limit - program and work.tensor == 1:
        count = max(0, min(len(blocks) - 1, (limit - program - fixed) // max(blocks)))
        residency, needed = Residency(count), fixed + count * max(blocks)
    needs = [
        *_before(work, weights, machine),
        *(_denoising(work, stage, residency, blocks, rest, copies, config, machine) for stage in work.stages),
        *_after(work, weights),
    ]
    residency = (
        dataclasses.replace(
            residency, keep_cached=residency is RESIDENT or sum(blocks) < host_memory() - max(n.peak for n in needs)
        )
        if residency is not RESIDENT
        else residency
    )
    budget = Budget(tuple(needs), residency, limit, program)
    _refuse(budget, machine, needed)
    return budget


def program_memory(machine: Machine) -> int:
    """Bytes of the program itself, with what its libraries will take; none where a card has memory of its own."""
    return 0 if machine.backend == "cuda" else beside_mlx() + LIBRARIES


def _refuse(budget: Budget, machine: Machine, needed: int) -> None:
    worst = max(budget.needs, key=lambda need: need.peak)
    least = max(worst.peak, needed) + budget.program
    if least <= budget.limit:
        return
    if worst.name.startswith(DENOISING):
        hint = "Make it smaller or shorter ({field:width}, {field:height}, {field:frames}), or convert it with "
        hint += "{field:quantize=4}; {field:audio_only=True} needs the least."
    else:
        hint = "Close other programs, or use a machine with more memory."
    raise UserError(
        f"This run may use {readable(budget.limit)}, and a part of it needs {readable(least)}: {worst.name}.", hint
    )


def _before(work: Work, weights: Mapping[str, int], machine: Machine) -> list[Need]:
    """The text path."""
    itemsize = max(2, work.dtype.size) if machine.backend == "cpu" else 2
    dtype = mx.float32 if itemsize == 4 else mx.bfloat16
    layers, rest = layer_bytes(work.model, TEXT_ENCODER, dtype, on_disk="embed_tokens")  # but for the prompt's own rows
    gemma = work.model.network_config(TEXT_ENCODER)
    token = gemma.states * gemma.hidden_size * itemsize
    tokens = sum(min(_PROMPT, len(prompt) // _LETTERS + 8) for prompt in work.prompts)
    stored = sum(tensor.nbytes for tensor in work.model.tensors(TEXT_ENCODER))
    return [
        Need(
            "text encoder", min(BUFFERS, len(layers)) * max(layers) + rest,
            2 * tokens * token, stored, "layer by layer from disk",
        ),
        Need(
            "text projection", weights["text_projection"], int(_HIDDEN_STATES * _PROMPT + tokens) * token,
            weights["text_projection"],
        ),
        Need("connectors", weights["connectors"], _connectors(work, machine), weights["connectors"]),
    ]  # fmt: skip


def _connectors(work: Work, machine: Machine) -> int:
    """On a CPU the attention's scores, of all heads."""
    if machine.in_pieces:
        return _CONNECTORS
    config = work.model.network_config("connectors")
    return int(4 * config.video.heads * _PROMPT**2 * 4)


_PROMPT = 1024
"""Tokens a prompt is padded to."""


def _denoising(
    work: Work, stage: Stage, residency: Residency, blocks: Sequence[int], rest: int, copies: Sequence[int],
    config: TransformerConfig, machine: Machine,
) -> Need:  # fmt: skip
    size = stage.geometry
    name = f"{DENOISING} {size.frames} frames" + ("" if work.audio_only else f" of {size.width}x{size.height}")
    activations = _forward(work, stage, config, machine)
    if residency is RESIDENT:
        total = sum(blocks) + rest
        return Need(name, total + sum(copies), activations, total, f"all {len(blocks)} blocks stay in memory")
    stay = [nbytes for index, nbytes in enumerate(blocks) if residency.stays(index, len(blocks))]
    buffers = BUFFERS * (max(blocks) + max(copies, default=0))
    again = sum(blocks) - sum(stay)
    walks = work.walks * stage.steps // max(1, sum(one.steps for one in work.stages))
    choice = (
        f"{len(stay)} of {len(blocks)} blocks stay in memory, the others ({readable(again)}) are read for each step"
    )
    return Need(name, sum(stay) + rest + buffers, activations, sum(stay) + rest + walks * again, choice)


def _after(work: Work, weights: Mapping[str, int]) -> list[Need]:
    needs = []
    for kind in dict.fromkeys(stage.upsampler for stage in work.stages if stage.upsampler):
        size = sum(tensor.nbytes for tensor in work.model.tensors(upsampler_name(kind)))
        needs.append(Need(f"upsampler {kind}", size + weights["video_vae"], _TILE, size))
    sound, last = weights["audio_vae"] + weights["vocoder"], work.stages[-1].geometry
    needs.append(Need(SOUND, sound, min(_SOUND, _PER_SOUND_TOKEN * last.audio_tokens), sound))
    if not work.audio_only:
        needs.append(Need(PICTURE, weights["video_vae"], _picture(work, last), weights["video_vae"]))
    return needs


def _picture(work: Work, size: Geometry) -> int:
    """Bytes that decoding the video holds: a tile's, which is made in pieces where it is large."""
    channels = work.model.network_config("video_vae").decoder_base_channels
    tiling = Tiling()
    tile = min(size.width * size.height, (tiling.pixels or size.width) * (tiling.pixels or size.height))
    itemsize = 4 if work.dtype == mx.float32 else 2
    whole = _PER_FRAME_PIXEL * channels * itemsize * tile * min(size.frames, tiling.frames or size.frames)
    return int(min(whole, _TILE + _PER_TILE_PIXEL * tile))


def _forward(work: Work, stage: Stage, config: TransformerConfig, machine: Machine) -> int:
    """Bytes beyond the weights that one step of a stage holds: a forward's, and the streams of its other passes."""
    size, itemsize = stage.geometry, work.dtype.size
    waiting = len(passes(stage.video_guidance, stage.audio_guidance, config.layers)) - 1
    video = 0.0 if work.audio_only else size.video_tokens * config.video.dim * _spread(work.tokens)
    audio = size.audio_tokens * config.audio.dim * (1 + work.sounds)
    text = _PROMPT * (config.audio.dim * (1 + work.sounds) + (0 if work.audio_only else config.video.dim))
    pieces = machine.in_pieces
    held = ((_PER_TOKEN if pieces else _PER_TOKEN_WHOLE) + waiting) * (video + audio)
    held += _PER_TEXT_TOKEN * (2 if waiting else 1) * text  # of one prompt while passes of the other are at work
    scores = 0.0
    if not pieces:
        longest = size.audio_tokens if work.audio_only else size.video_tokens
        scores = _SCORES * config.video.heads * longest * max(longest, _PROMPT) * 4
    return int(held * itemsize + scores)


def _spread(machines: int) -> float:
    """How much of the video's activations is held where its tokens are spread over machines: keys and values whole."""
    return ((_PER_TOKEN - _GATHERED) / machines + _GATHERED) / _PER_TOKEN if machines > 1 else 1.0


def _copies(work: Work) -> list[int]:
    """Bytes of the second weights that fused adapters need under the lock, block by block."""
    if not work.locked:
        return []
    packed = {path for path, _ in work.model.quantized_layers("transformer").items()}
    sizes: dict[str, dict[str, int]] = {}
    for chosen in work.chosen:
        for (adapter, _), placement in zip(chosen.adapters, chosen.placements, strict=True):
            for path in placement.placed:
                delta = adapter.deltas.get(path)
                fused = work.fuse or (path not in packed and not reads_video(path))
                if delta is not None and fused:
                    out, into = delta.shape
                    sizes.setdefault(".".join(path.split(".")[:2]), {})[path] = out * into * work.dtype.size
    return [sum(block.values()) for block in sizes.values()]
