"""The exact video lock: its mathematics against the official blocks, and its promise over whole runs."""

import copy
import dataclasses

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import tests.reference.transformer as official
from mlx_ltxw.adapter.apply import AdaptedLinear, adapt, adapted_linears
from mlx_ltxw.adapter.formats import read
from mlx_ltxw.adapter.strength import Strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.adapters import reads_video
from mlx_ltxw.pipeline.events import Adapted, Decoded, Step
from mlx_ltxw.pipeline.guidance import DEV_AUDIO, DEV_VIDEO
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from tests.adapter.helpers import factors, inputs, model_pair, official_file, shapes
from tests.models.test_transformer import ours
from tests.numbers import relative_error
from tests.reference.official import Official


def two_streams(base, adapted, video, audio, second):
    """The lock by hand, from official blocks in fp64: what the adapted audio hears is each block's video before its
    own reading, which a block without feed-forward network and without audio returns."""
    nothing = official.perturbations(1, {})
    v = base.video_args_preprocessor.prepare(video, audio)
    a = base.audio_args_preprocessor.prepare(audio, video)
    b = adapted.audio_args_preprocessor.prepare(second, video)
    for block, adapted_block in zip(base.transformer_blocks, adapted.transformer_blocks, strict=True):
        bare = copy.deepcopy(block)
        for parameter in bare.ff.net[-1].parameters():
            torch.nn.init.zeros_(parameter)
        seen, _ = bare(video=v, audio=None, perturbations=nothing)
        _, b = adapted_block(video=dataclasses.replace(v, x=seen.x, enabled=False), audio=b, perturbations=nothing)
        v, a = block(video=v, audio=a, perturbations=nothing)
    heads = []
    for table, norm, proj, args in (
        (base.scale_shift_table, base.norm_out, base.proj_out, v),
        (base.audio_scale_shift_table, base.audio_norm_out, base.audio_proj_out, a),
        (base.audio_scale_shift_table, base.audio_norm_out, base.audio_proj_out, b),
    ):
        heads.append(base._process_output(table, norm, proj, args.x, args.embedded_timestep))
    return heads


def test_locked_forward_equals_official_blocks_in_fp64(tmp_path):
    model, reference = model_pair()
    pairs = factors(shapes(reference))
    path = official_file(tmp_path / "a.safetensors", pairs)
    adapted = copy.deepcopy(reference)
    with torch.no_grad():
        for name, (a, b) in pairs.items():
            adapted.get_submodule(name).weight += torch.from_numpy(b @ a)
    video, audio = inputs()
    second = audio | {"latent": audio["latent"] * 0.5 + 0.1}
    with torch.inference_mode():
        double = [official.modality({k: v.astype(np.float64) for k, v in x.items()}) for x in (video, audio, second)]
        want = two_streams(reference.double(), adapted.double(), *double)
    streams = [ours(model.config, model.config.video, video)] + [
        ours(model.config, model.config.audio, x) for x in (audio, second)
    ]
    got = model.locked(adapt(model, [(read(path), Strength())]), *streams)
    errors = [relative_error(g, w) for g, w in zip(got, want, strict=True)]
    assert max(errors) < 5e-5  # fp32 angles of up to 1.6e4 rad and fp32 sinusoids against fp64 ones
    assert relative_error(got[2], want[1]) > 1e-2  # the adapter does something


def test_both_audio_streams_share_one_reading_of_the_video(tmp_path, monkeypatch):
    """Keys and values of the video are the base's, and the adapter's part added: the large product is made once."""
    model, reference = model_pair()
    path = official_file(tmp_path / "a.safetensors", factors(shapes(reference)))
    adapted = adapt(model, [(read(path), Strength())])
    video, audio = inputs()
    streams = [ours(model.config, model.config.video, video)] + [ours(model.config, model.config.audio, audio)] * 2
    want = model.locked(adapted, *streams)
    readers = {id(linear): name for name, linear in adapted_linears(adapted).items() if reads_video(name)}
    assert len(readers) == 2 * len(model.transformer_blocks)
    called = set()
    whole = AdaptedLinear.__call__
    monkeypatch.setattr(AdaptedLinear, "__call__", lambda self, x: called.add(id(self)) or whole(self, x))
    got = model.locked(adapted, *streams)
    assert all(mx.array_equal(g, w) for g, w in zip(got, want, strict=True))
    assert called
    assert not called & set(readers)


@pytest.fixture(scope="module")
def whisper(made_checkpoint, tmp_path_factory):
    """A rank-4 adapter of the public whisper adapter's kind, for the made model."""
    sizes = shapes(Official.open(made_checkpoint).transformer)
    wanted = [n for n in sizes if any(m in n for m in (".audio_attn1.", ".audio_attn2.", ".video_to_audio_attn."))]
    targets = [name for name in wanted if "gate" not in name]
    path = official_file(tmp_path_factory.mktemp("adapter") / "whisper.safetensors", factors(sizes, targets, size=1.0))
    return path, len(targets)


REQUEST = Request('a woman, (woman, whispering): "hush"', width=64, height=64, frames=9)
GUIDED = dataclasses.replace(
    REQUEST,
    steps=6,
    video_guidance=dataclasses.replace(DEV_VIDEO, stg_blocks=(1,)),
    audio_guidance=dataclasses.replace(DEV_AUDIO, stg_blocks=(1,)),
)


