"""Networks that are read at once, before they are at work or while they are: each layer is there when it is asked for,
and the numbers are the file's."""

import dataclasses
import gc
import os
import sys
import threading
import time
import weakref

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw import machine
from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer import Block
from mlx_ltxw.tree import share
from mlx_ltxw.weights import arriving, eager, reading
from mlx_ltxw.weights.dtype import memory_dtype
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.reading import TensorReader
from mlx_ltxw.weights.staging import Staging

SMALL = 20_000
"""Bytes of a group: several of the tiny model's for each of its blocks."""


@pytest.fixture
def arrive(made_model, monkeypatch):
    """Loads the model's transformer as a GPU does."""

    def load(group=SMALL):
        monkeypatch.setattr(arriving, "GROUP", group)
        with monkeypatch.context() as patched:
            patched.setattr(machine, "on_cpu", lambda: False)
            return made_model.load_transformer(mx.float32, arriving=True)

    return load


def parameters(network):
    return dict(tree_flatten(network.parameters()))


def unread(monkeypatch, part, until=lambda: False):
    """Gives no byte of groups with a tensor whose name begins with `part`, until it may."""
    real = TensorReader.fill

    def fill(self, places):
        end = time.monotonic() + 100
        while any(tensor.name.startswith(part) for tensor, _ in places) and not until() and not self._closed:
            assert time.monotonic() < end, "nobody came for it"
            time.sleep(0.001)
        return real(self, places)

    monkeypatch.setattr(TensorReader, "fill", fill)


@pytest.fixture
def reading_threads():
    """Names of those that a test began: another one's network may not be gone yet."""
    before = {*threading.enumerate()}

    def names():
        began = [one.name for one in threading.enumerate() if one not in before]
        return [name for name in began if name.startswith(("arrive", "read"))]

    return names


def gone(names, seconds=60.0):
    end = time.monotonic() + seconds
    while (left := names()) and time.monotonic() < end:
        time.sleep(0.01)
    return not left


@pytest.mark.parametrize("group", [1, SMALL, 1 << 30])
def test_every_number_is_the_files(arrive, made_model, group, monkeypatch, reading_threads):
    """And comes by our reading: what MLX would read is zeros here."""
    zeros = {tensor.name: mx.zeros(tensor.shape, reading.DTYPES[tensor.dtype])
             for tensor in made_model.tensors("transformer")}  # fmt: skip
    monkeypatch.setattr(ModelDir, "arrays", lambda *_: zeros)
    network = arrive(group)
    for index in range(len(network.transformer_blocks)):
        network.transformer_blocks[index]
    stored, found = {}, parameters(network)
    for file in made_model.shards("transformer"):
        stored |= mx.load(str(file))  # MLX's own reader
    assert found.keys() == stored.keys()
    for name, array in found.items():
        assert array.dtype == mx.float32
        assert mx.array_equal(array, stored[name].astype(mx.float32)), name
    assert gone(reading_threads)


def test_memory_takes_what_comes_next_once_its_copy_is_done(arrive, made_model, monkeypatch):
    """However long that takes."""
    real = Staging._copied

    def slowly(self, *given):
        late = mx.random.normal((400, 400))
        for _ in range(3):
            late = late @ late
        return mx.depends([real(self, *given)], [late])[0]

    monkeypatch.setattr(Staging, "_copied", slowly)
    network = arrive()
    for index in range(len(network.transformer_blocks)):
        network.transformer_blocks[index]
    stored = {}
    for file in made_model.shards("transformer"):
        stored |= mx.load(str(file))
    for name, array in parameters(network).items():
        assert mx.array_equal(array, stored[name].astype(mx.float32)), name


def test_a_layer_is_given_while_later_ones_are_not_there(arrive, monkeypatch):
    unread(monkeypatch, "transformer_blocks.1.")
    network = arrive()
    first = parameters(network.transformer_blocks[0])
    assert all(np.isfinite(np.array(array)).all() for array in first.values())
    assert [type(one) for one in network.transformer_blocks] == [Block] * 2  # going over them waits for none


