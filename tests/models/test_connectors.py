"""The text connectors against the official ones."""

import json
import logging
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.text import ConnectorConfig, Connectors, ConnectorsConfig
from tests.numbers import relative_error
from tests.reference import text as reference
from tests.reference.weights import load_official, randomise

DATA = Path(__file__).parent.parent / "data"
SECTION = json.loads((DATA / "ltx23_config.json").read_text())["transformer"]
TINY = {
    **SECTION,
    "connector_num_attention_heads": 4,
    "connector_attention_head_dim": 12,
    "connector_num_layers": 3,
    "audio_connector_num_attention_heads": 2,
    "audio_connector_attention_head_dim": 16,
    "audio_connector_num_layers": 2,
    "connector_positional_embedding_max_pos": [300],
}
LENGTH = 256  # two rounds of the 128 registers, which the official 1.0.0 does not read from the config


def batch(lengths, config):
    rng = np.random.default_rng(1)
    mask = np.stack([np.arange(LENGTH) >= LENGTH - length for length in lengths])
    widths = (config.video.dim, config.audio.dim)
    return *(rng.standard_normal((len(lengths), LENGTH, width)).astype(np.float32) for width in widths), mask


def run(connectors, *inputs):
    return [np.array(x.astype(mx.float32)) for x in connectors(*map(mx.array, inputs))]


@pytest.fixture(scope="module")
def pair():
    official = randomise(reference.OfficialConnectors(TINY))
    ours = Connectors(ConnectorsConfig.read(TINY))
    load_official(ours, official)
    return ours, official


@pytest.mark.parametrize("lengths", [[1], [60], [200], [256], [5, 256, 1, 140]])
def test_contexts_equal_the_official_ones(pair, lengths):
    ours, official = pair
    inputs = batch(lengths, ours.config)
    for got, want in zip(run(ours, *inputs), official(*inputs), strict=True):
        for row in range(len(lengths)):
            assert relative_error(got[row], want[row]) <= 1e-5


def test_padding_on_the_right_gives_the_same_contexts(pair):
    ours, official = pair
    video, audio, mask = batch([90], ours.config)
    rolled = [np.roll(x, 90, axis=1) for x in (video, audio, mask)]
    for got, want in zip(run(ours, *rolled), official(video, audio, mask), strict=True):
        assert relative_error(got, want) <= 1e-5


def test_what_padding_holds_does_not_matter(pair):
    ours, official = pair
    video, audio, mask = batch([90], ours.config)
    expected = official(video, audio, mask)
    video[~mask], audio[~mask] = np.nan, np.nan
    for got, want in zip(run(ours, video, audio, mask), expected, strict=True):
        assert relative_error(got, want) <= 1e-5


def test_registers_fill_places_by_their_absolute_number():
    """By hand: without blocks a connector is the filling and a norm. Two real tokens, 7 places, 3 registers."""
    plain = ConnectorConfig(heads=1, head_dim=2, layers=0, registers=3, max_position=8, gated=True, ff_bias=True)
    connectors = Connectors(ConnectorsConfig(plain, plain))
    registers = mx.array([[1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # each of rms 1
    for side in (connectors.video_embeddings_connector, connectors.audio_embeddings_connector):
        side.learnable_registers = registers
    mask = mx.array([[0, 0, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    features = mx.full((2, 7, 2), 9.0)
    features[0, 2], features[0, 4] = mx.array([5.0, 5.0]), mx.array([2.0, 14.0])  # rms 5 and 10
    video, audio = connectors(features, features, mask)
    expected = [[1, 1], [0.2, 1.4], [-1, -1], [1, -1], [-1, 1], [-1, -1], [1, -1]]
    np.testing.assert_allclose(np.array(video[0]), expected, atol=1e-5)
    np.testing.assert_allclose(np.array(audio[0]), expected, atol=1e-5)
    np.testing.assert_allclose(np.array(video[1]), 1.0, atol=1e-5)


def test_bfloat16_stays_bfloat16_and_as_near_to_fp32_as_the_official(pair):
    torch = reference.torch
    ours, _ = pair
    rough = randomise(reference.OfficialConnectors(TINY)).bfloat16()
    fine = reference.OfficialConnectors(TINY)
    fine.load_state_dict({name: value.float() for name, value in rough.state_dict().items()})
    packed = Connectors(ours.config)
    load_official(packed, rough)
    packed.set_dtype(mx.bfloat16)
    *features, mask = batch([100], ours.config)
    features = [torch.from_numpy(x).bfloat16() for x in features]
    truth = fine(*(x.float().numpy() for x in features), mask)
    additive = reference.convert_to_additive_mask(torch.from_numpy(mask), torch.bfloat16)
    contexts = packed(*(mx.array(x.float().numpy()).astype(mx.bfloat16) for x in features), mx.array(mask))
    sides = (rough.video_embeddings_connector, rough.audio_embeddings_connector)
    for side, feature, got, want in zip(sides, features, contexts, truth, strict=True):
        with torch.no_grad():
            theirs = side(feature, additive)[0].float().numpy()
        assert got.dtype == mx.bfloat16
        assert relative_error(got.astype(mx.float32), want) <= 1.25 * relative_error(theirs, want)


def test_full_size_names_and_shapes_are_the_checkpoints():
    prefix = "model.diffusion_model."
    keys = json.loads((DATA / "ltx23_keys.json").read_text())
    wanted = {k.removeprefix(prefix): tuple(v) for k, v in keys.items() if "embeddings_connector." in k}
    assert len(wanted) == 258
    connectors = Connectors(ConnectorsConfig.read(SECTION))
    assert {k: v.shape for k, v in tree_flatten(connectors.parameters())} == wanted


def test_config_is_read_from_the_checkpoint():
    config = ConnectorsConfig.read(SECTION)
    shared = {"layers": 8, "registers": 128, "max_position": 4096, "gated": True, "ff_bias": True}
    assert config.video == ConnectorConfig(heads=32, head_dim=128, **shared)
    assert config.audio == ConnectorConfig(heads=32, head_dim=64, **shared)
    assert ConnectorsConfig.read(TINY).audio.layers == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"connector_num_layers": None}, "lacks 'transformer.connector_num_layers'"),
        ({"audio_connector_attention_head_dim": None}, "audio_connector_attention_head_dim"),
        ({"connector_apply_gated_attention": None}, "connector_apply_gated_attention"),
        ({"connector_num_learnable_registers": None}, "connector_num_learnable_registers"),
        ({"rope_type": "interleaved"}, "interleaved"),
        ({"frequencies_precision": "float32"}, "float32"),
        ({"connector_norm_output": False}, "connector_norm_output"),
        ({"use_embeddings_connector": False}, "use_embeddings_connector"),
    ],
)
def test_other_connectors_are_refused(change, words):
    section = {k: v for k, v in {**SECTION, **change}.items() if v is not None}
    with pytest.raises(UserError, match=words):
        ConnectorsConfig.read(section)


def test_unknown_connector_keys_are_reported_and_others_are_not(caplog):
    with caplog.at_level(logging.WARNING):
        ConnectorsConfig.read(SECTION)
        assert not caplog.records
        ConnectorsConfig.read({**SECTION, "connector_dropout": 0.5, "something_else": 1})
    assert "connector_dropout" in caplog.text
    assert "something_else" not in caplog.text
