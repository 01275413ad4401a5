"""A run keeps what it was told from its first second, and goes on with it; what it leaves may be damaged."""

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.adapter.formats import read
from mlx_ltxw.errors import UserError
from mlx_ltxw.files import locked_folder
from mlx_ltxw.train import checkpoint, loop
from mlx_ltxw.train.config import TrainConfig, commented, read_config
from mlx_ltxw.train.data.clip import TrainingClip
from mlx_ltxw.train.events import Progress, Stopped, in_words
from mlx_ltxw.train.held_out import hold_out
from mlx_ltxw.train.metrics import read_metrics
from mlx_ltxw.train.preview import all_samples, samples_folder
from mlx_ltxw.train.record import RunArguments, RunRecord, read_run, write_run
from mlx_ltxw.train.start import begin, holding
from mlx_ltxw.world import World
from tests.train.driver import job


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    config = read_config(settings=["steps=30", "rank=4", "checkpoint_every=10"])
    write_run(folder, RunRecord(RunArguments(data=str(tmp_path), speaker="woman", audio_only=True), config))
    return folder


def again(run, tiny_model, *settings, **given):
    given = {"model": str(tiny_model), **given}
    return begin(run, RunArguments(**given), World(), settings=settings, resume=True)


def write_metrics(run, steps):
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "audio_loss": 1.0}) + "\n" for s in steps))


def test_resume_takes_the_runs_own_options(run, tiny_model, tmp_path):
    """Killed before its first checkpoint: nothing but the record is there."""
    write_metrics(run, range(1, 9))
    begun = again(run, tiny_model)
    assert (begun.config.steps, begun.config.rank) == (30, 4)
    assert (begun.given.data, begun.given.speaker, begun.given.audio_only) == (str(tmp_path), "woman", True)
    assert again(run, tiny_model, "steps=4000").config.steps == 4000
    with pytest.raises(UserError, match="rank 4 to 32"):
        again(run, tiny_model, "rank=32")
    assert read_run(run).config.rank == 4  # a refusal changes nothing


def test_resume_begins_no_other_run(run, tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"no run in .*mistyped"):
        again(tmp_path / "mistyped", tiny_model)
    assert not (tmp_path / "mistyped").exists()
    write_metrics(run, range(1, 16))
    with pytest.raises(UserError, match=r"checkpoints of the run .* are gone .*step 15"):
        again(run, tiny_model)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"given": {}, "config": {"steps": "x"}}', b"\xff\xfe", b"[" * 9999]
)
def test_a_damaged_record_is_told(run, tiny_model, text):
    (run / "run.json").write_bytes(text)
    with pytest.raises(UserError):
        again(run, tiny_model)


def test_two_runs_in_one_folder(run, tiny_model):
    begun = again(run, tiny_model)
    with (
        locked_folder(run, "training run"), pytest.raises(UserError, match="in use by a training run, process"),
        holding(begun),
    ):  # fmt: skip
        pass


def test_metrics_of_another_shape_are_left_out(tmp_path):
    lines = [b'{"step": 2, "audio_loss": 0.5}', b'{"step": 1, "audio_loss": 0.6}', b"[1]", b"null", b"\xff", b"{}",
             b'{"step": "3"}', b'{"step": 4, "audio_loss": NaN}', b'{"step": 5, "audio_loss": "x"}', b"[" * 5000,
             b'{"step": true}', b'{"step": 6}', b'{"step": 7, "audio_lo']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"made_of": 1, "samples": []}', '{"made_of": {}, "samples": [{"a": 1}]}']
)
def test_sample_records_of_another_shape_are_made_again(tmp_path, text):
    folder = samples_folder(tmp_path, 5)
    folder.mkdir(parents=True)
    (folder / "samples.json").write_text(text)
    (tmp_path / "samples" / "step-mine").mkdir()
    assert all_samples(tmp_path) == []


def test_a_finished_run_goes_on(tiny_model, tmp_path):
    """With more steps; and stops as soon as it is asked to while it makes samples."""
    run = tmp_path / "run"
    list(loop.train(job(tiny_model, run, ["steps=2"])))
    events = list(loop.train(job(tiny_model, run, ["steps=4"])))
    assert [event.step for event in events if isinstance(event, Progress)] == [3, 4]
    with pytest.raises(UserError, match="has done 4 steps, more than 3"):
        list(loop.train(job(tiny_model, run, ["steps=3"])))
    state = checkpoint.checkpoint_folder(run, 4) / "state.safetensors"
    tensors, metadata = mx.load(str(state), return_metadata=True)
    tensors["first"] = tensors["first"][1:]
    mx.save_safetensors(str(state), tensors, metadata)
    with pytest.raises(UserError, match="does not hold parameters"):
        list(loop.train(job(tiny_model, run, ["steps=4"])))


