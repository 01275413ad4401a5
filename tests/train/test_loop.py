"""Whole runs on a made model: what they leave, and what they say."""

import dataclasses
import json
import re

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.adapter.apply import attach
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.placing import place
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.train import finish, loop
from mlx_ltxw.train.events import Finished, Progress, Sampled, Sampling, Saved, Started
from mlx_ltxw.train.gradient.fresh import fresh_adapter
from mlx_ltxw.train.gradient.layout import Layout
from mlx_ltxw.train.gradient.step import Objective, draw_noise
from tests.train.clips import metrics
from tests.train.driver import CAPTIONS, job


def steps_of(task, count):
    """The first steps of a run, without what comes before and after them."""
    trainer = loop.Trainer(task)
    return trainer, [trainer.step(False)[0] for _ in range(count)]


@pytest.fixture(scope="module")
def done(tiny_model, tmp_path_factory):
    run = tmp_path_factory.mktemp("loop") / "quiet"
    settings = [
        "steps=60",
        "learning_rate=2e-2",
        "preview_every=30",
        "rank=4",
        "alpha=8",
        "batch_size=3",
        "log_every=20",
    ]
    settings += ["preview_prompts=[]", "preview_steps=2"]
    task = job(tiny_model, run, settings)
    return task, list(loop.train(task))


def test_the_loss_falls(done):
    losses = [line["audio_loss"] for line in metrics(done[0].run)]
    assert len(losses) == 60
    assert np.mean(losses[-15:]) < 0.9 * np.mean(losses[:15])


def test_events_in_order(done):
    kinds = [type(event) for event in done[1]]
    assert [kind for kind in kinds if kind is not Sampling][:3] == [Started, Sampled, Progress]
    assert [kind for kind in kinds if kind is not Sampling][-3:] == [Saved, Sampled, Finished]
    asked = [event for event in done[1] if isinstance(event, Sampling) and event.step == 30]
    assert [(event.number, event.done, event.total) for event in asked] == [(n, d, 2) for n in (1, 2) for d in range(3)]
    assert [event.step for event in done[1] if isinstance(event, Sampled)] == [0, 30, 60]
    event = next(event for event in done[1] if isinstance(event, Progress) and event.step == 20)
    assert all(word in str(event) for word in ("step 20/60", "loss audio", "delta rms", "s/step", "left"))
    told = re.search(r" · (\d+\.\d+) (MB|GB)$", str(event))  # of the process, which other tests made larger
    assert float(told[1]) * {"MB": 1e6, "GB": 1e9}[told[2]] == pytest.approx(event.peak_memory, rel=0.006)
    assert event.peak_memory > 50e6  # MLX and NumPy alone take as much


def test_the_adapter_is_official_and_told(done, tiny_model):
    task, events = done
    file = task.run / "adapter.safetensors"
    names = mx.load(str(file))
    assert "diffusion_model.transformer_blocks.1.video_to_audio_attn.to_out.0.lora_B.weight" in names
    assert len(names) == 2 * 2 * 3 * 4
    adapter = read(file)
    assert place(adapter, task.model.load("transformer")).summary.startswith("placed 24 of 24")
    metadata = adapter.metadata
    assert metadata["lora_rank"] == "4"
    assert metadata["lora_alpha"] == "8"
    assert json.loads(metadata["target_modules"])[0] == "audio_attn1.to_k"
    source = json.loads((tiny_model / "config.json").read_text())["source"]["files"]
    assert metadata["base_model_sha256"] == next(iter(source.values()))["sha256"]
    assert metadata["training_steps"] == "60"
    assert json.loads(metadata["register_words"]) == ["man, speaking softly", "woman, whispering"]
    squares = [np.sum(np.asarray(d.dense(), np.float64) ** 2) for d in adapter.deltas.values()]
    rms = np.sqrt(sum(squares) / sum(np.prod(d.shape) for d in adapter.deltas.values()))
    assert events[-1].delta_rms == pytest.approx(rms, rel=1e-4)


