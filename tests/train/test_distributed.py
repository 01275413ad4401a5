"""Two processes on this machine, over MLX's ring backend."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.train import checkpoint, loop
from mlx_ltxw.train.events import Finished
from mlx_ltxw.world import World
from tests.convert.made import converted
from tests.numbers import relative_error
from tests.train.clips import metrics
from tests.train.driver import job
from tests.train.made import ROOT, free_ports, start, wait_for_step

SETTINGS = ("steps=6", "batch_size=3", "accumulation=2", "checkpoint_every=2")


@pytest.fixture(scope="module")
def alone(tiny_model, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    assert isinstance(list(loop.train(job(tiny_model, run, SETTINGS)))[-1], Finished)
    return run


def assert_close(run, want):
    got, want = (mx.load(str(each / "adapter.safetensors")) for each in (run, want))
    for name, value in want.items():
        assert relative_error(got[name], value) < 1e-4, name


@pytest.mark.parametrize("base", ["shared", pytest.param("", marks=pytest.mark.slow)])
def test_two_machines_make_the_adapter_of_one(tiny_model, alone, tmp_path, base):
    """Each of them with the whole base, or with its part of it."""
    run = tmp_path / "run"
    run.mkdir()
    launch = [str(Path(sys.executable).parent / "mlx.launch"), "-n", "2", "--backend", "ring"]
    launch += ["--starting-port", str(free_ports(1)[0]), "--env", f"BASE={base}", "--"]
    command = [sys.executable, "-m", "tests.train.driver", str(tiny_model), str(run), *SETTINGS]
    done = subprocess.run([*launch, *command], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (run / "adapter.safetensors").exists(), done.stdout + done.stderr
    assert_close(run, alone)
    losses = [[line["audio_loss"] for line in metrics(each)] for each in (run, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (done.stdout + done.stderr).count("on 2 machines") == 1  # one of the two speaks


def test_a_dead_machine_ends_the_run_with_a_checkpoint(tiny_model, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    settings = ("steps=100000", "batch_size=2", "checkpoint_every=50000")
    ranks = [start(tiny_model, run, *settings, MLX_HOSTFILE=str(hosts), MLX_RANK=str(rank)) for rank in range(2)]
    wait_for_step(ranks[0], run, 5)
    ranks[1].send_signal(signal.SIGKILL)
    output, _ = ranks[0].communicate(timeout=100)
    ranks[1].communicate()
    assert ranks[0].returncode == 2, output
    assert "Another machine of the run was lost" in output
    done = len(metrics(run))
    assert checkpoint.saved_steps(run) == [done]
    assert done >= 5


def test_a_batch_for_each_machine(tiny_model, tmp_path):
    task = job(tiny_model, tmp_path / "run", ["batch_size=2"])
    three = World(0, 3)
    with pytest.raises(UserError, match="batch_size=3"):
        loop.Batches(task.clips, None, None, task.config, (three.rank, three.size))


def on_machines(count, model, run, settings, kill_at=None, **environment):
    """Trains on several; one of them may be killed at a step."""
    run.mkdir(exist_ok=True)
    hosts = run.parent / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
    own = environment | {"MLX_HOSTFILE": str(hosts)}
    if kill_at is not None:
        own["SLOW_FROM"] = str(kill_at + 1)
    ranks = [start(model, run, *settings, **own, MLX_RANK=str(rank)) for rank in range(count)]
    if kill_at is not None:
        wait_for_step(ranks[0], run, kill_at)
        ranks[-1].send_signal(signal.SIGKILL)
    said = [each.communicate(timeout=200)[0] for each in ranks]
    assert kill_at is not None or not any(each.returncode for each in ranks), said
    return run


def assert_same(run, want):
    got, want = (mx.load(str(each / "adapter.safetensors")) for each in (run, want))
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert mx.array_equal(got[name], value), name


@pytest.mark.slow
def test_a_run_resumed_on_three_machines_has_the_same_bits(tiny_model, tmp_path):
    """Gradients are summed in the order of the ranks."""
    settings = ("steps=8", "batch_size=3", "checkpoint_every=50000")
    whole = on_machines(3, tiny_model, tmp_path / "whole", settings)
    cut = on_machines(3, tiny_model, tmp_path / "cut", settings, kill_at=3)
    assert not (cut / "adapter.safetensors").exists()
    assert_same(on_machines(3, tiny_model, cut, settings), whole)


MIXED = {"SOUNDS": "03", "HELD_OUT": "1"}
"""Clips without a picture among the others, so that one machine has two groups where another has one."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [(), ("gradient_checkpointing=true", "audio_draws=2"),
     ("gradient_checkpointing=true", "coupled=true", "video_loss=0.5")],
    ids=["kept", "again", "coupled"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["tiny_model", "packed"])
def test_a_shared_base_makes_the_same_bits(kind, settings, tmp_path, request):
    """On the same machines; so does one that each streams, and a shared one that is cut."""
    model = request.getfixturevalue(kind)
    settings = ("steps=4", "batch_size=3", "accumulation=2", "checkpoint_every=50000", *settings)
    whole = on_machines(2, model, tmp_path / "whole", settings, **MIXED)
    shared = on_machines(2, model, tmp_path / "shared", settings, kill_at=2, BASE="shared", **MIXED)
    shared = on_machines(2, model, shared, settings, BASE="shared", **MIXED)
    assert_same(shared, whole)
    losses = [[line.get("held_out_loss") for line in metrics(run)] for run in (shared, whole)]
    assert losses[0] == losses[1] != [None] * 4
    if "coupled=true" not in settings:
        assert_same(on_machines(2, model, tmp_path / "streamed", settings, BASE="streamed", **MIXED), whole)


@pytest.fixture
def packed():
    return converted("8", 32).path


def test_a_sum_in_order_is_the_sum_one_by_one(monkeypatch):
    """fp32 additions in another order give other bits: (1 + 2^-24) + 2^-24 is 1, and 1 + (2^-24 + 2^-24) is not."""
    parts = mx.array([[1.0, 0.25], [2.0**-24, 1.0], [2.0**-24, 2.0]])
    three = World(1, 3)
    monkeypatch.setattr(World, "gather", lambda self, x: parts)
    assert three.sum_in_order(parts[1]).tolist() == [1.0, 3.25]
