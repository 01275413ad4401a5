"""The video VAE against the official PyTorch classes, fp32, random weights."""

import json
import logging
from pathlib import Path

import einops
import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.ops import convolution
from mlx_ltxw.models.video_vae import VideoVAE, VideoVAEConfig, pieces
from mlx_ltxw.models.video_vae.conv import CausalConv3d, reflect_edges
from mlx_ltxw.models.video_vae.layers import AttnBlock3D, pixel_norm
from mlx_ltxw.models.video_vae.model import patchify, unpatchify
from tests.numbers import relative_error
from tests.reference.video import OfficialVideoVAE, small_config
from tests.reference.weights import load_official, randomise

from ltx_core.model.common.normalization import PixelNorm

DATA = Path(__file__).parent.parent / "data"
REAL = json.loads((DATA / "ltx23_config.json").read_text())["vae"]
REFLECT = {"spatial_padding_mode": "reflect", "causal_decoder": True}
OTHER_BLOCKS = {
    "encoder_blocks": [
        ["res_x", 1],
        ["compress_space", {}],
        ["res_x_y", {"multiplier": 2}],
        ["compress_time", {}],
        ["compress_all_x_y", {"multiplier": 3}],
        ["compress_all", {}],
    ],
    "decoder_blocks": [
        ["res_x_y", {"multiplier": 2}],
        ["compress_all", {"multiplier": 2, "residual": True}],
        ["compress_all", {"multiplier": 1, "residual": True}],
        ["compress_space", {"multiplier": 2}],
        ["compress_time", {"multiplier": 1}],
        ["res_x", 2],
    ],
}


def pair(**changes):
    config = small_config(**changes)
    official = OfficialVideoVAE(config)
    vae = VideoVAE(VideoVAEConfig.read(config))
    load_official(vae, official, official.rename)
    return vae, official


@pytest.fixture(scope="module")
def zeros():
    return pair()


@pytest.fixture(scope="module")
def reflect():
    return pair(**REFLECT)


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("weights", ["zeros", "reflect"])
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 64, 96), (9, 96, 64), (17, 64, 64)])
def test_encoder_equals_the_official_one(weights, frames, height, width, request):
    vae, official = request.getfixturevalue(weights)
    video = noise(2, frames, height, width, 3)
    latent = vae.encode(mx.array(video))
    assert latent.shape == (2, 1 + (frames - 1) // 8, height // 32, width // 32, 8)
    assert relative_error(latent, official.encode(video)) < 1e-5


@pytest.mark.parametrize("weights", ["zeros", "reflect"])
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 2, 3), (2, 3, 2), (3, 2, 2)])
def test_decoder_equals_the_official_one(weights, frames, height, width, request):
    vae, official = request.getfixturevalue(weights)
    latent = noise(2, frames, height, width, 8)
    video = vae.decode(mx.array(latent))
    assert video.shape == (2, 1 + (frames - 1) * 8, height * 32, width * 32, 3)
    assert relative_error(video, official.decode(latent)) < 1e-5


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("weights", ["zeros", "reflect"])
def test_a_video_in_pieces_equals_the_official_whole(weights, size, request, monkeypatch):
    """Down to one frame a piece, where every layer keeps what its next output needs."""
    vae, official = request.getfixturevalue(weights)
    monkeypatch.setattr(pieces, "BYTES", size)
    video, latent = noise(2, 25, 64, 64, 3), noise(2, 4, 2, 2, 8)
    assert relative_error(vae.encode(mx.array(video)), official.encode(video)) < 1e-5
    parts = list(vae.decode_pieces(mx.array(latent)))
    assert len(parts) > 1
    assert relative_error(np.concatenate(parts, axis=1), official.decode(latent)) < 1e-5


@pytest.mark.parametrize("causal", [True, False])
def test_other_blocks_in_pieces_equal_the_official_ones(causal, monkeypatch):
    vae, official = pair(causal_decoder=causal, **OTHER_BLOCKS)
    monkeypatch.setattr(pieces, "BYTES", 1)
    video, latent = noise(1, 17, 64, 96, 3), noise(1, 3, 3, 2, 8)
    assert relative_error(vae.encode(mx.array(video)), official.encode(video)) < 1e-5
    assert relative_error(vae.decode(mx.array(latent)), official.decode(latent)) < 1e-5


def test_memory_does_not_grow_with_the_length(zeros, monkeypatch):
    vae, _ = zeros
    monkeypatch.setattr(pieces, "BYTES", 1 << 18)

    def beyond(frames):
        latent = mx.zeros((1, frames, 4, 4, 8))
        mx.eval(latent)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        for _ in vae.decode_pieces(latent):
            pass
        return mx.get_peak_memory() - before

    short, long = beyond(8), beyond(24)
    assert long < 1.3 * short


