"""Made and given things put together: by hand."""

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
    assert first == pytest.approx(-0.5 if stretch[0] == 0 else 0.25 - 0.75 * 0.5 / 20)
    assert last == pytest.approx(0.0 if end == 1000 else 0.25 - 0.75 * 0.5 / 20)  # the new sound ends at 0.9 s
