"""The transformer against the official classes, fp32."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten, tree_map

import tests.reference.transformer as official
from mlx_ltxw.errors import UserError
from mlx_ltxw.models.transformer import Modality, Skips, Transformer, TransformerConfig, rotary
from mlx_ltxw.models.transformer.rope import split_rope
from tests.numbers import relative_error
from tests.reference.weights import load_official

DATA = Path(__file__).parents[1] / "data"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def pair():
    section = official.small_config(layers=3)
    reference = official.build(section)
    model = Transformer(TransformerConfig.read(section))
    load_official(model, reference, rename=lambda name: name)
    return model, reference


def streams(config, batch=1, video_tokens=(2, 3, 5), audio_tokens=7, per_token=False, sigmas=(0.7, 0.7), seed=0):
    """Random inputs of both streams as NumPy arrays for the official `Modality`."""
    draw = np.random.default_rng(seed)
    frames, height, width = video_tokens
    grid = np.stack(np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")).reshape(3, -1)
    starts = grid * np.array([[8 / 24], [32], [32]])
    video_positions = np.stack([starts, starts + np.array([[8 / 24], [32], [32]])], axis=-1)[None]
    audio_starts = np.arange(audio_tokens)[None] * 0.04
    audio_positions = np.stack([audio_starts, audio_starts + 0.04], axis=-1)[None]
    result = []
    for stream, positions, sigma in zip(
        (config.video, config.audio), (video_positions, audio_positions), sigmas, strict=True
    ):
        tokens = positions.shape[2]
        level = np.full((batch, tokens if per_token else 1), sigma, dtype=np.float32)
        if per_token:
            level *= draw.choice([0.0, 0.5, 1.0], size=level.shape)
        result.append(
            {
                "latent": draw.standard_normal((batch, tokens, stream.in_channels)),
                "sigma": np.full(batch, sigma),
                "timesteps": level,
                "positions": np.repeat(positions, batch, axis=0),
                "context": draw.standard_normal((batch, 6, stream.context_dim)),
            }
        )
    return [{name: value.astype(np.float32) for name, value in arrays.items()} for arrays in result]


def ours(config, stream, arrays, dtype=mx.float32):
    midpoints = arrays["positions"].mean(axis=-1)
    return Modality(
        latent=mx.array(arrays["latent"]).astype(dtype),
        sigma=mx.array(arrays["sigma"]),
        timesteps=mx.array(arrays["timesteps"]),
        context=mx.array(arrays["context"]).astype(dtype),
        rotary=rotary(config, stream, midpoints, dtype),
    )


def both(model, video, audio):
    config = model.config
    return ours(config, config.video, video), ours(config, config.audio, audio)


def reference_forward(reference, video, audio, skips=None):
    batch = video["latent"].shape[0]
    with torch.inference_mode():
        return reference(official.modality(video), official.modality(audio), official.perturbations(batch, skips or {}))


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("sigmas", [(0.7, 0.7), (0.9, 0.2), (0.0, 0.6)])
@pytest.mark.parametrize("batch", [1, 2])
def test_forward_equals_official(pair, per_token, sigmas, batch):
    model, reference = pair
    video, audio = streams(model.config, batch, per_token=per_token, sigmas=sigmas, seed=batch)
    want = reference_forward(reference, video, audio)
    got = model(*both(model, video, audio))
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < TOLERANCE


@pytest.mark.parametrize("sizes", [((1, 1, 1), 1), ((1, 7, 3), 2), ((4, 1, 9), 25)])
def test_odd_sizes(pair, sizes):
    model, reference = pair
    video, audio = streams(model.config, video_tokens=sizes[0], audio_tokens=sizes[1], sigmas=(0.4, 0.8))
    want = reference_forward(reference, video, audio)
    got = model(*both(model, video, audio))
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < TOLERANCE


@pytest.mark.parametrize(
    ("skips", "theirs"),
    [
        (Skips(video_self=frozenset({1})), {"SKIP_VIDEO_SELF_ATTN": [1]}),
        (Skips(audio_self=frozenset({0, 2})), {"SKIP_AUDIO_SELF_ATTN": [0, 2]}),
        (Skips(cross=True), {"SKIP_A2V_CROSS_ATTN": None, "SKIP_V2A_CROSS_ATTN": None}),
    ],
)
def test_each_guidance_pass(pair, skips, theirs):
    model, reference = pair
    video, audio = streams(model.config, sigmas=(0.5, 0.8), seed=4)
    want = reference_forward(reference, video, audio, theirs)
    got = model(*both(model, video, audio), skips)
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < TOLERANCE
    plain = model(*both(model, video, audio))
    assert relative_error(got[1], plain[1]) > 1e-3


def test_cross_timesteps_follow_the_newest_release():
    """With unequal sigmas, 1.0.0 and 1.2.0 differ; the port follows 1.2.0."""
    section = official.small_config()
    newest, older = official.build(section), official.build(section, newest_release=False)
    model = Transformer(TransformerConfig.read(section))
    load_official(model, newest)
    video, audio = streams(model.config, sigmas=(0.9, 0.1))
    got = model(*both(model, video, audio))
    assert relative_error(got[1], reference_forward(newest, video, audio)[1]) < TOLERANCE
    assert relative_error(got[1], reference_forward(older, video, audio)[1]) > 1e-3


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_each_modulation_follows_its_own_noise_level(pair, stream):
    """By hand, with the official embedders: scale and shift from a stream's own timesteps, its gate from the other
    stream's sigma, its prompt modulation from its own sigma (`transformer_args.py` of 1.2.0)."""
    model, reference = pair
    video, audio = streams(model.config, per_token=True, sigmas=(0.9, 0.2))
    v, a = both(model, video, audio)
    own, other = (video, audio) if stream == "video" else (audio, video)
    state = model.video_state(v, a) if stream == "video" else model.audio_state(a, v)
    prefix, gate = ("", "a2v") if stream == "video" else ("audio_", "v2a")

    def embedded(name, levels):
        with torch.inference_mode():
            return getattr(reference, name)(torch.from_numpy(levels * np.float32(1000)).flatten(), torch.float32)[0]

    pairs = [
        (state.modulation, embedded(f"{prefix}adaln_single", own["timesteps"])),
        (state.prompt_modulation, embedded(f"{prefix}prompt_adaln_single", own["sigma"])),
        (state.cross_modulation, embedded(f"av_ca_{stream}_scale_shift_adaln_single", own["timesteps"])),
        (state.cross_gate, embedded(f"av_ca_{gate}_gate_adaln_single", other["sigma"])),
    ]
    for got, want in pairs:
        assert relative_error(np.asarray(got).reshape(want.shape), want) < TOLERANCE


