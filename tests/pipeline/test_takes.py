"""Takes: many sounds on one picture are what each is in a run of its own, and the picture is that of none."""

import dataclasses
import functools
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.events import Decoded, Step
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.run import run, transformers
from mlx_ltxw.prompts.registers import parse
from mlx_ltxw.tree import at, linears
from mlx_ltxw.weights.model_dir import ModelDir
from tests.adapter.helpers import factors, official_file, save, shapes
from tests.numbers import relative_error
from tests.pipeline.test_lock import GUIDED as GUIDED_6
from tests.pipeline.test_lock import REQUEST, REQUEST_3, whisper  # noqa: F401
from tests.reference.official import Official

CLOSE = 1e-5


GUIDED = dataclasses.replace(GUIDED_6, steps=3)


@functools.cache
def networks(model_path):
    """Kept from run to run, which changes nothing (`test_stages.py`)."""
    return Networks(ModelDir.open(model_path), mx.float32, keep=True)


def clips(model, request, decoded=True):
    """The final latents, and the waveform and frames of each take."""
    latents, waves, frames = None, [], []
    for event in run(plan(request, model), networks(model.path)):
        if isinstance(event, Step):
            latents = event.latents
            if not decoded and event.index == event.total:
                break
        elif isinstance(event, Decoded):
            waves.append(event.waveform)
            frames.append(np.concatenate(list(event.video)))
            assert event.take == (len(waves) if request.takes else None)
    return latents, waves, frames


@pytest.fixture(scope="module")
def other(made_checkpoint, tmp_path_factory):
    """A second adapter of other modules and another rank: feed-forward, gates and the way in too."""
    sizes = shapes(Official.open(made_checkpoint).transformer)
    targets = [
        name for name in sizes
        if any(part in name for part in ("audio_ff.", "audio_attn2.to_k", "video_to_audio_attn.to_v", "audio_patchify"))
        or ".audio_attn1.to_gate" in name
    ]  # fmt: skip
    pairs = {name: (a[:2], b[:, :2]) for name, (a, b) in factors(sizes, targets, size=0.7).items()}
    return str(official_file(tmp_path_factory.mktemp("adapter") / "other.safetensors", pairs))


@pytest.mark.parametrize("variant", ["dev", "distilled"])
def test_each_take_is_its_own_run_and_the_picture_is_nobodys(variant, request, whisper, other):  # noqa: F811
    """Manners, seeds, strengths (of all and of one module) and adapters at once, in no order."""
    model = request.getfixturevalue(variant)
    job = dataclasses.replace(GUIDED if variant == "dev" else REQUEST, adapters=(str(whisper[0]),))
    takes = (
        "soft",
        f"adapter={whisper[0]}:0.4 seed=+1",
        "manner=normal seed=77",
        f"adapter={other} manner=whispering seed=5",
        "seed=+0",
        f"adapter={other}:0.5 adapter={whisper[0]}:audio_attn1=-1.5,audio_attn2.to_k=2",
        "soft seed=3",
        f"adapter={whisper[0]}:0.4 manner=soft",
    )
    base, _, (frames,) = clips(model, dataclasses.replace(job, adapters=()))
    latents, waves, pictures = clips(model, dataclasses.replace(job, takes=takes))
    assert mx.array_equal(latents.video, base.video)
    assert mx.array_equal(latents.audio, base.audio)
    assert all(np.array_equal(picture, frames) for picture in pictures)
    for row, take in enumerate(takes):
        alone, (wave,), _ = clips(model, dataclasses.replace(job, takes=(take,)))
        assert mx.array_equal(alone.video, base.video)
        assert relative_error(latents.adapted[row], alone.adapted[0]) < CLOSE, take
        assert relative_error(waves[row], wave) < 100 * CLOSE
    rows = np.asarray(latents.adapted)
    for one in range(len(takes)):
        for two in range(one):
            assert relative_error(rows[one], rows[two]) > 1e-3


@pytest.mark.skipif(sys.platform == "darwin", reason="Accelerate may sum a larger product in another order")
def test_takes_of_one_voice_in_bfloat16_are_their_own_runs_to_the_bit(dev, whisper):  # noqa: F811
    """A batch is computed by what computes one take, so that its roundings are the same."""
    job = dataclasses.replace(REQUEST, adapters=(str(whisper[0]),), dtype="bfloat16", frames=9, steps=1)
    kept, takes = Networks(dev, mx.bfloat16, keep=True), ("soft", "seed=+1")

    def latents(*takes):
        made = run(plan(dataclasses.replace(job, takes=takes), dev), kept)
        return next(one.latents for one in made if isinstance(one, Step))

    together = latents(*takes)
    for row, take in enumerate(takes):
        assert mx.array_equal(latents(take).adapted[0], together.adapted[row]), take


