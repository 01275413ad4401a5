"""What training needs in memory: what is told is what it takes, what is chosen fits, and what cannot is told before."""

import dataclasses
import gc
import json
import re
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_ltxw.cli.train import train
from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine, limits
from mlx_ltxw.pipeline.budget import Budget
from mlx_ltxw.pipeline.encode import encode_frames, encode_sound
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.needs import Need, Subject, streaming
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.printing import read_bytes
from mlx_ltxw.train import budget, loop, refusal, sharing
from mlx_ltxw.train.budget import TRAINING, TrainingStep, budget_for_training
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.data.cache import PICTURES, SOUNDS
from mlx_ltxw.train.gradient.batches import KEPT_BYTES
from mlx_ltxw.train.record import RunArguments
from mlx_ltxw.train.start import Begun, Clips, job_of
from mlx_ltxw.train.step_needs import state_bytes, step_bytes
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, Residency
from tests.memory import check_plan
from tests.train.driver import job

GB = 10**9


@pytest.fixture(scope="module")
def built_in():
    return ModelDir.open(BUILTIN_MODEL)


def step(model, **options):
    return TrainingStep(model, TrainConfig(**options).with_sizes(model.generation), False)


class Big:
    """LTX-2.3's sizes without its files: 48 blocks of 0.774 GB, 0.19 of them the audio's side."""

    def layer_bytes(self, *_, which=lambda _: True, **__):
        picture, sound = which("attn1.to_q.weight"), which("audio_attn1.to_q.weight")
        return [584_000_000 * picture + 190_000_000 * sound] * 48, 860_000_000


@pytest.fixture
def big(monkeypatch):
    monkeypatch.setattr(budget, "layer_bytes", Big().layer_bytes)
    monkeypatch.setattr(budget, "step_bytes", lambda *_: 4 * GB)


@pytest.mark.parametrize(("gigabytes", "stay"), [(24, 12), (36, 31), (48, 48)])
def test_as_many_blocks_stay_as_fit(big, built_in, monkeypatch, gigabytes, stay):
    """95 % of the memory, less 4 GB of a step, 0.86 outside the blocks, 9.12 of the audio's side, and three blocks'
    picture's side on their way; 0.584 GB each."""
    monkeypatch.setattr(budget, "this_machine", lambda: Machine("metal", 128 * GB, gigabytes * GB))
    made = budget_for_training(step(built_in), program=0)
    assert made.peak <= made.limit
    if stay == 48:
        assert made.residency is RESIDENT
        assert "all 48 blocks" in made.line
    else:
        room = 0.95 * gigabytes - 4 - 0.86 - 48 * 0.19 - 3 * 0.584
        assert made.residency.layers == stay == int(room / 0.584)
        assert made.residency.audio_stays
        assert f"{stay} of 48 blocks stay in memory, the picture's side of the others" in made.line


class Two:
    """Two machines, of which the other says that it cannot hold the base whole."""

    rank, size, leads = 0, 2, True

    def __init__(self, **other):
        self.other = {"host": "other", "whole": False, "alone": "", "together": ""} | other

    def exchange(self, data):
        return [data, json.dumps(self.other).encode()]


@pytest.mark.parametrize(("options", "gigabytes"), [({}, 31), ({"gradient_checkpointing": True}, 27)])
def test_two_machines_share_what_one_cannot_hold(big, built_in, monkeypatch, options, gigabytes):
    """Of 48 blocks of 0.774 GB each holds half, and all of the audio's side where the way back needs it; one block and
    what is left of another are on their way, 4 GB of a step and 0.86 outside the blocks beside."""
    monkeypatch.setattr(budget, "this_machine", lambda: Machine("metal", 128 * GB, gigabytes * GB))
    task = dataclasses.replace(step(built_in, batch_size=2, **options), machines=2)
    monkeypatch.setattr(sharing, "budget_for_training", lambda one, memory: budget_for_training(one, memory, 0))
    made, shares = sharing.agreed_budget(task, Two())
    assert shares
    again = "gradient_checkpointing" in options
    part = 0.774 if again else 0.774 - 0.19
    training = next(need for need in made.needs if need.name.startswith(TRAINING))
    assert training.weights == pytest.approx((48 * (0.774 - part / 2) + 2 * part + 0.86) * GB, rel=0.01)
    crossing = 48 * (part + (0.19 if again else 0)) / 2
    assert f"({crossing:.2f} GB) from the others" in training.choice
    assert made.residency.audio_stays == (not again)


