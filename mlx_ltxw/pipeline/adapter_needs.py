"""What adapters hold in memory: their own numbers, and second weights where the base's must stay."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mlx_ltxw.adapter.deltas import LowRank
from mlx_ltxw.adapter.source import Located
from mlx_ltxw.pipeline.adapters import Chosen, reads_video
from mlx_ltxw.pipeline.work import Work


def read_adapters(work: Work) -> int:
    """Bytes that adapters have from the start, when their numbers are checked, to the run's end: each file's once."""
    return sum(located.path.stat().st_size for located in _located(work))


def made_factors(work: Work) -> int:
    """Bytes of what is made of factors beside weights, for all calls: in the activations' dtype, and those of several
    voices side by side."""
    known: set[object] = set()  # a file's factors are made once, however many voices have it
    return sum(_rounded(work, one, one is work.distilled, known) for one in [*work.chosen, *_distilled(work)])


def _rounded(work: Work, chosen: Chosen, distilled: bool, known: set[object]) -> int:
    """Bytes of factors that are not those of the file, of changes that go beside weights: in another dtype, or those of
    several voices side by side."""
    found = 0
    fused = _fused(work, [chosen], work.locked and not distilled) if distilled or not work.beside else {}
    for (adapter, _), placement, located in zip(chosen.adapters, chosen.placements, chosen.located, strict=True):
        for path in placement.placed if located not in known else ():
            delta = adapter.deltas.get(path)
            if isinstance(delta, LowRank) and path not in fused:
                made = [x for x in (delta.a, delta.b) if x.dtype != work.dtype or (work.voices > 1 and not distilled)]
                found += sum(x.size * work.dtype.size for x in made)
        known.add(located)
    return found


def _located(work: Work) -> set[Located]:
    """The files of all adapters, the distilled LoRA's too."""
    return {located for one in [*work.chosen, *_distilled(work)] for located in one.located}


def _distilled(work: Work) -> list[Chosen]:
    return [] if work.distilled is None else [work.distilled]


def copies(work: Work) -> list[int]:
    """Bytes of the second weights that fused adapters need under the lock, block by block."""
    if not work.locked or work.beside:
        return []
    return by_block(work, _fused(work, work.chosen, keeps_reading=True))


def by_block(work: Work, weights: dict[str, tuple[int, int]]) -> list[int]:
    """Bytes of weights with adapters in them, block by block."""
    itemsize, packed, blocks = work.dtype.size, work.model.quantized_layers("transformer"), dict[str, int]()
    for path, (elements, _) in weights.items():
        nbytes, block = elements * itemsize, ".".join(path.split(".")[:2])
        if path in packed:  # a scale and an offset for each group
            nbytes = elements * packed[path]["bits"] // 8 + 2 * itemsize * elements // packed[path]["group_size"]
        blocks[block] = blocks.get(block, 0) + nbytes
    return [*blocks.values()]


def used_up(work: Work) -> dict[str, tuple[int, int]]:
    """Weights that adapters take the place of, as `_fused` has them."""
    return _fused(work, [*_distilled(work), *(() if work.locked or work.beside else work.chosen)], keeps_reading=False)


def fusing(work: Work) -> int:
    """Bytes of what is made on the way to the largest weight that adapters take the place of."""
    packed, itemsize = work.model.quantized_layers("transformer"), work.dtype.size
    made = (
        elements * (_FUSING_PACKED[itemsize] if path in packed else _FUSING[itemsize][adapters > 1])
        for path, (elements, adapters) in used_up(work).items()
    )
    return max(made, default=0) // work.tensor


_FUSING, _FUSING_PACKED = {4: (4, 8), 2: (6, 12)}, {4: 12, 2: 18}
"""Bytes a number, by those of a weight's: with one adapter and with several; of packed weights."""


def _fused(work: Work, adapters: Iterable[Chosen], keeps_reading: bool) -> dict[str, tuple[int, int]]:
    """Weights that adapters go into, by path: numbers of each, and adapters; without those that read the video, if they
    stay."""
    packed = work.model.quantized_layers("transformer")
    found: dict[str, tuple[int, int]] = {}
    for chosen in adapters:
        for (adapter, _), placement in zip(chosen.adapters, chosen.placements, strict=True):
            for path in placement.placed:
                delta = adapter.deltas.get(path)
                beside = path in packed or (keeps_reading and reads_video(path))
                if delta is not None and (work.fuse or not beside):
                    found[path] = math.prod(delta.shape), found.get(path, (0, 0))[1] + 1
    return found
