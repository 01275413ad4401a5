"""The Python face: what it exports, that two calls give what two processes give, and clips in memory."""

import dataclasses
import hashlib
import html
import json
import subprocess
import sys
import typing

import numpy as np
import pytest
from PIL import Image

import mlx_ltxw as ltx
from mlx_ltxw.cli import main
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.video import read_video

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'
SMALL = {"width": 64, "height": 32, "frames": 17, "steps": 2}
SHORT = SMALL | {"frames": 9}


@pytest.fixture(scope="module")
def model():
    with ltx.load() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def clip(model):
    return model.generate(PROMPT, adapter="whisper", seed=3, **SMALL)


def in_a_process(code, folder=None):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def digest(clip):
    return hashlib.sha256(clip.waveform.tobytes() + clip.frames.tobytes()).hexdigest()


def test_importing_loads_and_changes_nothing():
    code = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "import mlx_ltxw\n"
        "heavy = {'mlx.core', 'mlx_lm', 'numpy', 'av', 'click', 'tqdm', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert os.environ == before\n"
        "assert {'load', 'convert', 'Clip'} <= set(dir(mlx_ltxw))\n"
    )
    in_a_process(code)


def test_every_exported_name_is_there():
    for name in ltx.__all__:
        assert getattr(ltx, name) is not None
    with pytest.raises(AttributeError):
        ltx.nothing  # noqa: B018


@pytest.mark.parametrize("room", ["convert", "train"])
@pytest.mark.parametrize("first", ["function", "module"])
def test_a_name_is_function_and_room_in_either_order(room, first, tmp_path):
    """`mlx_ltxw.convert` is a package, and `from mlx_ltxw import convert` must give what can be called."""
    module = {"convert": "mlx_ltxw.convert.plan", "train": "mlx_ltxw.train.config"}[room]
    lines = [f"from mlx_ltxw import {room}", f"import {module}"]
    code = "\n".join(lines if first == "function" else lines[::-1])
    code += (
        f"\nimport mlx_ltxw as ltx\nfrom mlx_ltxw import {room} as again, UserError\n"
        f"assert ltx.{room} is again is {room}\n"
        f"try:\n    {room}('nowhere', 'x')\nexcept UserError as error:\n    print(error)\n"
    )
    assert "nowhere" in in_a_process(code, tmp_path) or room == "convert"


def test_two_calls_in_one_process_give_what_two_processes_give(model, clip):
    other = model.generate(PROMPT, seed=4, **SMALL)
    again = model.generate(PROMPT, adapter="whisper", seed=3, **SMALL)
    code = (
        f"import hashlib, mlx_ltxw as ltx\nsmall = {SMALL!r}\n"
        f"clip = ltx.load(resident=False).generate({PROMPT!r}, seed=SEED, adapter=ADAPTER, **small)\n"
        "print(hashlib.sha256(clip.waveform.tobytes() + clip.frames.tobytes()).hexdigest())\n"
    )
    assert digest(again) == in_a_process(code.replace("SEED", "3").replace("ADAPTER", "'whisper'"))
    assert digest(clip) == digest(again) != digest(other)