@pytest.mark.parametrize("log_var", ["per_channel", "constant"])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_other_block_kinds_equal_the_official_ones(log_var, padding):
    vae, official = pair(latent_log_var=log_var, spatial_padding_mode=padding, **OTHER_BLOCKS)
    video = noise(1, 9, 64, 96, 3)
    assert relative_error(vae.encode(mx.array(video)), official.encode(video)) < 1e-5
    latent = noise(1, 2, 3, 2, 8)
    assert relative_error(vae.decode(mx.array(latent)), official.decode(latent)) < 1e-5


def test_extra_frames_are_left_out_with_a_warning(zeros, caplog):
    vae, official = zeros
    video = noise(1, 12, 64, 64, 3)
    with caplog.at_level(logging.WARNING):
        latent = vae.encode(mx.array(video))
    assert "last 3 of 12 frames" in caplog.text
    assert relative_error(latent, official.encode(video)) < 1e-5


def test_a_size_off_the_grid_is_the_users_mistake(zeros):
    with pytest.raises(UserError, match="48x64"):
        zeros[0].encode(mx.zeros((1, 1, 64, 48, 3)))


def test_statistics_scale_and_shift_both_ways():
    vae = VideoVAE(VideoVAEConfig.read(small_config()))
    vae.per_channel_statistics["std-of-means"] = mx.full((8,), 4.0)
    vae.per_channel_statistics["mean-of-means"] = mx.full((8,), 3.0)
    assert vae.per_channel_statistics.normalize(mx.array([5.0] * 8)).tolist() == [0.5] * 8
    assert vae.per_channel_statistics.un_normalize(mx.array([0.5] * 8)).tolist() == [5.0] * 8
    assert not [name for name, _ in tree_flatten(vae.trainable_parameters()) if "statistics" in name]


def test_patches_put_columns_before_rows():
    video = noise(1, 2, 8, 12, 3)
    expected = einops.rearrange(video, "b f (h q) (w r) c -> b f h w (c r q)", q=4, r=4)
    patches = patchify(mx.array(video), 4)
    assert np.array_equal(patches, expected)
    assert np.array_equal(unpatchify(patches, 4), video)


