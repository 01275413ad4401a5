"""The latent upsamplers against the official classes, fp32, random weights."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.upsampler import Upsampler, UpsamplerConfig, upsample
from mlx_ltxw.models.video_vae import VideoVAE, VideoVAEConfig
from tests.numbers import relative_error
from tests.reference import upsampler as reference
from tests.reference.video import OfficialVideoVAE, small_config
from tests.reference.weights import load_official

from ltx_core.model.upsampler.model_configurator import LatentUpsamplerConfigurator

KINDS = list(reference.KINDS)


def pair(kind, **changes):
    values = reference.config(kind, blocks=2) | changes
    official = reference.official_upsampler(values)
    network = Upsampler(UpsamplerConfig.read(values))
    load_official(network, official)
    return network, official


def latent(*shape):
    return np.random.default_rng(0).standard_normal((*shape, 8)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 3, 4, 6), (2, 1, 3, 5)], ids=["even", "odd"])
def test_as_the_official_class(kind, shape):
    network, official = pair(kind)
    want = reference.forward(official, latent(*shape))
    assert relative_error(network(mx.array(latent(*shape))), want) <= 1e-5


def test_rows_columns_and_frames_at_once():
    """No official file does it; the official class can."""
    network, official = pair("temporal-x2", spatial_upsample=True)
    assert network.config.name == "spatiotemporal-x2"
    want = reference.forward(official, latent(1, 3, 4, 6))
    assert relative_error(network(mx.array(latent(1, 3, 4, 6))), want) <= 1e-5


def test_between_the_statistics_of_the_video_vae():
    config = small_config()
    official_vae = OfficialVideoVAE(config)
    vae = VideoVAE(VideoVAEConfig.read(config))
    load_official(vae, official_vae, official_vae.rename)
    network, official = pair("spatial-x2")
    want = reference.between_statistics(official, official_vae.encoder, latent(1, 3, 4, 6))
    got = upsample(network, vae.per_channel_statistics, mx.array(latent(1, 3, 4, 6)))
    assert got.shape == (1, 3, 8, 12, 8)
    assert relative_error(got, want) <= 1e-5


@pytest.mark.parametrize(("kind", "tensors"), [("spatial-x2", 72), ("spatial-x1.5", 73), ("temporal-x2", 72)])
def test_names_and_shapes_are_the_official_ones_at_full_size(kind, tensors):
    """The published files have 72 tensors, the one with the rational resampler 73 (its blur kernel)."""
    import torch

    values = reference.config(kind, 128, 1024 if kind != "temporal-x2" else 512, 4)
    with torch.device("meta"):
        official = LatentUpsamplerConfigurator.from_config(values)
    want = {}
    for name, tensor in official.state_dict().items():
        shape = tuple(tensor.shape)
        want[name] = (shape[0], *shape[2:], shape[1]) if name.endswith("weight") and len(shape) > 2 else shape
    network = Upsampler(UpsamplerConfig.read(values))
    assert {name: tuple(value.shape) for name, value in tree_flatten(network.parameters())} == want
    assert len(want) == tensors
    assert network.config.name == kind


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "DurationHead"}, "'DurationHead', not a latent upsampler"),
        ({"dims": 2}, "upsampler.dims"),
        ({"spatial_upsample": False}, "upsamples nothing"),
        ({"spatial_scale": 3.0}, "the scale 3"),
        ({"spatial_scale": 1.5}, "the scale 1.5"),
        ({"mid_channels": 40}, "no multiple of 32"),
        ({"in_channels": None}, "upsampler.in_channels"),
    ],
)
def test_configs_of_something_else_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        UpsamplerConfig.read(reference.config("spatial-x2") | changes)


def test_a_missing_number_is_never_guessed():
    values = reference.config("spatial-x2")
    del values["mid_channels"]
    with pytest.raises(UserError, match=r"lacks 'upsampler\.mid_channels'"):
        UpsamplerConfig.read(values)
