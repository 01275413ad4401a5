"""A clip of one colour or a silent one is told before it is written, however it is made; lost numbers end a run."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.api import Model, Request
from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline import run
from mlx_ltxw.pipeline.events import Decoded
from mlx_ltxw.takes import make as makes
from mlx_ltxw.takes.events import Suspect, Written
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.suspect import Suspicion

RATE = 48000
TONE = np.repeat(0.1 * np.sin(np.arange(RATE) * 0.05, dtype=np.float32)[:, None], 2, 1)
SILENCE = np.zeros_like(TONE)
NOISE = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), np.uint8)
GREY = np.full_like(NOISE, 128)


def decoded(frames, wave):
    return Decoded(10, None if frames is None else iter([frames[:4], frames[4:]]), wave, RATE, 0.0, 0)


def notes(frames, wave):
    clip = decoded(frames, wave)
    watch = Suspicion(clip)
    for chunk in clip.video or ():
        np.testing.assert_array_equal(watch.frames(chunk), chunk)
    return " ".join(watch.notes)


def test_what_is_told():
    faint = np.clip(GREY + np.random.default_rng(1).integers(0, 2, GREY.shape), 0, 255).astype(np.uint8)
    one = GREY.copy()
    one[7] = NOISE[7]
    gradient = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], GREY.shape)
    assert notes(NOISE, TONE) == notes(one, TONE) == notes(gradient, TONE) == notes(None, TONE) == ""
    assert "one colour in all its 9 frames" in notes(GREY, TONE)
    assert "one colour" in notes(faint, TONE)
    assert "silent" in notes(None, SILENCE)
    assert "silent" in notes(NOISE, SILENCE + 5e-4)
    both = notes(GREY, SILENCE)
    assert "one colour" in both
    assert "silent" in both


@pytest.fixture
def broken(monkeypatch):
    """Every run ends with a grey, silent clip, as a GPU that gave up may return."""

    def grey(networks, tokens, geometry, *_):
        yield np.full((geometry.frames, geometry.height, geometry.width, 3), 128, np.uint8)

    monkeypatch.setattr(run, "decode_video", grey)
    monkeypatch.setattr(run, "decode_audio", lambda networks, tokens: (SILENCE[: RATE * 9 // 24], RATE))


SIZE = {"frames": 9, "width": 64, "height": 64, "steps": 1}


@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
def test_it_is_told_before_the_file_has_its_name(broken, made_model, tmp_path, name):
    job = makes.fit(Request("a room", **SIZE, audio_only=name.endswith("wav")), made_model)
    there = {}
    for event in makes.make(job, Output(tmp_path / name)):
        there.setdefault(type(event), (tmp_path / name).exists())
    assert there[Suspect] is False
    assert there[Written] is True


def test_scripts_tell(broken, made_model, tmp_path):
    from mlx_ltxw.takes.script import make_script, plan_parts

    jobs = plan_parts([Request("a room", **SIZE), Request("a hall", **SIZE, audio_only=False)], made_model)
    events = [event for event in make_script(jobs, Output(tmp_path / "a.mp4")) if isinstance(event, Suspect)]
    assert len(events) == 2
    assert "one colour" in " ".join(events[0].notes)


def test_python_is_warned(broken, made_model, tmp_path):
    clip = Model(made_model).generate("a room", **SIZE)
    with pytest.warns(UserWarning, match="one colour in all its 9 frames"):
        clip.save(tmp_path / "a.mp4")


@pytest.mark.parametrize("flags", [[], ["-q"], ["--json"]])
def test_the_command_tells(broken, made_model, tmp_path, flags):
    from click.testing import CliRunner

    from mlx_ltxw.cli import group

    size = [f"--{name}={value}" for name, value in SIZE.items()]
    words = ["generate", "a room", "-m", str(made_model.path), *size, "-o", str(tmp_path / "a.mp4"), *flags]
    done = CliRunner().invoke(group, words)
    assert done.exit_code == 0, done.output
    if flags == ["--json"]:
        events = [json.loads(line) for line in done.stdout.splitlines()]
        (told,) = [event for event in events if event["event"] == "suspect"]
        assert [event["event"] for event in events].index("suspect") < len(events) - 1
        assert "silent" in " ".join(told["notes"])
    else:
        assert "Warning: seed 10: The sound is silent. Make it again" in done.stderr


def test_latents_that_are_no_numbers_end_the_run(made_model, monkeypatch):
    """At the step where they are lost, not after the last."""
    from mlx_ltxw.pipeline.denoise import Denoiser

    calls, predict = [], Denoiser.__call__

    def lost(self, latents, sigma):
        calls.append(sigma)
        made = predict(self, latents, sigma)
        return made if len(calls) < 2 else made._replace(audio=made.audio * mx.nan)

    monkeypatch.setattr(Denoiser, "__call__", lost)
    with pytest.raises(UserError, match=r"The latents of step 2 are no numbers any more") as error:
        Model(made_model).generate("a room", **SIZE | {"steps": 6})
    assert len(calls) == 2
    assert "doctor" in error.value.hint


@pytest.mark.parametrize(("place", "said"), [("contexts", "The prompt's contexts"), ("sound", "The sound's samples")])
def test_other_lost_numbers(made_model, monkeypatch, place, said):
    if place == "contexts":
        from mlx_ltxw.pipeline.contexts import Contexts
        from mlx_ltxw.pipeline.networks import Networks

        contexts = Networks.contexts

        def lost(self, *arguments):
            made = contexts(self, *arguments)
            return Contexts(made.video_contexts * mx.inf, made.audio_contexts)

        monkeypatch.setattr(Networks, "contexts", lost)
    else:
        monkeypatch.setattr(run, "decode_audio", lambda networks, tokens: (TONE * np.float32(np.nan), RATE))
    with pytest.raises(UserError, match=said):
        Model(made_model).generate("a room", **SIZE)


def test_a_picture_of_no_numbers(made_model, monkeypatch):
    from mlx_ltxw.pipeline import decode

    tiles = decode.decode_tiled
    monkeypatch.setattr(decode, "decode_tiled", lambda *given: (chunk * mx.nan for chunk in tiles(*given)))
    clip = Model(made_model).generate("a room", **SIZE)
    with pytest.raises(UserError, match="The picture's values are no numbers"):
        _ = clip.frames
