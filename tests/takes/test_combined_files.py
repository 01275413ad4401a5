"""Takes of what is given, as files: cut and begun again, made again from their own metadata; scripts with pictures."""

import dataclasses
from contextlib import closing

import av
import numpy as np
import pytest
from PIL import Image

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.video import read_video
from mlx_ltxw.pipeline.guidance import NO_GUIDANCE
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.prompts.script import Part
from mlx_ltxw.takes.events import PartBegun
from mlx_ltxw.takes.make import fit, make
from mlx_ltxw.takes.output import Output
from mlx_ltxw.takes.record import read_record, with_given
from mlx_ltxw.takes.script import make_script, part_requests, plan_parts
from tests.pipeline.conftest import dev  # noqa: F401
from tests.pipeline.test_lock import whisper  # noqa: F401
from tests.takes.test_combinations import GIVEN, PROMPT, files, named, networks  # noqa: F401

SMALL = Request(PROMPT, width=64, height=32, steps=2, video_guidance=NO_GUIDANCE, audio_guidance=NO_GUIDANCE)


def packets(path, kind):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def made(request, output, model, until=None):
    """Makes the files; ends when something is in the way of an event's kind."""
    with closing(make(fit(request, model), output, networks(model.path))) as events:
        for event in events:
            if until is not None and type(event).__name__ == until:
                return


@pytest.mark.parametrize(
    ("given", "until"),
    [
        ("a stretch", "Step"),
        pytest.param("a stretch of sound", "Written", marks=pytest.mark.slow),
        pytest.param("what follows", "Decoding", marks=pytest.mark.slow),
        pytest.param("keyframes", "Step", marks=pytest.mark.slow),
        pytest.param("a clip's sound again", "Step", marks=pytest.mark.slow),
    ],
)
def test_cut_and_made_again(dev, files, whisper, tmp_path, given, until):  # noqa: F811
    """Byte by byte the files of a run in one go; a take made again alone has their picture and its sound."""
    adapters, fields = (str(whisper[0]),), named(GIVEN[given], files)
    frames = {} if "video" in fields else {"frames": 17}
    takes = ("seed=+0", "seed=+1 adapter=none")
    request = dataclasses.replace(SMALL, adapters=adapters, takes=takes, **frames, **fields)
    one, two = (Output(tmp_path / name / "out.mp4", wav=True) for name in ("one", "two"))
    for output in (one, two):
        output.path.parent.mkdir()
    made(request, one, dev)
    made(request, two, dev, until)
    assert (tmp_path / "two" / "out.mp4.unfinished").exists()
    made(request, two, dev)
    names = sorted(path.name for path in one.path.parent.iterdir())
    assert names == [f"out.take{number}{ending}" for number in (1, 2) for ending in (".mp4", ".wav")]
    assert names == sorted(path.name for path in two.path.parent.iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    take = one.path.with_name("out.take2.mp4")
    record = read_record(take)
    if "video" in fields or "images" in fields:
        with pytest.raises(UserError, match="read only when you give them too"):
            with_given(record, (), None, "take")
    (again,) = with_given(record, (), fields.get("video"), "take", images=fields.get("images", ()))
    made(again, Output(tmp_path / "again.mp4", wav=True), dev)
    assert packets(tmp_path / "again.take1.mp4", "video") == packets(take, "video")
    ours, theirs = (read_audio(path.with_suffix(".wav"), 48000) for path in (tmp_path / "again.take1.mp4", take))
    assert np.abs(ours - theirs).max() < 1e-3  # of 16 bits, and fp32 in a batch of another size
    if "retake" in fields and fields.get("retake_what") != "sound":
        assert packets(take, "video") != packets(files["clip"], "video")
    elif "video" in fields and "extend" not in fields:
        assert packets(take, "video") == packets(files["clip"], "video")


def test_a_script_with_a_picture(dev, files, tmp_path):  # noqa: F811
    """Every part begins with it, and another picture of the same name makes them anew."""
    face = tmp_path / "face.png"
    face.write_bytes(files["face"].read_bytes())
    shared = dataclasses.replace(SMALL, frames=9, images=(str(face),))
    output = Output(tmp_path / "out.mp4", overwrite=True)

    def parts():
        jobs = plan_parts(part_requests([Part('a, (woman): "hush"'), Part("rain")], shared, dev), dev)
        events = list(make_script(jobs, output, keep=True))
        return [event.kept for event in events if isinstance(event, PartBegun)]

    assert parts() == [False, False]
    assert parts() == [True, True]
    frames = read_video(output.path, 16, 24, 64, 32).astype(int)
    Image.fromarray(255 - np.asarray(Image.open(face))).save(face)
    assert parts() == [False, False]
    other = read_video(output.path, 16, 24, 64, 32).astype(int)
    assert np.abs(frames[0] - other[0]).mean() > 10


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"video": "{clip}"}, "A script makes one new clip"),
        ({"video": "{clip}", "retake": "0-1"}, "A script makes one new clip"),
        ({"video": "{clip}", "extend": 1.0}, "A script makes one new clip"),
        ({"audio": "{line}"}, "A script makes one new clip"),
        ({"audio": "{line}", "revoice": 0.5}, "A script makes one new clip"),
        ({"takes": ("seed=+0",)}, "A script has one sound"),
        ({"retake": "0-1"}, "retake has no clip to change"),
        ({"extend": 1.0}, "extend has no clip to change"),
        ({"revoice": 0.5}, "revoice has no sound to make again"),
    ],
)  # fmt: skip
def test_what_a_script_does_not_take(dev, files, fields, words):  # noqa: F811
    shared = dataclasses.replace(SMALL, frames=9, **named(fields, files))
    with pytest.raises(UserError, match=words):
        plan_parts(part_requests([Part("rain")], shared, dev), dev)
