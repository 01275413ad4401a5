"""Two stages against the official functions, step by step; the lock over them; what is refused."""

import dataclasses
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.events import Decoded
from mlx_ltxw.pipeline.given import Material, conditions
from mlx_ltxw.pipeline.latents import Latents
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run, steps, transformers
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from tests.adapter.helpers import factors, official_file, shapes
from tests.convert.made import converted
from tests.numbers import relative_error
from tests.pipeline.test_end_to_end import PROMPT, SHORT, gemma, guidance, official  # noqa: F401
from tests.pipeline.test_lock import made, whisper  # noqa: F401
from tests.pipeline.test_takes import clips
from tests.reference import pipeline as reference
from tests.reference import two_stages

HQ_VIDEO = dataclasses.replace(reference.DEV_VIDEO, stg_scale=0.0, stg_blocks=[], rescale_scale=0.45)
HQ_AUDIO = dataclasses.replace(HQ_VIDEO, cfg_scale=7.0, rescale_scale=1.0)


@pytest.fixture(scope="module")
def lora(official, tmp_path_factory):  # noqa: F811
    """The distilled LoRA's kind: all linears of the transformer, rank 6 or what fits, `lora_alpha` of no account."""
    sizes = shapes(official.transformer)
    assert len(sizes) == 2 * 34 + 28  # as the official file has 48 * 34 + 28
    pairs = factors(sizes, sizes, rank=lambda name: min(6, *sizes[name]), size=0.1)
    metadata = {"model_version": "2.3.0", "lora_rank": "6", "lora_alpha": "6"}
    path = official_file(tmp_path_factory.mktemp("lora") / "distilled.safetensors", pairs, metadata=metadata)
    return SimpleNamespace(path=path, pairs=pairs)


def job_of(**fields):
    return reference.Job(PROMPT, SHORT, frames=17, **fields)


def noises(official, *jobs):  # noqa: F811
    return [reference.noise(official, job, seed=20 + number) for number, job in enumerate(jobs)]


def ours(model, request, starts, drawn=None, monkeypatch=None):
    """Each step's latents of a run with the given noise."""
    job = plan(request, model)
    networks = Networks(model, job.dtype)
    if drawn is not None:

        def fresh(seed, stage, draws):
            assert draws == len(drawn[stage])
            return lambda latents, number: Latents(*map(mx.array, drawn[stage][number]))

        monkeypatch.setattr("mlx_ltxw.pipeline.run.fresh_noise", fresh)
    contexts = networks.contexts(job.prompts)
    return list(steps(
        job, transformers(job, networks), contexts, 7, noise_source=lambda *a: Latents(*map(mx.array, starts[a[4]])),
    ))  # fmt: skip


def compare(got, first, second, finishes_sound):
    """Every step of both stages; what is left at the end is the second stage's picture and the chosen sound."""
    assert len(got) == len(first) + len(second)
    assert [step.index for step in got] == list(range(1, len(got) + 1))
    for number, (step, (video, audio)) in enumerate(zip(got, [*first, *second], strict=True), 1):
        assert relative_error(step.latents.video, video) <= 1e-4, number
        if number == len(got) and not finishes_sound:
            audio = first[-1][1]
        assert relative_error(step.latents.audio, audio) <= 1e-4, number
    assert relative_error(first[-1][1], second[-1][1]) > 1e-2  # the two sounds differ


