"""Tiled decoding against the official tiled decode, and against hand-worked tiles."""

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.video_vae import Tiling, VideoVAE, VideoVAEConfig, decode_tiled
from mlx_ltxw.models.video_vae.tiling import spans
from tests.numbers import relative_error
from tests.reference.video import OfficialVideoVAE, small_config
from tests.reference.weights import load_official

from ltx_core.types import SpatioTemporalScaleFactors

SCALE = (8, 32, 32)


@pytest.fixture(scope="module")
def vaes():
    return load(small_config())


def load(config):
    official = OfficialVideoVAE(config)
    vae = VideoVAE(VideoVAEConfig.read(config))
    load_official(vae, official, official.rename)
    return vae, official


def noise(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def compare(vae, official, latent, frames, pixels):
    """Relative error of the whole clip."""
    expected = list(official.decode_tiled(latent, frames, pixels))
    tiling = Tiling(*frames, *(pixels or (None, 0)))
    ours = [np.array(chunk) for chunk in decode_tiled(vae, mx.array(latent), tiling)]
    return relative_error(np.concatenate(ours), np.concatenate(expected))


@pytest.mark.parametrize(
    ("shape", "frames", "pixels"),
    [
        ((7, 2, 2), (24, 8), None),  # time alone
        ((7, 2, 2), (32, 24), None),  # overlap above half a tile: three tiles meet, weights are divided
        ((5, 2, 2), (16, 0), None),  # no overlap
        ((2, 2, 5), (64, 0), (96, 32)),  # width alone: the short side's tile covers it
        ((2, 5, 3), (64, 0), (96, 64)),  # both sides, portrait, three tiles meet
        ((4, 3, 4), (16, 8), (64, 32)),  # all three axes
    ],
)
def test_equals_the_official_tiled_decode(vaes, shape, frames, pixels):
    assert compare(*vaes, noise(1, *shape, 8), frames, pixels) < 1e-5


def test_tiles_follow_the_configs_scale():
    """A VAE of scale (4, 16, 16); 1.0.0 takes its scale from an attribute."""
    blocks = [["res_x", 1], ["compress_all", {"multiplier": 2}], ["compress_time", {"multiplier": 2}], ["res_x", 1]]
    encoder = [[kind + "_res" if options != 1 else kind, options] for kind, options in blocks]
    vae, official = load(small_config(encoder_blocks=encoder, decoder_blocks=blocks, patch_size=8))
    assert vae.config.scale == (4, 16, 16)
    official.decoder.video_downscale_factors = SpatioTemporalScaleFactors(time=4, height=16, width=16)
    assert compare(vae, official, noise(1, 6, 4, 6, 8), (16, 8), (64, 32)) < 1e-5


def test_whole_without_tiling(vaes):
    vae, official = vaes
    latent = noise(1, 3, 2, 3, 8)
    for tiling in (None, Tiling(), Tiling(frames=None, pixels=None)):
        chunks = [np.array(chunk) for chunk in decode_tiled(vae, mx.array(latent), tiling)]
        assert relative_error(np.concatenate(chunks), official.decode(latent)[0]) < 1e-5


def test_overlap_brings_tiles_close_to_the_whole_decode(vaes):
    vae, _ = vaes
    latent = mx.array(noise(1, 12, 2, 2, 8))
    whole = np.array(vae.decode(latent)[0])

    def away(overlap):
        tiles = decode_tiled(vae, latent, Tiling(frames=64, frames_overlap=overlap, pixels=None))
        return np.concatenate([np.array(chunk) for chunk in tiles]) - whole

    default, generous, none = away(24), away(48), away(0)
    assert np.linalg.norm(generous) < np.linalg.norm(default) < np.linalg.norm(none)
    assert np.linalg.norm(generous) < 0.1 * np.linalg.norm(whole)  # white noise, the hardest latent there is
    assert np.abs(default[0]).max() < 1e-5  # out of the seam's reach


def test_default_tiles_of_a_121_frame_clip():
    """80 frames are 10 latents, 24 are 3: tiles 0-10 and 7-16, the second one latent early, at frame 48."""
    assert Tiling() == Tiling(frames=80, frames_overlap=24, pixels=768, pixels_overlap=64)
    times, rows, columns = spans(Tiling(), (16, 22, 40), SCALE)
    assert [(s.start, s.end, s.out, s.out_end) for s in times] == [(0, 10, 0, 73), (6, 16, 48, 121)]
    assert times[0].weights[:50] == pytest.approx([1.0] * 49 + [24 / 25])
    assert times[0].weights[72] == pytest.approx(1 / 25)
    assert times[1].weights[:3] == pytest.approx([0.0, 1 / 25, 2 / 25])
    assert times[1].weights[25:] == pytest.approx([1.0] * 48)
    # 1280x704: 24 latents of 40 along the width, so 24 * 22 / 40 = 13 along the height.
    assert [(s.start, s.end) for s in columns] == [(0, 24), (22, 40)]
    assert [(s.start, s.end) for s in rows] == [(0, 13), (11, 22)]
    assert columns[1].weights[:2] == pytest.approx([1 / 65, 2 / 65])


@pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (24, 16), (40, 8), (80, 24)])
def test_weights_add_up_to_one_everywhere(tile, overlap):
    for length in range(1, 40):
        axes = spans(Tiling(tile, overlap, tile * 4, overlap * 4), (length, length, length), SCALE)
        assert [axis[-1].out_end for axis in axes] == [1 + 8 * (length - 1), 32 * length, 32 * length]
        for axis in axes:
            total = np.zeros(axis[-1].out_end)
            for span in axis:
                assert min(span.weights) >= 0
                total[span.out : span.out_end] += span.weights
            assert np.allclose(total, 1, atol=1e-12)


