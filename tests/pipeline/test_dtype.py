"""The transformer's numbers: asked for, kept in the metadata, and float16 for the transformer alone."""

import json
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw import machine
from mlx_ltxw.api import Model
from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.numbers import LostNumbers
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import DTYPES, Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.takes.record import read_record
from mlx_ltxw.weights.dtype import NAMED, default_dtype
from scripts.takes_precision import ratio_of
from tests.convert.made import ROOT
from tests.numbers import relative_error

SIZE = {"frames": 9, "width": 64, "height": 64, "steps": 2}


def dtypes(network):
    return {value.dtype for _, value in tree_flatten(network.parameters())}


def test_float16_is_the_transformers_alone(made_model):
    job = plan(Request("a room", **SIZE, dtype="float16"), made_model)
    networks = Networks(made_model, job.dtype)
    assert dtypes(networks.transformer(audio_only=False)) == {mx.float16, mx.float32}  # tables
    assert dtypes(networks.video_vae()) == dtypes(networks.audio_vae()) == {mx.bfloat16}
    assert dtypes(made_model.load_text_encoder(mx.float16).model) == {mx.bfloat16}
    assert networks.contexts(job.prompts).video_contexts.dtype == mx.bfloat16
    assert dtypes(networks.vocoder()) == {mx.float32}


def test_errors_against_float32(made_model):
    """A whole run: float16 within its 10 bits, bfloat16 within its 7, of the same latents."""
    made = {}
    for name in DTYPES:
        *_, last = (e for e in Model(made_model, resident=False).stream(Request("a room", **SIZE, dtype=name))
                    if hasattr(e, "latents"))  # fmt: skip
        made[name] = np.asarray(last.latents.video)
    errors = {name: relative_error(made[name], made["float32"]) for name in DTYPES}
    assert errors["float32"] == 0 < errors["float16"] < errors["bfloat16"] < 0.1


def test_the_metadata_makes_it_again(made_model, tmp_path):
    clip = Model(made_model).generate("a room", **SIZE | {"audio_only": True}, dtype="float16")
    clip.save(tmp_path / "a.wav")
    record = read_record(tmp_path / "a.wav")
    assert record.model["dtype"] == record.requests[0].dtype == "float16"
    Model(made_model).generate("a room", **SIZE | {"audio_only": True}).save(tmp_path / "b.wav")
    record = read_record(tmp_path / "b.wav")
    assert record.requests[0].dtype is None
    assert NAMED[record.model["dtype"]] == plan(Request("a room", **SIZE), made_model).dtype


def test_other_names_are_refused(made_model):
    with pytest.raises(UserError, match=r"no dtype .int8.\. Give one of bfloat16, float16, float32"):
        plan(Request("a room", **SIZE, dtype="int8"), made_model)


@pytest.mark.slow
def test_the_script_that_measures_takes():
    size = ["--layers", "1", "--scale", "16", "--width", "32", "--height", "32", "--frames", "9", "--text-tokens", "8"]
    command = [sys.executable, "-m", "scripts.takes_precision", "--model", "random", "--takes", "2", *size]
    done = subprocess.run([*command, "--steps", "2"], capture_output=True, text=True, cwd=ROOT, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    steps, same = [row for row in rows if "ratio" in row], [row for row in rows if "float32_from_alone" in row]
    assert [(row["step"], row["takes"]) for row in steps] == [(1, 2), (2, 2)] * 2
    assert all(0 < row["alone"] < 0.05 and 0 < row["among"] < 0.05 for row in steps)
    assert [row["ratio"] for row in steps[:2]] == [1, 1]  # of one voice, and the CPU computes all of them alike
    assert all(row["picture_and_base_sound_identical"] and row["float32_from_alone"][0] < 1e-5 for row in same)
    assert same[0]["takes_and_steps_identical"] == "4 of 4"


def test_ratio_of_takes():
    """Twice as far is 2, with no error where all are; of one in four that is, by hand."""
    alone = np.ones((2, 2))
    assert ratio_of(alone, 2 * alone) == (2, 0)
    ratio, error = ratio_of(alone, np.array([[1, 1], [1, 2]]))
    assert ratio == pytest.approx(7**0.5 / 2)
    left_out = np.array([2**0.5, 2**0.5, 2**0.5, 1])
    assert error == pytest.approx((3 * np.var(left_out)) ** 0.5)


@pytest.mark.slow
def test_the_script_that_compares_kernels_of_takes():
    size = ["--scale", "16", "--width", "32", "--height", "32", "--frames", "9", "--text-tokens", "8", "--takes", "2"]
    command = [sys.executable, "-m", "scripts.takes_kernels", *size]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()][1:]
    assert len({row["what"] for row in rows}) == 12
    assert all(0 < row["rounded"] <= 1.01 * row["one"] < 0.01 for row in rows)
    assert {row["rows_equal"] for row in rows} == {"2 of 2"}


