"""Made and given things put together: by hand."""

import math

import numpy as np
import pytest

from mlx_ltxw.pipeline.spans import Stretch
from mlx_ltxw.takes.compose import mixed

RATE = 1000
BOUNDS = np.stack([np.maximum(np.arange(25) * 0.04 - 0.03, 0), np.arange(25) * 0.04 + 0.01], axis=1)  # to 0.97 s


@pytest.mark.parametrize(
    ("stretch", "begin", "end"), [((10, 15), 370, 570), ((0, 5), 0, 170), ((20, 25), 770, 1000), ((0, 25), 0, 1000)]
)
def test_the_new_sound_fades_within_its_stretch(stretch, begin, end):
    """Tokens 10 to 14 last from 0.37 to 0.57 s; 20 ms come in and go, none at the clip's own ends."""
    original, new = np.full((1000, 2), 0.25, np.float32), np.full((900, 2), -0.5, np.float32)
    found = mixed(original, new, Stretch(*stretch), BOUNDS, RATE)
    assert found.shape == original.shape
    assert np.array_equal(found[:begin], original[:begin])
    assert np.array_equal(found[end:], original[end:])
    middle = found[begin + 20 : min(end, 900) - 20]
    assert np.allclose(middle, -0.5)
    first, last = found[begin, 0], found[min(end, 1000) - 1, 0]
    seam = 0.25 * math.cos(math.pi / 80) - 0.5 * math.sin(math.pi / 80)  # half a sample into 20
    assert first == pytest.approx(-0.5 if stretch[0] == 0 else seam)
    assert last == pytest.approx(0.0 if end == 1000 else seam)  # the new sound ends at 0.9 s


def test_sounds_that_are_not_alike_meet_with_constant_power():
    """Two noises of one level: within the fades their sum has it too, where a straight line would lose 3 dB."""
    random = np.random.default_rng(0)
    rate, bounds = 100_000, BOUNDS  # 2000 samples a fade
    original, new = random.standard_normal((2, 100_000, 2)).astype(np.float32)
    found = mixed(original, new, Stretch(10, 15), bounds, rate)
    for middle in (37_000 + 1000, 57_000 - 1000):
        assert np.std(found[middle - 400 : middle + 400]) == pytest.approx(1, abs=0.05)
