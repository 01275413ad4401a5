"""The size that a given clip is seen at, and how a given picture is prepared."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.images import compressed
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.pipeline.geometry import LatentGrid
from mlx_ltxw.pipeline.request import Defaults, Request
from mlx_ltxw.takes.given import fit_to_clip, material_of
from mlx_ltxw.takes.make import fit
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir

GRID = LatentGrid(8, 32, 32, 0.01, 4)
DEFAULTS = Defaults(width=768, height=512, frame_rate=24.0)


@pytest.mark.parametrize(
    ("width", "height", "frames", "rate", "seen"),
    [
        (320, 180, 48, 24, (832, 480, 49)),  # sqrt(768 * 512 / (320 * 180)) = 2.613: 836 x 470 to the next 32
        (180, 320, 20, 24, (480, 832, 25)),
        (64, 64, 10, 10, (640, 640, 25)),  # one second, at the model's 24 frames
    ],
)
def test_shape_and_length_are_the_clips(tmp_path, width, height, frames, rate, seen):
    path = tmp_path / "clip.mp4"
    write_mp4(path, [np.zeros((frames, height, width, 3), np.uint8)], rate, None)
    request = fit_to_clip(Request("a", video=str(path)), DEFAULTS, GRID)
    assert (request.width, request.height, request.frames, request.frame_rate) == (*seen, 24.0)
    told = fit_to_clip(Request("a", video=str(path), width=96, frames=9, frame_rate=12.0), DEFAULTS, GRID)
    assert (told.width, told.height, told.frames, told.frame_rate) == (96, seen[1], 9, 12.0)


@pytest.mark.parametrize(
    ("size", "rate", "words"),
    [
        ((64, 32), 24, "is kept frame by frame,"),
        ((128, 64), 24, "is scaled from 128x64 to 64x32,"),
        ((96, 64), 30, "is scaled and cropped from 96x64 to 64x32 and shown at 24 frames a second in place of 30,"),
    ],
)
def test_what_is_kept_at_another_size_or_rate_is_said(tmp_path, size, rate, words):
    path = str(tmp_path / "clip.mp4")
    write_mp4(path, [np.zeros((2 * rate, size[1], size[0], 3), np.uint8)], rate, None)
    request = Request("a", video=path, retake="0.5-1", width=64, height=32, frame_rate=24.0)
    notes = fit(request, ModelDir.open(BUILTIN_MODEL)).warnings
    assert any(f"The rest of the picture {words} and encoded again (H.264, CRF 18)." == note for note in notes), notes


def test_a_sound_is_no_picture(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros((4800, 2), np.float32))
    with pytest.raises(UserError, match="has no picture"):
        fit_to_clip(Request("a", video=str(tmp_path / "a.wav")), DEFAULTS, GRID)


@pytest.mark.parametrize(
    ("version", "crf"), [("", 33), ("2.3.0", 33), ("2.3-rc", 33), ("2.4", 18), ("2.10.1", 18), ("3.0.0", 18)]
)
def test_pictures_are_compressed_as_in_the_models_training(tmp_path, version, crf):
    """Source: `ltx_pipelines/utils/constants.py:DEFAULT_IMAGE_CRF` is 33, `LTX_2_4_IMAGE_CRF` 18."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    settings = SimpleNamespace(images=(str(tmp_path / "noise.png"),), frames=9, video=None, audio=None)
    for name in ("revoice", "retake", "extend"):
        setattr(settings, name, None)
    job = SimpleNamespace(settings=settings, model=SimpleNamespace(config={"model_version": version}))
    (read,) = material_of(job).images
    assert np.array_equal(read(64, 64), compressed(noise, crf))
    assert not np.array_equal(read(64, 64), compressed(noise, crf - 1))
