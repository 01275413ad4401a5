"""Sizes and positions against the official patchifiers."""

import numpy as np
import pytest

import tests.reference  # noqa: F401
from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid

from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier, get_pixel_coords
from ltx_core.types import AudioLatentShape, SpatioTemporalScaleFactors, VideoLatentShape, VideoPixelShape

GRID = LatentGrid(frames=8, height=32, width=32, mel_seconds=0.01, mel_frames=4)


@pytest.mark.parametrize(
    ("width", "height", "frames", "rate"),
    [(768, 512, 121, 24.0), (192, 192, 97, 24.0), (32, 64, 1, 25.0), (96, 32, 9, 29.97), (704, 480, 97, 23.976)],
)
def test_positions_equal_official(width, height, frames, rate):
    geometry = Geometry(width, height, frames, rate, GRID)
    pixels = VideoPixelShape(batch=1, frames=frames, height=height, width=width, fps=rate)
    shape = VideoLatentShape.from_pixel_shape(pixels)
    assert geometry.latent_shape == (shape.frames, shape.height, shape.width)
    bounds = VideoLatentPatchifier(patch_size=1).get_patch_grid_bounds(output_shape=shape, device="cpu")
    scale = SpatioTemporalScaleFactors.default()
    want = get_pixel_coords(latent_coords=bounds, scale_factors=scale, causal_fix=True).float()
    want[:, 0] = want[:, 0] / rate
    assert np.abs(geometry.video_positions() - want.mean(-1).numpy()).max() < 1e-6

    audio = AudioLatentShape.from_video_pixel_shape(pixels)
    assert geometry.audio_tokens == audio.frames
    starts = AudioPatchifier(patch_size=1).get_patch_grid_bounds(audio, device="cpu")
    starts, ends = starts.float().unbind(-1)
    assert np.array_equal(geometry.audio_positions(), ((starts + ends) / 2).numpy())


def test_worked_midpoints():
    """The first latent frame is one video frame; a later one eight. The first audio token is one mel frame."""
    geometry = Geometry(32, 32, 17, 24.0, GRID)
    assert geometry.video_positions()[0, 0] == pytest.approx([0.5 / 24, 5 / 24, 13 / 24], abs=1e-7)
    assert geometry.audio_positions()[0, 0, :4] == pytest.approx([0.005, 0.03, 0.07, 0.11], abs=1e-7)


def test_rounding_is_that_of_python():
    """97 frames at 24 a second are 101.04 tokens; 121 are 126.04; halves go to the even number."""
    assert Geometry(32, 32, 97, 24.0, GRID).audio_tokens == 101
    assert Geometry(32, 32, 121, 24.0, GRID).audio_tokens == 126
    assert Geometry(32, 32, 41, 50.0, GRID).audio_tokens == 20  # 20.5


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((100, 64, 9), "width 100 (nearest: 96 or 128)"),
        ((64, 20, 9), "height 20 (nearest: 32)"),
        ((64, 64, 96), "frames 96 (nearest: 89 or 97)"),
        ((64, 64, 0), "frames 0 (nearest: 1)"),
        ((0, 64, 9), "width 0 (nearest: 32)"),
        ((-32, 64, 9), "width -32 (nearest: 32)"),
    ],
)
def test_impossible_sizes_name_the_nearest(size, words):
    with pytest.raises(UserError) as caught:
        Geometry(*size, 24.0, GRID).check()
    assert words in caught.value.message


@pytest.mark.parametrize("rate", [0.0, -1.0, 1000.0, float("nan")])
def test_impossible_rates(rate):
    with pytest.raises(UserError, match="frame rate"):
        Geometry(64, 64, 9, rate, GRID).check()


def test_too_short_for_sound():
    with pytest.raises(UserError, match="too short for any sound"):
        Geometry(64, 64, 1, 60.0, GRID).check()