@pytest.mark.parametrize("by_frames", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize(("frames", "stride"), [(1, (1, 1, 1)), (2, (2, 2, 2)), (5, (2, 1, 1)), (4, (1, 2, 2))])
def test_both_ways_to_convolve_equal_torch(by_frames, causal, mode, frames, stride, monkeypatch):
    monkeypatch.setattr(convolution, "_by_frames_is_faster", lambda _: by_frames)
    x, weight = noise(2, frames, 6, 4, 3), noise(5, 3, 3, 3, 3)
    torch_x = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    torch_x = torch.nn.functional.pad(torch_x, (0, 0, 0, 0, 2 if causal else 1, 0 if causal else 1), mode="replicate")
    conv = torch.nn.Conv3d(3, 5, 3, stride, (0, 1, 1), bias=False, padding_mode=mode)
    conv.weight.data = torch.from_numpy(np.moveaxis(weight, -1, 1).copy())
    expected = np.moveaxis(conv(torch_x).detach().numpy(), 1, -1)
    x = reflect_edges(mx.array(x)) if mode == "reflect" else mx.array(x)
    ours = convolution.conv3d(x, mx.array(weight), stride, int(mode == "zeros"), *((2, 0) if causal else (1, 1)))
    assert relative_error(ours, expected) < 1e-6


def test_reflection_needs_two_rows():
    with pytest.raises(ValueError, match="1x2"):
        CausalConv3d(3, 3, "reflect", causal=True)(mx.zeros((1, 1, 1, 2, 3)))


def test_attention_looks_at_one_frame():
    """Expected: the definition, in torch (1.0.0 has no such block)."""
    official = torch.nn.Module()
    official.norm = torch.nn.Module()
    official.norm.gamma = torch.nn.Parameter(torch.rand(6, 1, 1))
    official.to_qkv, official.proj = torch.nn.Conv2d(6, 18, 1), torch.nn.Conv2d(6, 6, 1)
    randomise(official)
    block = AttnBlock3D(6)
    load_official(block, official)
    x = noise(2, 3, 4, 5, 6)
    frames = torch.from_numpy(x).flatten(0, 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        normed = torch.nn.functional.normalize(frames, dim=1) * 6**0.5 * official.norm.gamma
        q, k, v = official.to_qkv(normed).flatten(2).chunk(3, dim=1)  # (B T, C, H W)
        weights = torch.softmax(q.transpose(1, 2) @ k / 6**0.5, dim=-1)
        y = official.proj((v @ weights.transpose(1, 2)).reshape(frames.shape)) + frames
    assert relative_error(block(mx.array(x)), y.permute(0, 2, 3, 1).reshape(x.shape).numpy()) < 1e-6


def test_pixel_norm_is_fp32_inside_for_bf16():
    x = torch.from_numpy(noise(4, 5, 7, 8, 48) * 1e-3).bfloat16()
    expected = PixelNorm(dim=-1)(x.float())
    ours = pixel_norm(mx.array(x.float().numpy()).astype(mx.bfloat16))
    assert ours.dtype == mx.bfloat16
    # One rounding to 8 bits; squares in bf16 lose more.
    assert relative_error(ours.astype(mx.float32), expected.numpy()) < 2**-8


def test_the_answer_has_the_inputs_dtype_and_the_weights_do_the_work(zeros):
    official = zeros[1]
    vae = VideoVAE(VideoVAEConfig.read(small_config()))
    load_official(vae, official, official.rename)
    vae.set_dtype(mx.bfloat16)
    latent = noise(1, 1, 2, 2, 8)
    video = vae.decode(mx.array(latent))
    assert video.dtype == mx.float32
    assert 1e-4 < relative_error(video, official.decode(latent)) < 0.1  # bf16 inside
    assert vae.decode(mx.array(latent).astype(mx.bfloat16)).dtype == mx.bfloat16
    assert vae.encode(video).dtype == mx.float32


def test_the_real_config_gives_the_checkpoints_names_and_shapes():
    keys = json.loads((DATA / "ltx23_keys.json").read_text())
    wanted = {}
    for name, shape in keys.items():
        if name.startswith("vae."):
            wanted[name.removeprefix("vae.")] = tuple([shape[0], *shape[2:], shape[1]] if len(shape) == 5 else shape)
    before = mx.get_active_memory()
    vae = VideoVAE(VideoVAEConfig.read(REAL))
    built = {name: tuple(value.shape) for name, value in tree_flatten(vae.parameters())}
    assert len(wanted) == 170
    assert built == wanted
    assert mx.get_active_memory() - before < 1 << 20  # nothing was evaluated


def test_the_real_config_is_read_whole(caplog):
    with caplog.at_level(logging.WARNING):
        config = VideoVAEConfig.read(REAL)
    assert not caplog.text
    assert config.scale == (8, 32, 32)
    assert config.bottleneck_channels == 1024
    assert config.padding_mode == "zeros"
    assert [block.kind for block in config.decoder_blocks[:3]] == ["res_x", "compress_all", "res_x"]


def test_unknown_keys_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        VideoVAEConfig.read(small_config(novelty=1))
    assert "novelty" in caplog.text


@pytest.mark.parametrize(
    "key",
    [
        "_class_name",
        "timestep_conditioning",
        "latent_channels",
        "latent_log_var",
        "spatial_padding_mode",
        "encoder_blocks",
        "decoder_blocks",
        "decoder_base_channels",
        "patch_size",
        "causal_decoder",
    ],
)
def test_a_missing_key_is_named(key):
    config = small_config()
    del config[key]
    with pytest.raises(UserError, match=rf"vae\.{key}"):
        VideoVAEConfig.read(config)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "CausalDiffusionVAE"}, "LTX-2.5"),
        ({"timestep_conditioning": True}, "19B"),
        ({"spatial_padding_mode": "replicate"}, "replicate"),
        ({"latent_log_var": "none"}, "none"),
        ({"norm_layer": "group_norm"}, "group_norm"),
        ({"encoder_base_channels": 16}, "encoder_base_channels"),
        ({"decoder_blocks": [["attn_res_x", {"num_layers": 1}]]}, "attn_res_x"),
        ({"decoder_blocks": [["res_x", {"num_layers": 1, "inject_noise": True}]]}, "inject_noise"),
        ({"decoder_blocks": [["compress_time", {"multiplier": 1, "residual": True}]]}, "residual"),
        ({"encoder_blocks": [["compress_all_res", {}]]}, "multiplier"),
        ({"encoder_blocks": [["res_x", {"num_layers": 1}]]}, "different factors"),
    ],
)
def test_what_ltx23_never_uses_is_refused(change, says):
    with pytest.raises(UserError, match=says):
        VideoVAEConfig.read(small_config(**change))
