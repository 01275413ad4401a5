"""Random weights: at their scales a last bit of the input stays a last bit of the sound, at full size's proportions."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.models.audio_vae import VocoderConfig, VocoderWithBWE
from scripts.made_sizes import configuration
from scripts.random_model import fill_randomly
from scripts.random_values import mean_and_spread
from tests.numbers import relative_error


def test_a_random_vocoder_enlarges_no_roundings():
    """As deep as the real one, 64 and 32 channels wide. With weights that keep the variance in every convolution a
    millionth became a third, and 99.9 % of all samples were clipped."""
    sections = configuration("22b", {})[0]["vocoder"]
    sections["vocoder"]["upsample_initial_channel"], sections["bwe"]["upsample_initial_channel"] = 64, 32
    network = VocoderWithBWE(VocoderConfig.read(sections))
    fill_randomly(network, mx.float32)
    mel = mx.random.normal((1, 6, 64, 2), key=mx.random.key(0))
    moved = mel * (1 + 1e-6 * mx.random.normal(mel.shape, key=mx.random.key(1)))
    wave = np.array(network(mel))
    assert 0.001 < np.abs(wave).mean() < 0.5
    assert relative_error(network(moved), wave) < 1e-5


@pytest.mark.parametrize(
    ("name", "shape", "mean", "spread"),
    [
        ("transformer_blocks.0.attn1.to_q.weight", (8, 16), 0, 0.25),
        ("transformer_blocks.0.attn1.q_norm.weight", (16,), 1, 0.1),
        ("scale_shift_table", (9, 16), 0, 0.1),
        ("vocoder.ups.0.weight", (4, 10, 8), 0, 0.25),  # of ten taps a sample sees two
        ("vocoder.resblocks.3.convs1.0.weight", (4, 2, 8), 0, 0.125),
        ("vocoder.act_post.upsample.filter", (1, 1, 10), 0.1, 0.01),
    ],
)
def test_scales(name, shape, mean, spread):
    assert mean_and_spread(name, shape) == pytest.approx((mean, spread))
