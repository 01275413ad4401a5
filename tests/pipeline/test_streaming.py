"""Blocks that are read from disk as they are needed: the same numbers, little memory, and one sentence when the disk
fails."""

import dataclasses
import errno
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw import machine
from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer import Block
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.pipeline.voices import take_rows
from mlx_ltxw.takes.record import only_take
from mlx_ltxw.weights import eager, reading
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.reading import TensorReader
from mlx_ltxw.weights.streaming import RESIDENT, STREAMED, Residency
from tests.adapter.helpers import factors, official_file
from tests.convert.made import converted
from tests.numbers import relative_error

REQUEST = Request(prompt="a woman whispers", width=64, height=64, frames=9, steps=2, seeds=(3,))
LINEARS = ("audio_attn1.to_q", "audio_attn2.to_v", "video_to_audio_attn.to_k", "audio_attn1.to_out.0")


@pytest.fixture(scope="module")
def adapter(dev, tmp_path_factory):
    sizes = {tensor.name.removesuffix(".weight"): tensor.shape for tensor in dev.tensors("transformer")}
    targets = [name for name in sizes if name.endswith(LINEARS)]
    return str(official_file(tmp_path_factory.mktemp("adapter") / "a.safetensors", factors(sizes, targets, size=1.0)))


@pytest.fixture(scope="module")
def packed():
    return converted("8", 32)


def last_latents(model, request, residency):
    job = plan(request, model)
    *_, last = steps(run(job, Networks(model, job.dtype, residency=residency)))
    return [np.array(stream) for stream in last.latents if stream is not None]


def steps(events):
    return (event for event in events if isinstance(event, Step))


@pytest.mark.parametrize(
    "residency",
    [STREAMED, Residency(1), pytest.param(Residency(0, ahead=3, keep_cached=False), marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"lock_video": True},
        {"lock_video": False},
        {"register_at": "0-0.2=normal,0.2-9=0.5"},
        {"fuse": True},
        {"audio_only": True},
    ],
    ids=["plain", "locked", "on the picture", "in time", "fused", "sound alone"],
)
@pytest.mark.parametrize("kind", ["dev", "packed"])
def test_a_run_is_the_same_to_the_last_bit(kind, change, residency, adapter, request):
    model = request.getfixturevalue(kind)
    wanted = dataclasses.replace(REQUEST, adapters=(adapter,) if change else (), allow_partial=True, **change)
    for whole, streamed in zip(
        last_latents(model, wanted, RESIDENT), last_latents(model, wanted, residency), strict=True
    ):
        np.testing.assert_array_equal(streamed, whole)


@pytest.fixture
def arriving_blocks(monkeypatch):
    """Transformers come as a GPU has them: while they are at work. What MLX would read of them is zeros, and the second
    block is not there before a forward has come to the first one."""
    load, arrays, fill, call = ModelDir.load, ModelDir.arrays, TensorReader.fill, Block.__call__
    at_work = threading.Event()

    def as_on_a_gpu(self, component, *args, **options):
        with monkeypatch.context() as patched:
            if component == "transformer":
                patched.setattr(machine, "on_cpu", lambda: False)
            return load(self, component, *args, **options)

    def of_zeros(self, component, *args):
        found = arrays(self, component, *args)
        return {name: mx.zeros_like(one) for name, one in found.items()} if component == "transformer" else found

    def after_the_first(self, places):
        second = any(tensor.name.startswith("transformer_blocks.1.") for tensor, _ in places)
        assert not second or at_work.wait(200), "no block is at work"
        return fill(self, places)

    def noted(self, *args, **options):
        at_work.set()
        return call(self, *args, **options)

    for owner, name, patch in (
        (ModelDir, "load", as_on_a_gpu), (ModelDir, "arrays", of_zeros), (TensorReader, "fill", after_the_first),
        (Block, "__call__", noted),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, patch)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("dev", {"lock_video": True}),
        ("dev", {"lock_video": False}),
        pytest.param("packed", {"register_at": "0-0.2=normal,0.2-9=0.5"}, marks=pytest.mark.slow),
        pytest.param("packed", {"takes": ("seed=+1", "0.5")}, marks=pytest.mark.slow),
        pytest.param("dev", {"lock_video": True, "distilled_lora": True, "steps": 8}, marks=pytest.mark.slow),
    ],
    ids=["locked", "on the picture", "in time", "voices", "on a distilled base"],
)
def test_the_first_block_is_at_work_while_the_second_is_read(kind, change, adapter, request):
    """And the run is the same to the last bit."""
    model = request.getfixturevalue(kind)
    takes = tuple(f"adapter={adapter}:0.5" if take == "0.5" else take for take in change.get("takes", ()))
    files = {"distilled_lora": adapter} if "distilled_lora" in change else {}
    wanted = dataclasses.replace(
        REQUEST, adapters=(adapter,), allow_partial=True, **{"steps": 1} | change | files | {"takes": takes}
    )
    whole = last_latents(model, wanted, RESIDENT)
    request.getfixturevalue("arriving_blocks")
    for one, other in zip(whole, last_latents(model, wanted, RESIDENT), strict=True):
        np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("takes", [("seed=+1", "seed=+2"), ("", "strength")], ids=["one voice", "voices"])
