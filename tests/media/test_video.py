"""Pictures in: which frame is shown when, scaling and cropping, and what is refused."""

from fractions import Fraction

import av
import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.media.video import read_video


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Ninety-six frames at 24 fps, frame i all of grey 2 i, without loss."""
    path = tmp_path_factory.mktemp("video") / "counted.mp4"
    grey = (2 * np.arange(96)).astype(np.uint8)
    write_mp4(path, [np.broadcast_to(grey[:, None, None, None], (96, 32, 64, 3))], 24, None, lossless=True)
    return path


def shown(path, frames, fps, start=0.0):
    return (read_video(path, frames, fps, 64, 32, start=start)[:, 16, 32, 0] // 2).tolist()


def test_the_same_rate_gives_the_same_frames(counted):
    assert shown(counted, 96, 24) == list(range(96))


def test_other_rates_show_what_is_on_screen_then(counted):
    assert shown(counted, 12, 48) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert shown(counted, 12, 12) == list(range(0, 24, 2))
    assert shown(counted, 100, 25) == [int(i / 25 * 24 + 0.1) for i in range(100)]
    assert shown(counted, 95, Fraction(24000, 1001)) == [int(i * 1.001 + 0.1) for i in range(95)]


def test_a_start_within_and_beyond_the_first_second(counted):
    assert shown(counted, 3, 24, start=0.5) == [12, 13, 14]
    assert shown(counted, 3, 24, start=3.0) == [72, 73, 74]


def test_too_short_a_clip_is_refused(counted):
    with pytest.raises(UserError, match=r"counted\.mp4 is too short: 96 of 97 frames at 24"):
        read_video(counted, 97, 24, 64, 32)
    with pytest.raises(UserError, match="24 of 25"):
        read_video(counted, 25, 24, 64, 32, start=3.0)


def test_the_last_frame_is_held_as_long_as_allowed(counted):
    held = read_video(counted, 99, 24, 64, 32, hold=3)[:, 16, 32, 0] // 2
    assert held.tolist() == [*range(96), 95, 95, 95]
    with pytest.raises(UserError, match="96 of 100"):
        read_video(counted, 100, 24, 64, 32, hold=3)


def write_lossless(path, picture, **attributes):
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264rgb", rate=24, options={"crf": "0"})
        video.height, video.width = picture.shape[:2]
        video.pix_fmt = "rgb24"
        if "aspect" in attributes:
            video.codec_context.sample_aspect_ratio = attributes["aspect"]
        if "rotation" in attributes:
            video.set_display_rotation(attributes["rotation"])
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        out.mux(video.encode(None))
    return path


def thirds(height, width):
    """Red, green and blue side by side."""
    picture = np.zeros((height, width, 3), np.uint8)
    for i in range(3):
        picture[:, i * width // 3 : (i + 1) * width // 3, i] = 255
    return picture


def test_a_wide_picture_loses_its_sides(tmp_path):
    path = write_lossless(tmp_path / "a.mp4", thirds(64, 192))
    found = read_video(path, 1, 24, 32, 32)[0]
    assert (found[2:-2, 2:-2] == (0, 255, 0)).all()


def test_a_tall_picture_loses_top_and_bottom(tmp_path):
    path = write_lossless(tmp_path / "a.mp4", thirds(64, 192).transpose(1, 0, 2))
    found = read_video(path, 1, 24, 32, 32)[0]
    assert (found[2:-2, 2:-2] == (0, 255, 0)).all()


def test_wide_pixels_are_widened(tmp_path):
    """64 x 64 pixels of 3:1 are a picture of 192 x 64, of which the middle third is kept."""
    path = write_lossless(tmp_path / "a.mp4", thirds(64, 66)[:, 1:65], aspect=Fraction(3, 1))
    found = read_video(path, 1, 24, 32, 32)[0]
    assert (found[3:-3, 3:-3] == (0, 255, 0)).all()


def test_a_turned_phone_is_turned_back(tmp_path):
    """A display matrix of 90 degrees anticlockwise brings the right edge of the stored picture to the top."""
    path = write_lossless(tmp_path / "a.mp4", thirds(32, 96), rotation=90)
    found = read_video(path, 1, 24, 32, 96)[0]
    assert (found[5, 16] == (0, 0, 255)).all()
    assert (found[-5, 16] == (255, 0, 0)).all()


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_picture_is_cropped_as_its_upright_twin(tmp_path, rotation):
    """Three rows and three columns more than are kept: which side loses two is a matter of what is shown."""
    upright = np.random.default_rng(0).integers(0, 256, (35, 67, 3), np.uint8)
    stored = np.rot90(upright, -rotation // 90)
    turned = write_lossless(tmp_path / "turned.mp4", np.ascontiguousarray(stored), rotation=rotation)
    found = read_video(turned, 1, 24, 64, 35)[0], read_video(turned, 1, 24, 67, 32)[0]
    assert (found[0] == upright[:, 1:65]).all()
    assert (found[1] == upright[1:33]).all()


def test_what_is_no_video_is_named(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros((4800, 2)))
    (tmp_path / "b.mp4").write_bytes(b"\0" * 1000)
    for name, message in {"a.wav": "has no picture", "b.mp4": "cannot be read", "c.mp4": "does not exist"}.items():
        with pytest.raises(UserError, match=message) as raised:
            read_video(tmp_path / name, 9, 24, 32, 32)
        assert name in raised.value.message
