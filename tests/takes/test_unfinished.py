"""Runs that are cut, from the files' side: what is kept, whose it is, what it costs, and that it goes."""

import dataclasses
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from mlx_ltxw import files
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.video import read_video
from mlx_ltxw.pipeline.events import Conditioned, Resumed, Step
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.takes.events import Decoding, Note, Written
from mlx_ltxw.takes.make import fit, make
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.script import make_script, plan_parts
from tests.cli.conftest import cli  # noqa: F401
from tests.train.made import ROOT

PROMPT = 'a woman in dim light, (woman): "close your eyes"'
REQUEST = Request(PROMPT, width=64, height=32, frames=9, steps=3)
FLAGS = ("--width", 64, "--height", 32, "--frames", 9)


def cut_at(kind, request, output, count=1):
    """Runs until an event of a kind has come so many times, and ends there."""
    events = make(fit(request, open_model()), output)
    with closing(events):
        found = [next(event for event in events if isinstance(event, kind)) for _ in range(count)]
    return found[-1]


def run(request, output):
    return list(make(fit(request, open_model()), output))


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The clip as it is made in one go."""
    path = tmp_path_factory.mktemp("whole") / "out.mp4"
    run(REQUEST, Output(path))
    return path


@pytest.mark.parametrize(("kind", "count", "index"), [(Step, 1, 1), (Step, 2, 2), (Step, 3, 3), (Decoding, 1, 3)])
def test_a_cut_run_goes_on_and_leaves_the_clip_alone(whole, tmp_path, kind, count, index):
    output = Output(tmp_path / "out.mp4")
    cut_at(kind, REQUEST, output, count)
    assert names(tmp_path) == ["out.mp4.unfinished"]
    events = run(REQUEST, output)
    (resumed,) = of(Resumed, events)
    assert (resumed.seed, resumed.index, resumed.total) == (10, index, 3)
    assert [step.index for step in of(Step, events)] == [1, 2, 3][index:]
    assert len(of(Conditioned, events)) == (index < 3)
    assert names(tmp_path) == ["out.mp4"]
    assert output.path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("change", [{}, {"seeds": (11,)}])
def test_one_run_at_a_time_makes_an_output(tmp_path, change):
    """The second would go on from the first one's steps, or replace its clip."""
    output = Output(tmp_path / "out.mp4")
    with closing(make(fit(REQUEST, open_model()), output)) as events:
        next(event for event in events if isinstance(event, Step))
        other = make(fit(dataclasses.replace(REQUEST, **change), open_model()), output)
        with pytest.raises(UserError, match=rf"out\.mp4 is in use by a run, process {os.getpid()} on "):
            next(other)
        next(make(fit(REQUEST, open_model()), Output(tmp_path / "another.mp4")))
    assert names(tmp_path) == ["out.mp4.unfinished"]


def test_what_another_run_has_made_meanwhile_is_not_replaced(tmp_path):
    """It was asked for while nothing was there, and begins when the other has ended."""
    output, request = Output(tmp_path / "out.wav"), dataclasses.replace(REQUEST, steps=1, audio_only=True)
    waiting = make(fit(dataclasses.replace(request, seeds=(11,)), open_model()), output)
    run(request, output)
    before = output.path.read_bytes()
    with pytest.raises(UserError, match=r"out\.wav exists already"):
        next(waiting)
    assert output.path.read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"steps": 2}, {"seeds": (11,)}, {"adapters": ("whisper",)}, {"prompt": "a man"}, {"dtype": "bfloat16"}]
)
def test_another_request_begins_anew(tmp_path, change):
    output, other = Output(tmp_path / "out.mp4"), dataclasses.replace(REQUEST, **change)
    cut_at(Step, REQUEST, output, 2)
    events = run(other, output)
    (note,) = of(Note, events)
    assert note.text == f"{output.path}.unfinished is of another request (seed 10, step 2 of 3) and is replaced."
    assert not of(Resumed, events)
    assert of(Step, events)[0].index == 1
    assert names(tmp_path) == ["out.mp4"]


def test_another_picture_of_the_same_name_begins_anew(tmp_path):
    from PIL import Image

    def draw(level):
        Image.new("RGB", (64, 32), (level, 90, 120)).save(tmp_path / "face.png")

    output = Output(tmp_path / "out.mp4")
    request = dataclasses.replace(REQUEST, steps=2, images=(str(tmp_path / "face.png"),))
    draw(10)
    cut_at(Step, request, output)
    assert of(Resumed, run(request, output))
    output.path.unlink()
    cut_at(Step, request, output)
    draw(200)
    assert not of(Resumed, run(request, output))


