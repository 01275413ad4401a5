"""Any text as a picture's, an adapter's or a stretch's specification, any stored request: read, or refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_ltxw.adapter.source import locate
from mlx_ltxw.adapter.strength import parse_adapter, parse_strength
from mlx_ltxw.errors import UserError
from mlx_ltxw.media.images import read_image
from mlx_ltxw.media.video import describe_picture
from mlx_ltxw.pipeline.geometry import Geometry, LatentGrid
from mlx_ltxw.pipeline.keyframes import parse_image, placed
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.spans import audio_bounds, extended, parse_span, retaken, video_bounds
from mlx_ltxw.takes.describe import facts_of
from mlx_ltxw.takes.record import local_files, requests_of
from mlx_ltxw.weights.builtin import BUILTIN_MODEL
from mlx_ltxw.weights.model_dir import ModelDir
from tests.properties import as_json, damaged_values, examples

CLIP = Geometry(64, 32, 33, 24.0, LatentGrid(frames=8, height=32, width=32, mel_seconds=0.01, mel_frames=4))
LONG = "a" * 300  # more than any file's name may have
PIECES = st.sampled_from(
    ["face.png", "@", ":", "first", "last", "-1", "0", "16", "0.5", "1", ".", "٣", "²", "inf", "1e9", " ", "\n", "\x00",
     "C:\\", "/", "=", ",", "audio_attn1=", "\ud800", LONG]
)  # fmt: skip
SPECS = st.one_of(st.lists(PIECES, max_size=6).map("".join), st.text(max_size=30))
SECONDS = st.sampled_from(["0", "1", "0.5", "1.3", ".", "-", " ", "s", "٣", "²", "9" * 400, "nan", "\n"])
SPANS = st.one_of(st.lists(SECONDS, max_size=6).map("".join), st.text(max_size=20))


@examples(200)
@given(SPECS)
def test_any_text_is_a_picture_or_a_sentence(text):
    try:
        image = parse_image(text)
    except UserError:
        return
    assert text.startswith(image.file)
    assert 0 < image.strength <= 1
    try:
        (found,) = placed([text], 33)
    except UserError:
        return
    assert 0 <= found.frame < 33


@pytest.mark.parametrize("read", [read_image, describe_picture, locate])
@examples(60)
@given(SPECS)
def test_a_name_of_no_file_is_a_sentence(tmp_path, monkeypatch, read, text):
    """No name is too long, none holds characters that no name has: it is not there."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        read(text)
    assert str(error.value).strip()


@examples(200)
@given(SPECS)
def test_any_text_is_an_adapter_with_its_strength(text):
    try:
        source, strength = parse_adapter(text)
    except UserError:
        return
    assert text.startswith(source)
    for value in (strength.default, *strength.modules.values()):
        assert np.isfinite(value)
    assert np.isfinite(parse_strength(str(strength)).default)


@examples(200)
@given(SPANS, st.sampled_from(["both", "picture", "sound"]))
def test_a_stretch_lies_in_the_clip(text, what):
    try:
        start, end = parse_span(text)
        made = retaken(text, what, CLIP)
    except UserError:
        return
    assert 0 <= start < end
    for stretch, bounds in ((made.video, video_bounds(CLIP)), (made.audio, audio_bounds(CLIP))):
        if stretch:
            assert 0 <= stretch.start < stretch.stop <= len(bounds)
            assert bounds[stretch.start, 0] < end
            assert bounds[stretch.stop - 1, 1] > start


@examples(100)
@given(st.floats(-100, 100).filter(lambda seconds: seconds != 0))
def test_a_longer_clip_keeps_a_part(seconds):
    made = extended(seconds, CLIP)
    total = CLIP.latent_shape[0]
    assert 0 <= made.video.start < made.video.stop <= total
    assert made.video.stop - made.video.start <= total
    assert 0 <= made.audio.start <= made.audio.stop <= CLIP.audio_tokens
    assert made.lead == 0 if seconds > 0 else made.lead >= 1


@pytest.fixture(scope="module")
def model():
    return ModelDir.open(BUILTIN_MODEL)


@pytest.fixture(scope="module")
def record(model):
    """What a clip's metadata holds."""
    asked = Request(
        '(woman, whispering): "hush"', seeds=(1,), adapters=("whisper:0.8",), register_at="0-1=soft", revoice=None,
        takes=("manner=soft", "seed=+1"), images=("face.png@last:0.5",), frames=17, steps=3,
    )  # fmt: skip
    return json.loads(json.dumps(plan(asked, model).settings.to_dict()))


@examples(60)
@given(data=st.data())
def test_a_stored_request_is_one_that_can_be_planned_or_refused(model, record, data):
    """A file that somebody sent: no value in it ends in a traceback, or in a plan beyond all bounds."""
    values = json.loads(as_json(data.draw(damaged_values(record))), parse_constant=float)
    try:
        (request,) = requests_of(values)
        local_files(request)
        facts_of(request)
        job = plan(request, model)
    except UserError as error:
        str(error).encode()
        return
    assert json.loads(json.dumps(job.settings.to_dict()))