def test_the_adapter_lowers_the_loss_it_was_trained_on(done):
    """The file, placed by the loader of `generate`, lowers the loss on the same noise; alpha is in it."""
    task, _ = done
    trainer = loop.Trainer(task)
    group = trainer.batches.step(0)[0]
    noise = draw_noise(group, dataclasses.replace(task.config, audio_draws=1))
    losses = []
    for strength in (0.0, 1.0):
        adapter = read(task.run / "adapter.safetensors")
        layout, flat = Layout.of(dataclasses.replace(adapter, alphas=dict.fromkeys(adapter.deltas, 4.0)))
        config = dataclasses.replace(task.config, alpha=4.0)
        shell = attach(trainer.base, [(fresh_adapter(trainer.base, config), Strength())])
        objective = Objective(trainer.base, shell, layout, config)
        losses.append(objective.gradient(strength * flat, group, noise, mx.array(1 / 3))[1][0].item())
    own = trainer.objective.gradient(trainer.state.parameters, group, noise, mx.array(1 / 3))[1][0].item()
    assert losses[1] == pytest.approx(own, rel=1e-5)
    assert losses[1] < losses[0]


def test_card_and_page(done):
    run = done[0].run
    card = (run / "README.md").read_text()
    assert "| woman, whispering | 3 |" in card
    assert "| man, speaking softly | 2 |" in card
    assert "LUFS" in card.split("## What it does")[1]
    page = (run / "index.html").read_text()
    for step in (0, 30, 60):
        for number in (1, 2):
            assert f'src="samples/step-{step:06d}/{number}.wav"' in page
            assert (run / f"samples/step-{step:06d}/{number}.wav").stat().st_size > 1000
            assert (run / f"samples/step-{step:06d}/{number}.png").read_bytes().startswith(b"\x89PNG")
    assert "http" not in page
    assert "&quot;close your eyes&quot;" in page


def test_samples_come_from_the_pipeline_of_generate(done):
    """Step 60's wav is what `generate --adapter` makes of the same request."""
    from mlx_ltxw.media.audio import read_audio
    from mlx_ltxw.pipeline.events import Decoded
    from mlx_ltxw.pipeline.plan import plan
    from mlx_ltxw.pipeline.request import Request
    from mlx_ltxw.pipeline.run import run

    task, _ = done
    request = Request(
        CAPTIONS[0], seeds=(10,), width=64, height=64, frames=17, frame_rate=24.0, steps=2,
        adapters=(str(task.run / "adapter.safetensors"),),
    )  # fmt: skip
    clip = next(event for event in run(plan(request, task.model)) if isinstance(event, Decoded))
    heard = read_audio(task.run / "samples/step-000060/1.wav", clip.rate)
    assert np.abs(heard - np.clip(clip.waveform, -1, 1)).max() < 1e-4
    base = read_audio(task.run / "samples/step-000000/1.wav", clip.rate)
    assert np.abs(heard - base).max() > 1e-3


def test_samples_leave_the_trained_base_as_it_was(tiny_model, tmp_path):
    """Without a picture there is no lock, and the pipeline fuses the adapter into the very model it is given."""
    task = job(tiny_model, tmp_path / "run", ["steps=2", "preview_every=1", "preview_steps=1"], sound_alone=range(5))
    trainer = loop.Trainer(task)
    trainer.step(False)
    before = dict(tree_flatten(trainer.base.parameters()))
    assert [type(event) for event in trainer.samples()] == [Sampling, Sampling, Sampled]
    after = dict(tree_flatten(trainer.base.parameters()))
    assert before.keys() == after.keys()
    assert all(after[name] is before[name] for name in before)


def test_sound_alone_and_pictures_together(tiny_model, tmp_path):
    """Both kinds in one batch weigh the same; accumulation is the same step as one batch."""
    runs = []
    for name, settings in (("a", ["batch_size=4"]), ("b", ["batch_size=2", "accumulation=2"])):
        task = job(tiny_model, tmp_path / name, ["steps=2", *settings], sound_alone=(1, 3))
        trainer, progress = steps_of(task, 2)
        assert trainer.data.with_picture == 3
        runs.append(progress)
    for one, two in zip(*runs, strict=True):
        assert one.audio_loss == pytest.approx(two.audio_loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-4)