def test_no_resume_begins_anew(tmp_path):
    output = Output(tmp_path / "out.mp4", resume=False)
    cut_at(Step, REQUEST, output, 2)
    events = run(REQUEST, output)
    assert not of(Resumed, events)
    assert not of(Note, events)
    assert [step.index for step in of(Step, events)] == [1, 2, 3]
    assert names(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_told_and_not_used(whole, tmp_path, damage):
    output = Output(tmp_path / "out.mp4")
    cut_at(Step, REQUEST, output, 2)
    kept = tmp_path / "out.mp4.unfinished"
    data = bytearray(kept.read_bytes())
    data[-9] ^= 0x40
    kept.write_bytes({"cut": data[:-8], "flipped": data, "empty": b"", "foreign": b"ISO-10303-21;\n" * 9}[damage])
    events = run(REQUEST, output)
    (note,) = of(Note, events)
    assert note.text.startswith(f"{kept} cannot be used, and the clip is begun anew: ")
    assert [step.index for step in of(Step, events)] == [1, 2, 3]
    assert names(tmp_path) == ["out.mp4"]
    assert output.path.read_bytes() == whole.read_bytes()


def test_a_full_disk_ends_no_run(whole, tmp_path, monkeypatch):
    """It is told once; what is kept of a step before is still the one to go on from."""
    output = Output(tmp_path / "out.mp4")
    flush = files._flush

    def full(path):
        if (tmp_path / "out.mp4.unfinished").exists() and path.stat().st_size < 1 << 20:  # a step after the first one
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    monkeypatch.setattr(files, "_flush", full)
    events = make(fit(REQUEST, open_model()), output)
    told = list(itertools.takewhile(lambda event: not isinstance(event, Decoding), events))
    events.close()
    monkeypatch.undo()
    (note,) = of(Note, told)
    assert note.text.startswith("The steps of this clip are not kept now, and if it is cut, it goes on from step 1: ")
    assert "No space left" in note.text
    assert len(of(Step, told)) == 3
    (resumed,) = of(Resumed, run(REQUEST, output))
    assert resumed.index == 1
    assert output.path.read_bytes() == whole.read_bytes()


def test_an_error_says_what_is_kept(tmp_path, monkeypatch):
    """A GPU that gives up while it decodes, and a disk that is full then."""

    def broken(*_):
        raise RuntimeError("[METAL] Command buffer execution failed: Caused GPU Timeout Error")

    monkeypatch.setattr("mlx_ltxw.pipeline.run.decode_audio", broken)
    with pytest.raises(UserError, match=r"All 3 steps are kept in out.mp4.unfinished, and the same request goes on"):
        run(REQUEST, Output(tmp_path / "out.mp4"))
    monkeypatch.undo()
    assert of(Resumed, run(REQUEST, Output(tmp_path / "out.mp4")))[0].index == 3


def test_nothing_is_kept_in_a_folder_that_is_gone(tmp_path):
    """A disk that is unplugged between two steps."""
    folder = tmp_path / "gone"
    folder.mkdir()
    with pytest.raises(UserError, match=r"out\.mp4 cannot be written: .* is not a folder") as told:  # noqa: PT012
        for event in make(fit(REQUEST, open_model()), Output(folder / "out.mp4")):
            if isinstance(event, Step) and event.index == 1:
                shutil.rmtree(folder)
    assert "kept" not in told.value.hint


def test_lost_numbers_are_not_kept(tmp_path, monkeypatch):
    """The same request would lose them again."""

    def nothing(*_):
        return np.full((100, 2), np.nan, np.float32), 48000

    monkeypatch.setattr("mlx_ltxw.pipeline.run.decode_audio", nothing)
    with pytest.raises(UserError, match="no numbers") as raised:
        run(REQUEST, Output(tmp_path / "out.mp4"))
    assert "kept" not in str(raised.value)
    assert names(tmp_path) == []


def test_several_seeds_go_on(tmp_path):
    """What is written stays as it is; a clip that has lost a file is made again; nothing of others is replaced."""
    request = dataclasses.replace(REQUEST, seeds=(3, 4), steps=2)
    one = Output(tmp_path / "one" / "out.mp4", wav=True)
    one.path.parent.mkdir()
    run(request, one)
    clips = {path.name: path.read_bytes() for path in one.path.parent.iterdir()}
    two = Output(tmp_path / "two" / "out.mp4", wav=True)
    two.path.parent.mkdir()
    step = cut_at(Step, request, two, 3)
    assert (step.seed, step.index) == (4, 1)
    before = (two.path.parent / "out-3.mp4").stat().st_mtime_ns
    events = run(request, two)
    assert [(event.seed, event.index) for event in of(Step, events)] == [(4, 2)]
    assert [event.text for event in of(Note, events)] == ["seed 3 is written already"]
    assert [event.seed for event in of(Written, events)] == [3, 4]
    assert (two.path.parent / "out-3.mp4").stat().st_mtime_ns == before
    assert {path.name: path.read_bytes() for path in two.path.parent.iterdir()} == clips
    for path in two.path.parent.iterdir():
        path.unlink()
    cut_at(Step, request, two, 3)
    (two.path.parent / "out-3.wav").unlink()
    events = run(request, two)
    assert [(event.seed, event.index) for event in of(Step, events)] == [(3, 1), (3, 2), (4, 2)]
    with pytest.raises(UserError, match="exist already"):
        run(request, two)


def test_takes_go_on(tmp_path):
    """Cut while the second of three is written: the first one's file is its own, and may be replaced."""
    request = dataclasses.replace(REQUEST, steps=2, adapters=("whisper",), takes=("soft", "seed=+1", "normal"))
    one, two = Output(tmp_path / "one" / "out.mp4"), Output(tmp_path / "two" / "out.mp4")
    for output in (one, two):
        output.path.parent.mkdir()
    run(request, one)
    cut_at(Written, request, two)
    assert names(two.path.parent) == ["out.mp4.unfinished", "out.take1.mp4"]
    events = run(request, two)
    assert not of(Step, events)
    assert names(two.path.parent) == [f"out.take{n}.mp4" for n in (1, 2, 3)]
    for path in one.path.parent.iterdir():
        assert (two.path.parent / path.name).read_bytes() == path.read_bytes()


def test_a_foreign_file_in_the_way_is_not_replaced(tmp_path):
    output = Output(tmp_path / "out.mp4")
    cut_at(Step, REQUEST, output, 3)
    output.path.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists already"):
        run(REQUEST, output)
    assert output.path.read_bytes() == b"mine"


def test_a_script_s_part_goes_on(tmp_path):
    shared = dataclasses.replace(REQUEST, audio_only=True, steps=2)
    jobs = plan_parts([shared, dataclasses.replace(shared, prompt='a room, (man): "stay here"')], open_model())
    one, two = Output(tmp_path / "one.wav"), Output(tmp_path / "two.wav")
    list(make_script(jobs, one))
    with closing(make_script(jobs, two)) as events:
        found = [next(event for event in events if isinstance(event, Step)) for _ in range(3)]
    assert found[-1].index == 1
    (left,) = (tmp_path / "two.wav.parts").glob("*.unfinished")
    assert left.name.startswith("002-")
    events = list(make_script(jobs, two))
    assert [step.index for step in of(Step, events)] == [2]
    assert names(tmp_path) == ["one.wav", "two.wav"]
    assert two.path.read_bytes() == one.path.read_bytes()


def test_a_killed_command_goes_on(cli, tmp_path):  # noqa: F811
    """SIGKILL, while a step is at work."""
    words = ["generate", PROMPT, "--width", 64, "--height", 32, "--frames", 9, "--steps", 40, "--wav"]
    command = [sys.executable, "-m", "tests.slowed", *map(str, words)]
    path = tmp_path / "out.mp4"
    environment = os.environ | {"SLOW_FROM": "3"}
    with subprocess.Popen(
        [*command, "-o", path], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        kept = tmp_path / "out.mp4.unfinished"
        while not kept.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert kept.exists()
    done = cli(*words, "-o", path)
    assert done.code == 0, done.err
    assert "seed 10 goes on from step " in done.err
    assert " of 40" in done.err
    assert names(tmp_path) == ["out.mp4", "out.wav"]
    assert cli(*words, "-o", tmp_path / "whole.mp4").code == 0
    assert np.array_equal(read_audio(path, 48000), read_audio(tmp_path / "whole.mp4", 48000))
    ours, theirs = (np.concatenate(list(read_video(p, 9, 24.0, 64, 32))) for p in (path, tmp_path / "whole.mp4"))
    assert np.array_equal(ours, theirs)
    assert (tmp_path / "out.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()


def test_the_command_says_it(cli, tmp_path):  # noqa: F811
    """In words and as JSON; `--no-resume` begins anew."""
    output = Output(tmp_path / "out.mp4")
    words = ("generate", PROMPT, *FLAGS, "--steps", 3, "-o", output.path)
    cut_at(Step, REQUEST, output, 3)
    done = cli(*words)
    assert done.code == 0, done.err
    assert "seed 10: all 3 steps are there, and only decoding is left" in done.err
    cut_at(Step, REQUEST, Output(output.path, overwrite=True), 2)
    done = cli(*words, "--overwrite", "--json")
    assert done.code == 0, done.err
    assert '{"event": "resumed", "seed": 10, "index": 2, "total": 3}' in done.out.splitlines()
    cut_at(Step, REQUEST, Output(output.path, overwrite=True), 2)
    done = cli(*words, "--overwrite", "--no-resume")
    assert done.code == 0, done.err
    assert "goes on" not in done.err
    assert "3 steps in" in done.err


def test_any_seed_is_the_one_that_was_drawn(cli, tmp_path):  # noqa: F811
    """The same command goes on, and another one draws anew."""
    path, random = tmp_path / "out.mp4", dataclasses.replace(REQUEST, seeds=(-1,))
    seed = cut_at(Step, random, Output(path), 2).seed
    done = cli("generate", PROMPT, *FLAGS, "--steps", 2, "--seed", -1, "-o", path)
    assert done.code == 0, done.err
    assert f"is of another request (seed {seed}, step 2 of 3) and is replaced" in done.err
    path.unlink()
    seed = cut_at(Step, random, Output(path), 2).seed
    done = cli("generate", PROMPT, *FLAGS, "--steps", 3, "--seed", -1, "-o", path)
    assert done.code == 0, done.err
    assert f"seed {seed} goes on from step 2 of 3" in done.err
