"""How long a run will take: told once its like has run here, and never a reason to fail."""

import dataclasses
import json

import pytest

from mlx_ltxw.pipeline.events import Step
from mlx_ltxw.pipeline.pace import NAME, Pace
from mlx_ltxw.pipeline.plan import pace_key, plan, split_over
from mlx_ltxw.pipeline.prompt_cache import default_folder
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.pipeline.split import PASSES, Split
from mlx_ltxw.printing import duration
from mlx_ltxw.world import World

REQUEST = Request("a woman whispers", width=64, height=64, frames=9, steps=3, seeds=(1,))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_LTXW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_told_once_a_run_was_made(dev, folder):
    job = plan(REQUEST, dev)
    assert job.budget.seconds is None
    assert "denoising takes" not in job.budget.line
    took = [event.seconds for event in run(job) if isinstance(event, Step)]
    again = plan(dataclasses.replace(REQUEST, seeds=(1, 2), steps=4), dev).budget
    assert again.seconds == pytest.approx(2 * 4 * (took[1] + took[2]) / 2)  # the first step loads
    assert again.line.endswith(f"denoising takes about {duration(again.seconds)}")
    assert again.as_dict()["seconds"] == again.seconds
    assert list(json.loads((folder / NAME).read_text()))


def test_several_machines_have_a_rate_of_their_own(dev):
    """Kept by their run, and told by the plan of each of them, but to nobody who makes the clip alone."""
    job = plan(REQUEST, dev)
    shared = dataclasses.replace(split_over(job, PASSES, 2), split=Split(PASSES, World(0, 2)))
    assert shared.budget.seconds is None
    Pace(default_folder()).note(pace_key(shared, job.stages[0]), job.stages[0], [1.5])
    assert split_over(job, PASSES, 2).budget.seconds == pytest.approx(3 * 1.5)
    assert split_over(job, PASSES, 3).budget.seconds is None
    assert plan(REQUEST, dev).budget.seconds is None


def test_more_tokens_take_longer(dev):
    job = plan(REQUEST, dev)
    stage = job.stages[0]
    tokens = stage.geometry.video_tokens + stage.geometry.audio_tokens
    pace = Pace(None)
    pace.note("work", stage, [1.0])
    assert pace.seconds("work", stage) is None  # kept nowhere
    larger = plan(dataclasses.replace(REQUEST, frames=17), dev).stages[0]
    more = larger.geometry.video_tokens + larger.geometry.audio_tokens
    assert pace_key(job, stage) == pace_key(job, larger)
    list(run(job))
    ratio = plan(dataclasses.replace(REQUEST, frames=17), dev).budget.seconds / plan(REQUEST, dev).budget.seconds
    assert ratio == pytest.approx(more / tokens)


def test_another_kind_of_run_has_a_rate_of_its_own(dev):
    list(run(plan(REQUEST, dev)))
    assert plan(REQUEST, dev).budget.seconds is not None
    for other in (dataclasses.replace(REQUEST, audio_only=True), dataclasses.replace(REQUEST, dtype="bfloat16")):
        assert plan(other, dev).budget.seconds is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b'{"KEY": "fast"}', b'{"KEY": -1}', b'{"KEY": NaN}', b'{"KEY": true}', b'{"KEY": 1e9}',
     b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20) + b"{}"],
    ids=["empty", "cut", "list", "text", "negative", "nan", "true", "huge", "bytes", "deep", "large"],
)  # fmt: skip
def test_a_damaged_file_is_as_none(dev, folder, content):
    folder.mkdir()
    job = plan(REQUEST, dev)
    work = pace_key(job, job.stages[0])
    (folder / NAME).write_bytes(content.replace(b"KEY", work.encode()))
    pace = Pace(folder)
    assert pace.seconds(work, job.stages[0]) is None
    pace.note(work, job.stages[0], [2.0, 1.0])
    assert pace.seconds(work, job.stages[0]) == pytest.approx(1.0)


def test_a_folder_that_takes_nothing_is_no_reason_to_fail(dev, folder):
    folder.write_text("a file")
    job = plan(REQUEST, dev)
    Pace(folder).note("work", job.stages[0], [1.0])
    assert Pace(folder).seconds("work", job.stages[0]) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.24, "4.2 s"), (52.4, "52 s"), (200, "3 min 20 s"), (240, "4 min"), (3575, "1 h"), (7500, "2 h 5 min")],
)
def test_seconds_as_people_say_them(seconds, text):
    assert duration(seconds) == text