def test_one_take_is_the_plain_run_to_the_bit(dev, whisper):  # noqa: F811
    job = dataclasses.replace(GUIDED, adapters=(str(whisper[0]),))
    plain, (wave,), (frames,) = clips(dev, job)
    for take in ("seed=+0", f"seed={job.seeds[0]}", "whispering"):
        latents, waves, pictures = clips(dev, dataclasses.replace(job, takes=(take,)))
        assert all(mx.array_equal(a, b) for a, b in zip(latents, plain, strict=True))
        assert np.array_equal(waves[0], wave)
        assert np.array_equal(pictures[0], frames)


def test_a_seed_is_the_noise_of_a_run_with_that_seed(dev, whisper):  # noqa: F811
    """Without a step there is nothing but noise; one small step leaves most of it."""
    job = dataclasses.replace(REQUEST_3, steps=1, seeds=(8,), adapters=(str(whisper[0]),))
    starts = []

    def sampler(predict, latents, *_):
        starts.append(latents)
        predict(latents, 1.0)
        yield latents

    def start(request):
        job = plan(request, dev)
        stages = tuple(dataclasses.replace(stage, sampler=sampler) for stage in job.stages)
        for _ in run(dataclasses.replace(job, stages=stages)):
            pass
        return starts.pop()

    found = start(dataclasses.replace(job, takes=("seed=+3", "soft", "seed=9 soft")))
    assert mx.array_equal(found.adapted[0:1], start(dataclasses.replace(job, seeds=(11,))).audio)
    assert mx.array_equal(found.adapted[1:2], found.audio)
    assert mx.array_equal(found.adapted[2:3], start(dataclasses.replace(job, seeds=(9,))).audio)


def test_a_normal_take_of_a_plain_prompt_is_the_base_sound(dev, whisper):  # noqa: F811
    job = dataclasses.replace(REQUEST_3, prompt='a woman, (woman): "hush"', adapters=(str(whisper[0]),))
    _, (wave,), _ = clips(dev, dataclasses.replace(job, adapters=()))
    latents, waves, _ = clips(dev, dataclasses.replace(job, takes=("whispering", "normal", "soft")))
    assert len(latents.adapted) == 2
    assert np.array_equal(waves[1], wave)
    assert not np.array_equal(waves[0], waves[2])
    latents, (alone,), _ = clips(dev, dataclasses.replace(job, takes=("normal",)))
    assert latents.adapted is None
    assert np.array_equal(alone, wave)


def test_seeds_need_no_adapter(dev):
    latents, _, _ = clips(dev, dataclasses.replace(REQUEST_3, takes=("seed=+1", "seed=+2")), False)
    base, _, _ = clips(dev, REQUEST_3, False)
    assert mx.array_equal(latents.video, base.video)
    for row, take in enumerate(("seed=+1", "seed=+2")):
        alone, _, _ = clips(dev, dataclasses.replace(REQUEST_3, takes=(take,)), False)
        assert relative_error(latents.adapted[row], alone.adapted[0]) < CLOSE


def test_strength_in_time_holds_for_every_take(dev, whisper):  # noqa: F811
    job = dataclasses.replace(REQUEST_3, adapters=(str(whisper[0]),), register_at="0-0.5=whispering,0.5-9=normal")
    takes = ("soft", f"adapter={whisper[0]}:0.4", "seed=+1", "normal", "soft seed=4")
    latents, _, _ = clips(dev, dataclasses.replace(job, takes=takes), False)
    for row, take in enumerate(takes):
        alone, _, _ = clips(dev, dataclasses.replace(job, takes=(take,)), False)
        assert relative_error(latents.adapted[row], alone.adapted[0]) < CLOSE


@pytest.fixture(scope="module")
def unlike(made_checkpoint, tmp_path_factory):
    """A DoRA, and an adapter of the noise-level embedding and a whole difference: neither can share a tree."""
    reference = Official.open(made_checkpoint).transformer
    sizes, folder = shapes(reference), tmp_path_factory.mktemp("adapter")
    pairs = factors(sizes, ["transformer_blocks.0.audio_attn1.to_q", "transformer_blocks.1.audio_attn2.to_k"], size=1.0)
    weights = {name: reference.get_submodule(name).weight.detach().float().numpy() for name in pairs}
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors |= {f"diffusion_model.{name}.lora_A.weight": a, f"diffusion_model.{name}.lora_B.weight": b}
        length = np.linalg.norm(weights[name], axis=1, keepdims=True)
        tensors[f"diffusion_model.{name}.dora_scale"] = (1.3 * length).astype(np.float32)
    dora = save(folder / "dora.safetensors", tensors)
    name = "audio_adaln_single.linear"
    ((a, b),) = factors(sizes, [name], size=1.0).values()
    full = "transformer_blocks.0.audio_ff.net.2"
    noise = {
        f"diffusion_model.{name}.lora_A.weight": a, f"diffusion_model.{name}.lora_B.weight": b,
        f"diffusion_model.{full}.diff": 0.1 * np.random.default_rng(3).standard_normal(sizes[full]).astype(np.float32),
    }  # fmt: skip
    return str(dora), str(save(folder / "noise.safetensors", noise))


