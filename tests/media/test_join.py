"""Cutting parts together, by hand-worked values."""

import numpy as np
import pytest

from mlx_ltxw.media.join import join_frames, join_waveforms


def test_sounds_keep_their_power_in_the_blend():
    """Two unlike sounds of one loudness: the blend is as loud, since cos^2 + sin^2 = 1."""
    draw = np.random.default_rng(0)
    parts = [draw.standard_normal((48000, 2)).astype(np.float32) for _ in range(2)]
    joined = join_waveforms(parts, 24000)
    assert joined.shape == (72000, 2)
    assert joined[24000:48000].std() == pytest.approx(1.0, abs=0.02)
    assert np.array_equal(joined[:24000], parts[0][:24000])
    assert np.array_equal(joined[48000:], parts[1][24000:])


def test_short_sounds_share_at_most_half():
    parts = [np.ones((10, 2), np.float32), np.ones((4, 2), np.float32), np.ones((10, 2), np.float32)]
    assert len(join_waveforms(parts, 100)) == 10 + 4 + 10 - 2 - 5


def test_frames_dissolve_linearly():
    """Two shared frames between black and 90: a third and two thirds of the way."""
    black, grey = np.zeros((5, 2, 2, 3), np.uint8), np.full((5, 2, 2, 3), 90, np.uint8)
    joined = np.concatenate(list(join_frames([black, grey], 2)))
    assert joined[:, 0, 0, 0].tolist() == [0, 0, 0, 30, 60, 90, 90, 90]


def test_one_part_is_left_alone():
    frames = np.random.default_rng(0).integers(0, 255, (3, 2, 2, 3), dtype=np.uint8)
    assert np.array_equal(np.concatenate(list(join_frames([frames], 4))), frames)