def test_audio_alone_equals_official_audio_only_model(pair):
    model, reference = pair
    _, audio = streams(model.config, sigmas=(0.9, 0.6))
    from ltx_core.model.transformer.model import LTXModelType

    reference_video_free = official.build_audio_only(reference, official.small_config(layers=3))
    assert reference_video_free.model_type is LTXModelType.AudioOnly
    with torch.inference_mode():
        _, want = reference_video_free(None, official.modality(audio), official.perturbations(1, {}))
    alone = Transformer(model.config, with_video=False)
    load_official(alone, reference_video_free)
    got = alone.audio_alone(ours(model.config, model.config.audio, audio))
    assert relative_error(got, want) < TOLERANCE


def test_lock_keeps_video_and_base_audio_to_the_bit(pair):
    model, _ = pair
    adapted = Transformer(model.config)
    adapted.update(model.parameters())
    attention = adapted.transformer_blocks[0].audio_attn1
    attention.to_v.weight = attention.to_v.weight * 1.5
    video, audio = both(model, *streams(model.config, sigmas=(0.9, 0.6)))
    plain = model(video, audio)
    locked = model.locked(adapted, video, audio, audio)
    assert mx.array_equal(plain[0], locked[0])
    assert mx.array_equal(plain[1], locked[1])
    assert relative_error(locked[2], locked[1]) > 1e-3


def test_lock_without_a_change_gives_the_base_audio(pair):
    model, _ = pair
    video, audio = both(model, *streams(model.config, sigmas=(0.9, 0.6)))
    _, base, adapted = model.locked(model, video, audio, audio, Skips(audio_self=frozenset({1})))
    assert mx.array_equal(base, adapted)


