"""What each machine of `mlx.launch` runs: the same requests whole and split. The leading one prints how far they are.

    mlx.launch -n 3 python -m tests.machines.splits CASES.json

A case is `name`, `model` (a folder), `request` (fields) and `splits`; `stream` keeps one block in memory, `resident`
compares with such a run too, and `moved` are seeds by which each number of each norm is moved by one unit in the last
place, up, down or not at all.
"""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import mlx_ltxw.blas  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np

from mlx_ltxw.models.transformer.unsummed import Unsummed
from mlx_ltxw.models.video_vae import Tiling, decode_tiled
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.guidance import Guidance
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.pipeline.split import Split
from mlx_ltxw.pipeline.wire import Sizes, passes_of, step_traffic
from mlx_ltxw.takes.given import material_of
from mlx_ltxw.takes.make import fit
from mlx_ltxw.weights.opening import open_dir
from mlx_ltxw.weights.streaming import Residency
from mlx_ltxw.world import World


def latents_of(job, stream):
    """The last step's, and the bytes that were gathered."""
    networks = Networks(job.model, job.dtype, residency=Residency(1) if stream else None)
    steps = [event for event in run(job, networks, material=material_of(job)) if isinstance(event, Step)]
    return [np.array(x) for x in steps[-1].latents if x is not None], job.split.turns.bytes


def planned_bytes(job, how, machines):
    """What the plan says that each machine receives; with pictures that guide it, a little less than it does."""
    stage = job.stages[-1]
    return step_traffic(Sizes.of(job, stage), passes_of(job, stage), how, machines).bytes * stage.steps


@contextlib.contextmanager
def moved_norms(seed):
    """Each number that a block's update starts from is moved by one unit in the last place, or left."""
    draw, before = np.random.default_rng(seed), Unsummed.normed

    def moved(x):
        by = mx.array(draw.integers(-1, 2, x.shape).astype(np.int32))
        return (x.view(mx.int32) + by).view(mx.float32)

    def normed(*arguments, **named):
        stream, norms = before(*arguments, **named)
        return stream, [moved(norm) for norm in norms]

    Unsummed.normed = normed
    try:
        yield
    finally:
        Unsummed.normed = before


def errors(found, wanted):
    return max(float(np.max(np.abs(a - b)) / np.sqrt(np.mean(b**2))) for a, b in zip(found, wanted, strict=True))


def decoded(vae, latent, world):
    return [np.array(chunk) for chunk in decode_tiled(vae, latent, Tiling(16, 8, 64, 32), world)]


def main():
    mx.set_default_device(mx.cpu)
    mx.disable_compile()
    world = World.join()

    def tell(**values):
        if world.leads:
            print(json.dumps(values), flush=True)

    for case in json.loads(Path(sys.argv[1]).read_text()):
        model = open_dir(Path(case["model"]))
        fields = dict(case["request"])
        for name in ("video_guidance", "audio_guidance"):
            fields |= {name: Guidance(**fields[name])} if name in fields else {}
        job = fit(Request(**fields), model)
        whole, _ = latents_of(job, case.get("stream"))
        for seed in case.get("moved", ()):
            with moved_norms(seed):
                found, _ = latents_of(job, case.get("stream"))
            tell(case=case["name"], split="moved", error=errors(found, whole), same=False)
        for how in case["splits"]:
            split = dataclasses.replace(job, split=Split.of(how, world))
            found, gathered = latents_of(split, case.get("stream"))
            same = all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))
            planned = planned_bytes(split, how, world.size)
            error = errors(found, whole)
            tell(case=case["name"], split=how, error=error, same=same, bytes=gathered, planned=planned)
            if case.get("resident"):
                again = dataclasses.replace(job, split=Split.of(how, world))
                same = all(map(np.array_equal, latents_of(again, True)[0], found))
                tell(case=case["name"], split=f"{how}, streamed and resident", same=same)
        if case.get("tiles"):
            vae = model.load_video_vae(mx.float32)
            latent = mx.random.normal((1, 9, 4, 3, vae.config.latent_channels), key=mx.random.key(1))
            alone = decoded(vae, latent, World())
            ours = decoded(vae, latent, world)
            counts = np.asarray(world.gather(mx.array([len(ours)])))[:, 0].tolist()
            same = len(ours) == len(alone) and all(map(np.array_equal, ours, alone))
            tell(case=case["name"], split="tiles", same=same, counts=counts, whole=len(alone))
    said = world.exchange(f"rank {world.rank}".encode() * (world.rank + 1))
    tell(case="world", said=[one.decode() for one in said], shared=world.shared(b"first" * (not world.rank)).decode())


if __name__ == "__main__":
    main()
