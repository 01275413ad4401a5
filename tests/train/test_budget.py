"""What training needs in memory: what is told is what it takes, what is chosen fits, and what cannot is told before."""

import dataclasses
import gc
import json

import mlx.core as mx
import pytest
from click.testing import CliRunner

from mlx_ltxw.cli.train import train
from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine, limits
from mlx_ltxw.pipeline.geometry import Geometry
from mlx_ltxw.pipeline.needs import streaming
from mlx_ltxw.pipeline.plan import latent_grid
from mlx_ltxw.train import budget, loop, sharing
from mlx_ltxw.train.budget import TRAINING, TrainingStep, budget_for_training
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.step_needs import state_bytes, step_bytes
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT, Residency
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
    assert "smaller clips" in told.value.hint


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
    with limits(machine) as parts:
        trainer = loop.Trainer(dataclasses.replace(task, residency=residency), parts)
        trainer.step(False)
        gc.collect()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        trainer.step(False)
    one = TrainingStep(task.model, task.config, alone)
    said = step_bytes(one, Geometry(*task.config.sizes, latent_grid(task.model)), machine)
    if residency is not RESIDENT:
        _, picture, read = budget._sides(one)
        said += streaming(picture, read, machine)
    assert said - state_bytes(one) == pytest.approx(mx.get_peak_memory() - before, rel=0.1)


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


def test_too_little_memory_is_told_before_anything_is_read(tmp_path):
    result = CliRunner().invoke(train, ["--data", str(tmp_path / "no"), "-o", str(tmp_path / "run"), "--memory", "1MB"])
    assert "Training may use" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_run_follows_its_plan(built_in):
    made = budget_for_training(dataclasses.replace(step(built_in), audio_only=True))
    assert made.residency is RESIDENT
    assert not [need for need in made.needs if "picture" in need.name]