def test_machines_agree_on_sharing(big, built_in, monkeypatch):
    monkeypatch.setattr(budget, "this_machine", lambda: Machine("metal", 128 * GB, 64 * GB))
    monkeypatch.setattr(sharing, "budget_for_training", lambda one, memory: budget_for_training(one, memory, 0))
    two = dataclasses.replace(step(built_in), machines=2)
    assert not sharing.agreed_budget(two, Two(whole=True))[1]  # all hold it whole
    assert sharing.agreed_budget(two, Two())[1]  # the other does not
    assert not sharing.agreed_budget(two, Two(together="no room"))[1]  # each streams what it must
    asked = dataclasses.replace(two, config=dataclasses.replace(two.config, share_base=True))
    assert sharing.agreed_budget(asked, Two(whole=True))[1]
    with pytest.raises(UserError, match="other: no room"):
        sharing.agreed_budget(asked, Two(together="no room"))
    coupled = dataclasses.replace(asked, config=dataclasses.replace(asked.config, coupled=True))
    with pytest.raises(UserError, match="cannot share a base"):
        sharing.agreed_budget(coupled, Two())


def test_what_would_fit_is_named(big, built_in, monkeypatch):
    monkeypatch.setattr(budget, "this_machine", lambda: Machine("metal", 24 * GB, 24 * GB))
    with pytest.raises(UserError, match=r"does not fit into 22\.80 GB whole") as told:
        budget_for_training(step(built_in, coupled=True), program=0)
    assert "leave coupled out" in told.value.hint
    monkeypatch.setattr(budget, "step_bytes", lambda step, *_: (2 if step.config.gradient_checkpointing else 20) * GB)
    with pytest.raises(UserError, match="a part of it needs") as told:
        budget_for_training(step(built_in), program=0)
    assert "gradient_checkpointing=true" in told.value.hint
    monkeypatch.setattr(budget, "step_bytes", lambda *_: 40 * GB)
    with pytest.raises(UserError, match="a part of it needs") as told:
        budget_for_training(step(built_in), program=0)
    assert told.value.hint == "Close other programs, or use a machine with more memory."


@pytest.mark.parametrize(
    ("grows", "hint"),
    [
        (lambda one, size: 40 * size.frames / 97, r"Train on shorter clips \(frames=25\)\."),
        (
            lambda one, size: (10 if size.width < 128 else 30) + size.width / 32,
            r"Train on smaller clips \(width=32, height=32\)\.",
        ),
        (
            lambda one, size: (40 if one.config.gradient_checkpointing else 200) * size.frames / 97,
            r"shorter clips \(frames=25\) and give gradient_checkpointing=true and give batch_size=1\.",
        ),
        (lambda one, size: 10 if one.audio_only else 60, r"Train on sound alone \(audio_only=True\)\."),
    ],
    ids=["shorter", "smaller", "shorter and computed again", "sound alone"],
)
def test_clips_that_would_fit_are_named(big, built_in, monkeypatch, grows, hint):
    """24 GB, of which 11.1 are left for the step: 95 %, less 0.86 outside the blocks, 9.12 of the audio's side and
    three blocks' picture's side on their way. Sound alone streams nothing: 38 GB of weights."""
    gigabytes = 64 if "alone" in hint else 24
    monkeypatch.setattr(budget, "this_machine", lambda: Machine("metal", 128 * GB, gigabytes * GB))
    monkeypatch.setattr(budget, "step_bytes", lambda one, size, _: int(grows(one, size) * GB))
    with pytest.raises(UserError, match="a part of it needs") as told:
        budget_for_training(step(built_in), program=0)
    assert re.search(hint, told.value.hint), told.value.hint