def test_a_clip_in_memory_and_on_disk(clip, tmp_path):
    assert clip.frames.shape == (17, 32, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.waveform.shape[1] == 2
    assert clip.sample_rate == 48000
    assert clip.settings.seeds == (3,)
    assert clip.measure().duration == pytest.approx(len(clip.waveform) / 48000)
    assert "seed 3" in repr(clip)
    video, sound = clip.save(tmp_path / "out.mp4"), clip.save(str(tmp_path / "out.wav"))
    assert (probe(video).width, probe(video).height) == (64, 32)
    assert np.abs(read_video(video, 17, 24, 64, 32).astype(int) - clip.frames).mean() < 8  # x264 and 4:2:0
    assert np.abs(read_audio(sound, 48000) - clip.waveform.clip(-1, 1)).max() < 1e-4
    assert clip.save(video) == video
    with pytest.raises(UserError, match="exists already"):
        clip.save(video, overwrite=False)
    with pytest.raises(UserError, match="ends in"):
        clip.save(tmp_path / "out.avi")


def test_a_notebook_gets_a_player(model, clip, monkeypatch):
    shown = clip._repr_html_()
    assert shown.startswith('<figure><video controls src="data:video/mp4;base64,')
    assert html.escape(PROMPT) in shown
    assert '"close your eyes"' not in shown.partition("<figcaption>")[2]
    sound = model.generate('<script>, (woman): "stay here"', audio_only=True, **SMALL)
    assert "<audio controls" in sound._repr_html_()
    assert "<script>" not in sound._repr_html_()
    with pytest.raises(UserError, match="sound alone"):
        _ = sound.frames


def test_what_was_saved_is_inspected_and_made_again(model, clip, tmp_path):
    made = ltx.inspect(clip.save(tmp_path / "out.mp4"))
    assert made.record.kind == "clip"
    assert "whisper" in str(made)
    (again,) = model.clips(made.request)
    assert digest(again) == digest(clip)


def test_several_seeds_are_several_clips(model):
    clips = model.generate(PROMPT, seed=[1, 2], audio_only=True, **SMALL)
    assert [one.settings.seeds for one in clips] == [(1,), (2,)]
    assert not np.array_equal(clips[0].waveform, clips[1].waveform)


def test_num_counts_seeds(model):
    request = {"audio_only": True, **SHORT}
    assert [one.settings.seeds for one in model.generate(PROMPT, num=2, seed=7, **request)] == [(7,), (8,)]
    (alone,) = model.generate(PROMPT, num=1, **request)
    assert alone.settings.seeds == (10,)
    with pytest.raises(UserError, match="num counts from one seed"):
        model.generate(PROMPT, num=2, seed=[1, 2], **request)
    with pytest.raises(UserError, match="0 clips cannot be made"):
        model.generate(PROMPT, num=0, **request)


def test_a_run_goes_on_after_a_step(model):
    """Of two seeds, cut in the second: the first is not made again, and the bits are those of the whole run."""
    request = ltx.Request(PROMPT, seeds=(3, 4), adapters=("whisper",), **{**SHORT, "steps": 3})
    events = list(model.stream(request))
    cut = next(event for event in events if isinstance(event, ltx.Step) and (event.seed, event.index) == (4, 2))
    again = list(model.stream(request, after=cut))
    assert [type(event) for event in again] == [
        ltx.Conditioned, ltx.Resumed, ltx.Adapted, ltx.Step, ltx.Decoded
    ]  # fmt: skip
    assert np.array_equal(again[-1].waveform, events[-1].waveform)
    assert (again[-2].seed, again[-2].index) == (4, 3)
    assert np.array_equal(again[-2].latents.video, events[-2].latents.video)
    for other in ({"seeds": (5,)}, {"steps": 4}):
        with pytest.raises(UserError, match="Step 2 of 3 of seed 4 is of another request"):
            model.stream(dataclasses.replace(request, **other), after=cut)


def test_files_as_the_command_makes_them(model, tmp_path, monkeypatch):
    """Takes in tracks, previews told of and gone, a cut that goes on, and the same bytes as the command's."""
    request = ltx.Request(PROMPT, adapters=("whisper",), takes=("soft", "normal"), **SHORT)
    told = []

    def stop(event):
        if isinstance(event, ltx.Step):
            raise KeyboardInterrupt

    path = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        model.make(request, path, tracks=True, follow=stop)
    assert [left.name for left in tmp_path.iterdir()] == ["out.mp4.unfinished"]
    made = model.make(request, path, tracks=True, wav=True, spectrogram=True, follow=told.append)
    names = [f"out.take{number}{ending}" for number in (1, 2) for ending in (".wav", ".png")]
    assert made == [tmp_path / name for name in (*names, "out.mp4")]
    assert sorted(tmp_path.iterdir()) == sorted(made)
    assert [event.index for event in told if isinstance(event, ltx.Step)] == [2]
    assert [len(event.takes) for event in told if type(event).__name__ == "Ranked"] == [2]
    with pytest.raises(UserError, match="exists already"):
        model.make(request, path, tracks=True)
    plain = dataclasses.replace(request, takes=())
    previews = []
    ours = model.make(
        plain, tmp_path / "a.mp4", resume=False, preview=1,
        follow=lambda event: previews.extend(file.exists() for file in getattr(event, "files", ())),
    )  # fmt: skip
    assert ours == [tmp_path / "a.mp4"]
    assert previews
    assert all(previews)
    assert not list(tmp_path.glob("a.preview*"))
    words = ["generate", PROMPT, "-o", str(tmp_path / "b.mp4"), "--adapter", "whisper"]
    words += [word for name, value in SHORT.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["mlx-ltxw", *words])
    with pytest.raises(SystemExit, match=r"^0$|^None$"):
        main()
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()


def test_a_random_seed_is_kept_in_the_settings(model):
    (seed,) = model.plan(ltx.Request(PROMPT, seeds=(-1,))).settings.seeds
    assert 0 <= seed < 1 << 32


def test_closing_the_events_ends_the_run(model):
    events = model.stream(ltx.Request(PROMPT, audio_only=True, **SMALL))
    kinds = []
    for event in events:
        kinds.append(type(event))
        if isinstance(event, ltx.Step):
            break
    assert kinds == [ltx.Conditioned, ltx.Step]
    assert event.latents.audio.shape[0] == 1
    events.close()
    assert list(events) == []


def test_a_picture_and_a_sound_are_given_by_name(model, tmp_path):
    """A man's face and line, given to a clip whose caption names a woman: he stays, in every frame."""
    size = {"width": 128, "height": 128, "frames": 17, "steps": 4}
    clip = model.generate('a man with black hair, (man): "close your eyes"', seed=3, **size)
    face, line = tmp_path / "face.png", clip.save(tmp_path / "line.wav")
    Image.fromarray(clip.frames[0]).save(face)
    talking = model.generate(PROMPT, image=face, audio=line, **size)
    assert (talking.settings.images, talking.settings.audio) == ((str(face),), str(line))
    given = read_audio(line, talking.sample_rate)
    assert np.array_equal(talking.waveform[: len(given)], given)
    assert not talking.waveform[len(given) :].any()  # silence to the picture's end
    assert np.abs(talking.frames.astype(int) - clip.frames[0]).mean(axis=(1, 2, 3)).max() < 5  # hers are 38 away
    assert len(read_audio(talking.save(tmp_path / "talking.mp4"), 48000)) == round(17 / 24 * 48000)
    with pytest.raises(UserError, match="no picture"):
        model.generate(PROMPT, image=3, **SMALL)


def test_keywords_of_generate_are_the_requests_fields():
    from mlx_ltxw.api import Fields

    fields = {field.name for field in dataclasses.fields(ltx.Request)} - {
        "prompt",
        "seeds",
        "adapters",
        "images",
        "takes",
    }
    assert set(typing.get_type_hints(Fields)) == fields


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ltx.load("nowhere"), "no model directory"),
        (lambda: ltx.measure("nowhere.wav"), "nowhere.wav"),
        (lambda: ltx.inspect("nowhere.safetensors"), "nowhere"),
        (lambda: ltx.export("whisper", "kohya"), "no spelling 'kohya'"),
        (lambda: ltx.train("nowhere", "run", stepz=3), "no training option 'stepz'"),
        (lambda: ltx.load().generate("a", register_at="0-1=normal"), "register_at has no adapter"),
    ],
)
def test_mistakes_are_user_errors_in_python_terms(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as raised:
        call()
    assert "--" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_is_exported_once(tmp_path):
    done = ltx.export("whisper", "diffusers", tmp_path / "w.safetensors")
    assert done.modules > 0
    with pytest.raises(UserError, match="exists already"):
        ltx.export("whisper", "comfyui", tmp_path / "w.safetensors")


def test_metadata_of_a_saved_clip(clip, tmp_path):
    stored = read_metadata(clip.save(tmp_path / "out.wav"))
    assert stored["kind"] == "clip"
    assert stored["seeds"] == [3]
    assert json.dumps(stored)


@pytest.mark.parametrize("memory", [0, -5, "0GB", "-1", "nan", True])
def test_a_memory_that_is_no_size(memory):
    with pytest.raises(ValueError, match="is no size"):
        ltx.load(memory=memory)


@pytest.mark.parametrize("memory", [12_500_000_000, 12.5e9, "12.5GB", "12500 mb"])
def test_a_memory_in_bytes_or_as_people_write_it(memory):
    assert ltx.load(memory=memory)._memory == 12_500_000_000