def test_a_copy_waits_too_and_has_the_same_arrays(arrive, monkeypatch):
    came = threading.Event()
    unread(monkeypatch, "transformer_blocks.1.", came.is_set)
    network = arrive()
    clone = share(network)
    threading.Timer(0.05, came.set).start()
    mine = parameters(clone.transformer_blocks[1])  # would be read by MLX, all zeros apart, if it did not wait
    assert came.is_set()
    theirs = parameters(network.transformer_blocks[-1])
    assert all(array is theirs[name] for name, array in mine.items())
    assert clone.transformer_blocks[1] is not network.transformer_blocks[1]


def test_a_disk_that_fails_is_told_and_asked_again(arrive, monkeypatch):
    broken, real = True, os.preadv

    def preadv(handle, buffers, at):
        if broken and sum(map(len, buffers)) and network is not None:
            raise OSError(5, os.strerror(5))
        return real(handle, buffers, at)

    network = None
    held = threading.Event()
    unread(monkeypatch, "transformer_blocks.1.", held.is_set)
    network = arrive()
    monkeypatch.setattr(reading.os, "preadv", preadv)
    held.set()
    for _ in range(2):
        with pytest.raises(UserError, match="can no longer be read"):
            network.transformer_blocks[1]
    broken = False
    assert np.isfinite(np.array(network.transformer_blocks[1].attn1.to_q.weight)).all()


def test_a_disk_that_fails_leaves_no_memory_behind(arrive, monkeypatch):
    """Each time somebody asks again there are two stagings."""
    made, real, broken = [], os.preadv, False

    class Counted(Staging):
        def __init__(self, nbytes):
            super().__init__(nbytes)
            made.append(weakref.ref(self))

    def preadv(handle, buffers, at):
        if broken:
            raise OSError(5, os.strerror(5))
        return real(handle, buffers, at)

    monkeypatch.setattr(arriving, "Staging", Counted)
    monkeypatch.setattr(reading.os, "preadv", preadv)
    network = arrive()
    broken = True
    for _ in range(3):
        with pytest.raises(UserError, match="can no longer be read"):
            network.transformer_blocks[0]
    broken = False
    network.transformer_blocks[0]
    gc.collect()
    assert sum(one() is not None for one in made) <= 2 < len(made)


def test_nothing_is_read_on_when_nobody_wants_the_network(arrive, monkeypatch, reading_threads):
    unread(monkeypatch, "transformer_blocks.1.")
    network = arrive()
    assert reading_threads()
    del network
    gc.collect()
    assert gone(reading_threads)


def test_a_file_with_layers_too_many_is_refused_as_ever(made_model, arrive, monkeypatch, reading_threads):
    real = ModelDir.tensors

    def more(self, component, audio_only=False):
        found = real(self, component, audio_only)
        return [*found, dataclasses.replace(found[0], name="transformer_blocks.7.attn1.to_q.weight")]

    monkeypatch.setattr(ModelDir, "tensors", more)
    arrays = ModelDir.arrays
    monkeypatch.setattr(
        ModelDir, "arrays",
        lambda self, *a: arrays(self, *a) | {"transformer_blocks.7.attn1.to_q.weight": mx.zeros(1)},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"unexpected: transformer_blocks\.7"):
        arrive()
    gc.collect()
    assert gone(reading_threads)


def dtype_in_memory(name, stored):
    return memory_dtype("transformer", name, stored, mx.bfloat16)


def tensors_of(model):
    return {tensor.name: tensor for tensor in model.tensors("transformer")}


