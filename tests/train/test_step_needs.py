"""What a block keeps for the way back is what the plan counts, and a GPU is handed no more than two blocks at once."""

import dataclasses
import gc
import itertools
import shutil
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import tests.reference.transformer as official
from mlx_ltxw.machine import Machine
from mlx_ltxw.models import ops
from mlx_ltxw.models.transformer import DIRECT, Transformer, TransformerConfig, Walk
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.train import step_needs
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.gradient import step
from mlx_ltxw.train.step_needs import TrainingStep, kept_of_block, step_bytes
from scripts.bench.train import make_group
from scripts.random_model import GRID, REAL_CONFIG, fill_randomly, read_sections
from tests.train.clips import objective, small

CPU = Machine("cpu", 10**9, 10**9)
SIZE = Geometry(128, 96, 25, 24.0, GRID)
TEXT = 1024


@pytest.fixture
def narrow_base(monkeypatch):
    """The base in bf16 under activations in fp32, as a GPU has it."""
    for module in (step, step_needs):
        monkeypatch.setattr(module, "default_dtype", lambda: mx.bfloat16)


def built(layers):
    config = TransformerConfig.read(official.small_config(layers=layers, video_head_dim=24))
    model = Transformer(config)
    fill_randomly(model, mx.bfloat16)
    return model


def held_after_the_way_there(config, layers):
    """Bytes that the loss finds in memory beyond the model and the clips."""
    model = built(layers)
    group = make_group(model, SIZE, config, TEXT)
    case = dataclasses.replace(small(model, config, clips=config.batch_size), group=group)
    made, found = objective(case), []

    def loss(velocity, *_):
        gc.collect()
        mx.synchronize()
        found.append(mx.get_active_memory())
        return mx.sum(velocity, axis=(1, 2))

    made._audio_loss = loss
    mx.eval(case.parameters)
    gc.collect()
    before = mx.get_active_memory()
    made(case.parameters, group, mx.array(1.0))
    return found[0] - before


@pytest.mark.parametrize(
    ("options", "index"),
    [({}, 0), ({"audio_draws": 2}, 0), ({"gradient_checkpointing": True}, 1)],
    ids=["kept", "two draws", "computed again"],
)
def test_what_a_block_keeps_is_counted(narrow_base, options, index):
    """Keys and values of text and picture once by rows or heads, each context as narrow as it came."""
    config = TrainConfig(rank=4, alpha=4.0, batch_size=2, **options)
    counted = TrainingStep(SimpleNamespace(network_config=lambda _: built(1).config), config, False)
    found = held_after_the_way_there(config, 4) - held_after_the_way_there(config, 2)
    assert found / 2 == pytest.approx(kept_of_block(counted, SIZE, CPU)[index], rel=0.08, abs=12_000)


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for a CPU with the system's compiler")
def test_compiled_blocks_that_are_computed_again_keep_their_inputs_alone(narrow_base, monkeypatch):
    """Not the keys and values of text and picture, which a compiled block of the base gives beside the stream."""
    monkeypatch.setattr(step, "blocks_compile", lambda tokens: True)
    config = TrainConfig(rank=4, alpha=4.0, batch_size=2, gradient_checkpointing=True)
    counted = TrainingStep(SimpleNamespace(network_config=lambda _: built(1).config), config, False)
    mx.enable_compile()
    try:
        found = held_after_the_way_there(config, 4) - held_after_the_way_there(config, 2)
    finally:
        ops.settle_compile()
    assert found / 2 == pytest.approx(kept_of_block(counted, SIZE, CPU)[1], rel=0.08, abs=12_000)


@pytest.mark.parametrize(
    ("backend", "window", "watching"), [("cuda", 1, Walk.bounded()), ("cpu", 0, DIRECT)], ids=["cuda", "cpu"]
)
def test_a_gpu_is_handed_few_blocks(monkeypatch, backend, window, watching):
    """Of the sound whole ones, one beside that at work; of the base parts of one."""
    monkeypatch.setattr(step, "this_machine", lambda: Machine(backend, 1, 1))
    assert step.walking(compiled=False).window == window
    model, walks = built(2), []
    made = objective(small(model, TrainConfig(rank=3, alpha=3.0)))
    watch = model.watch
    monkeypatch.setattr(model, "watch", lambda *given: walks.append(given[2]) or watch(*given))
    case = small(model, TrainConfig(rank=3, alpha=3.0))
    video = made._watch(case.group, case.draw, None)
    assert len(list(itertools.islice(video, 2))) == 2
    assert walks == [watching]


H200 = Machine("cuda", 140 * 10**9, 140 * 10**9)


@pytest.mark.parametrize(
    ("size", "layers", "clips", "again", "beyond"),
    [
        ((704, 480, 97), 4, 1, False, 2.737),
        ((704, 480, 97), 8, 1, False, 3.888),
        ((704, 480, 97), 48, 1, False, 14.876),
        ((704, 480, 97), 4, 1, True, 3.777),
        ((704, 480, 97), 8, 1, True, 4.071),
        ((192, 192, 97), 48, 1, False, 6.159),
        ((192, 192, 97), 48, 2, False, 14.16),
        ((704, 480, 97), 48, 1, True, 6.365),
        ((192, 192, 97), 48, 1, True, 2.326),
        ((192, 192, 97), 48, 2, True, 3.93),
    ],
)
def test_the_plan_is_what_a_card_held(monkeypatch, narrow_base, size, layers, clips, again, beyond):
    """Full width on one H200, in GB beyond the weights (`docs/log.md`): with these within a tenth."""
    config = dataclasses.replace(TransformerConfig.read(read_sections(REAL_CONFIG, 1, 1)["transformer"]), layers=layers)
    one = tree_flatten(Transformer(dataclasses.replace(config, layers=1)).parameters())
    block = {path: array.size * 2 for path, array in one if path.startswith("transformer_blocks.0.")}

    def bytes_of(*_, which=lambda path: True, **__):
        return [sum(own for path, own in block.items() if which(path))], 0

    monkeypatch.setattr(step_needs, "layer_bytes", bytes_of)
    train = TrainConfig(batch_size=clips, gradient_checkpointing=again)
    model = SimpleNamespace(network_config=lambda _: config, quantized_layers=lambda _: {})
    planned = step_bytes(TrainingStep(model, train, False), Geometry(*size, 24.0, GRID), H200)
    weights = layers * sum(block.values())
    assert planned + weights == pytest.approx(beyond * 1e9 + weights, rel=0.1)


@pytest.mark.parametrize("audio_only", [False, True])
@pytest.mark.parametrize(
    ("options", "shared", "ahead"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"compile": False}, False, False),
        ({"gradient_checkpointing": True}, False, False),
        ({"batch_size": 500}, False, False),
    ],
    ids=["compiled", "shared", "described", "computed again", "many"],
)
def test_blocks_that_run_ahead_are_counted_where_they_do(made_model, monkeypatch, options, shared, ahead, audio_only):
    """As a step walks (`test_compiled_blocks_run_ahead`), with a picture or without."""
    counted = TrainingStep(made_model, TrainConfig(**options), audio_only, shared=shared)
    found = []
    for blocks in (1, 9):
        monkeypatch.setattr(step_needs, "AHEAD", blocks)
        found.append(step_needs._at_work(counted, Geometry(64, 64, 49, 24.0, GRID), H200, 0))
    assert (found[1] > found[0]) == ahead