def test_sound_alone_loads_no_video(tiny_model, tmp_path, monkeypatch):
    task = job(tiny_model, tmp_path / "run", ["steps=2", "audio_draws=2"], sound_alone=range(5))
    monkeypatch.setattr("mlx_ltxw.pipeline.run.decode_video", None)
    events = list(loop.train(task))
    assert events[0].linears == 16
    assert not any("video" in name for name in mx.load(str(task.run / "adapter.safetensors")))


def test_coupled_and_shared(tiny_model, tmp_path):
    task = job(tiny_model, tmp_path / "run", ["coupled=true", "video_loss=1", "sigma=shared"])
    _, progress = steps_of(task, 2)
    assert all(event.video_loss > 0 for event in progress)
    assert ", video " in str(progress[0])


def test_levels_shared_and_independent(done):
    trainer = loop.Trainer(done[0])
    group = trainer.batches.step(0)[0]
    config = dataclasses.replace(done[0].config, audio_draws=3)
    apart = draw_noise(group, config)
    shared = draw_noise(group, dataclasses.replace(config, sigma="shared"))
    assert apart.audio.shape == (3, 3, 18, 32)
    assert len(np.unique(np.asarray(apart.audio_sigma))) == 9
    assert mx.array_equal(shared.audio_sigma, mx.repeat(shared.video_sigma[:, None], 3, axis=1))
    single = draw_noise(
        group._replace(**{name: getattr(group, name)[1:2] for name in ("keys", "audio", "video")}), config
    )
    assert mx.array_equal(single.audio, apart.audio[1:2])  # whatever else is in the group
    assert mx.array_equal(single.video_sigma, apart.video_sigma[1:2])


def test_a_distilled_base_is_refused(done):
    model = done[0].model
    distilled = dataclasses.replace(model, config=model.config | {"variant": "distilled"})
    loop.check_base(model, force=False)
    loop.check_base(distilled, force=True)
    with pytest.raises(UserError, match="distilled"):
        loop.check_base(distilled, force=False)


def test_no_number_ends_the_run(tiny_model, tmp_path):
    task = job(tiny_model, tmp_path / "run", ["steps=9", "learning_rate=1e30", "max_grad_norm=0"])
    with pytest.raises(UserError, match="no number"):
        list(loop.train(task))


def test_trackio_is_told_what_it_lacks(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(UserError, match="trackio"):
        list(loop.train(job(tiny_model, tmp_path / "run", ["steps=1", "trackio=true"])))


def test_upload_pushes_adapter_card_and_samples(done, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo, exist_ok):
            calls.append((repo, exist_ok))
            return f"https://hub/{repo}"

        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            calls.append((repo_id, folder_path, allow_patterns))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert finish.upload(done[0].run, "me/quiet") == "https://hub/me/quiet"
    assert calls[0] == ("me/quiet", True)
    assert calls[1][1] == str(done[0].run)
    assert calls[1][2][:2] == ["adapter.safetensors", "README.md"]
    assert not any("checkpoints" in pattern for pattern in calls[1][2])

    def refuse(self, repo, exist_ok):
        raise OSError("no network")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(UserError, match="no network"):
        finish.upload(done[0].run, "me/quiet")


def test_a_batch_may_be_larger_than_the_data(tiny_model, tmp_path):
    """A batch larger than the data takes clips twice, with other noise."""
    trainer, _ = steps_of(job(tiny_model, tmp_path / "run", ["batch_size=7"]), 1)
    group = trainer.batches.step(0)[0]
    assert len(group.audio) == 7
    assert len(np.unique(np.asarray(group.audio), axis=0)) == 5
    assert len(np.unique(np.asarray(group.keys), axis=0)) == 7