def test_adapters_that_cannot_share_a_tree_have_streams_of_their_own(dev, whisper, unlike):  # noqa: F811
    dora, noise = unlike
    takes = (f"adapter={dora}", "soft", f"adapter={noise} seed=3", f"adapter={dora} seed=+1", f"adapter={noise}:0.5")
    job = dataclasses.replace(REQUEST_3, adapters=(str(whisper[0]),), takes=takes)
    planned = plan(job, dev)
    streams = transformers(planned, networks(dev.path)).of(planned.stages[0]).streams
    assert sorted(stream.rows for stream in streams) == [(0, 3), (1,), (2,), (4,)]
    base, _, _ = clips(dev, REQUEST_3, False)
    latents, _, _ = clips(dev, job, False)
    assert mx.array_equal(latents.video, base.video)
    for row, take in enumerate(takes):
        alone, _, _ = clips(dev, dataclasses.replace(job, takes=(take,)), False)
        assert relative_error(latents.adapted[row], alone.adapted[0]) < CLOSE, take
        assert relative_error(latents.adapted[row], base.audio[0]) > 1e-3


def test_voices_share_the_weights_of_the_base(dev, whisper, other):  # noqa: F811
    """Several voices are one model beside the base, and no weight of it is there twice."""
    takes = ("soft", f"adapter={other}", f"adapter={whisper[0]}:0.5", "normal seed=4")
    job = plan(dataclasses.replace(REQUEST, adapters=(str(whisper[0]),), takes=takes), dev)
    models = transformers(job, networks(dev.path)).of(job.stages[0])
    (stream,) = models.streams
    assert stream.rows == (0, 1, 2, 3)
    assert stream.sharing.video == (1, 1, 1, 1)
    weights = {id(linear.weight) for linear in linears(models.base).values()}
    assert all(id(linear.weight) in weights for linear in linears(stream.model).values())
    ranks = {len(at(stream.model, f"transformer_blocks.0.{name}").lora_A) for name in ("audio_attn1.to_q",)}
    assert ranks == {4}  # of one file, whatever its strengths


def test_a_prompt_of_a_take_is_its_own_text(dev, whisper):  # noqa: F811
    """Rewritten for its manner, every speaker of it; in its own words where it has some."""
    said = 'a room, (Woman, shouting): "one (two)" (old man, whispering)： "two"'
    takes = ("soft", "normal", "whispering", "prompt='a cat purrs'")
    job = plan(dataclasses.replace(REQUEST, prompt=said, adapters=(str(whisper[0]),), takes=takes), dev)
    assert [take.prompt for take in job.takes] == [
        'a room, (Woman, speaking softly): "one (two)" (old man, speaking softly): "two"',
        'a room, (Woman): "one (two)" (old man): "two"',
        'a room, (Woman, whispering): "one (two)" (old man, whispering quietly): "two"',
        "a cat purrs",
    ]
    assert [turn.register for turn in parse(job.takes[2].prompt).turns] == ["whispering", "whispering"]
    assert [bool(take.adapters) for take in job.takes] == [True, False, True, True]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"takes": ("shouting",)}, "no manner 'shouting'"),
        ({"takes": ("soft",) * 65}, "65 takes are too many"),
        ({"takes": ("soft",), "adapters": ()}, "without one the voice stays normal"),
        ({"takes": ("soft",), "lock_video": False}, "lock_video=False"),
        ({"takes": ("soft", "seed=1", "manner=soft seed=+0")}, "Takes 1 and 3 are the same"),
        ({"takes": ("soft",), "audio_only": True}, "share a picture"),
        ({"takes": ("soft", "adapter={other}"), "fuse": True}, "Weights can hold one voice"),
        ({"takes": ("soft",), "prompt": "rain"}, "names no speaker"),
        ({"takes": ("adapter=nowhere.safetensors",)}, "nowhere.safetensors"),
        ({"takes": ("",)}, "One of takes is empty"),
        ({"takes": ("soft soft",)}, "manner twice"),
        ({"takes": ("seed=x",)}, "'x' is no seed"),
        ({"takes": ("volume=2",)}, "'volume=2' is no part of a take"),
        ({"takes": ("adapter=none adapter=a",)}, "has adapters, and none"),
        ({"takes": ("prompt=' '",)}, "empty prompt"),
        ({"takes": ("prompt='a",)}, "quote is not closed"),
        ({"takes": "soft"}, "Give a tuple"),
        ({"takes": ("seed=99999999999999999999",)}, "is no seed"),
    ],
)
def test_takes_that_cannot_be(dev, whisper, other, changes, words):  # noqa: F811
    if isinstance(changes["takes"], tuple):
        changes = changes | {"takes": tuple(take.format(other=other) for take in changes["takes"])}
    with pytest.raises(UserError, match=words):
        plan(dataclasses.replace(REQUEST, **({"adapters": (str(whisper[0]),)} | changes)), dev)