def test_the_measuring_script():
    size = ["--layers", "1", "--scale", "16", "--width", "32", "--height", "32", "--frames", "9", "--text-tokens", "8"]
    command = [sys.executable, "-m", "scripts.half_precision", *size]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    _, exact, bfloat16, float16 = map(json.loads, done.stdout.splitlines())
    assert exact["video_error"] == 0
    assert 0 < float16["audio_error"] < bfloat16["audio_error"] < 0.05
    assert exact["largest"] > 0


@pytest.mark.parametrize(
    ("chip", "metal", "wanted"),
    [("Apple M1", True, mx.float16), ("Apple M2 Ultra", True, mx.float16), ("Apple M3 Max", True, None),
     ("Apple M10", True, None), ("NVIDIA M1", True, None), ("Apple M1", False, None)],
)  # fmt: skip
def test_float16_where_bfloat16_is_emulated(made_model, monkeypatch, chip, metal, wanted):
    monkeypatch.setattr(machine, "on_metal", lambda: metal)
    monkeypatch.setattr(machine, "device_name", lambda: chip)
    job = plan(Request("a room", **SIZE), made_model)
    assert job.dtype == (wanted or default_dtype())
    assert bool(wanted) == any("runs in float16" in warning for warning in job.warnings)
    asked = plan(Request("a room", **SIZE, dtype="bfloat16"), made_model)
    assert asked.dtype == mx.bfloat16
    assert not [warning for warning in asked.warnings if "float16" in warning]


def test_the_choice_is_in_the_plan(made_model, monkeypatch):
    """As `--plan` prints it, and as JSON."""
    from click.testing import CliRunner

    from mlx_ltxw.cli import group

    words = ["generate", "a room", "-m", str(made_model.path), "--plan", *(f"--{name}={SIZE[name]}" for name in SIZE)]
    monkeypatch.setattr(machine, "device_name", lambda: "Apple M2 Max")
    for metal, wanted in ((True, "float16"), (False, "float32")):
        monkeypatch.setattr(machine, "on_metal", lambda metal=metal: metal)
        done = CliRunner().invoke(group, words)
        assert f"the transformer in {wanted}\n" in done.stdout
        assert ("no units for bfloat16" in done.stderr) == ("--dtype bfloat16" in done.stderr) == metal
        planned = json.loads(CliRunner().invoke(group, [*words, "--json"]).stdout)
        assert planned["dtype"] == wanted
        assert any("float16" in note for note in planned["notes"]) == metal


def test_an_overflow_of_float16_says_what_to_do(made_model, monkeypatch):
    """A velocity of 1e5 does not fit into float16."""
    monkeypatch.setattr(machine, "on_metal", lambda: True)
    monkeypatch.setattr(machine, "device_name", lambda: "Apple M1")
    job = plan(Request("a room", **SIZE), made_model)
    monkeypatch.setattr(machine, "on_metal", lambda: False)  # what follows computes on this one
    networks = Networks(made_model, job.dtype)
    transformer = networks.transformer(audio_only=False)
    transformer.proj_out.bias = transformer.proj_out.bias + 60000
    transformer.proj_out.weight = transformer.proj_out.weight * 60000
    networks = Networks(made_model, job.dtype, transformer=transformer)
    with pytest.raises(LostNumbers) as told:
        list(run(job, networks))
    assert "dtype=bfloat16" in told.value.hint
