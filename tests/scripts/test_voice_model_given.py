"""What the shipped model makes of what it is given: a face talks, a stretch is whispered, a line is said again."""

import shutil

import numpy as np
import pytest
from PIL import Image

from scripts.voice_model.evaluate_clips import Prompt
from scripts.voice_model.evaluate_given import Bench, face, mouth, picture, share_of, sound, voiced_in
from scripts.voice_model.measure import Voicing
from scripts.voice_model.true_clips import speak_missing

LINE = Prompt(0, voice=1, sentence=11)
OTHER = Prompt(1, voice=5, sentence=11)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    speak_missing(folder / "true", [(LINE.voice, "whisper")])
    return Bench(folder, steps=8)


@pytest.mark.parametrize("said", [LINE, OTHER], ids=["its own name", "another's name"])
def test_the_face_of_a_given_picture_talks(bench, said):
    still = bench.folder / "face.png"
    Image.fromarray(picture(bench.base(LINE))[0]).save(still)
    made = bench.clip(f"image-{said.number}", said.text("plain"), 100, images=(str(still),))
    known = {line.voice: face(bench.base(line)) for line in (LINE, OTHER)}
    assert share_of(made, LINE.voice, known) == 1
    assert np.abs(face(made) - known[LINE.voice]).mean() < 0.5 * np.abs(face(made) - known[OTHER.voice]).mean()
    assert mouth(made) >= 0.7


def test_a_stretch_is_whispered_and_the_rest_is_not(bench):
    base = bench.base(LINE)
    said = np.flatnonzero(Voicing.of(sound(base)).active) / 100
    start, end = (round(float(np.quantile(said, part)), 2) for part in (0.33, 0.67))
    given = {"retake": f"{start}-{end}", "retake_what": "sound", "adapters": ("whisper",)}
    made = bench.clip("retake", LINE.text("whisper"), 7, video=str(base), **given)
    before, within, after = voiced_in(sound(made), start, end)
    assert within <= 0.25
    assert min(before, after) >= 0.8
    assert np.array_equal(picture(made), picture(base))


def test_a_line_said_again_is_whispered_and_the_same(bench):
    base = bench.base(LINE)
    again = {"revoice": 0.7, "adapters": ("whisper",)}
    made = bench.clip("revoice", LINE.text("whisper"), 7, video=str(base), **again)
    assert Voicing.of(sound(made)).fraction <= 0.25
    assert bench.is_line(made, LINE, "whisper")
