"""What `inspect` says of a made file."""

import pytest

from mlx_ltxw.takes.describe import describe
from tests.takes.test_record import made


def facts(path, **request):
    """Label -> value, of the lines after the file's name."""
    request = {"prompt": "a", "seeds": [3], "width": 96, "height": 64, "frames": 9, "frame_rate": 24.0} | request
    lines = str(describe(str(made(path, {"kind": "clip", "mlx_ltxw": "0.1.0", **request})))).splitlines()
    assert lines[0] == str(path)
    return {line[:16].rstrip(): line[16:] for line in lines[1:]}


@pytest.mark.parametrize(
    ("request_", "lock"),
    [
        ({}, None), ({"audio_only": True}, None), ({"adapters": ["whisper"], "audio_only": True}, None),
        ({"adapters": ["whisper"]}, "on"), ({"adapters": ["whisper"], "lock_video": False}, "off"),
    ],
)  # fmt: skip
def test_the_lock_is_named_where_there_is_a_picture_to_lock(tmp_path, request_, lock):
    assert facts(tmp_path / "a.wav", **request_).get("video lock") == lock


def test_size_and_length(tmp_path):
    told = facts(tmp_path / "a.wav")
    assert told["size"] == "96 x 64, 9 frames at 24 a second"
    assert told["kind"] == "clip, 0.01 s"
    assert told["written by"] == "mlx-ltxw 0.1.0"
    assert (told["prompt"], told["seed"]) == ("a", "3")
    assert facts(tmp_path / "b.wav", audio_only=True)["size"] == "9 frames at 24 a second"
