"""Scripts: each part's own adapters, what decides that a part is kept, and what stays in the parts' folder."""

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_ltxw import files
from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.prompts.script import Part, read_script
from mlx_ltxw.takes import script
from mlx_ltxw.takes.events import PartBegun, Written
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.script import _part_file, check_parts, make_script, part_requests, plan_parts, with_new_parts

SHARED = Request("", width=64, height=32, frames=17, steps=1, audio_only=True, adapters=("whisper",))


@pytest.fixture(scope="module")
def model():
    return open_model()


def parts(*some, model, shared=SHARED):
    return part_requests(some, shared, model)


def test_a_part_has_its_own_adapters_and_a_normal_one_none(model):
    requests = parts(
        Part("a"), Part("b", normal=True), Part("c", normal=True, adapters=("x.safetensors",)), Part("d", adapters=()),
        Part("e", strength="0.5"), Part("f", adapters=("x:0.3", "y"), strength="0.5"), Part("g", seed=7),
        model=model, shared=dataclasses.replace(SHARED, register_at="0-1=normal"),
    )  # fmt: skip
    assert [one.adapters for one in requests] == [
        ("whisper",), (), ("x.safetensors",), (), ("whisper:0.5",), ("x:0.5", "y:0.5"), ("whisper",),
    ]  # fmt: skip
    assert [one.register_at is None for one in requests] == [False, True, False, True, False, False, False]
    assert [one.seeds for one in requests] == [(10,)] * 6 + [(7,)]
    with pytest.raises(UserError, match="strength and no adapter"):
        parts(Part("b", normal=True, strength="1"), model=model)


def test_yaml_says_adapter_strength_and_seed(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "- {scene: a room, speaker: woman, manner: normal, line: stay here}\n"
        "- {speaker: woman, manner: soft, line: stay here, adapter: whisper, strength: 0.5, seed: 3}\n"
        "- {speaker: woman, manner: soft, line: stay here, adapter: [a, b]}\n"
        "- {speaker: woman, manner: soft, line: stay here, adapter: none}\n"
    )
    normal, soft, two, none = read_script(path)
    assert normal.normal
    assert normal.adapters is None
    assert (soft.adapters, soft.strength, soft.seed, soft.normal) == (("whisper",), "0.5", 3, False)
    assert two.adapters == ("a", "b")
    assert none.adapters == ()


def test_a_random_seed_is_one_for_all_parts(model):
    requests = parts(Part("a"), Part("b"), model=model, shared=dataclasses.replace(SHARED, seeds=(-1,)))
    assert requests[0].seeds == requests[1].seeds != (-1,)


def test_a_part_is_known_by_the_content_of_its_adapter(model, tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    shutil.copy(BUILTIN_ADAPTERS["whisper"], one)
    shutil.copy(BUILTIN_ADAPTERS["whisper"], other)

    def name(adapter, **changes):
        request = dataclasses.replace(SHARED, prompt="a", adapters=(str(adapter),), **changes)
        return _part_file(tmp_path, 1, plan_parts([request], model)[0])[0].name

    known = name(one)
    assert name(other) == known
    assert name(f"{one}:0.5") != known
    assert name(one, seeds=(11,)) != known
    shutil.copy(BUILTIN_ADAPTERS["whisper-mixed"], one)
    assert name(one) != known


def test_parts_are_kept_made_again_and_cleared(model, tmp_path):
    """What is there is not made again, until it is asked for; only the program's own files go."""
    path, folder = tmp_path / "whole.wav", tmp_path / "whole.wav.parts"
    folder.mkdir()
    (folder / "001-take.wav").write_text("mine")
    requests = parts(Part('a, (woman): "stay here"'), Part('b, (woman): "stay here"'), model=model)

    def make(requests, **options):
        jobs = plan_parts(requests, model)
        events = list(make_script(jobs, Output(path, overwrite=True), **options))
        made = [event for event in events if isinstance(event, Written)]
        assert made[-1].files == (path,)
        begun = [event for event in events if isinstance(event, PartBegun)]
        assert len(made) - 1 == sum(not event.kept for event in begun)
        return [event.kept for event in begun]

    assert make(requests, keep=True) == [False, False]
    first = path.read_bytes()
    assert len(read_audio(path, 48000)) == 48000 * (17 + 17 - 2) / 24  # 0.1 s, two frames, are in both
    assert make(requests, keep=True) == [True, True]
    assert path.read_bytes() == first
    assert make(requests[::-1], keep=True) == [True, True]  # in whatever order
    assert make(requests, keep=True) == [True, True]
    renewed = with_new_parts(requests, path, [2], 5)
    assert make(renewed, keep=True, again=[2]) == [True, False]
    assert path.read_bytes() != first
    stored = read_metadata(path)
    assert (stored["kind"], [part["seeds"] for part in stored["parts"]]) == ("script", [[10], [5]])
    assert [one.seeds for one in with_new_parts(requests, path, [1], 8)] == [(8,), (5,)]
    assert make(renewed) == [True, True]
    assert [left.name for left in folder.iterdir()] == ["001-take.wav"]
    with pytest.raises(UserError, match="made of 2 parts, not 1"):
        with_new_parts(requests[:1], path, [1], 8)
    with pytest.raises(UserError, match="no part 3"):
        make(requests, again=[3])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"width": 96}, "differs from the first in width"), ({"seeds": (1, 2)}, "one new clip"),
     ({"audio_only": False}, "in audio_only")],
)  # fmt: skip
def test_parts_that_cannot_be_cut_together(model, tmp_path, change, words):
    requests = parts(Part("a"), Part("b"), model=model)
    requests[1] = dataclasses.replace(requests[1], **change)
    with pytest.raises(UserError, match=words):
        check_parts(plan_parts(requests, model), Output(tmp_path / "a.wav"))