@pytest.mark.parametrize(
    ("dtype", "packed", "told"), [("bfloat16", {}, True), ("bfloat16", {"x": {}}, False), ("float32", {}, False)]
)
def test_four_bits_are_offered_where_they_help(big, built_in, monkeypatch, dtype, packed, told):
    """Not to who has them already, nor on a CPU, which unpacks them before it trains."""
    monkeypatch.setattr(budget, "this_machine", lambda: Machine("metal", 24 * GB, 24 * GB))
    monkeypatch.setattr(budget, "step_bytes", lambda *_: 14 * GB)
    monkeypatch.setattr(refusal, "default_dtype", lambda: getattr(mx, dtype))
    monkeypatch.setattr(ModelDir, "quantized_layers", lambda *_: packed)
    with pytest.raises(UserError) as error:
        budget_for_training(step(built_in), program=0)
    assert ("quantize=4" in error.value.hint) == told


@pytest.mark.parametrize(
    ("options", "needed"),
    [({}, 40 + 0.86 + 9.12 + 3 * 0.584), pytest.param({"coupled": True}, 40 + 38.012, marks=pytest.mark.slow)],
)
def test_memory_that_would_do_is_named_if_the_machine_has_it(big, built_in, monkeypatch, options, needed):
    """What is not needed to stay is streamed; coupled, all of it stays."""
    monkeypatch.setattr(budget, "step_bytes", lambda *_: 40 * GB)
    for gigabytes in (64, 96):
        monkeypatch.setattr(budget, "this_machine", lambda n=gigabytes: Machine("metal", 128 * GB, n * GB))
        with pytest.raises(UserError) as told:
            budget_for_training(step(built_in, **options), 20 * GB, program=0)
        found = re.search(r"let it use (.*) \(memory\)", told.value.hint, re.IGNORECASE)
        assert bool(found) == (needed * 1.01 / 0.95 < gigabytes)
        if found:
            enough = read_bytes(found[1])
            assert enough == pytest.approx(needed * 1.01 / 0.95 * GB, rel=0.02)
            budget_for_training(step(built_in, **options), enough, program=0)


@pytest.mark.parametrize(
    ("options", "how"),
    [
        (["batch_size=2", "rank=4"], ""),
        (["batch_size=1", "rank=64"], ""),
        (["batch_size=2", "rank=16", "gradient_checkpointing=true"], "streamed"),
        (["batch_size=2", "rank=16"], "sound alone"),
    ],
    ids=["two clips", "one clip", "streamed and computed again", "sound alone"],
)
def test_a_step_takes_what_was_predicted(built_in, tmp_path, options, how):
    """With texts as long as real ones; the second step, when the state is there."""
    alone = how == "sound alone"
    task = job(built_in.path, tmp_path / "run", options, sound_alone=range(5) if alone else ())
    residency = Residency(0, audio_stays=True) if how == "streamed" else RESIDENT
    for file in task.clips:
        lengthen(file)
    machine = Machine("cpu", GB, GB)
    one = TrainingStep(task.model, task.config, alone)
    said = step_bytes(one, Geometry(*task.config.sizes, latent_grid(task.model)), machine) - state_bytes(one)
    if residency is not RESIDENT:
        _, picture, read = budget._sides(one)
        said += streaming(picture, read, machine)
    with limits(machine) as parts:
        trainer = loop.Trainer(dataclasses.replace(task, residency=residency), parts)
        trainer.step(False)

        def measure():
            gc.collect()
            before = mx.get_active_memory()
            mx.reset_peak_memory()
            trainer.step(False)
            return {"step": mx.get_peak_memory() - before}

        check_plan({"step": said}, measure)


