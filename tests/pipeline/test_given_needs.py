"""What a run is given, and what lies between its stages, in the memory plan; and what is said where it does not fit."""

import dataclasses
import re

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine
from mlx_ltxw.pipeline.given import Material
from mlx_ltxw.pipeline.given_needs import Encoded, picture_encoding
from mlx_ltxw.pipeline.plan import _work, given_of, plan
from mlx_ltxw.pipeline.recipes import TWO_STAGE
from mlx_ltxw.pipeline.refusal import budget_for
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.printing import read_bytes
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from scripts.stage_peaks import measured, predicted
from tests.memory import check_plan

GB = 10**9
SLACK = 1_500_000
CLIP = Request('a woman, (woman, whispering): "close your eyes"', seeds=(1,), width=128, height=128, frames=17, steps=1)


@pytest.fixture(scope="module")
def built_in():
    return ModelDir.open(BUILTIN_MODEL)


def drawn(job):
    """Material of a job's sizes."""
    given, random = given_of(job.settings, job.geometry), np.random.default_rng(0)

    def frames(width, height):
        return random.integers(0, 255, (given.frames, height, width, 3), np.uint8)

    def picture(width, height):
        return random.uniform(0, 255, (height, width, 3)).astype(np.float32)

    def sound(rate):
        return 0.1 * random.standard_normal((round((job.geometry.seconds + 0.1) * rate), 2)).astype(np.float32)

    return Material((picture,) * given.pictures, frames if given.frames else None, sound if given.sound else None)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"images": ("a.png", "b.png@8")}, {"given picture", "sound", "picture"}),
        ({"video": "a.mp4", "retake": "0.1-0.4"}, {"given picture", "given sound", "sound", "picture"}),
        ({"audio": "a.wav"}, {"given sound", "picture"}),
    ],
    ids=["pictures", "retake", "sound"],
)
def test_what_is_given_takes_what_was_predicted(built_in, changes, parts, monkeypatch):
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    job = plan(dataclasses.replace(CLIP, **changes), built_in)
    said = {part: peak for part, peak in predicted(job).items() if peak}
    found = check_plan(said, lambda: measured(job, material=drawn(job)), SLACK)
    assert set(said) == set(found) == parts | {"text encoder", "text projection", "connectors", "denoising"}


def test_the_upsampler_is_counted_beside_the_transformer(two_distilled, monkeypatch):
    """Which stays where it is between two stages of one model."""
    monkeypatch.setenv("MLX_LTXW_CACHE", "0")
    request = dataclasses.replace(CLIP, pipeline=TWO_STAGE, steps=None, images=("a.png",), frames=9)
    job = plan(request, two_distilled)
    names = [need.name for need in job.budget.needs]
    between = names.index("upsampler spatial-x2")
    small, large = (f"denoising 9 frames of {size}" for size in ("64x64", "128x128"))
    assert (names[between - 1], names[between + 1]) == (small, large)
    assert {"given picture of 64x64", "given picture of 128x128"} <= set(names)
    upsampler = job.budget.needs[between]
    assert upsampler.weights > job.budget.needs[between - 1].weights == upsampler.beside > 0
    assert job.budget.part("upsampler spatial-x2")[0] == upsampler.weights - upsampler.beside
    said, parts = predicted(job), ("given picture", "upsampler", "denoising")

    def measure():
        found = measured(job, material=drawn(job))
        return {part: found[part] for part in parts}

    check_plan(said, measure, SLACK)


def test_a_clip_given_at_full_size_is_bounded(built_in):
    """On an H200 encoding 704x480 held 0.82 GB beyond the weights, of 97 frames or of 481 (`docs/log.md`)."""
    from mlx_ltxw.doctor.paper import PaperModel

    size = dataclasses.replace(plan(CLIP, built_in).geometry, width=704, height=480)
    held = [picture_encoding(PaperModel.at(None), mx.bfloat16, frames, size, True)[1] for frames in (97, 481)]
    assert held == [pytest.approx(0.82 * GB, rel=0.1)] * 2
    assert picture_encoding(PaperModel.at(None), mx.bfloat16, 1, size, True)[1] < held[0]


def test_what_is_encoded_follows_from_the_request(built_in):
    def of(**changes):
        job = plan(dataclasses.replace(CLIP, **changes), built_in)
        return given_of(job.settings, job.geometry)

    assert of() == Encoded()
    assert of(images=("a.png", "b.png@last", "c.png@8:0.5")) == Encoded(pictures=3, appended=2)
    assert of(audio="a.wav", revoice=0.7) == Encoded(sound=True)
    assert of(video="a.mp4") == Encoded(frames=17)
    assert of(video="a.mp4", revoice=0.5) == Encoded(frames=17, sound=True)
    assert of(video="a.mp4", extend=8 / 24) == Encoded(frames=9, sound=True)


