"""Damaged files: read right or refused by name, never a traceback."""

import av
import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.measure import measure
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.media.remux import remux
from mlx_ltxw.media.video import read_video
from tests.media.signals import moving_picture, tone


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_mp4(folder / "a.mp4", [moving_picture(49, 32, 32)], 24, tone(300, 2.0), metadata={"a": 1})
    write_wav(folder / "a.wav", tone(300, 0.5), metadata={"a": 1})
    return folder


@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
def test_damage_is_a_sentence_that_names_the_file(clips, tmp_path, name):
    """Cut, overwritten at random, and overwritten in the header, twenty times each; most must be noticed."""
    draw = np.random.default_rng(0)
    whole = (clips / name).read_bytes()
    path, refused = tmp_path / f"broken-{name}", []
    for turn in range(60):
        data = bytearray(whole)
        if turn % 3 == 0:
            data = data[: draw.integers(0, len(data))]
        else:
            end = len(data) if turn % 3 == 1 else 2000
            for at in draw.integers(0, end, draw.integers(1, 30)):
                data[at] = draw.integers(0, 256)
        path.write_bytes(data)
        for read in (
            lambda: measure(path),
            lambda: read_video(path, 49, 24, 32, 32),
            lambda: remux(path, tone(300, 0.1), tmp_path / "out.mp4"),
            lambda: read_metadata(path),
        ):
            try:
                read()
            except UserError as error:
                refused.append(error.message)
    assert len(refused) > 30
    assert all(path.name in message for message in refused)


def test_tags_need_not_be_utf8(clips, tmp_path):
    data = (clips / "a.wav").read_bytes().replace(b'{"a": 1}', b'{"a\xe9":1}')
    (tmp_path / "latin.wav").write_bytes(data)
    assert read_metadata(tmp_path / "latin.wav")["a\ufffd"] == 1
    assert len(read_audio(tmp_path / "latin.wav", 48000)) == 24000


def test_a_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as out:
        audio = out.add_stream("aac", rate=48000, layout="stereo")
        cover = out.add_stream("png", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(tone(300).T.copy(), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    assert probe(tmp_path / "a.m4a").width is None
    with pytest.raises(UserError, match="no picture"):
        read_video(tmp_path / "a.m4a", 1, 24, 32, 32)