def test_an_initial_adapter_is_carried_over_whole(tiny_model, tmp_path):
    """Its change is that of the file, at another rank and alpha."""
    first = tmp_path / "first"
    list(loop.train(job(tiny_model, first, ["steps=2", "rank=2", "alpha=6"])))
    file = first / "adapter.safetensors"
    trainer = loop.Trainer(job(tiny_model, tmp_path / "second", [f"init_adapter={file}", "rank=3", "alpha=2"]))
    ours = trainer.layout.adapter(trainer.state.parameters, "x")
    theirs = read(file)
    assert ours.deltas.keys() == theirs.deltas.keys()
    for path, delta in theirs.deltas.items():
        assert np.allclose(ours.deltas[path].dense(), delta.dense(), atol=1e-6)
    assert any(delta.norm() > 0 for delta in theirs.deltas.values())
    with pytest.raises(UserError, match="has rank 2, more than the 1"):
        loop.Trainer(job(tiny_model, tmp_path / "third", [f"init_adapter={file}", "rank=1"]))
    with pytest.raises(UserError, match="does not train"):
        loop.Trainer(job(tiny_model, tmp_path / "third", [f"init_adapter={file}", "modules=[audio_attn1]"]))


def test_clips_kept_back_are_measured_with_the_same_noise(tiny_model, tmp_path):
    import dataclasses

    task = job(tiny_model, tmp_path / "run", ["steps=3", "held_out=0.4", "held_out_every=2"])
    task = dataclasses.replace(task, clips=task.clips[:3], held_out=task.clips[3:], seconds=4.5)
    trainer = loop.Trainer(task)
    assert (trainer.data.clips, trainer.data.seconds, trainer.data.held_out) == (3, 4.5, 2)
    progress = [trainer.step(False)[0] for _ in range(3)]
    assert [event.held_out_loss is not None for event in progress] == [True, True, True]  # first, every second, last
    assert trainer.held_out.loss(trainer.state.parameters) == progress[-1].held_out_loss
    assert ", kept back " in str(progress[-1])


def clips(*voices):
    return [TrainingClip(None, f"{i}", '(woman): "a"', None, 0, 0, 1, False, voice) for i, voice in enumerate(voices)]


def test_whole_voices_are_held_out():
    data = clips(*"aaaabbbbccccddddeeee")
    kept, note = hold_out(data, 0.2, 1)
    assert len({data[i].voice for i in kept}) == 1
    assert len(kept) == 4
    assert "1 of 5 voices" in note
    kept, note = hold_out(clips(*"a" * 18, "b", "b"), 0.1, 1)
    assert len(kept) == 2
    one, note = hold_out(clips(*"a" * 10), 0.1, 1)
    assert len(one) == 1
    assert "trained on in others" in note
    assert "1 clip, whose" in note
    assert hold_out(data, 0, 1) == (set(), "")


@pytest.mark.parametrize(("seconds", "words"), [
    (0, "nothing"), (20, "less than a minute"), (62, "about 1 minute"), (7500, "about 2 hours 5 minutes"),
    (3600, "about 1 hour"), (300000, "about 3 days 11 hours"),
])  # fmt: skip
def test_time_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_commented_options_are_the_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(commented(TrainConfig()))
    assert read_config(file) == TrainConfig()
    given = read_config(
        settings=["preview_prompts=['a: \"b\" # c', d]", "learning_rate=1e-05", "init_adapter=x.safetensors"]
    )
    file.write_text(commented(given, ["heading"]))
    assert read_config(file) == given


def test_the_example_holds_every_option():
    from pathlib import Path

    file = Path(__file__).parents[2] / "examples" / "whisper.yaml"
    text = file.read_text()
    assert read_config(file).sizes == (192, 192, 97, 24.0)
    for options in TrainConfig.by_group().values():
        assert all(f"\n{option.name}: " in text and option.metadata["help"] in text for option in options)


def test_stopped_event_names_the_way_on():
    assert "{field:resume=True}" in str(Stopped(3))