@pytest.mark.parametrize(
    ("changes", "decoded"),
    [
        ({"retake": "0.1-0.4", "retake_what": "sound"}, {"sound"}),
        ({"retake": "0.1-0.4", "retake_what": "picture"}, {"picture"}),
        ({"revoice": 0.5}, {"sound"}),
    ],
)
def test_what_is_only_given_is_not_decoded(built_in, changes, decoded):
    needs = plan(dataclasses.replace(CLIP, video="a.mp4", **changes), built_in).budget.needs
    assert {need.name for need in needs} & {"sound", "picture"} == decoded


def test_pictures_on_the_way_make_the_steps_larger(built_in):
    """Each has the tokens of one latent frame, 16 of 128x128; the clip of 17 frames has 48."""
    plain, three = (plan(dataclasses.replace(CLIP, images=images), built_in) for images in ((), ("a@0", "b@8", "c@16")))
    more = {need.name: need.activations for need in three.budget.needs}["denoising 17 frames of 128x128"]
    less = {need.name: need.activations for need in plain.budget.needs}["denoising 17 frames of 128x128"]
    assert more > less


@pytest.fixture
def one_thread(monkeypatch):
    """Of OpenBLAS, whose buffers are counted by thread."""
    monkeypatch.setattr("mlx_ltxw.blas.threads", lambda: 1)


@pytest.mark.parametrize(("two", "memory"), [(False, 260), (True, 340)], ids=["one stage", "two stages"])
def test_every_change_that_is_named_fits(built_in, two_distilled, one_thread, monkeypatch, two, memory):
    """Of a clip that does not: taken at its word, each makes the plan fit, and a longer clip does not."""
    monkeypatch.setattr("mlx_ltxw.pipeline.budget.program_memory", lambda *_: 140_000_000)
    model, pipeline = (two_distilled, TWO_STAGE) if two else (built_in, None)
    request = dataclasses.replace(CLIP, width=256, height=256, frames=97, pipeline=pipeline, steps=None)

    def fits(memory_=memory * 10**6, **changes):
        try:
            return plan(dataclasses.replace(request, **changes), model, memory_).budget.fits
        except UserError:
            return False

    with pytest.raises(UserError, match="a part of it needs") as told:
        plan(request, model, memory * 10**6)
    frames = int(re.search(r"shorter \(frames=(\d+)\)", told.value.hint)[1])
    assert fits(frames=frames)
    assert not fits(frames=frames + 8)
    if two:
        width, height = map(int, re.search(r"smaller \(width=(\d+), height=(\d+)\)", told.value.hint).groups())
        assert fits(width=width, height=height)
        assert not fits(width=width + 64, height=height + 64)
    assert fits(read_bytes(re.search(r"let it use (.*?) \(memory\)", told.value.hint)[1].replace(" ", "")))


def test_smaller_and_shorter_where_neither_is_enough(built_in):
    """Of 512x512 in 97 frames at 125 MB."""
    large = dataclasses.replace(CLIP, width=512, height=512, frames=97)
    machine = Machine("cpu", GB // 8, GB // 8)
    with pytest.raises(UserError) as told:
        budget_for(_work(plan(large, built_in)), machine, program=0)
    found = re.fullmatch(r"Make it smaller and shorter \(width=(\d+), height=(\d+), frames=(\d+)\)\.", told.value.hint)
    width, height, frames = map(int, found.groups())
    mended = dataclasses.replace(large, width=width, height=height, frames=frames)
    assert budget_for(_work(plan(mended, built_in)), machine, program=0).fits


def test_what_no_change_mends_is_said_so(built_in):
    job = plan(dataclasses.replace(CLIP, video="a.mp4", retake="0.1-0.4"), built_in)
    machine = Machine("cpu", GB // 50, GB // 50)
    with pytest.raises(UserError) as told:
        budget_for(_work(job), machine, program=0)
    assert told.value.hint == "Close other programs, or use a machine with more memory."


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_large_picture_is_counted_while_it_is_read(built_in, beyond, one_thread, monkeypatch):
    """A camera's 12 million pixels held 330 MB of the process; none of it is decoded for the plan."""
    monkeypatch.setattr("mlx_ltxw.pipeline.budget.program_memory", lambda *_: 0)
    needed = 12_000_000 * 28
    memory = int(needed * 1.01 / 0.95) if not beyond else int(needed / 0.95)
    request = dataclasses.replace(CLIP, images=("a.png",))
    if beyond:
        with pytest.raises(UserError, match="reading pictures"):
            plan(request, built_in, memory, reading=needed)
    else:
        (need,) = (need for need in plan(request, built_in, memory, reading=needed).budget.needs if need.read == 0)
        assert need.name == "reading pictures"
        assert needed <= need.peak <= 1.01 * needed
