"""Names of the files, and what may not be there yet."""

from pathlib import Path

import pytest

from mlx_ltxw import files
from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.resolve import defaults_for, resolve
from mlx_ltxw.takes.output import Output


def settings(**fields):
    return resolve(Request("a man", **fields), defaults_for("dev", {}), "dev")


def test_names_of_one_clip_and_of_several():
    one = Output(Path("out.mp4"), wav=True, spectrogram=True)
    assert [str(p) for p in one.names(settings(), 10)] == ["out.mp4", "out.wav", "out.png"]
    assert [str(p) for p in one.names(settings(seeds=(1, 2)), 2)] == ["out-2.mp4", "out-2.wav", "out-2.png"]
    sound = Output(Path("out.WAV"), wav=True)
    assert sound.names(settings(), 10) == [Path("out.WAV")]


@pytest.mark.parametrize("taken", ["out-1.mp4", "out-2.wav", "out-2.png"])
def test_no_file_is_replaced_unless_it_may_be(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    output = Output(tmp_path / "out.mp4", wav=True, spectrogram=True)
    with pytest.raises(UserError, match=rf"{taken} exists already.*overwrite=True"):
        output.check(settings(seeds=(1, 2)))
    Output(tmp_path / "out.mp4", wav=True, spectrogram=True, overwrite=True).check(settings(seeds=(1, 2)))
    Output(tmp_path / "out.mp4").check(settings(seeds=(3, 4)))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("out.avi", {}),
        ("out", {}),
        ("out.mp4", {"audio_only": True}),
        ("out.wav", {"video": "x.mp4"}),
        ("no/out.mp4", {}),
    ],
)
def test_what_cannot_be_written(tmp_path, name, fields):
    with pytest.raises(UserError):
        Output(tmp_path / name).check(settings(**fields))


def test_a_full_disk_is_told_before_the_run(tmp_path, monkeypatch):
    output = Output(tmp_path / "out.mp4", wav=True, spectrogram=True)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(UserError, match=r"1\.0 MB of free space, and the clip needs about"):
        output.check(settings())