def test_encoding_clips_takes_what_was_predicted(built_in):
    """As a clip that is given, while both encoders stay: on a CPU convolutions copy what they read, so that it is more
    than decoding."""
    one = TrainingStep(built_in, TrainConfig(), False)
    size = Geometry(64, 64, 49, 24.0, latent_grid(built_in))
    subject = Subject(built_in, mx.float32, Machine("cpu", GB, GB), False, [""])
    needs = {need.name: need for need in budget._encoding(one, subject, size)}
    said = {name: needs[name].arrays for name in (SOUNDS, PICTURES)}
    frames = np.zeros((size.frames, size.height, size.width, 3), np.uint8)
    wave = np.zeros((int(16000 * size.seconds), 2), np.float32)

    def measure():
        held = {}
        gc.collect()
        before = mx.get_active_memory()
        audio_vae, video_vae = built_in.load_audio_vae(mx.float32), built_in.load_video_vae(mx.float32)
        encoding = {
            SOUNDS: lambda: encode_sound(audio_vae, wave, size.audio_tokens),
            PICTURES: lambda: encode_frames(video_vae, frames, mx.float32),
        }
        for name in (SOUNDS, PICTURES, SOUNDS, PICTURES):  # two clips; the first reads the weights
            mx.reset_peak_memory()
            with limits(Machine("cpu", GB, GB)) as parts:
                parts.begin(name, 0, int(0.7 * needs[name].activations))
                mx.eval(encoding[name]())
            held[name] = mx.get_peak_memory() - before
        return held

    check_plan(said, measure, within=1.2)


def lengthen(file):
    """Repeats a clip's texts to 1024 tokens."""
    arrays, facts = mx.load(str(file), return_metadata=True)
    for name in ("video_context", "audio_context"):
        arrays[name] = mx.tile(arrays[name], (171, 1))[:1024]
    mx.eval(arrays)
    mx.save_safetensors(str(file), dict(arrays), facts)


def test_the_command_shows_it_and_trains_nothing(tmp_path):
    run = tmp_path / "run"
    arguments = ["--data", str(tmp_path), "-o", str(run), "--plan"]
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 0, result.output
    for part in ("text encoder", "pictures' encoding", "training, ", "samples' sound", "all 6 blocks stay in memory"):
        assert part in result.stdout
    assert not run.exists()
    told = json.loads(CliRunner().invoke(train, [*arguments, "--json"]).stdout)
    assert [part["name"] for part in told["parts"] if part["name"].startswith(TRAINING)]
    plan = CliRunner().invoke(train, ["--plan", "--json"])  # neither folder nor clips are read
    assert {part["name"] for part in json.loads(plan.stdout)["parts"]} == {part["name"] for part in told["parts"]}
    for arguments, option in ((["--resume", "--plan"], "-o"), (["--data", "x"], "-o"), (["-o", "x"], "--data")):
        assert f"Missing option '{option}'" in CliRunner().invoke(train, arguments).output


def test_too_little_memory_is_told_before_anything_is_read(tmp_path):
    result = CliRunner().invoke(train, ["--data", str(tmp_path / "no"), "-o", str(tmp_path / "run"), "--memory", "1MB"])
    assert "Training may use" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_run_follows_its_plan(built_in):
    made = budget_for_training(dataclasses.replace(step(built_in), audio_only=True))
    assert made.residency is RESIDENT
    assert not [need for need in made.needs if "picture" in need.name]


@pytest.mark.parametrize(("limit", "room"), [(7 * GB, GB), (20 * GB, KEPT_BYTES), (5 * GB, 0)])
def test_clips_stay_where_there_is_room(limit, room):
    """Six gigabytes are planned; what is left up to the limit may be kept."""
    made = Budget((Need(TRAINING, 5 * GB, GB, 0),), RESIDENT, limit)
    begun = Begun(Path("run"), RunArguments(), TrainConfig(), None, SimpleNamespace(leads=False), made)
    assert job_of(begun, Clips((), (), 0.0, "")).room == room


def test_clips_that_have_no_room_are_read_anew(built_in, tmp_path):
    task = job(built_in.path, tmp_path / "run", [])
    held = sum(file.stat().st_size for file in task.clips)
    for room, stays in ((held, True), (held - 1, False)):
        batches = loop.Batches(task.clips, None, None, task.config, room=room)
        assert (batches._clip(0) is batches._clip(0)) == stays
