"""The noise levels against the official sampler (ltx-trainer 1.2.0)."""

import mlx.core as mx
import numpy as np
import pytest
from scipy import stats

from mlx_ltxw.train.gradient import sigmas

NORMAL = [-3.5, -2.6, -1.0, 0.0, 0.7, 2.0, 3.2, 4.0]
UNIFORM = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
CHOICE = [0.5, 0.5, 0.05, 0.5, 0.09, 0.5, 0.5, 0.5]

# What `ShiftedLogitNormalTimestepSampler().sample(8, tokens)` gave for these random numbers.
OFFICIAL = {
    101: [0.0850078, 0.0050537, 0.3007, 0.6174802, 0.5005, 0.9483775, 1.0, 1.0],
    208: [0.087994, 0.0051552, 0.3007, 0.6251476, 0.5005, 0.94995, 1.0, 1.0],
    468: [0.0956877, 0.0054142, 0.3007, 0.6433848, 0.5005, 0.9535589, 1.0, 1.0],
    6144: [0.5038451, 0.0154515, 0.3007, 0.8755851, 0.5005, 0.9876686, 1.0, 1.0],
}


@pytest.mark.parametrize("tokens", OFFICIAL)
def test_levels_equal_official(tokens):
    got = sigmas.levels(mx.array(NORMAL), mx.array(UNIFORM), mx.array(CHOICE), tokens)
    assert np.asarray(got) == pytest.approx(OFFICIAL[tokens], abs=2e-6)


def test_shift_by_hand():
    """0.95 at 1024 tokens, 2.05 at 4096, and 101 audio tokens lie below the line's beginning."""
    assert sigmas.shift(1024) == pytest.approx(0.95)
    assert sigmas.shift(4096) == pytest.approx(2.05)
    assert sigmas.shift(101) == pytest.approx(0.95 - 923 * 1.1 / 3072)


@pytest.mark.parametrize("tokens", [101, 4096])
def test_distribution(tokens):
    """Nine tenths follow the stretched logit-normal law, one tenth is uniform."""
    got = np.asarray(sigmas.draw_sigmas(mx.random.key(3), tokens, 40000), np.float64)
    mean = sigmas.shift(tokens)
    low, high = 1 / (1 + np.exp(-(mean - 2.5758))), 1 / (1 + np.exp(-(mean + 3.0902)))

    def law(x):
        p = np.clip(x * (high - low) + low, 1e-9, 1 - 1e-9)
        below = stats.norm.cdf(np.log(p / (1 - p)) - mean) * (x < 1) + (x >= 1)
        return 0.9 * below + 0.1 * np.clip((x - 1e-3) / (1 - 1e-3), 0, 1)

    inner = np.linspace(0.05, 0.95, 19)
    empirical = np.searchsorted(np.sort(got), inner) / len(got)
    reflected = 0.9 * stats.norm.cdf(-2.5758)  # what lies below zero comes back just above it
    assert np.abs(empirical - law(inner)).max() < 0.01 + reflected
    assert got.min() >= 0
    assert got.max() <= 1


def test_draws_are_independent():
    got = np.asarray(sigmas.draw_sigmas(mx.random.key(0), 468, 2000))
    assert len(np.unique(got)) > 1900
    assert abs(np.corrcoef(got[:-1], got[1:])[0, 1]) < 0.1
