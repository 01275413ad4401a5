"""How long a step takes on several machines, and whether one alone would be faster: from what is measured at the start.

A step's arithmetic and bytes are counted (`pipeline/wire.py`); how fast the machines multiply and the links carry is
measured in a few tenths of a second when they meet. Gathering is not hidden behind arithmetic, as MLX's collectives
and the products that wait for them alternate.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_ltxw.machines.crew import Crew
from mlx_ltxw.pipeline.guidance import Pass
from mlx_ltxw.pipeline.pass_shares import block_runs, pass_shares
from mlx_ltxw.pipeline.plan import Plan
from mlx_ltxw.pipeline.split import PASSES, TENSOR, TOKENS, WHOLE
from mlx_ltxw.pipeline.wire import Sizes, WireTraffic, pass_work, passes_of, predictions, step_traffic
from mlx_ltxw.printing import readable
from mlx_ltxw.world import World, share_of

_OPERATIONS = 300
"""Of a run of a block: what Python describes and the device starts."""
_PROBE = 8 << 20
"""Bytes of a gather that the link is measured by."""


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        flops: Floating-point operations a second in large products.
        bandwidth: Bytes a second that each machine receives in a gather.
        latency: Seconds of a collective of next to nothing.
        operation: Seconds of any other operation, however small its arrays; a small model's step is made of these.
        summing: Bytes a second in a sum, which a backend may do faster than a gather; 0 for the same.
    """

    flops: float
    bandwidth: float
    latency: float
    operation: float = 0.0
    summing: float = 0.0

    def carrying(self, traffic: WireTraffic) -> float:
        """Seconds that collectives take."""
        sums = traffic.summed / (self.summing or self.bandwidth)
        return (traffic.bytes - traffic.summed) / self.bandwidth + sums + traffic.collectives * self.latency


@dataclass(frozen=True)
class Estimate:
    """One step of the last stage.

    Attributes:
        how: The split.
        computing, gathering: Seconds.
        bytes: That each machine receives.
        collectives: How many.
    """

    how: str
    computing: float
    gathering: float
    bytes: int
    collectives: int

    @property
    def seconds(self) -> float:
        return self.computing + self.gathering


def measured(world: World, dtype: mx.Dtype) -> Speed:
    """The slowest of the machines and links; all call it at once."""
    every = speeds(world, dtype)
    return Speed(
        min(one.flops for one in every), min(one.bandwidth for one in every), max(one.latency for one in every),
        max(one.operation for one in every), min(one.summing for one in every),
    )  # fmt: skip


def speeds(world: World, dtype: mx.Dtype) -> list[Speed]:
    """Measures each machine and its link; all call it at once."""
    size = 512 if mx.default_device() == mx.Device(mx.cpu) else 4096
    a = mx.random.normal((size, size), key=mx.random.key(0)).astype(dtype)
    mx.eval(a @ a)
    product = min(_timed(lambda: mx.eval(a @ a)) for _ in range(3))
    small, large = mx.zeros(1), mx.zeros(_PROBE // 4)
    operation = min(_timed(lambda: mx.eval(_chain(small))) for _ in range(3)) / _CHAIN
    with world.pulse:
        mx.eval(large, world.gather(small))
        latency = statistics.median(_timed(lambda: mx.eval(world.gather(small))) for _ in range(9))
        carrying = min(_timed(lambda: mx.eval(world.gather(large))) for _ in range(3))
        summing = min(_timed(lambda: mx.eval(world.sum(large))) for _ in range(3))
    bandwidth = _PROBE * (world.size - 1) / max(1e-9, carrying - latency)
    sums = 2 * _PROBE * (world.size - 1) / world.size / max(1e-9, summing - latency)
    own = json.dumps([2 * size**3 / product, bandwidth, latency, operation, sums])
    return [Speed(*json.loads(one)) for one in world.exchange(own.encode())]


_CHAIN = 400


def _chain(x: mx.array) -> mx.array:
    """Operations of which each waits for the one before it."""
    for _ in range(_CHAIN):
        x = x + 1
    return x


def _timed(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def estimate(sizes: Sizes, every: Sequence[Pass], how: str, machines: int, speed: Speed) -> Estimate:
    """One guided prediction.

    Args:
        sizes: Of a forward.
        every: Its passes.
        how: `whole`, `passes`, `tokens` or `tensor`.
        machines: How many.
        speed: Measured, or projected.
    """
    work, layers = pass_work(sizes), sizes.config.layers
    runs = len(block_runs(every, layers))
    texts = work.text * len({one.negative for one in every})
    if how == PASSES:
        runs = pass_shares(tuple(every), layers, machines).runs
    share = share_of(sizes.video, machines)[0] / sizes.video if how == TOKENS else 1.0
    each = (work.video * share + work.rest) * runs / layers + texts
    each /= machines if how == TENSOR else 1
    traffic = step_traffic(sizes, list(every), how, machines)
    gathering = speed.carrying(traffic)
    computing = max(each / speed.flops, runs * _OPERATIONS * speed.operation)
    return Estimate(how, computing, gathering, traffic.bytes, traffic.collectives)


def estimates(job: Plan, machines: int, speed: Speed) -> dict[str, Estimate]:
    """A step of a plan's last stage in every way in which it can be made, one machine alone included."""
    stage = job.stages[-1]
    sizes, every = Sizes.of(job, stage), passes_of(job, stage)
    ways = [WHOLE]
    ways += [PASSES] if len(every) > 1 else []
    ways += [TOKENS] if sizes.video >= machines else []
    ways += [TENSOR] if sizes.video and sizes.config.video.heads >= machines else []
    found = {how: estimate(sizes, every, how, machines, speed) for how in ways}
    twice = predictions(stage)
    return {
        how: Estimate(how, one.computing * twice, one.gathering * twice, one.bytes * twice, one.collectives * twice)
        for how, one in found.items()
    }


def told(found: dict[str, Estimate], how: str, machines: int, speed: Speed) -> list[str]:
    """What the user hears of it."""
    if how not in found or how == WHOLE:
        return []
    one, alone = found[how], found[WHOLE]
    lines = [
        f"{machines} machines, split by {how}: each step sends {readable(one.bytes)} to each at "
        f"{readable(int(speed.bandwidth))}/s, about {one.gathering:.2g} s beside {one.computing:.2g} s of arithmetic"
    ]
    if one.seconds > alone.seconds:
        lines.append(
            f"Note: one machine alone would be faster: about {alone.seconds:.2g} s a step in place of {one.seconds:.2g}"
        )
    return lines


def speed_of(crew: Crew, jobs: Sequence[Plan]) -> Speed:
    """What the machines of a run measure."""
    return measured(crew.world, jobs[0].dtype)