def test_same_numbers_and_every_byte_is_read_once(made_model, monkeypatch):
    want = parameters(made_model.load_transformer(mx.bfloat16))
    network, tensors, filled = made_model.load_transformer(mx.bfloat16), tensors_of(made_model), []
    fill, largest = TensorReader.fill, max(tensor.nbytes for tensor in tensors.values())
    monkeypatch.setattr(arriving, "GROUP", 3 * largest)
    monkeypatch.setattr(
        TensorReader, "fill", lambda self, places: (filled.append([one.name for one, _ in places]), fill(self, places))
    )
    count = eager.read_now(network, tensors, dtype_in_memory)
    assert count == sum(tensor.nbytes for tensor in tensors.values())
    assert sorted(name for names in filled for name in names) == sorted(tensors)
    assert len(filled) > 3
    assert all(sum(tensors[name].nbytes for name in names) <= 3 * largest for names in filled)
    got = parameters(network)
    assert got.keys() == want.keys()
    assert all(got[name].dtype == want[name].dtype and mx.array_equal(got[name], want[name]) for name in want)


def test_a_lost_file_is_told(made_model, tmp_path):
    tensors = tensors_of(made_model)
    lost = {name: dataclasses.replace(one, path=tmp_path / "gone") for name, one in tensors.items()}
    with pytest.raises(UserError, match="can no longer be read"):
        eager.read_now(made_model.load_transformer(mx.bfloat16), lost, dtype_in_memory)


def test_a_network_may_go_in_the_midst_of_a_pools_work(made_model, monkeypatch):
    """What ends its reading runs wherever memory is tidied, be it in the thread that holds the pool's lock just then:
    one that waited for the lock would wait for itself, and every other pool of the process with it."""
    unread(monkeypatch, "model.")  # it is reading still
    kept = [arriving.Arrival([tensors_of(made_model)], dtype_in_memory)]
    pools = kept[0]._filler, kept[0]._reader._pool
    tidying = threading.Thread(target=kept.clear, daemon=True)
    with pools[0]._shutdown_lock, pools[1]._shutdown_lock:
        tidying.start()
        tidying.join(60)
        assert not tidying.is_alive()


def test_a_reading_that_failed_has_left_the_memory(made_model, monkeypatch):
    """No piece comes after it, into memory and from files that have become another's."""
    tensors = [*tensors_of(made_model).values()][:4]
    failed, read = threading.Event(), TensorReader._read_piece
    late = []

    def read_piece(self, files, tensor, *rest):
        if self is not reader:  # another test's, which ends by itself
            return read(self, files, tensor, *rest)
        if tensor is tensors[0]:
            failed.set()
            raise UserError("The disk is gone.", "Connect it.")
        assert failed.wait(60)
        time.sleep(0.05)  # is under way while the first one's failure is told
        late.append(tensor.name)
        return read(self, files, tensor, *rest)

    reader = TensorReader()
    monkeypatch.setattr(TensorReader, "_read_piece", read_piece)
    staging = Staging(sum(tensor.nbytes + 256 for tensor in tensors))
    with pytest.raises(UserError, match="gone"):
        reader.fill(staging.places({tensor.name: tensor for tensor in tensors}))
    told = [*late]
    reader._pool.shutdown(wait=True)
    assert late == told


def test_an_interruption_loses_no_group(made_model, monkeypatch):
    """Ctrl-C between any two lines, and again: whoever goes on gets every number."""
    want = parameters(made_model.load_transformer(mx.float32))
    tensors = tensors_of(made_model)
    monkeypatch.setattr(arriving, "GROUP", SMALL)
    left = interrupted = 0

    def count(frame, event, _):
        nonlocal left
        if frame.f_code is not arriving.Arrival._take.__code__:
            return None
        left -= event == "line"
        if left < 0:
            raise KeyboardInterrupt
        return count

    arrival, got = arriving.Arrival([tensors], lambda name, stored: mx.float32), {}
    arrival.into(got.update)
    before = sys.gettrace()
    while arrival._taken < len(arrival._groups):
        left = interrupted % 16
        sys.settrace(count)
        try:
            arrival.finish()
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
    assert interrupted > 16  # at each line
    assert got
    wrong = [name for name in got if not mx.array_equal(got[name], want[name])]
    assert not wrong


def test_a_reader_that_is_given_nothing_reads_nothing():
    reader = TensorReader()
    reader.fill([])
    assert reader.bytes_read == 0
