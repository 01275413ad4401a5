"""The transformer against a second, independently written implementation: diffusers' LTX-2, with its own positions.

diffusers feeds the audio-video modulation by older rules, which agree with the newest ones while both streams have one
noise level; so they do here.
"""

import mlx.core as mx
import numpy as np
import pytest
import torch

import tests.reference.transformer as official
from mlx_ltxw.models.transformer import Modality, Skips, Transformer, TransformerConfig, rotary
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from tests.numbers import relative_error
from tests.reference.weights import load_official

SIGMA = 0.7
GEOMETRY = Geometry(96, 64, 17, 24.0, LatentGrid(8, 32, 32, 0.01, 4))
RENAMED = {
    "patchify_proj": "proj_in", "audio_patchify_proj": "audio_proj_in", "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed", "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "q_norm": "norm_q", "k_norm": "norm_k",
}  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel

    section = official.small_config()
    reference = official.build(section)
    model = Transformer(TransformerConfig.read(section))
    load_official(model, reference)
    second = LTX2VideoTransformer3DModel(
        in_channels=12, out_channels=12, num_attention_heads=4, attention_head_dim=20, cross_attention_dim=80,
        audio_in_channels=10, audio_out_channels=10, audio_num_attention_heads=4, audio_attention_head_dim=8,
        audio_cross_attention_dim=32, num_layers=2, gated_attn=True, audio_gated_attn=True, cross_attn_mod=True,
        audio_cross_attn_mod=True, rope_type="split", use_prompt_embeddings=False, perturbed_attn=True,
    ).eval()  # fmt: skip
    state = reference.state_dict()
    renamed = {".".join(RENAMED.get(part, part) for part in name.split(".")): value for name, value in state.items()}
    second.load_state_dict(renamed, strict=True)
    return model, second


@pytest.mark.parametrize(
    ("skips", "theirs"),
    [
        (Skips(), {}),
        (Skips(cross=True), {"isolate_modalities": True}),
        (
            Skips(video_self=frozenset({1}), audio_self=frozenset({1})),
            {"spatio_temporal_guidance_blocks": [1]},
        ),
    ],
)
def test_forward_equals_diffusers(pair, skips, theirs):
    model, second = pair
    draw = np.random.default_rng(3)
    frames, height, width = GEOMETRY.latent_shape
    shapes = {"video": (GEOMETRY.video_tokens, 12, 80), "audio": (GEOMETRY.audio_tokens, 10, 32)}
    latents = {name: draw.standard_normal((1, t, c), np.float32) for name, (t, c, _) in shapes.items()}
    contexts = {name: draw.standard_normal((1, 6, d), np.float32) for name, (_, _, d) in shapes.items()}
    level = torch.full((1,), SIGMA * 1000)
    with torch.inference_mode():
        want = second(
            torch.from_numpy(latents["video"]), torch.from_numpy(latents["audio"]),
            torch.from_numpy(contexts["video"]), torch.from_numpy(contexts["audio"]), timestep=level, sigma=level,
            num_frames=frames, height=height, width=width, fps=24.0, audio_num_frames=GEOMETRY.audio_tokens,
            return_dict=False, **theirs,
        )  # fmt: skip
    config = model.config
    streams = [
        Modality(
            mx.array(latents[name]),
            mx.array([SIGMA]),
            mx.array([[SIGMA]]),
            mx.array(contexts[name]),
            rotary(config, half, positions, mx.float32),
        )
        for name, half, positions in (
            ("video", config.video, GEOMETRY.video_positions()),
            ("audio", config.audio, GEOMETRY.audio_positions()),
        )
    ]
    got = model(*streams, skips)
    assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) < 2e-5
