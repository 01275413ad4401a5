"""Training options: every mistake is a sentence, and the numbers' official counterparts."""

import math

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_ltxw.errors import UserError
from mlx_ltxw.train.config import TrainConfig, changed, read_config
from mlx_ltxw.train.gradient import optimizer
from mlx_ltxw.train.gradient.batches import clip_order, noise_keys


def test_defaults_are_the_public_adapters():
    config = TrainConfig().with_sizes({})
    assert (config.rank, config.alpha, config.steps) == (32, 32, 2000)
    assert config.modules == ("audio_attn1", "audio_attn2", "video_to_audio_attn")
    assert config.projections == ("to_q", "to_k", "to_v", "to_out.0")
    assert config.sizes == (192, 192, 97, 24.0)
    assert not config.coupled


def test_a_model_may_bring_its_own_sizes():
    config = read_config(None, ["frames=25"]).with_sizes({"width": 128, "height": 64, "frames": 97, "steps": 30})
    assert config.sizes == (128, 64, 25, 24.0)


def test_settings_go_over_the_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("steps: 7\nlearning_rate: 1e-3\nmodules: [audio_attn2]\npreview_prompts: one line\n")
    config = read_config(file, ["steps=9", "coupled=true", "preview_steps=null", "alpha=16"])
    assert (config.steps, config.learning_rate, config.modules) == (9, 1e-3, ("audio_attn2",))
    assert (config.coupled, config.preview_steps, config.alpha) == (True, None, 16.0)
    assert config.preview_prompts == ("one line",)
    assert read_config(base=config.to_dict()) == config


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("dropout=0.1", "dropout"),
        ("steps", "no value"),
        ("steps=0", "steps"),
        ("steps=1.5", "whole number"),
        ("steps=true", "whole number"),
        ("learning_rate=fast", "number"),
        ("learning_rate=0", "above 0"),
        ("learning_rate=.nan", "number"),
        ("learning_rate=.inf", "number"),
        ("alpha=true", "number"),
        ("coupled=yes please", "true or false"),
        ("sigma=mixed", "independent, shared"),
        ("modules=[to_gate_logits]", "modules"),
        ("projections=to_gate_logits", "projections"),
        ("modules=[]", "modules"),
        ("modules=[1]", "not a text"),
        ("video_loss=1", "coupled"),
        ("modules=[attn1]", "coupled"),
        ("warmup=2000", "warm-up"),
        ("weight_decay=.nan", "weight_decay"),
        ("seed=100000000000000000000", "out of range"),
        ("steps=0b11", "whole number"),
        ("steps=2026-01-01", "whole number"),
        ("steps=[", "YAML"),
        ("preview_prompts={a: b}", "not a list"),
    ],
)
def test_mistakes_are_told(setting, words):
    with pytest.raises(UserError, match=words):
        read_config(None, [setting])


def test_options_that_exclude_each_other():
    with pytest.raises(UserError, match="audio_draws"):
        read_config(None, ["coupled=true", "audio_draws=2"])
    assert read_config(None, ["coupled=true", "video_loss=1", "modules=[attn1]"]).video_loss == 1


@pytest.mark.parametrize("text", ["- a\n- b\n", "steps: [", "\x00", "1: 2\n"])
def test_broken_files_are_told(tmp_path, text):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError):
        read_config(file)
    with pytest.raises(UserError, match="no file"):
        read_config(tmp_path / "none.yaml")


def test_what_may_change_on_resume():
    before = TrainConfig()
    assert changed(before, read_config(None, ["preview_every=1", "keep_checkpoints=9"])) == []
    assert changed(before, read_config(None, ["steps=1", "seed=7"])) == ["seed"]


@pytest.mark.parametrize(("warmup", "clip"), [(0, 1.0), (5, 0.3), (0, 0.0)])
def test_optimizer_equals_torch(warmup, clip):
    """AdamW, LinearLR 1.0 to 0.1 and clipping as the official trainer has them; warm-up is a factor beside."""
    config = TrainConfig(steps=20, learning_rate=0.05, warmup=warmup, weight_decay=0.1, max_grad_norm=clip)
    random = np.random.default_rng(0)
    start = random.standard_normal(50).astype(np.float32)
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.AdamW([weight], lr=0.05, weight_decay=0.1)
    linear = torch.optim.lr_scheduler.LinearLR(theirs, start_factor=1.0, end_factor=0.1, total_iters=20)
    state = optimizer.State.fresh(mx.array(start))
    for step in range(20):
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        rate = linear.get_last_lr()[0]
        assert optimizer.learning_rate(config, step) == pytest.approx(rate * rise, rel=1e-9)
        gradient = random.standard_normal(50).astype(np.float32) * 0.4
        weight.grad = torch.tensor(gradient)
        theirs.param_groups[0]["lr"] = rate * rise
        norm = torch.nn.utils.clip_grad_norm_([weight], clip or math.inf)
        theirs.step()
        theirs.param_groups[0]["lr"] = rate
        linear.step()
        length = optimizer.norm(mx.array(gradient)).item()
        assert length == pytest.approx(norm.item(), rel=1e-5)
        state.advance(mx.array(gradient), length, config)
        assert state.step == step + 1
    assert np.asarray(state.parameters) == pytest.approx(weight.detach().numpy(), abs=2e-6)


def test_the_optimizer_takes_the_place_of_the_old_numbers():
    """At full size each vector is a third of a gigabyte; the peak of a checkpointed step was that of 13 of them."""
    count = 1 << 20
    state = optimizer.State.fresh(mx.random.normal((count,)))
    gradient = mx.random.normal((count,))
    mx.eval(state.parameters, state.first, state.second, gradient)
    length = optimizer.norm(gradient).item()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    state.advance(gradient, length, TrainConfig())
    assert mx.get_peak_memory() - before < 5 * 4 * count  # some are in flight
    assert mx.get_active_memory() - before < count


def test_every_clip_once_a_round():
    whole = clip_order(1, 7, 0, 21)
    assert [sorted(whole[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert whole[:7] != whole[7:14]
    assert clip_order(1, 7, 5, 9) == whole[5:14]
    assert clip_order(2, 7, 0, 21) != whole


def test_noise_keys_differ():
    keys = np.concatenate([noise_keys(seed, step, 4) for seed in (0, 1) for step in (0, 1)])
    assert len({tuple(key) for key in keys.tolist()}) == len(keys)
    assert (noise_keys(0, 1, 2) == noise_keys(0, 1, 4)[:2]).all()
