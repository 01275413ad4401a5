"""A file examined in one reading: what its headers, its picture's packets and its sound tell one by one."""

import av
import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import collected_notes, probe
from mlx_ltxw.media.video import picture_seconds
from mlx_ltxw.train.data.cutting import read_levels
from mlx_ltxw.train.data.examine import examine
from tests.media.recorded import ffmpeg, needs_ffmpeg

pytestmark = needs_ffmpeg

PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=64x64:r=24:d=3")
SOUND = ("-f", "lavfi", "-i", "sine=330:d=3.2:r=44100,tremolo=2:0.9")
KINDS = {
    "a.mp4": ("-c:v", "libx264", "-bf", "2", "-c:a", "aac"), "a.mov": ("-c:v", "mjpeg", "-c:a", "pcm_s16le"),
    "a.mkv": ("-c:v", "libx264", "-c:a", "libopus"), "a.avi": ("-c:v", "mpeg4", "-bf", "2", "-c:a", "mp3"),
    "a.ts": ("-c:v", "libx264", "-c:a", "aac"), "a.mpg": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "early.mkv": ("-c:v", "libx264", "-c:a", "libopus"), "a.wav": ("-vn",),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examined")
    for name, options in KINDS.items():
        early = ("-itsoffset", "2") if name == "early.mkv" else ()  # the picture begins 2 s after the sound
        ffmpeg(*early, *PICTURE, *SOUND, *options, folder / name)
    return folder


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("span", [(0.0, float("inf")), (1.5, 2.5)])
def test_one_reading_tells_what_several_do(files, name, span):
    path = files / name
    found, one_by_one = examine(path, *span), read_levels(path, *span)
    assert found.info == probe(path)
    assert found.length == picture_seconds(path)
    assert found.levels.seconds == one_by_one.seconds
    assert np.array_equal(found.levels.rms, one_by_one.rms)
    assert examine(path, picture=False).length == 0.0


def test_a_file_is_opened_once(files, monkeypatch):
    opened = []
    monkeypatch.setattr(av, "open", lambda *args, real=av.open, **more: opened.append(args) or real(*args, **more))
    for name in ("a.mp4", "a.mkv", "a.mov", "a.avi", "a.ts", "a.mpg", "a.wav"):
        examine(files / name)
    assert len(opened) == 7


def test_a_picture_that_is_cut_off_is_said_before_what_is_wrong_with_the_sound(files, tmp_path):
    path = tmp_path / "a.mp4"
    data = (files / "a.mp4").read_bytes()
    ffmpeg("-i", files / "a.mp4", "-c", "copy", "-movflags", "+faststart", path)
    path.write_bytes(path.read_bytes()[: len(data) // 2])
    with collected_notes() as notes, pytest.raises(UserError, match="its picture ends after"):
        examine(path)
    assert notes == []