def test_memory_is_bounded_by_a_tile():
    """A stand-in decoder notes what it is asked for; nothing beyond the next chunk is decoded ahead."""
    seen = []

    def decode_pieces(latent):
        seen.append(latent.shape)
        _, frames, height, width, _ = latent.shape
        pixels = mx.full((1, 1 + 8 * (frames - 1), 32 * height, 32 * width, 3), 0.25)
        return iter([pixels[:, :3], pixels[:, 3:]])

    vae = SimpleNamespace(config=SimpleNamespace(scale=SCALE), decode_pieces=decode_pieces)
    latent, tiling = mx.zeros((1, 30, 2, 4, 8)), Tiling(32, 8, 64, 32)
    times, _, _ = spans(tiling, (30, 2, 4), SCALE)
    frames = 0
    for chunk in decode_tiled(vae, latent, tiling):
        tiles = next(n for n, later in enumerate([*times[1:], None], 1) if later is None or frames < later.out)
        assert len(seen) == 3 * tiles  # three tiles along the width, per temporal tile
        assert np.allclose(chunk, 0.25)  # weights add up to one
        assert chunk.shape[0] <= 8
        frames += chunk.shape[0]
    assert frames == 1 + 8 * 29
    assert max(shape[1] for shape in seen) == 5
    assert {shape[2:4] for shape in seen} == {(2, 2)}


def test_chunks_keep_the_latents_dtype(vaes):
    chunks = list(decode_tiled(vaes[0], mx.zeros((1, 3, 1, 1, 8), mx.bfloat16), Tiling(16, 8, None)))
    assert {chunk.dtype for chunk in chunks} == {mx.bfloat16}


@pytest.mark.parametrize("sizes", [(16, 16), (16, 24), (16, -8), (80, 24, 64, 64)])
def test_an_overlap_must_be_smaller_than_its_tile(sizes):
    with pytest.raises(UserError, match="overlap"):
        Tiling(*sizes)


@pytest.mark.parametrize("sizes", [(20, 8), (24, 4), (8, 0), (16, 8, 48, 0), (16, 8, 64, 16), (16, 8, 32, 0)])
def test_tiles_must_fit_the_latent_grid(sizes):
    with pytest.raises(UserError, match="multiples"):
        spans(Tiling(*sizes), (9, 9, 9), SCALE)


def test_one_clip_at_a_time(vaes):
    with pytest.raises(ValueError, match="batch of 2"):
        next(decode_tiled(vaes[0], mx.zeros((2, 1, 1, 1, 8)), None))