@pytest.mark.parametrize("kind", ["dev", "packed"])
def test_takes_are_the_same_to_the_last_bit(kind, takes, adapter, request):
    takes = tuple(f"adapter={adapter}:0.5" if take == "strength" else take or "seed=+1" for take in takes)
    wanted = dataclasses.replace(REQUEST, adapters=(adapter,), allow_partial=True, takes=takes)
    model = request.getfixturevalue(kind)
    for whole, streamed in zip(
        last_latents(model, wanted, RESIDENT), last_latents(model, wanted, STREAMED), strict=True
    ):
        np.testing.assert_array_equal(streamed, whole)


@pytest.fixture(scope="module")
def everywhere(dev, tmp_path_factory):
    """An adapter of every linear, those outside the blocks too."""
    sizes = {t.name.removesuffix(".weight"): t.shape for t in dev.tensors("transformer") if t.name.endswith(".weight")}
    sizes = {name: size for name, size in sizes.items() if len(size) == 2}
    pairs = factors(sizes, sizes, rank=lambda name: min(4, *sizes[name]), size=0.3)
    return str(official_file(tmp_path_factory.mktemp("everywhere") / "a.safetensors", pairs))


def test_strength_in_time_acts_outside_the_blocks_too(dev, everywhere):
    timed = dataclasses.replace(
        REQUEST, adapters=(everywhere,), steps=1, lock_video=False, register_at="0-0.2=normal,0.2-9=0.5",
        video_guidance=NO_GUIDANCE, audio_guidance=NO_GUIDANCE,
    )  # fmt: skip
    whole, streamed = (last_latents(dev, timed, residency) for residency in (RESIDENT, Residency(1)))
    for one, other in zip(streamed, whole, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("residency", [RESIDENT, STREAMED])
def test_voices_beside_a_distilled_lora_beside_packed_weights(packed, everywhere, adapter, residency):
    """Each take is what a run of its own makes."""
    takes = tuple(f"adapter={voice} seed=+{n}" for n, voice in enumerate(("none", adapter, f"{adapter}:0.5")))
    wanted = dataclasses.replace(REQUEST, height=32, distilled_lora=everywhere, steps=8, takes=takes)
    job = plan(dataclasses.replace(wanted, allow_partial=True), packed)
    assert take_rows(job) == [None, 0, 1]

    def latents(job):
        with closing(run(job, Networks(packed, job.dtype, residency=residency))) as events:
            return next(steps(events)).latents

    together = latents(job)
    for number in (2, 3):
        alone = latents(only_take(job, number))
        assert mx.array_equal(alone.video, together.video)
        assert relative_error(together.adapted[number - 2], alone.adapted[0]) < 1e-5
    assert relative_error(together.adapted[0], together.adapted[1]) > 1e-3


@pytest.mark.parametrize(
    ("count", "layers", "stay"),
    [(4, 0, ""), (4, None, "0123"), (4, 2, "13"), (4, 9, "0123"), (6, 2, "25"), (5, 1, "4")],
)
def test_layers_that_stay_are_spread_evenly(count, layers, stay):
    assert [index for index in range(count) if Residency(layers).stays(index, count)] == [int(i) for i in stay]


def blocks(model, residency=STREAMED):
    return model.load_transformer(mx.float32, residency=residency).transformer_blocks


def test_the_next_block_is_read_while_one_is_at_work(dev, monkeypatch):
    """Two forwards of slow reading and slow work, each in its own time, take about as long as one of them."""
    slow = TensorReader.fill

    def fill(self, places):
        time.sleep(0.15)
        return slow(self, places)

    monkeypatch.setattr(TensorReader, "fill", fill)

    def forwards():
        streamed = blocks(dev)
        began = time.perf_counter()
        for _ in range(2):
            for index in range(len(streamed)):
                assert streamed[index] is streamed[index]  # the base's and the adapter's walk ask for the same one
                time.sleep(0.15)
        apart = 2 * len(streamed) * 0.3
        return (time.perf_counter() - began) / apart, streamed.traffic.waited / apart

    assert any(took < 0.8 and waited < 0.3 for took, waited in (forwards() for _ in range(5)))  # once is enough


def test_a_block_is_gone_when_the_walk_has_moved_on(dev):
    streamed = blocks(dev)
    size = sum(tensor.nbytes for tensor in streamed.streamed[0].values()) * 2  # bf16 on disk, fp32 in memory
    mx.clear_cache()
    mx.synchronize()
    before = mx.get_active_memory()
    for _ in range(3):
        for index in range(len(streamed)):
            mx.eval(streamed[index].parameters())
            assert mx.get_active_memory() - before <= 2.1 * size  # itself, and the one that is coming


@pytest.fixture
def copied(dev, tmp_path):
    """The model, in files that may be spoilt."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in sorted(dev.path.rglob("*")):
        target = folder / file.relative_to(dev.path)
        target.mkdir() if file.is_dir() else target.write_bytes(file.read_bytes())
    return ModelDir.open(folder)


def spoil_cut(model):
    for file in model.shards("transformer"):
        os.truncate(file, file.stat().st_size // 2)


def spoil_gone(model):
    for file in model.shards("transformer"):
        file.unlink()


def spoil_other(model):
    """Another model's files come in the place of these, with the same layout."""
    for file in model.shards("transformer"):
        other = file.with_suffix(".other")
        other.write_bytes(file.read_bytes()[:-2] + b"\0\0")
        os.replace(other, file)


@pytest.mark.parametrize("spoil", [spoil_cut, spoil_gone, spoil_other], ids=["cut off", "gone", "another"])
@pytest.mark.parametrize("moment", [1, 2])
def test_a_disk_that_fails_on_the_way_is_one_sentence(copied, spoil, moment):
    job = plan(dataclasses.replace(REQUEST, steps=4), copied)
    networks = Networks(copied, job.dtype, residency=STREAMED)
    steps = 0

    def go():
        nonlocal steps
        for event in run(job, networks):
            steps += isinstance(event, Step)
            if steps == moment:
                spoil(copied)

    with pytest.raises(UserError, match=r"transformer.*can no longer be read"):
        go()
    assert moment <= steps <= moment + 1  # a step may have begun with what was read ahead


@pytest.mark.parametrize("residency", [RESIDENT, STREAMED], ids=["resident", "streamed"])
@pytest.mark.parametrize("moment", ["Plan", "Conditioned", "Step"])
def test_a_model_that_is_gone_on_the_way_is_one_sentence(copied, moment, residency):
    """A disk that is pulled out before the text encoder, the transformer, a step or the decoders are read."""
    job = plan(REQUEST, copied)
    folder = copied.path
    events = run(job, Networks(copied, job.dtype, residency=residency))

    def go():
        for event in [job] if moment == "Plan" else events:
            if type(event).__name__ == moment and folder.exists():
                folder.rename(folder.with_name("elsewhere"))
        list(events)

    with pytest.raises(UserError, match=r"model.* can no longer be read \(.*See that the disk with the model is there"):
        go()


SPOILT = """
import os, shutil, sys
from pathlib import Path

import mlx_ltxw.blas
import mlx.core as mx

mx.set_default_device(mx.cpu)

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import settle
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.pipeline.voices import take_rows
from mlx_ltxw.takes.record import only_take
from mlx_ltxw.weights.model_dir import ModelDir

settle()
request, load = Request("a woman whispers", width=64, height=64, frames=9, steps=2), ModelDir.load
for network in ("connectors", "transformer", "vocoder"):
    model = ModelDir.open(shutil.copytree(sys.argv[1], Path(network)))

    def spoilt(self, component, *arguments, **options):
        loaded = load(self, component, *arguments, **options)
        if component == network:
            for file in self.shards(component):
                os.truncate(file, 5000)
        return loaded

    ModelDir.load, job = spoilt, plan(request, model)
    try:
        list(run(job, Networks(model, job.dtype)))
    except UserError as error:
        print(error)
ModelDir.load = load
print(type(list(run(plan(request, ModelDir.open(sys.argv[1]))))[-1]).__name__)
"""


def test_weights_that_cannot_be_read_when_their_turn_comes_are_one_sentence(dev, tmp_path):
    """Those of a network in memory are read when they are first used: after it was loaded. A process of its own, since
    MLX's failed work stays in its queues; it makes a clip afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", SPOILT, dev.path], capture_output=True, text=True, cwd=tmp_path, timeout=200,
        env=os.environ | {"MLX_LTXW_CACHE": "0", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    *errors, last = done.stdout.splitlines()
    assert last == "Decoded", done.stderr
    assert len(errors) == 3
    for error in errors:
        assert re.search(r"A file of the model can no longer be read .*See that the disk", error)


def test_a_read_error_in_the_middle_is_one_sentence(dev, monkeypatch):
    streamed, real, reads = blocks(dev), os.preadv, []

    def preadv(handle, buffers, offset):
        reads.append(offset)
        if len(reads) == 40:
            raise OSError(5, "Input/output error")
        return real(handle, buffers, offset)

    monkeypatch.setattr(reading.os, "preadv", preadv)
    with pytest.raises(UserError, match="Input/output error"):
        list(streamed)


def test_a_disk_that_came_back_is_asked_again(dev, monkeypatch):
    """By the next run of networks that are kept: the one before had ended when a block could not be read ahead."""
    job = plan(dataclasses.replace(REQUEST, steps=1, video_guidance=NO_GUIDANCE, audio_guidance=NO_GUIDANCE), dev)
    networks = Networks(dev, job.dtype, keep=True, residency=STREAMED)
    (whole,) = steps(run(job, networks))
    streamed = networks.transformer(audio_only=False).transformer_blocks

    def gone(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    streamed._forget(streamed._coming)
    with monkeypatch.context() as patch:
        patch.setattr(reading.os, "preadv", gone)
        streamed._read_ahead(len(streamed) - 1)
        assert [type(one.reading.exception()) for one in streamed._coming.values()] == [UserError]
    (again,) = steps(run(job, networks))
    assert all(mx.array_equal(one, other) for one, other in zip(again.latents[:2], whole.latents[:2], strict=True))


def test_tensors_are_read_in_pieces(dev, monkeypatch):
    monkeypatch.setattr(reading, "_PIECE", 1000)
    whole = dev.load_transformer(mx.float32).transformer_blocks[1]
    np.testing.assert_array_equal(np.array(blocks(dev)[1].attn1.to_q.weight), np.array(whole.attn1.to_q.weight))


@pytest.mark.parametrize("residency", [RESIDENT, STREAMED, Residency(1), Residency(0, audio_stays=True)])
def test_what_stays_is_read_at_once_on_a_gpu(dev, monkeypatch, residency):
    """And is what is read when it is first needed; nothing of what is streamed is read with it."""
    whole = dict(tree_flatten(dev.load_transformer(mx.float32).parameters()))
    read = []
    now = eager.read_now
    monkeypatch.setattr(eager, "read_now", lambda *a: read.append(now(*a)))
    with monkeypatch.context() as patched:
        patched.setattr(machine, "on_cpu", lambda: False)
        network = dev.load_transformer(mx.float32, residency=residency)
    blocks = network.transformer_blocks
    streamed = {
        f"transformer_blocks.{index}.{path}"
        for index, layer in enumerate(getattr(blocks, "streamed", []))
        for path in layer
    }
    stay = {tensor.name: tensor for tensor in dev.tensors("transformer") if tensor.name not in streamed}
    assert read == [sum(tensor.nbytes for tensor in stay.values())]
    network.transformer_blocks = getattr(blocks, "layers", blocks)
    found = dict(tree_flatten(network.parameters()))
    assert all(mx.array_equal(found[name], whole[name]) for name in stay)
