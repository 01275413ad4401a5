"""Previews: what a step predicts, in files that come and go."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.takes.events import Previewed, Written
from mlx_ltxw.takes.make import fit, make
from mlx_ltxw.takes.models import open_model
from mlx_ltxw.takes.output import Output

REQUEST = Request('a woman in dim light, (woman): "close your eyes"', width=64, height=32, frames=17, steps=4)


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3]), (2, [2]), (5, [])])
def test_a_preview_every_few_steps_and_none_when_the_clip_is_there(tmp_path, every, steps):
    output = Output(tmp_path / "out.mp4", preview=every)
    seen, pictures = [], []
    for event in make(fit(REQUEST, open_model()), output):
        if isinstance(event, Previewed):
            assert event.files[0] == tmp_path / "out.preview.png"
            assert sorted(tmp_path.glob("out.preview.*")) == sorted(set(event.files) | set(tmp_path.glob("*.wav")))
            pictures.append(np.asarray(Image.open(event.files[0])))
            seen.append(event.index)
    assert seen == steps
    assert all(picture.shape == (32, 64, 3) and picture.std() > 1 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_cut_run_leaves_a_whole_preview_and_nothing_half_written(tmp_path):
    """The same command then goes on, and takes the preview away in the end."""
    job = fit(REQUEST, open_model())
    events = make(job, Output(tmp_path / "out.mp4", preview=1))
    first = next(event for event in events if isinstance(event, Previewed))
    events.close()
    assert sorted(tmp_path.iterdir()) == sorted([*first.files, tmp_path / "out.mp4.unfinished"])
    assert len(read_audio(first.files[1], 48000)) > 10_000
    events = make(job, Output(tmp_path / "out.mp4", preview=1))
    assert [event.index for event in events if isinstance(event, Previewed)] == [2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_the_prediction_of_the_last_step_is_the_clip(tmp_path):
    """Euler's last step goes all the way to what was predicted."""
    request = dataclasses.replace(REQUEST, audio_only=True)
    events = list(make(fit(request, open_model()), Output(tmp_path / "out.wav", preview=1)))
    last = [event for event in events if isinstance(event, Step)][-1]
    assert np.allclose(last.clean.audio, last.latents.audio, atol=1e-6)
    assert [len(event.files) for event in events if isinstance(event, Previewed)] == [1, 1, 1]
    assert isinstance(events[-1], Written)


def test_a_preview_replaces_nothing_of_the_users(tmp_path):
    (tmp_path / "out.preview.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"out\.preview\.png exists"):
        make(fit(REQUEST, open_model()), Output(tmp_path / "out.mp4", preview=1))