def made(model, request):
    """Everything a run gives: notes, final latents, frames, waveform."""
    notes, latents, frames, wave = (), None, None, None
    for event in run(plan(request, model)):
        if isinstance(event, Adapted):
            notes = event.notes
        elif isinstance(event, Step):
            latents = event.latents
        elif isinstance(event, Decoded):
            frames, wave = np.concatenate(list(event.video)), event.waveform
    return notes, latents, frames, wave


@pytest.mark.parametrize("variant", ["dev", "distilled"])
def test_picture_is_that_of_a_run_without_the_adapter(variant, request, whisper):
    model = request.getfixturevalue(variant)
    path, count = whisper
    job = GUIDED if variant == "dev" else REQUEST
    _, base, frames, wave = made(model, job)
    notes, locked, locked_frames, locked_wave = made(model, dataclasses.replace(job, adapters=(str(path),)))
    assert f"placed {count} of {count}" in notes[0]
    assert f"fused into {count * 5 // 6} weights, beside {count // 6}" in notes  # keys and values of the video
    assert mx.array_equal(base.video, locked.video)
    assert mx.array_equal(base.audio, locked.audio)
    assert np.array_equal(frames, locked_frames)
    assert relative_error(locked.adapted, base.audio) > 1e-2
    assert not np.array_equal(wave, locked_wave)


def test_without_the_lock_the_picture_moves(dev, whisper):
    """What the public card denies: the fused adapter reaches the picture through audio_to_video_attn."""
    _, base, _, _ = made(dev, GUIDED)
    free = dataclasses.replace(GUIDED, adapters=(str(whisper[0]),), lock_video=False)
    _, moved, _, _ = made(dev, free)
    assert moved.adapted is None
    assert relative_error(moved.video, base.video) > 1e-4


def test_strength_zero_is_the_base_sound(dev, whisper):
    _, base, _, _ = made(dev, REQUEST_3)
    _, locked, _, _ = made(dev, dataclasses.replace(REQUEST_3, adapters=(f"{whisper[0]}:0",)))
    assert mx.array_equal(locked.adapted, base.audio)


REQUEST_3 = dataclasses.replace(REQUEST, steps=3, frames=25)


def test_strength_in_time(dev, whisper):
    """All at strength 1 is the unfused adapter, all at 0 the base; half and half differs from both; no pixel moves."""
    spec = (str(whisper[0]),)
    _, base, _, _ = made(dev, REQUEST_3)
    _, full, _, _ = made(dev, dataclasses.replace(REQUEST_3, adapters=spec))
    runs = {
        text: made(dev, dataclasses.replace(REQUEST_3, adapters=spec, register_at=text))[1]
        for text in ("0-9=whispering", "0-9=normal", "0-0.5=whispering,0.5-9=normal")
    }
    assert all(mx.array_equal(latents.video, base.video) for latents in runs.values())
    assert relative_error(runs["0-9=whispering"].adapted, full.adapted) < 1e-4
    assert relative_error(runs["0-9=normal"].adapted, base.audio) < 1e-5
    half = runs["0-0.5=whispering,0.5-9=normal"].adapted
    assert relative_error(half, full.adapted) > 1e-3
    assert relative_error(half, base.audio) > 1e-3


def test_adapter_of_the_picture_is_refused_under_the_lock(dev, made_checkpoint, tmp_path):
    sizes = shapes(Official.open(made_checkpoint).transformer)
    path = official_file(tmp_path / "video.safetensors", factors(sizes, ["transformer_blocks.0.attn1.to_q"]))
    request = dataclasses.replace(REQUEST, adapters=(str(path),))
    with pytest.raises(UserError, match="lock_video=False"):
        plan(request, dev)
    plan(dataclasses.replace(request, lock_video=False), dev)


def test_adapter_of_another_model_is_refused(dev, tmp_path):
    path = tmp_path / "other.safetensors"
    a, b = np.ones((2, 4), np.float32), np.ones((4, 2), np.float32)
    name = "diffusion_model.transformer_blocks.0.audio_attn1.to_q"
    save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, path)
    with pytest.raises(UserError, match="4 by 4"):
        plan(dataclasses.replace(REQUEST, adapters=(str(path),)), dev)


@pytest.mark.parametrize("level", [None, 0.25], ids=["the base's level", "a level of its own"])
def test_the_second_stream_reads_the_text_at_its_own_level(level):
    """Where it shares the base's level it shares the base's reading of the text too; else it reads anew."""
    model, reference = model_pair()
    video, audio = inputs()
    second = audio | {"latent": audio["latent"] * 0.5 + 0.1}
    if level is not None:
        second |= {"sigma": np.full(1, level, np.float32), "timesteps": np.full((1, 1), level, np.float32)}
    with torch.inference_mode():
        double = [official.modality({k: v.astype(np.float64) for k, v in x.items()}) for x in (video, audio, second)]
        want = two_streams(reference.double(), copy.deepcopy(reference).double(), *double)
    streams = [ours(model.config, model.config.video, video)]
    streams += [ours(model.config, model.config.audio, x) for x in (audio, second)]
    if level is None:
        streams[2] = streams[1]._replace(latent=streams[2].latent)
    else:
        streams[2] = streams[2]._replace(context=streams[1].context)
    got = model.locked(model, *streams)
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < 5e-5
