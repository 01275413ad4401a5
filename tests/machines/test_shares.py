"""Each machine's share of a transformer's weights, without any machines: the shares of all, side by side or summed, are
the whole. The oracle is the model on one machine, which other tests hold to the official classes."""

import dataclasses
import os

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.adapter.apply import attach
from mlx_ltxw.adapter.deltas import DoRA, Full, LoHa, LoKr, LowRank
from mlx_ltxw.adapter.formats import Adapter
from mlx_ltxw.adapter.sharding import shared_adapters
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.models.transformer.tensor import TensorShare
from mlx_ltxw.tree import at
from mlx_ltxw.weights import reading
from mlx_ltxw.weights.streaming import Residency
from mlx_ltxw.world import World
from tests.convert.made import converted
from tests.numbers import relative_error

PLAIN, PACKED = (None, None), ("8", 32)
QUICK = [(PACKED, 3)]
SLOW = [(PLAIN, 3), (("4", 64), 2), (("mxfp8", None), 2), (("nvfp4", None), 3), (("mxfp4", None), 3)]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
ATTENTIONS = ("attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
HEADS = 4


class Here:
    """In the machines' place: what a machine adds to a sum stays its own."""

    def sum(self, x):
        return x


def share_of(rank, count):
    return TensorShare.of(HEADS, World(rank, count))


def loaded(model, rank, count, residency=None):
    return model.load_transformer(mx.float32, False, residency, (share_of(rank, count), Here()))


def drawn(*shape):
    return mx.array(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


def own_heads(x, rank, count):
    """A machine's part of the last axis, which spans all heads."""
    part = share_of(rank, count).heads
    width = x.shape[-1] // HEADS
    return x[..., part.start * width : part.stop * width]


@pytest.mark.parametrize(("how", "count"), CASES, ids=[f"{how[0]} over {count}" for how, count in QUICK + SLOW])
def test_shares_make_the_whole(how, count):
    """Neither heads nor groups of packed weights divide by three; a group of 64 spans the heads of both of two."""
    model = converted(*how)
    whole = model.load_transformer(mx.float32)
    parts = [loaded(model, rank, count) for rank in range(count)]
    packed = [path for path in model.quantized_layers("transformer") if path.endswith(("ff.net.2", "attn1.to_out.0"))]
    assert bool(packed) == (how[0] is not None)
    for name in ATTENTIONS:
        all_heads, own = (at(each, f"transformer_blocks.1.{name}") for each in (whole, parts[0]))
        assert own.heads == share_of(0, count).heads.stop < all_heads.heads
        for leaf in ("to_q", "to_k", "to_v", "to_gate_logits"):
            x = drawn(2, 5, whole_width(all_heads[leaf]))
            made = [at(each, f"transformer_blocks.1.{name}.{leaf}")(x) for each in parts]
            assert relative_error(mx.concatenate(made, axis=-1), all_heads[leaf](x)) < 1e-6, (name, leaf)
        x = drawn(2, 5, all_heads.heads * all_heads.head_dim)
        made = [
            at(each, f"transformer_blocks.1.{name}").project_out(own_heads(x, rank, count))
            for rank, each in enumerate(parts)
        ]
        assert relative_error(sum(made), all_heads.project_out(x)) < 1e-6, name
    for name in ("ff", "audio_ff"):
        network = at(whole, f"transformer_blocks.1.{name}")
        x = drawn(2, 5, whole_width(network.net[0].proj))
        made = [at(each, f"transformer_blocks.1.{name}")(x) for each in parts]
        assert relative_error(sum(made), network(x)) < 1e-6, name


def whole_width(linear):
    return linear.weight.shape[1] * 32 // linear.bits if "scales" in linear else linear.weight.shape[1]


def counted(monkeypatch):
    """Bytes that are read from now on."""
    real, count = os.preadv, [0]

    def preadv(handle, buffers, at, *rest):
        got = real(handle, buffers, at, *rest)
        count[0] += got
        return got

    monkeypatch.setattr(reading.os, "preadv", preadv)
    return count


@pytest.mark.parametrize("how", [PLAIN, PACKED], ids=["plain", "8 bits"])
def test_a_machine_reads_its_share_and_no_more(how, monkeypatch):
    """Of the heads' and hidden linears all machines together read every byte once, but for groups that two need."""
    model, read = converted(*how), counted(monkeypatch)
    tensors = model.tensors("transformer")
    split = [t for t in tensors if any(share_of(0, 3).part_of(t.name.rpartition(".")[0]) or ())]
    sums = [t for t in split if t.name.endswith(".bias") and share_of(0, 3).part_of(t.name[:-5])[0] == "columns"]
    all_bytes, split_bytes, biases = (sum(t.nbytes for t in group) for group in (tensors, split, sums))
    reads = []
    for rank in range(3):
        read[0] = 0
        network = loaded(model, rank, 3)
        reads.append(read[0])
        held = sum(value.nbytes for _, value in tree_flatten(network.parameters()) if value.dtype == mx.uint32)
        packed = sum(t.nbytes for t in tensors if t.dtype == "U32")
        assert held <= 0.75 * packed
    together = 3 * (all_bytes - split_bytes) + split_bytes
    assert sum(reads) == together if how[0] is None else together < sum(reads) < 1.1 * together
    assert biases  # which the first alone reads
    assert max(reads[1:]) < reads[0]  # two heads of four, one, one


def test_streamed_shares_are_the_same_arrays():
    model = converted(*PACKED)
    for rank in range(2):
        whole, streamed = loaded(model, rank, 2), loaded(model, rank, 2, Residency(0))
        before = streamed.transformer_blocks.traffic.bytes_read
        for index in (0, 1):
            own, other = (dict(tree_flatten(each.transformer_blocks[index].parameters())) for each in (whole, streamed))
            assert own.keys() == other.keys()
            assert all(mx.array_equal(own[name], other[name]) for name in own)
        traffic = streamed.transformer_blocks.traffic.bytes_read - before
        once = sum(t.nbytes for layer in streamed.transformer_blocks.streamed for t in layer.values())
        assert once <= traffic <= 2 * once  # what comes next is on its way


def change_of(kind, out, into):
    """One of every kind of change."""
    low = LowRank(0.3 * drawn(3, into), 0.3 * drawn(out, 3))
    if kind == "lora":
        return low
    if kind == "full":
        return Full(0.1 * drawn(out, into))
    if kind == "loha":
        return LoHa((drawn(out, 2), 0.2 * drawn(2, into)), (drawn(out, 2), 0.2 * drawn(2, into)))
    kron = LoKr((0.3 * drawn(4, 4),), (0.3 * drawn(out // 4, into // 4),))
    if kind == "lokr":
        return kron
    inner, _, length = (kron if kind.startswith("lokr") else low), *kind.split("-")
    return DoRA(inner, 1 + 0.1 * drawn(into if length == "columns" else out), length)


KINDS = ("lora", "full", "loha", "lokr", "dora-rows", "dora-base_rows", "dora-columns", "lokrdora-columns",
         "lokrdora-base_rows")  # fmt: skip


@pytest.mark.parametrize("how", [pytest.param(PLAIN, marks=pytest.mark.slow), PACKED], ids=["plain", "8 bits"])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_every_kind_are_shared_out(kind, how):
    """Lengths of a DoRA go through all machines' rows or columns: what each measures is summed."""
    model, count = converted(*how), 3
    whole, layers = model.load_transformer(mx.float32), model.quantized_layers("transformer")
    parts = [loaded(model, rank, count) for rank in range(count)]
    paths = [f"transformer_blocks.0.{name}" for name in ("attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")]
    for path in paths:
        base = at(whole, path)
        out, into = base.weight.shape[0], whole_width(base)
        adapter = Adapter("a", "official", {path: change_of(kind, out, into)}, {path: 0.1 * drawn(out)})
        wanted = at(attach(whole, [(adapter, Strength(0.6))]), path)
        x = drawn(2, 5, into)
        squares = []

        def linears(total, path=path, adapter=adapter):
            shares = (shared_adapters([(adapter, Strength(0.6))], share_of(r, count), layers, total) for r in range(3))
            return [at(attach(each, own), path) for each, own in zip(parts, shares, strict=True)]

        linears(lambda part, squares=squares: squares.append(part) or part)
        summed = linears(lambda part, squares=squares: sum(squares))
        if path.endswith(("to_q", "proj")):
            made = mx.concatenate([each(x) for each in summed], axis=-1)
        else:
            made = sum(each(inputs(x, path, rank, count, layers)) for rank, each in enumerate(summed))
        assert relative_error(made, wanted(x)) < 2e-6, path


def inputs(x, path, rank, count, layers):
    """A machine's part of what enters a linear, with zeros where its weights are another machine's too."""
    share, packing = share_of(rank, count), layers.get(path, {})
    held, own = share.held(path, x.shape[-1], packing), share.held(path, x.shape[-1])
    here = np.zeros(x.shape, np.float32)
    here[..., own] = np.asarray(x)[..., own]
    return mx.array(here[..., held])


def test_a_part_of_a_tensor_is_read_row_by_row(tmp_path):
    """By hand: columns 1 and 2 of a 3 by 4 matrix."""
    from mlx_ltxw.weights.header import read_header
    from mlx_ltxw.weights.saving import save_arrays

    save_arrays(tmp_path / "a.safetensors", {"a": mx.arange(12, dtype=mx.int32).reshape(3, 4)}, {})
    tensor = read_header(tmp_path / "a.safetensors").tensors["a"]
    part = dataclasses.replace(tensor, shape=(3, 2), start=tensor.start + 4, stop=tensor.stop - 4, apart=16)
    into = np.zeros((3, 2), np.int32)
    reading.TensorReader().fill([(part, into.data.cast("B"))])
    assert into.tolist() == [[1, 2], [5, 6], [9, 10]]