def test_the_folder_goes_when_nothing_else_is_in_it(model, tmp_path):
    jobs = plan_parts(parts(Part('a, (woman): "stay here"'), model=model), model)
    list(make_script(jobs, Output(tmp_path / "a.wav")))
    assert [left.name for left in tmp_path.iterdir()] == ["a.wav"]
    with pytest.raises(UserError, match="exists already"):
        list(make_script(jobs, Output(tmp_path / "a.wav")))


def test_a_run_that_was_cut_between_the_whole_s_files_goes_on(model, tmp_path, monkeypatch):
    """The sound is there and the picture of its spectrum is not; a file of another script is not replaced."""
    jobs = plan_parts(parts(Part('a, (woman): "stay here"'), model=model), model)
    output = Output(tmp_path / "a.wav", spectrogram=True)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlx_ltxw.media.drawing.write_spectrogram", cut)
        with pytest.raises(KeyboardInterrupt):
            list(make_script(jobs, output))
    assert sorted(left.name for left in tmp_path.iterdir()) == ["a.wav", "a.wav.parts"]
    others = plan_parts(parts(Part('b, (woman): "stay here"'), model=model), model)
    with pytest.raises(UserError, match=r"a\.wav exists already"):
        list(make_script(others, output))
    assert [event.kept for event in make_script(jobs, output) if isinstance(event, PartBegun)] == [True]
    assert sorted(left.name for left in tmp_path.iterdir()) == ["a.png", "a.wav"]


@pytest.mark.parametrize("moment", ["flush", "clear"])
def test_a_run_that_was_cut_when_the_whole_was_there_goes_on(model, tmp_path, monkeypatch, moment):
    """A disk that is full when it is to note the name, and a process that is killed before it tidies up."""
    jobs = plan_parts(parts(Part('a, (woman): "stay here"'), model=model), model)
    output = Output(tmp_path / "a.wav")
    flush = files._flush_folder

    def fails(folder):
        if folder == tmp_path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(folder)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((files, "_flush_folder", fails) if moment == "flush" else (script, "_clear", killed)))
        with pytest.raises((UserError, KeyboardInterrupt)):
            list(make_script(jobs, output))
    whole = output.path.read_bytes()
    others = plan_parts(parts(Part('b, (woman): "stay here"'), model=model), model)
    with pytest.raises(UserError, match=r"a\.wav exists already"):
        list(make_script(others, output))
    assert [event.kept for event in make_script(jobs, output) if isinstance(event, PartBegun)] == [True]
    assert [left.name for left in tmp_path.iterdir()] == ["a.wav"]
    assert output.path.read_bytes() == whole


def test_a_disk_that_lets_nothing_go_takes_no_whole_away(model, tmp_path, monkeypatch):
    """It became read-only when the whole was written."""
    jobs = plan_parts(parts(Part('a, (woman): "stay here"'), model=model), model)

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refused)
    *_, last = make_script(jobs, Output(tmp_path / "a.wav"))
    assert isinstance(last, Written)


def test_two_processes_do_not_share_the_parts(model, tmp_path):
    """The second one hears who has them, and leaves them alone."""
    jobs = plan_parts(parts(Part('a woman, (woman): "close your eyes"'), model=model), model)
    folder = tmp_path / "out.wav.parts"
    hold = "import sys; from pathlib import Path; from mlx_ltxw.files import locked_folder\n"
    hold += "with locked_folder(Path(sys.argv[1]), 'script'): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        (folder / "001-0123456789abcdef.wav").write_text("theirs")
        with pytest.raises(UserError, match=f"out.wav.parts is in use by a script, process {other.pid} on "):
            list(make_script(jobs, Output(tmp_path / "out.wav")))
        assert (folder / "001-0123456789abcdef.wav").read_text() == "theirs"
        other.communicate()
    assert not (tmp_path / "out.wav").exists()
