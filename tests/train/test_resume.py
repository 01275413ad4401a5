"""A run that was cut goes on to the bit."""

import json
import random
import shutil
import signal
import time

import mlx.core as mx
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.train import checkpoint, loop
from mlx_ltxw.train.events import Stopped
from tests.train.clips import metrics
from tests.train.driver import job
from tests.train.made import start, wait_for_step

SETTINGS = ("steps=40", "checkpoint_every=7", "keep_checkpoints=2")


def last(events):
    *_, event = events
    return event


def without_times(run):
    return [{name: v for name, v in line.items() if name not in ("seconds", "peak_memory")} for line in metrics(run)]


def state(run, step):
    return mx.load(str(checkpoint.checkpoint_folder(run, step) / "state.safetensors"))


def assert_same_end(run, whole):
    got, want = (mx.load(str(each / "adapter.safetensors"), return_metadata=True) for each in (run, whole))
    assert got[1] == want[1]
    assert got[0].keys() == want[0].keys()
    assert all(mx.array_equal(got[0][name], want[0][name]) for name in want[0])
    ours, theirs = state(run, 40), state(whole, 40)
    assert all(mx.array_equal(ours[name], theirs[name]) for name in ("parameters", "first", "second"))
    assert without_times(run) == without_times(whole)


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """An uninterrupted run, in a process of its own: other libraries in this one change the last bits of products."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(tiny_model, run)
    return run


def finish(model, run):
    process = start(model, run, *SETTINGS)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def test_killed_at_random_moments(tiny_model, whole, tmp_path):
    run = tmp_path / "run"
    moments = [(random.randrange(1, 14), random.random() * 0.1), (random.randrange(14, 35), random.random() * 0.1)]
    print("killed after these steps and seconds:", moments)
    for step, delay in moments:
        process = start(tiny_model, run, *SETTINGS, SLOW_FROM=str(step + 4))
        wait_for_step(process, run, step)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(tiny_model, run)
    assert_same_end(run, whole)


def test_a_full_disk_keeps_the_checkpoint(tiny_model, whole, tmp_path):
    """The samples' sound takes 136 kB, a checkpoint less than 100."""
    run = tmp_path / "run"
    process = start(tiny_model, run, *SETTINGS, LARGEST_FILE="100000")
    output, _ = process.communicate()
    assert process.returncode == 2
    (message,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert "samples/step-000000/1.wav could not be written: File too large. The file is larger than this" in message
    assert "Traceback" not in output
    assert not list(run.rglob(".mlx-ltxw-*"))
    finish(tiny_model, run)
    assert_same_end(run, whole)


def test_ctrl_c_finishes_the_step_and_saves(tiny_model, whole, tmp_path):
    run = tmp_path / "run"
    process = start(tiny_model, run, *SETTINGS, SLOW_FROM="5")
    wait_for_step(process, run, 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    done = len(metrics(run))
    assert checkpoint.saved_steps(run)[-1] == done < 40
    assert f"Stopped after step {done}" in output
    finish(tiny_model, run)
    assert_same_end(run, whole)


def test_sigterm_ends_with_143(tiny_model, tmp_path):
    process = start(tiny_model, tmp_path / "run", *SETTINGS, SLOW_FROM="4")
    wait_for_step(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 143, output
    assert checkpoint.saved_steps(tmp_path / "run")[-1] == len(metrics(tmp_path / "run"))


def test_ctrl_c_while_samples_are_made(tiny_model, tmp_path):
    """Nothing is waited for: all steps are saved, and the sample is made anew by the next run."""
    run = tmp_path / "run"
    process = start(tiny_model, run, "steps=9", "preview_every=2", "preview_steps=1000")
    for line in process.stdout:
        if "denoising 0/1000" in line:
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "Stopped at once" in output
    assert "Traceback" not in output


def test_stopping_is_an_event(tiny_model, tmp_path):
    run = tmp_path / "run"
    answers = iter([False, True])
    event = last(loop.train(job(tiny_model, run, SETTINGS), lambda: next(answers)))
    assert event == Stopped(2)
    assert checkpoint.saved_steps(run) == [2]


def test_the_last_checkpoints_are_kept(whole):
    assert checkpoint.saved_steps(whole) == [35, 40]
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["step-000035", "step-000040"]


def test_what_does_not_belong_together_is_told(tiny_model, whole, tmp_path):
    with pytest.raises(UserError, match=r"learning_rate 0\.001 to 0\.1"):
        last(loop.train(job(tiny_model, whole, [*SETTINGS, "learning_rate=0.1"])))
    with pytest.raises(UserError, match="other clips"):
        last(loop.train(job(tiny_model, whole, SETTINGS, count=4)))
    loop.check_folder(whole, resume=True)
    with pytest.raises(UserError, match="resume=True"):
        loop.check_folder(whole, resume=False)
    assert checkpoint.saved_config(whole).learning_rate == 1e-3
    assert checkpoint.saved_config(tmp_path) is None


def test_a_damaged_checkpoint_is_told(whole, tmp_path):
    folder = checkpoint.checkpoint_folder(tmp_path, 7)
    folder.mkdir(parents=True)
    data = (checkpoint.checkpoint_folder(whole, 40) / "state.safetensors").read_bytes()
    for damaged in (b"", data[:100], data[: len(data) // 2]):
        (folder / "state.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            checkpoint.saved_config(tmp_path)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["training"])["step"] == 40


@pytest.mark.parametrize("back", [True, False])
def test_a_folder_that_is_gone_is_one_sentence(tiny_model, tmp_path, back):
    """Between two steps: what is done is saved in a new one, and where that cannot be, nothing is said to be."""
    run = tmp_path / "run"

    def gone():
        if run.is_dir() and (run / "metrics.jsonl").read_text():
            shutil.rmtree(run)
            if not back:
                run.touch()
        return False

    with pytest.raises(UserError) as told:
        last(loop.train(job(tiny_model, run, ("steps=3", "checkpoint_every=3")), gone))
    assert told.value.hint.endswith("Step 1 is saved, and resume=True goes on from there.") == back
    assert checkpoint.saved_steps(run) == [1] * back


def test_a_checkpoint_that_has_lost_its_adapter(tiny_model, tmp_path):
    """The state tells all of it, so that it is written again for the samples."""
    run = tmp_path / "run"
    for _ in loop.train(job(tiny_model, run, ("steps=3",)), lambda: True):
        pass
    adapter = checkpoint.checkpoint_folder(run, 1) / "adapter.safetensors"
    before = adapter.read_bytes()
    adapter.unlink()
    assert loop.Trainer(job(tiny_model, run, ("steps=3",)))._step_adapter() == adapter
    assert adapter.read_bytes() == before


def test_a_number_that_is_lost_is_not_saved(tiny_model, tmp_path, monkeypatch):
    """To go on from there would lose it again."""
    run = tmp_path / "run"
    monkeypatch.setattr(loop.Trainer, "_gradient", lambda self, stop: (None, [float("nan"), 0.0, 0.0, 0.0]))
    with pytest.raises(UserError, match="no number any more at step 1"):
        last(loop.train(job(tiny_model, run, ("steps=3",))))
    assert checkpoint.saved_steps(run) == []
