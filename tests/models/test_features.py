"""The feature extractor against the official one."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.text import FeatureExtractor, FeatureExtractorConfig, GemmaConfig
from tests.numbers import relative_error
from tests.reference import text as reference
from tests.reference.weights import load_official

DATA = Path(__file__).parent.parent / "data"
SECTION = json.loads((DATA / "ltx23_config.json").read_text())["transformer"]


def batch(lengths, total=12, width=24, states=5):
    """Hidden states of very unequal sizes, and a mask padded on the left."""
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-2, 3, (len(lengths), total, 1, states))
    hidden = (rng.standard_normal((len(lengths), total, width, states)) * scale).astype(np.float32)
    mask = np.stack([np.arange(total) >= total - length for length in lengths])
    return hidden, mask


@pytest.fixture(scope="module")
def pair():
    official = reference.official_extractor(24, 5, 32, 16)
    ours = FeatureExtractor(FeatureExtractorConfig(24, 5, 32, 16))
    load_official(ours, official)
    return ours, official


@pytest.mark.parametrize("lengths", [[7], [12], [3, 12, 1]])
def test_features_equal_the_official_ones(pair, lengths):
    ours, official = pair
    hidden, mask = batch(lengths)
    expected = reference.features(hidden, mask, official)
    for got, want in zip(ours(mx.array(hidden), mx.array(mask)), expected, strict=True):
        assert relative_error(got, want) <= 1e-5


def test_what_padding_holds_does_not_matter(pair):
    ours, official = pair
    hidden, mask = batch([5])
    expected = reference.features(hidden, mask, official)
    hidden[~mask] = np.nan
    for got, want in zip(ours(mx.array(hidden), mx.array(mask)), expected, strict=True):
        assert relative_error(got, want) <= 1e-5


def test_bfloat16_is_as_near_to_fp32_as_the_official_bfloat16(pair):
    torch = reference.torch
    ours, official = pair
    hidden, mask = batch([12])
    rough = torch.from_numpy(hidden).bfloat16()
    truth = reference.features(rough.float().numpy(), mask, official)
    half = reference.official_extractor(24, 5, 32, 16).bfloat16()
    with torch.no_grad():
        theirs = [x.float().numpy() for x in half(rough, torch.from_numpy(mask))]
    packed = FeatureExtractor(ours.config)
    load_official(packed, half)
    packed.set_dtype(mx.bfloat16)
    for got, official_half, want in zip(
        packed(mx.array(rough.float().numpy()).astype(mx.bfloat16), mx.array(mask)), theirs, truth, strict=True
    ):
        assert got.dtype == mx.bfloat16
        limit = 1.25 * relative_error(official_half, want)
        assert relative_error(got.astype(mx.float32), want) <= limit


def test_full_size_names_and_shapes_are_the_checkpoints():
    gemma = GemmaConfig.read(
        {"model_type": "gemma3_text", "hidden_size": 3840, "num_hidden_layers": 48, "intermediate_size": 15360}
    )
    config = FeatureExtractorConfig.read(SECTION, gemma.hidden_size, gemma.states)
    assert config == FeatureExtractorConfig(3840, 49, 4096, 2048)
    prefix = "text_embedding_projection."
    keys = json.loads((DATA / "ltx23_keys.json").read_text())
    wanted = {k.removeprefix(prefix): tuple(shape) for k, shape in keys.items() if k.startswith(prefix)}
    assert len(wanted) == 4
    assert {k: v.shape for k, v in tree_flatten(FeatureExtractor(config).parameters())} == wanted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"caption_proj_input_norm": None}, "lacks 'transformer.caption_proj_input_norm'"),
        ({"caption_proj_before_connector": False}, "caption_proj_before_connector"),
        ({"caption_projection_first_linear": True}, "caption_projection_first_linear"),
        ({"caption_projection_second_linear": True}, "caption_projection_second_linear"),
        ({"text_encoder_norm_type": "per_layer"}, "per_layer"),
        ({key: None for key in SECTION if key.startswith("caption_proj")}, "19B"),
    ],
)
def test_other_extractors_are_refused(change, words):
    section = {k: v for k, v in {**SECTION, **change}.items() if change.get(k, v) is not None}
    with pytest.raises(UserError, match=words):
        FeatureExtractorConfig.read(section, 3840, 49)


def test_the_later_spelling_of_the_norm_is_accepted():
    section = {**SECTION, "text_encoder_norm_type": "PER_TOKEN_RMS"}
    assert FeatureExtractorConfig.read(section, 3840, 49).video_width == 4096


def test_a_checkpoint_without_a_transformer_section_is_refused():
    with pytest.raises(UserError, match="no section 'transformer'"):
        FeatureExtractorConfig.read(None, 3840, 49)