@pytest.mark.parametrize(("kind", "width"), [("spatial-x2", 128), ("spatial-x1.5", 192)])
def test_distilled_in_two_stages(official, gemma, two_distilled, upsamplers, kind, width):  # noqa: F811
    up, down = (2, 1) if kind == "spatial-x2" else (3, 2)
    height = 32 * up
    jobs = job_of(width=width * down // up, height=height * down // up), job_of(width=width, height=height)
    starts = noises(official, *jobs)
    stages = tuple(
        two_stages.Stage(official, job, sigmas, start)
        for job, sigmas, start in zip(jobs, (jobs[0].sigmas(), two_stages.second_sigmas()), starts, strict=True)
    )
    want = two_stages.run(gemma, stages, upsamplers[kind][1])
    request = Request(PROMPT, width=width, height=height, frames=17, upsampler=kind)  # two stages by default
    got = ours(two_distilled, request, starts)
    assert (len(want[0]), len(want[1])) == (8, 3)
    compare(got, *want, finishes_sound=True)


def dev_jobs(video, audio, steps):
    small = job_of(width=64, height=32, steps=steps, video=video, audio=audio)
    return small, job_of(width=128, height=64)


def dev_request(pipeline, lora, video, audio, steps, strength=""):
    return Request(
        PROMPT, SHORT, width=128, height=64, frames=17, steps=steps, pipeline=pipeline,
        distilled_lora=f"{lora.path}{strength}", video_guidance=guidance(video), audio_guidance=guidance(audio),
    )  # fmt: skip


@pytest.mark.parametrize("strength", ["", ":0.8"])
def test_dev_in_two_stages(official, gemma, two_dev, upsamplers, lora, strength):  # noqa: F811
    """The second stage has the distilled LoRA and no guidance; its sound is dropped."""
    jobs = dev_jobs(reference.DEV_VIDEO, reference.DEV_AUDIO, 4)
    starts = noises(official, *jobs)
    distilled = two_stages.with_lora(official, lora.pairs, float(strength[1:] or 1))
    want = two_stages.run(
        gemma,
        (
            two_stages.Stage(official, jobs[0], jobs[0].sigmas(), starts[0]),
            two_stages.Stage(distilled, jobs[1], two_stages.second_sigmas(), starts[1]),
        ),
        upsamplers["spatial-x2"][1],
    )
    request = dev_request("two-stage", lora, reference.DEV_VIDEO, reference.DEV_AUDIO, 4, strength)
    compare(ours(two_dev, request, starts), *want, finishes_sound=False)


@pytest.mark.parametrize(("strength", "strengths"), [("", (0.25, 0.5)), (":0.4/0.9", (0.4, 0.9))])
def test_hq(official, gemma, two_dev, upsamplers, lora, monkeypatch, strength, strengths):  # noqa: F811
    """res_2s in both stages, the LoRA in both, the schedule by the small size's tokens."""
    jobs = dev_jobs(HQ_VIDEO, HQ_AUDIO, 3)
    starts = noises(official, *jobs)
    sigmas = two_stages.hq_sigmas(official, jobs[0]), two_stages.second_sigmas()
    random = np.random.default_rng(5)
    drawn = [
        [tuple(random.standard_normal(x.shape).astype(np.float32) for x in start) for _ in range(2 * (len(levels) - 1))]
        for start, levels in zip(starts, sigmas, strict=True)
    ]
    stages = tuple(
        two_stages.Stage(two_stages.with_lora(official, lora.pairs, one), job, levels, start, draws)
        for one, job, levels, start, draws in zip(strengths, jobs, sigmas, starts, drawn, strict=True)
    )
    want = two_stages.run(gemma, stages, upsamplers["spatial-x2"][1], hq=True)
    request = dev_request("hq", lora, HQ_VIDEO, HQ_AUDIO, 3, strength)
    compare(ours(two_dev, request, starts, drawn, monkeypatch), *want, finishes_sound=False)
    defaults = plan(dataclasses.replace(request, steps=None, video_guidance=None, audio_guidance=None), two_dev)
    assert defaults.stages[0].steps == 15
    assert defaults.settings.video_guidance == guidance(HQ_VIDEO)
    assert defaults.settings.audio_guidance == guidance(HQ_AUDIO)


def test_the_distilled_lora_makes_dev_fast_in_one_stage(official, gemma, dev, lora):  # noqa: F811
    """The distilled model's own steps, no guidance."""
    job = job_of(width=64, height=32)
    (start,) = noises(official, job)
    want = reference.run(two_stages.with_lora(official, lora.pairs, 1.0), gemma, job, start, decode=False)
    request = Request(PROMPT, width=64, height=32, frames=17, distilled_lora=lora.path)
    got = ours(dev, request, [start])
    for step, (video, audio) in zip(got, want.latents, strict=True):
        assert relative_error(step.latents.video, video) <= 1e-4, step.index
        assert relative_error(step.latents.audio, audio) <= 1e-4, step.index


def test_pictures_are_encoded_again_at_each_stage_s_size(official, gemma, two_distilled, upsamplers):  # noqa: F811
    """One at frame 0, in the latent's place; its tokens are kept in both stages."""
    random = np.random.default_rng(4)
    pictures = {width: random.uniform(0, 255, (width // 2, width, 3)).astype(np.float32) for width in (64, 128)}
    jobs = job_of(width=64, height=32), job_of(width=128, height=64)
    starts, given = noises(official, *jobs), []
    for job in jobs:
        pixels = torch.from_numpy(pictures[job.width]).permute(2, 0, 1)[None, :, None] / 127.5 - 1
        tools = reference.latent_tools(official, job)
        clean, mask = (np.zeros_like(x) for x in (starts[len(given)][0], starts[len(given)][0][..., 0]))
        with torch.no_grad():
            tokens = tools[0].patchifier.patchify(official.video_encoder(pixels)).numpy()
        mask[:] = 1
        clean[:, : tokens.shape[1]], mask[:, : tokens.shape[1]] = tokens, 0.25
        sound = starts[len(given)][1]
        given.append(((clean, mask), (np.zeros_like(sound), np.ones_like(sound[..., 0]))))
    stages = tuple(
        two_stages.Stage(official, job, sigmas, start, given=kept)
        for job, sigmas, start, kept in zip(
            jobs, (jobs[0].sigmas(), two_stages.second_sigmas()), starts, given, strict=True
        )
    )
    want = two_stages.run(gemma, stages, upsamplers["spatial-x2"][1])
    request = Request(PROMPT, width=128, height=64, frames=17, images=("face.png:0.75",))
    job = plan(request, two_distilled)
    networks = Networks(two_distilled, job.dtype)
    material = Material(images=[lambda width, height: pictures[width][:height]])
    got = list(steps(
        job, transformers(job, networks), networks.contexts(job.prompts), 7, conditions(job, networks, material),
        lambda *a: Latents(*map(mx.array, starts[a[4]])),
    ))  # fmt: skip
    compare(got, *want, finishes_sound=True)


def test_the_distilled_lora_on_sound_alone(official, gemma, dev, lora):  # noqa: F811
    """What of it belongs to the video side is left out."""
    job = job_of(video=None)
    (start,) = noises(official, job)
    want = reference.run(two_stages.with_lora(official, lora.pairs, 1.0), gemma, job, start, decode=False)
    request = Request(PROMPT, frames=17, distilled_lora=str(lora.path), audio_only=True)
    assert "of the video side left out" in plan(request, dev).distilled.summaries[0]
    got = ours(dev, request, [start])
    for step, (_, audio) in zip(got, want.latents, strict=True):
        assert relative_error(step.latents.audio, audio) <= 1e-4, step.index


TWO = Request(PROMPT, width=128, height=64, frames=9)


def variants(two_dev, two_distilled, lora):
    quick = dataclasses.replace(TWO, distilled_lora=str(lora.path), steps=2)
    return {
        "distilled": (two_distilled, TWO),
        "two-stage": (two_dev, dataclasses.replace(quick, pipeline="two-stage")),
        "hq": (two_dev, dataclasses.replace(quick, pipeline="hq")),
        "one-stage": (two_dev, dataclasses.replace(quick, steps=None)),
    }


@pytest.mark.parametrize("which", ["distilled", "two-stage", "hq", "one-stage"])
def test_the_lock_over_all_stages(two_dev, two_distilled, lora, whisper, which):  # noqa: F811
    """The picture is that of a run without the adapter, bit for bit, and the sound is not."""
    model, request = variants(two_dev, two_distilled, lora)[which]
    _, base, frames, wave = made(model, request)
    notes, locked, locked_frames, locked_wave = made(model, dataclasses.replace(request, adapters=(str(whisper[0]),)))
    assert "the picture is locked: exactly that of a run without the adapter" in notes
    assert mx.array_equal(base.video, locked.video)
    assert mx.array_equal(base.audio, locked.audio)
    assert np.array_equal(frames, locked_frames)
    assert locked.adapted is not None
    assert relative_error(locked.adapted, base.audio) > 1e-2
    assert not np.array_equal(wave, locked_wave)
    assert base.video.shape[1] == 2 * 4 * 2


@pytest.mark.parametrize("which", ["distilled", "hq"])
def test_takes_over_two_stages(two_dev, two_distilled, lora, whisper, which):  # noqa: F811
    """Each is what it is alone, and the picture is that of none."""
    model, request = variants(two_dev, two_distilled, lora)[which]
    takes = ("soft", "seed=+1", f"adapter={whisper[0]}:0.4 seed=9")
    _, base, _, _ = made(model, request)
    request = dataclasses.replace(request, adapters=(str(whisper[0]),))
    latents, _, _ = clips(model, dataclasses.replace(request, takes=takes), decoded=False)
    assert mx.array_equal(latents.video, base.video)
    assert mx.array_equal(latents.audio, base.audio)
    for row, take in enumerate(takes):
        alone, _, _ = clips(model, dataclasses.replace(request, takes=(take,)), decoded=False)
        assert relative_error(latents.adapted[row], alone.adapted[0]) < 1e-5, take
        assert relative_error(latents.adapted[row], base.audio[0]) > 1e-3


def test_without_the_lock_adapter_and_distilled_lora_are_fused_at_once(two_dev, lora, whisper):  # noqa: F811
    """As the official loader sums its LoRAs; the first stage has the adapter alone, the second both."""
    request = dataclasses.replace(
        TWO, distilled_lora=str(lora.path), pipeline="two-stage", steps=2, adapters=(str(whisper[0]),), lock_video=False
    )
    job = plan(request, two_dev)
    models = transformers(job, Networks(two_dev, job.dtype))
    path = "transformer_blocks.0.audio_attn1.to_q"
    bare = np.asarray(two_dev.load_transformer(mx.float32).transformer_blocks[0].audio_attn1.to_q.weight)
    first, second = (
        np.asarray(models.of(stage).base.transformer_blocks[0].audio_attn1.to_q.weight) for stage in job.stages
    )
    from safetensors.numpy import load_file

    pair = load_file(whisper[0])
    delta = pair[f"diffusion_model.{path}.lora_B.weight"] @ pair[f"diffusion_model.{path}.lora_A.weight"]
    a, b = lora.pairs[path]
    assert relative_error(first - bare, delta) < 1e-4
    assert relative_error(second - bare, delta + b @ a) < 1e-4


def test_strength_in_time_over_both_stages(two_distilled, whisper):  # noqa: F811
    """Gates have as many tokens as each stage has."""
    adapted = dataclasses.replace(TWO, adapters=(str(whisper[0]),))
    _, base, _, _ = made(two_distilled, TWO)
    _, all_off, _, _ = made(two_distilled, dataclasses.replace(adapted, register_at="0-9=normal"))
    _, half, _, _ = made(two_distilled, dataclasses.replace(adapted, register_at="0-0.2=whispering,0.2-9=normal"))
    assert relative_error(all_off.adapted, base.audio) < 1e-5
    assert relative_error(half.adapted, base.audio) > 1e-3
    assert mx.array_equal(half.video, base.video)


def test_several_seeds_are_each_their_own_run(two_dev, lora):
    """The first stage of the second clip has its bare transformer again."""
    request = dataclasses.replace(TWO, distilled_lora=str(lora.path), pipeline="two-stage", steps=2, seeds=(3, 4))
    waves = {}
    for keep in (False, True):
        networks = Networks(two_dev, mx.float32, keep=keep)
        for event in run(plan(request, two_dev), networks):
            if isinstance(event, Decoded):
                waves[event.seed, keep] = event.waveform
    for seed in (3, 4):
        alone = [e for e in run(plan(dataclasses.replace(request, seeds=(seed,)), two_dev)) if isinstance(e, Decoded)]
        assert np.array_equal(waves[seed, False], alone[0].waveform)
        assert np.array_equal(waves[seed, True], alone[0].waveform)


def test_one_transformer_is_loaded_for_one_clip(two_dev, lora, whisper, monkeypatch):  # noqa: F811
    """The second stage uses the first one's up, also under the lock; of the video VAE the statistics alone are read."""
    loaded, load = [], ModelDir.load
    monkeypatch.setattr(ModelDir, "load", lambda self, name, *a, **k: loaded.append(name) or load(self, name, *a, **k))
    request = dataclasses.replace(
        TWO, distilled_lora=str(lora.path), pipeline="two-stage", steps=2, adapters=(str(whisper[0]),)
    )
    job = plan(request, two_dev)
    networks = Networks(two_dev, job.dtype)
    contexts = networks.contexts(job.prompts)
    loaded.clear()
    *_, last = steps(job, transformers(job, networks), contexts, 7)
    assert loaded == ["transformer", "video_vae", "upsampler.spatial-x2"]
    assert last.latents.adapted is not None


def test_what_the_plan_says(two_dev, two_distilled, dev, lora):
    assert plan(TWO, dev).recipe == "one-stage: 128x64 in 30 steps"
    assert plan(TWO, two_dev).recipe == "one-stage: 128x64 in 30 steps"
    assert plan(TWO, two_distilled).recipe == (
        "two-stage: 64x32 in 8 steps; spatial-x2; 128x64 in 3 steps; the sound is the second stage's"
    )
    hq = dataclasses.replace(TWO, pipeline="hq", distilled_lora=str(lora.path))
    assert plan(hq, two_dev).recipe == (
        "hq: 64x32 in 15 steps of res_2s, distilled LoRA at 0.25; spatial-x2; 128x64 in 3 steps of res_2s, distilled "
        "LoRA at 0.5; the sound is the first stage's"
    )
    sound = plan(dataclasses.replace(TWO, audio_only=True), two_distilled)
    assert sound.recipe == "one-stage: sound alone in 8 steps"


def test_default_sizes_are_the_official_ones(two_dev, two_distilled, lora):
    def size(model, **fields):
        settings = plan(Request(PROMPT, frames=9, **fields), model).settings
        return settings.width, settings.height, settings.steps

    file = str(lora.path)
    assert size(two_distilled, pipeline="one-stage") == (768, 512, 8)
    assert size(two_distilled) == (1536, 1024, 8)
    assert size(two_dev, pipeline="two-stage", distilled_lora=file) == (1536, 1024, 30)
    assert size(two_dev, pipeline="hq", distilled_lora=file) == (1920, 1088, 15)


@pytest.mark.parametrize(
    ("which", "fields", "said"),
    [
        ("distilled", {"width": 96}, "Two stages cannot make width 96"),
        ("distilled", {"width": 96, "height": 32}, "width 96 and height 32"),
        ("distilled", {"upsampler": "spatial-x1.5", "width": 96, "height": 64}, "multiple of 96 and height of 96"),
        ("distilled", {"frames": 10}, "frames 10"),
        ("distilled", {"steps": 9}, "takes exactly 8 steps"),
        ("distilled", {"pipeline": "hq"}, "hq recipe is for the dev model"),
        ("distilled", {"distilled_lora": "LORA"}, "is distilled already"),
        ("distilled", {"pipeline": "three"}, "no pipeline 'three'"),
        ("distilled", {"pipeline": "two-stage", "audio_only": True}, "which audio_only does not"),
        ("distilled", {"pipeline": "two-stage", "video": "clip.mp4"}, "which video does not"),
        (
            "distilled",
            {"upsampler": "temporal-x2"},
            "recipe that doubles frames is for LTX-2.5 alone",
        ),
        ("distilled", {"upsampler": "spatial-x2", "pipeline": "one-stage"}, "nothing to upsample"),
        ("dev", {"pipeline": "two-stage"}, "needs the distilled LoRA"),
        ("dev", {"pipeline": "hq"}, "needs the distilled LoRA"),
        ("dev", {"distilled_lora": "LORA", "steps": 9}, "with the distilled LoRA takes exactly 8 steps"),
        ("dev", {"distilled_lora": "LORA", "video_guidance": guidance(reference.DEV_VIDEO)}, "takes no guidance"),
        ("dev", {"distilled_lora": "LORA:x"}, "is no strength"),
        ("dev", {"distilled_lora": "LORA:0.2/0.3"}, "takes 1 strength of the distilled LoRA, not 2"),
        ("dev", {"distilled_lora": "LORA:0.2", "pipeline": "hq"}, "takes 2 strengths of the distilled LoRA, not 1"),
        ("dev", {"distilled_lora": "OTHER", "pipeline": "two-stage"}, "fits this model"),
        ("dev", {"distilled_lora": "nowhere.safetensors"}, "There is no adapter"),
        ("built-in", {"pipeline": "hq"}, "built-in model makes clips in one stage"),
        ("built-in", {"distilled_lora": "LORA"}, "no distilled LoRA for it"),
        ("bare", {"distilled_lora": "LORA", "pipeline": "two-stage"}, r"has no upsampler 'spatial-x2' \(none\)"),
    ],
)
def test_what_is_refused(two_dev, two_distilled, dev, lora, tmp_path, which, fields, said):
    """One sentence each, before anything is loaded."""
    other = official_file(tmp_path / "other.safetensors", factors({"transformer_blocks.0.attn1.to_q": (4, 4)},
                                                                  ["transformer_blocks.0.attn1.to_q"]))  # fmt: skip
    files = {"LORA": str(lora.path), "OTHER": str(other)}
    if "distilled_lora" in fields:
        name, colon, rest = fields["distilled_lora"].partition(":")
        fields = fields | {"distilled_lora": files.get(name, name) + colon + rest}
    model = {
        "dev": two_dev, "distilled": two_distilled, "bare": dev, "built-in": ModelDir.open(BUILTIN_MODEL),
    }[which]  # fmt: skip
    with pytest.raises(UserError, match=said):
        plan(dataclasses.replace(TWO, **fields), model)


@pytest.mark.parametrize("fuse", [False, True])
def test_on_quantised_weights_the_distilled_lora_is_the_base_s_own(lora, whisper, made_gemma, fuse):  # noqa: F811
    """It lies beside them, once: the adapted sound without an adapter's effect is the base's, and nothing is added
    twice where both streams read the video."""
    model = converted("8", 32)
    quick = dataclasses.replace(TWO, width=64, height=32, distilled_lora=str(lora.path), fuse=fuse)
    notes, base, _, _ = made(model, quick)
    packed = [name for name in lora.pairs if name.startswith("transformer_blocks.") and "gate" not in name]
    beside = 0 if fuse else len(packed)
    assert any(f"fused into {len(lora.pairs) - beside} weights" in note for note in notes)
    for sources in ((f"{whisper[0]}:0",), (str(whisper[0]),)):
        _, locked, _, _ = made(model, dataclasses.replace(quick, adapters=sources))
        assert mx.array_equal(locked.video, base.video)
        assert mx.array_equal(locked.audio, base.audio)
        moved = relative_error(locked.adapted, base.audio)
        assert moved == 0 if sources[0].endswith(":0") else moved > 1e-2
    part = official_file(
        whisper[0].parent / "no-reading.safetensors",
        factors(shapes_of(lora), ["transformer_blocks.0.audio_attn1.to_q"], size=1e-6),
    )
    _, nearly, _, _ = made(model, dataclasses.replace(quick, adapters=(str(part),)))
    assert relative_error(nearly.adapted, base.audio) < (1e-2 if fuse else 1e-4)  # fused: quantised again


def shapes_of(lora):
    return {name: (b.shape[0], a.shape[1]) for name, (a, b) in lora.pairs.items()}
