"""The benchmark's own arithmetic, and that it runs."""

import json

import mlx.core as mx
import mlx.nn as nn
import pytest
from click.testing import CliRunner

import tests.reference.transformer as official
from mlx_ltxw.models.ops import dot_product
from mlx_ltxw.models.transformer import Transformer, TransformerConfig
from scripts.bench.__main__ import main
from scripts.bench.figures import Figure, table
from scripts.bench.floors import Rates, operations
from scripts.bench.transformer import law
from tests.models.test_transformer import both, streams


def test_operations_are_those_of_a_forward(monkeypatch):
    """Counted where they are made: each product of the blocks, each attention."""
    model = Transformer(TransformerConfig.read(official.small_config(layers=2)))
    video, audio = both(model, *streams(model.config))
    inside = {id(layer) for path, layer in model.named_modules() if path.startswith("transformer_blocks")}
    products, scores, weights, linear, attend = [], [], {}, nn.Linear.__call__, dot_product.attention

    def product(self, x):
        if id(self) in inside:
            products.append(2 * x.size * len(self.weight))
            weights[id(self)] = self.weight.size
        return linear(self, x)

    def attention(q, k, v, scale):
        scores.append(4 * q.size * k.shape[2])
        return attend(q, k, v, scale=scale)

    monkeypatch.setattr(nn.Linear, "__call__", product)
    monkeypatch.setattr("mlx_ltxw.models.ops.attention", attention)
    model(video, audio)
    found = operations(model.config, video.latent.shape[1], audio.latent.shape[1], video.context.shape[1])
    assert found.products == sum(products)
    assert found.attention == sum(scores)
    assert found.weights == sum(weights.values())


def test_a_floor_is_the_larger_of_arithmetic_and_bytes():
    rates, config = Rates(1e12, 1e12, 1e9), TransformerConfig.read(official.small_config(layers=1))
    few, many = (operations(config, tokens, 7, 6) for tokens in (8, 100_000))
    assert few.seconds(rates, 2) == few.weights * 2 / 1e9
    assert many.seconds(rates, 2) == (many.products + many.attention) / 1e12


def test_the_law_is_found_again():
    """10 ms a forward, 2 ms a block and 1.3 times the floor."""
    points = [(count, floor, 0.01 + 0.002 * count + 1.3 * floor) for count in (4, 12, 48) for floor in (0.02, 0.1, 0.3)]
    assert law(points).more == {
        "a forward, ms": pytest.approx(10), "a block, ms": pytest.approx(2), "over the floor": pytest.approx(1.3),
        "worst, per cent": 0.0,
    }  # fmt: skip


def test_a_row_of_the_table():
    figure = Figure("forward", "704x480x97", [0.3, 0.2, 0.25], 0.2, {"official": 0.325}, {"equal": True})
    row = table([figure]).splitlines()[-1]
    assert row == "| forward | 704x480x97 | 0.25 (0.2) | 0.2 | 1.25 | official 0.325 | equal True |"


def test_it_runs():
    """A guided step is equal to its passes, and takes less than four of them."""
    given = ["--what", "guided", "--size", "tiny", "--clip", "64x64x9", "--runs", "3", "--no-official", "--json"]
    made = CliRunner().invoke(main, given, catch_exceptions=False)
    about, figure = map(json.loads, made.output.splitlines())
    assert about["mlx_device"] == str(mx.default_device())
    assert figure["more"]["equal"] is True
    assert len(figure["seconds"]) == 3
