# ruff: noqa: E402
"""The stage that teaches the voice model what is given: its start, its batches, and what it may change."""

import argparse

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ltx_core")

from safetensors.torch import load_file

import tests.reference  # noqa: F401
from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from scripts.voice_model import export, given, given_gate, shipped, training, transformer
from scripts.voice_model.corpus import VOICES
from scripts.voice_model.faces import SCENE_NAMES
from scripts.voice_model.given_batches import KEYFRAMES, Batch, Drawer, places_with_keyframe
from scripts.voice_model.given_clips import LEVELS, TAKEN, GivenClips
from scripts.voice_model.vocoder import build
from tests.reference.built_in import official_model

from ltx_core.components.patchifiers import VideoLatentPatchifier
from ltx_core.conditioning.types.keyframe_cond import VideoConditionByKeyframeIndex
from ltx_core.tools import VideoLatentTools
from ltx_core.types import VideoLatentShape


@pytest.fixture(scope="module")
def base():
    return shipped.model()


def made_clips():
    """Four lines with random latents and contexts of 8 tokens."""
    draw = torch.Generator().manual_seed(0)
    sizes = len(VOICES), len(SCENE_NAMES)
    rows = 4 * len(SCENE_NAMES) + 1

    def noise(*shape):
        return torch.randn(*shape, generator=draw)

    video = noise(4, *sizes, 208, 32).half()
    pictures = noise(*sizes, LEVELS, TAKEN, 16, 32).half()
    contexts = noise(rows, 8, 80).half(), noise(rows, 8, 160).half()
    level = torch.randint(LEVELS, (4, 97), generator=draw)
    return GivenClips(noise(4, 101, 32), level, torch.tensor([0, 3, 4, 7]), video, pictures, contexts, 1)


def test_the_shipped_model_is_made_back_tensor_by_tensor(base):
    vocoder = build()
    vocoder.load_state_dict(shipped.tensors("vocoder"))
    found = export.official_keys(base, shipped.audio_vae(), shipped.video_vae(), vocoder)
    expected = official_model().state  # read through MLX
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].float(), torch.as_tensor(value)) for name, value in expected.items())


def test_only_what_the_sound_does_not_use_is_trained(base):
    names = {name for name, _ in base.dit.named_parameters()}
    chosen = {name for name in names if given.trained(name)}
    kinds = {name.split(".", 2)[2] if name.startswith("transformer_blocks.") else name for name in chosen}
    roots = {kind.split(".")[0] for kind in kinds}
    assert roots == {
        "attn1", "attn2", "ff", "audio_to_video_attn", "scale_shift_table", "prompt_scale_shift_table",
        "scale_shift_table_a2v_ca_video", "patchify_proj", "proj_out", "adaln_single", "prompt_adaln_single",
        "av_ca_video_scale_shift_adaln_single", "av_ca_a2v_gate_adaln_single",
    }  # fmt: skip
    for adapter in BUILTIN_ADAPTERS.values():
        adapted = {key.removeprefix("diffusion_model.").rpartition(".lora_")[0] for key in load_file(adapter)}
        assert adapted
        assert not {name.rpartition(".")[0] for name in chosen} & adapted
    sound = names - chosen
    assert not any(name.endswith(("adaln_single.linear.weight",)) and name.startswith("adaln") for name in sound)


def test_a_keyframe_lies_where_the_official_class_puts_it():
    video, audio = places_with_keyframe(3)
    tools = VideoLatentTools(
        patchifier=VideoLatentPatchifier(patch_size=1),
        target_shape=VideoLatentShape(batch=1, channels=32, frames=13, height=4, width=4),
        fps=24.0,
    )
    for row in range(3):
        state = tools.create_initial_state(torch.device("cpu"), torch.float32)
        keyframe = VideoConditionByKeyframeIndex(torch.zeros(1, 32, 1, 4, 4), KEYFRAMES[row], 1.0)
        expected = keyframe.apply_to(state, tools).positions
        torch.testing.assert_close(video[row : row + 1], expected, rtol=0, atol=1e-6)
    assert audio.shape == (3, 1, 101, 2)


