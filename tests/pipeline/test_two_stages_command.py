"""Two stages through the command, from an upsampler's file to a clip that is made again from its own metadata."""

import json

import numpy as np
import pytest
from PIL import Image

from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.video import read_video
from tests.adapter.helpers import factors, official_file, shapes
from tests.convert.made import command
from tests.reference.official import Official

PROMPT = 'a woman, (woman, whispering): "hush"'
SIZE = ("--width", 128, "--height", 64, "--frames", 9)


@pytest.fixture(scope="module")
def lora(made_checkpoint, tmp_path_factory):
    sizes = shapes(Official.open(made_checkpoint).transformer)
    pairs = factors(sizes, sizes, rank=lambda name: min(6, *sizes[name]), size=0.1)
    return official_file(tmp_path_factory.mktemp("lora") / "distilled.safetensors", pairs)


def pixels(path):
    return np.concatenate(list(read_video(path, 9, 24.0, 128, 64)))


def test_a_distilled_model_with_an_upsampler_makes_two_stages(two_distilled, tmp_path):
    """With a picture given; again from the clip's own metadata, and otherwise with one stage."""
    face = tmp_path / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)).save(face)
    clip, again, one = (tmp_path / f"{name}.mp4" for name in ("clip", "again", "one"))
    done = command("generate", PROMPT, "-m", two_distilled.path, *SIZE, "--image", face, "-o", clip)
    assert done.returncode == 0, done.stderr
    assert "two-stage: 64x32 in 8 steps; spatial-x2; 128x64 in 3 steps; the sound is the second stage's" in done.stderr
    assert "11 steps" in done.stderr
    assert read_metadata(clip)["pipeline"] == "two-stage"
    done = command("generate", "--from-metadata", clip, "-m", two_distilled.path, "--image", face, "-o", again)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(pixels(again), pixels(clip))
    done = command("generate", PROMPT, "-m", two_distilled.path, *SIZE, "--pipeline", "one-stage", "-o", one, "--json")
    assert done.returncode == 0, done.stderr
    started = json.loads(done.stdout.splitlines()[0])
    assert started["recipe"] == "one-stage: 128x64 in 8 steps"
    assert started["settings"]["pipeline"] == "one-stage"
    assert not np.array_equal(pixels(one), pixels(clip))


def test_a_picture_to_a_given_sound(two_distilled, tmp_path):
    """The sound goes through both stages as it is, and is the clip's."""
    tone = (0.2 * np.sin(np.arange(18000) * 0.05)).astype(np.float32)
    write_wav(tmp_path / "tone.wav", np.stack([tone, tone], axis=1), 48000)
    clip = tmp_path / "clip.mp4"
    done = command("generate", PROMPT, "-m", two_distilled.path, *SIZE, "--audio", tmp_path / "tone.wav", "-o", clip)
    assert done.returncode == 0, done.stderr
    assert "two-stage: 64x32 in 8 steps; spatial-x2; 128x64 in 3 steps\n" in done.stderr
    heard = read_audio(clip, 48000)[2000:16000, 0]
    assert np.corrcoef(heard, tone[2000:16000])[0, 1] > 0.99


def test_the_dev_model_with_the_distilled_lora(two_dev, lora, tmp_path):
    """Its file is named in the metadata, and read again only when it is given again."""
    clip = tmp_path / "clip.mp4"
    options = ("--pipeline", "hq", "--steps", 1, "--distilled-lora", f"{lora}:0.3/0.6")
    done = command("generate", PROMPT, "-m", two_dev.path, *SIZE, *options, "-o", clip)
    assert done.returncode == 0, done.stderr
    assert "hq: 64x32 in 1 step of res_2s, distilled LoRA at 0.3; spatial-x2" in done.stderr
    assert "placed 96 of 96" in done.stderr
    assert list(read_metadata(clip)["adapter_sha256"]) == [f"{lora}:0.3/0.6"]
    done = command("generate", "--from-metadata", clip, "-m", two_dev.path, "-o", tmp_path / "again.mp4")
    assert done.returncode == 2
    assert f"Add --distilled-lora {lora}:0.3/0.6" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pipeline", "two-stage"), "Add --distilled-lora FILE, such as Lightricks/LTX-2.3/"),
        (("--upsampler", "spatial-x2"), "Add --pipeline two-stage, or leave --upsampler out"),
        (("--distilled-lora", "LORA", "--steps", 5), "takes exactly 8 steps, not 5"),
        (("--distilled-lora", "LORA", "--pipeline", "two-stage", "--width", 96), "Two stages cannot make width 96"),
    ],
)
def test_what_is_refused_names_flags(two_dev, lora, tmp_path, options, said):
    options = [lora if option == "LORA" else option for option in options]
    done = command("generate", PROMPT, "-m", two_dev.path, *SIZE, *options, "-o", tmp_path / "x.mp4")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
