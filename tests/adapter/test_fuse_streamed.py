"""Adapters that take the place of streamed weights: no block is in memory as it was and as it is."""

import gc
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.fuse import fuse
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.models.transformer import Transformer
from mlx_ltxw.models.transformer.merged import MERGED
from mlx_ltxw.pipeline import networks
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.tree import share
from mlx_ltxw.weights.memory import layer_bytes
from mlx_ltxw.weights.streaming import STREAMED, Residency
from tests.wide import block_adapter, wide_model

WIDTH, LAYERS = 256, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wide")


def loaded(model, residency):
    return Networks(model, mx.float32, residency=residency).transformer(audio_only=False)


def placed(model, adapter):
    return place(adapter, Transformer(model.network_config("transformer")))


def most(network, before):
    """Bytes at once while blocks come, one after another, twice."""
    found = 0
    for index in (*range(LAYERS), *range(LAYERS)):
        mx.reset_peak_memory()
        mx.eval(network.transformer_blocks[index].parameters())
        found = max(found, mx.get_peak_memory() - before)
    return found


@pytest.mark.parametrize(
    ("bits", "adapters", "residency", "merged"),
    [(None, 2, STREAMED, False), (None, 1, Residency(1), True), (4, 1, STREAMED, True)],
    ids=["two", "one stays", "packed"],
)
def test_nothing_is_left_of_weights_that_take_in_adapters(folder, monkeypatch, bits, adapters, residency, merged):
    """Linears are fused one by one, the largest first, before the rest of their block is there: with plain weights it
    takes no more than to read it, with packed ones what one is unpacked to."""
    monkeypatch.setattr(networks, "MERGED", MERGED | {"cpu": merged})
    model = wide_model(folder, WIDTH, LAYERS, bits)
    given = [(read(Path(block_adapter(folder, model, seed=seed))), Strength(0.7)) for seed in range(adapters)]
    mx.eval([(delta.a, delta.b) for one, _ in given for delta in one.deltas.values()])
    (block, *_), _ = layer_bytes(model, "transformer", mx.float32)
    gc.collect()
    before = mx.get_active_memory()
    plain = most(loaded(model, residency), before)
    gc.collect()
    places = [placed(model, one) for one, _ in given]
    fused = most(fuse(loaded(model, residency), given, places, quantized=True, consume=True).model, before)
    unpacked = 12 * 4 * WIDTH**2 if bits else 0
    assert 0.9 * plain <= fused <= plain + unpacked + 0.02 * block


def test_linears_that_lie_together_take_no_more_than_their_block(folder, monkeypatch):
    """One attention at a time, before the feed-forwards are there."""
    model = wide_model(folder, WIDTH, LAYERS)
    (block, *_), _ = layer_bytes(model, "transformer", mx.float32)
    found = []
    for merged in (False, True):
        monkeypatch.setattr(networks, "MERGED", MERGED | {"cpu": merged})
        gc.collect()
        before = mx.get_active_memory()
        found.append(most(loaded(model, STREAMED), before))
    assert found[1] <= found[0] + 0.05 * block


@pytest.mark.parametrize("residency", [STREAMED, Residency(1)], ids=["streamed", "one stays"])
def test_a_base_that_is_kept_for_other_runs_stays_as_it_was(folder, residency):
    """Its clones have the same layers on demand: what one of them used up, the next one has whole."""
    model = wide_model(folder, 64, 2)
    base, adapter = loaded(model, residency), read(Path(block_adapter(folder, model)))

    def weight(network, index):
        return mx.array(network.transformer_blocks[index].attn1.to_q.weight)

    want = [weight(base, index) for index in (0, 1)]
    fused = fuse(share(base), [(adapter, Strength())], [placed(model, adapter)], consume=True).model
    for index in (0, 1, 1, 0):
        changed, again = (fused.transformer_blocks[index] for _ in range(2))
        assert changed is again  # two streams that read the same one have it once
        assert not mx.array_equal(changed.attn1.to_q.weight, want[index])
        assert mx.array_equal(weight(base, index), want[index])
