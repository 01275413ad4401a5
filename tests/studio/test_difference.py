"""The difference of two pictures, against pictures whose difference is known."""

import numpy as np

from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.studio.difference import difference
from mlx_ltxw.studio.folder import StudioFolder
from mlx_ltxw.studio.heard import compare


def clip(path, frames, size=64):
    """Grey frames of these levels."""
    made = np.repeat(np.array(frames, np.uint8)[:, None, None, None], 3, 3)
    write_mp4(path, [np.broadcast_to(made, (len(frames), size, size, 3)).copy()], 24, None)
    return path


def test_it_is_the_mean_and_the_greatest_distance_of_each_frame(tmp_path):
    one = clip(tmp_path / "one.mp4", [100] * 60)
    other = clip(tmp_path / "other.mp4", [100] * 50 + [140] * 10)
    found = difference(one, other)
    assert len(found.mean) == 60
    assert max(found.mean[:48]) < 2
    assert np.allclose(found.mean[52:], 40, atol=3)
    assert all(35 < value < 46 for value in found.most[52:])
    values = {"one": str(one), "other": str(other)}
    text = compare(values, StudioFolder(tmp_path))["text"]
    assert "of 60 frames differ" in text
    same = compare({"one": str(one), "other": str(one)}, StudioFolder(tmp_path))
    assert same["text"] == "The pictures are the same in all 60 frames."
    assert set(same["mean"]) == {0.0}


def test_the_frames_that_both_have_are_compared(tmp_path):
    assert len(difference(clip(tmp_path / "a.mp4", [9] * 12), clip(tmp_path / "b.mp4", [9] * 30)).mean) == 12


def test_other_sizes_are_not_compared(tmp_path):
    small, large = clip(tmp_path / "s.mp4", [9] * 4), clip(tmp_path / "l.mp4", [9] * 4, 128)
    assert difference(small, large) is None
    assert compare({"one": str(small), "other": str(large)}, StudioFolder(tmp_path))["mean"] == []