def test_batches_mask_what_is_given():
    torch.manual_seed(0)
    clips, drawer = made_clips(), None
    drawer = Drawer(clips, 16)
    batch = drawer.mixed()
    frames = batch.mask.unflatten(1, (13, 16))
    assert torch.equal(frames, frames[:, :, :1].expand_as(frames))
    frames = frames[:, :, 0]
    assert bool((frames[: drawer.plain] == 1).all())
    assert bool((frames[drawer.plain : drawer.held] == 0).all())
    stretches = frames[drawer.held : drawer.held + drawer.span]
    assert bool(((stretches == 0) | (stretches == 1)).all())
    assert bool((stretches.sum(1) >= 2).all())
    assert bool((stretches.sum(1) <= 10).all())
    assert bool((stretches.diff(dim=1).abs().sum(1) <= 2).all())
    first = frames[drawer.held + drawer.span :]
    assert bool((first[:, 1:] == 1).all())
    assert bool((first[:, 0] <= 0.7).all())
    known = clips.pictures.flatten(0, 3).float()  # the first frame is one of the pictures
    for row in batch.video[drawer.held + drawer.span :, :16]:
        assert bool((known == row).all((1, 2)).any())
    keyframed = drawer.keyframed()
    assert keyframed.video.shape == (16, 224, 32)
    assert bool((keyframed.mask[::2, :208] == 1).all())
    assert bool((keyframed.mask[:, 208:] <= 0.7).all())


def test_held_clips_agree_with_their_captions_and_half_of_the_others_do_not():
    torch.manual_seed(1)
    clips = made_clips()
    shown = clips.draw(4000, 2000, 0.0)
    row = (shown.contexts[0][:, None, 0] == clips.contexts[0][None, :, 0].float()).all(-1).int().argmax(1)
    voice, scene = clips.voice[row // len(SCENE_NAMES)], row % len(SCENE_NAMES)
    agree = (shown.face == voice) & (shown.scene == scene)
    assert bool(agree[:2000].all())
    assert 0.4 < float(agree[2000:].float().mean()) < 0.6
    assert torch.equal(row // len(SCENE_NAMES), shown.clip)  # the sound is the caption's always


def test_a_step_changes_the_pictures_weights_alone_and_begins_at_the_base(base, tmp_path):
    torch.manual_seed(2)
    clips = made_clips()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    arguments = argparse.Namespace(run=tmp_path, start=None, reading=0.2, rate=1e-3, log=1)
    trainer = given.Trainer(arguments, Drawer(clips, 8), base)
    training.set_rate(trainer.optimizer, 1e-3)
    step = trainer.stepper(trainer.drawer.mixed, trainer.drawer.held)
    losses = step()
    assert float(losses["sound"]) < 1e-9
    assert float(losses["reading"]) < 1e-9
    after = trainer.model.state_dict()
    for name, value in before.items():
        changed = not torch.equal(after[name], value)
        assert changed == (name.startswith("dit.") and given.trained(name.removeprefix("dit."))), name
        assert torch.equal(base.state_dict()[name], value)
    trainer.steps, trainer.spent = 1, 1.5
    trainer.save()
    again = given.Trainer(arguments, Drawer(clips, 8), base)
    assert (again.steps, again.spent) == (1, 1.5)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters, trainer.parameters, strict=True))
    training.save(tmp_path / "transformer.pt", average=before)
    merged = transformer.load(tmp_path).state_dict()
    average = torch.load(tmp_path / "given.pt", weights_only=True)["average"]
    assert all(torch.equal(merged[f"dit.{name}"], value) for name, value in average.items())
    assert not torch.equal(merged["dit.proj_out.weight"], before["dit.proj_out.weight"])


def test_sampling_keeps_what_is_given_and_reaches_what_is_made(monkeypatch):
    """With a velocity that points at a known clip, by hand: given tokens stay, the others come to that clip."""
    clean, given_video = torch.full((1, 3, 32), 2.0), torch.full((1, 3, 32), -1.0)
    mask = torch.tensor([[0.0, 0.3, 1.0]])
    seen = []

    def velocity(model, batch, video, audio, sigma):
        times = (sigma[:, None] * batch.mask)[..., None]
        seen.append(float(times.max()))
        return torch.where(times > 0, (video - clean) / times.clamp_min(1e-9), torch.zeros(())), audio / sigma

    monkeypatch.setattr(given_gate, "velocity", velocity)
    batch = Batch(given_video, torch.zeros(1, 5, 32), mask, (None, None), (None, None))
    video, audio = given_gate.sample(None, batch, seed=3, steps=6)
    assert seen[0] == pytest.approx(1.0)
    assert len(seen) == 6
    np.testing.assert_allclose(video[0, :, 0], [-1.0, -1.0 + 0.3 * 3.0, 2.0], atol=1e-5)
    np.testing.assert_allclose(audio, 0.0, atol=1e-5)