def test_watching_is_the_first_half_of_the_lock(pair):
    """The blocks' audio streams are the other."""
    model, _ = pair
    adapted = Transformer(model.config)
    adapted.update(model.parameters())
    adapted.transformer_blocks[1].audio_attn2.to_k.weight = model.transformer_blocks[1].audio_attn2.to_k.weight * 2
    video, audio = both(model, *streams(model.config, sigmas=(0.9, 0.6)))
    state, x = adapted.audio_state(audio, video), adapted.audio_patchify_proj(audio.latent)
    for block, shared in zip(adapted.transformer_blocks, model.watch(video, audio), strict=True):
        x = block.audio_stream(x, shared, video.rotary.cross, state, False)
    want = model.locked(adapted, video, audio, audio)[2]
    assert relative_error(adapted.audio_head(x, state), want) < TOLERANCE
    assert relative_error(want, model.locked(model, video, audio, audio)[2]) > 10 * TOLERANCE


def test_submitting_block_by_block_changes_nothing(pair):
    model, _ = pair
    video, audio = both(model, *streams(model.config))
    plain = model(video, audio)
    locked = model.locked(model, video, audio, audio)
    model.submit_every = 1
    try:
        pieces = model(video, audio)
        locked_pieces = model.locked(model, video, audio, audio)
    finally:
        model.submit_every = 0
    assert all(mx.array_equal(a, b) for a, b in zip(plain, pieces, strict=True))
    assert all(mx.array_equal(a, b) for a, b in zip(locked, locked_pieces, strict=True))


def test_modulation_rows_are_views(pair, tmp_path):
    """An index alone would be a gather: 32 kernels a block that do nothing but copy a row."""
    model, _ = pair
    mx.export_to_dot(str(tmp_path / "graph"), *model(*both(model, *streams(model.config))))
    graph = (tmp_path / "graph").read_text()
    assert "Matmul" in graph
    assert "Gather" not in graph


def test_bf16_stays_bf16(pair):
    model, _ = pair
    half = Transformer(model.config)
    half.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))
    for block in half.transformer_blocks:
        for name in block:
            if "table" in name:
                block[name] = block[name].astype(mx.float32)  # as checkpoints store them
    arrays = streams(model.config)
    config = model.config
    inputs = [
        ours(config, stream, a, mx.bfloat16) for stream, a in zip((config.video, config.audio), arrays, strict=True)
    ]
    out = half(*inputs)
    assert [x.dtype for x in out] == [mx.bfloat16, mx.bfloat16]
    wide = model(*both(model, *arrays))
    assert relative_error(out[0].astype(mx.float32), wide[0]) < 0.05


def test_rope_worked_example():
    """A 4096-wide video grid has two identity rotations in front; the first real angle of latent frame 1 is
    pi/2 * (2 * 0.208333 / 20 - 1)."""
    cos, _ = split_rope(np.array([[[5 / 24], [0.0], [0.0]]]), 4096, 32, 10000.0, [20, 2048, 2048])
    flat = np.asarray(cos)[0, 0].reshape(-1)
    assert flat[:2].tolist() == [1.0, 1.0]
    assert flat[2] == pytest.approx(np.cos(-1.538071), abs=1e-6)


def test_real_config_gives_every_real_tensor():
    """4186 tensors of the 22B checkpoint, by name and shape, without evaluating a weight."""
    config = json.loads((DATA / "ltx23_config.json").read_text())["transformer"]
    keys = json.loads((DATA / "ltx23_keys.json").read_text())
    prefix = "model.diffusion_model."
    want = {k.removeprefix(prefix): v for k, v in keys.items() if k.startswith(prefix) and "connector" not in k}
    model = Transformer(TransformerConfig.read(config))
    have = {name: list(value.shape) for name, value in tree_flatten(model.parameters())}
    assert len(want) == 4186
    assert have == want


@pytest.mark.parametrize("key", ["av_ca_timestep_scale_multiplier", "num_layers", "audio_attention_head_dim"])
def test_missing_key_is_named(key):
    section = official.small_config()
    del section[key]
    with pytest.raises(UserError, match=f"transformer.{key}"):
        TransformerConfig.read(section)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cross_attention_adaln": False}, "19B"),
        ({"ff_bias": False}, "LTX-2.5"),
        ({"use_keyframes_abs_pos_embedding": True}, "LTX-2.5"),
        ({"rope_type": "interleaved"}, "rope_type"),
        ({"audio_num_attention_heads": 8}, "heads"),
    ],
)
def test_other_models_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        TransformerConfig.read(official.small_config() | change)
