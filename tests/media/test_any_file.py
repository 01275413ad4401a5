"""Damaged pictures, clips and sounds: whatever is given is read or refused in a sentence, quickly."""

import time
import warnings

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.images import read_image
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.media.remux import check_remux, remux
from mlx_ltxw.media.video import describe_picture, is_still, read_video
from mlx_ltxw.takes.record import read_record
from tests.media.signals import moving_picture, tone
from tests.properties import damaged_bytes, examples

PICTURES = {
    "png": {}, "jpg": {"quality": 80}, "webp": {}, "avif": {}, "tiff": {"compression": "tiff_lzw"}, "bmp": {},
    "gif": {}, "jp2": {}, "ppm": {}, "tga": {}, "heic": {}, "mpo": {},
}  # fmt: skip
CLIPS = {
    "mp4": ("libx264", "aac"), "mov": ("mpeg4", "pcm_s16le"), "mkv": ("libx264", "ac3"), "webm": ("libvpx", "libopus"),
    "avi": ("mpeg4", "libmp3lame"), "ts": ("mpeg2video", "mp2"), "mpg": ("mpeg1video", "mp2"), "gif": ("gif", None),
    "wav": (None, "pcm_s16le"), "flac": (None, "flac"), "mp3": (None, "libmp3lame"), "ogg": (None, "libopus"),
    "m4a": (None, "aac"), "aiff": (None, "pcm_s16be"), "mka": (None, "ac3"), "au": (None, "pcm_s16be"),
}  # fmt: skip
LONGEST = 20
"""Seconds of the processor; reading a whole one takes a hundredth of one."""


def picture(path, ending, options):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    image = Image.fromarray(moving_picture(1, 24, 32)[0])
    if ending == "png":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("mlx_ltxw", '{"prompt": "hush"}')
    if ending == "gif":
        image = image.quantize(16)
    image.save(path, **options)
    return path.read_bytes()


def clip(path, video, audio):
    """Eight frames of 32x32 and a third of a second of a tone."""
    with av.open(str(path), "w") as out:
        if video:
            stream = out.add_stream(video, rate=25)
            stream.width = stream.height = 32
            stream.pix_fmt = "rgb8" if video == "gif" else "yuv420p"
        if audio:
            sound = out.add_stream(audio, rate=48000)
            sound.layout = "stereo"
        if video:
            for one in moving_picture(8, 32, 32):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
            out.mux(stream.encode(None))
        if audio:
            resampler = av.AudioResampler(sound.format, "stereo", 48000, sound.codec_context.frame_size or 1024)
            whole = (tone(300, 0.34) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(whole.reshape(1, -1), format="s16", layout="stereo")
            frame.sample_rate = 48000
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                out.mux(sound.encode(part))
            out.mux(sound.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{ending: bytes} of pictures and of clips and sounds, which are read as they are."""
    folder = tmp_path_factory.mktemp("whole")
    pictures = {ending: picture(folder / f"a.{ending}", ending, more) for ending, more in PICTURES.items()}
    clips = {ending: clip(folder / f"b.{ending}", *codecs) for ending, codecs in CLIPS.items()}
    write_mp4(folder / "c.mp4", [moving_picture(9, 32, 32)], 24, tone(300, 0.4), metadata={"prompt": "hush"})
    write_wav(folder / "c.wav", tone(300, 0.2), metadata={"prompt": "hush"})
    clips |= {f"ours.{ending}": (folder / f"c.{ending}").read_bytes() for ending in ("mp4", "wav")}
    for ending in PICTURES:
        assert read_image(folder / f"a.{ending}").shape == (24, 32, 3)
    for ending, (_, audio) in CLIPS.items():
        if audio:
            assert len(read_audio(folder / f"b.{ending}", 48000)) > 10_000
    return pictures, clips


def tried(*reads):
    """Each is answered or refused, and no library's own warning reaches the user."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in reads:
            try:
                read()
            except UserError as error:
                str(error).encode()
    assert time.process_time() - began < LONGEST


@examples(100)
@given(data=st.data())
def test_any_picture_is_read_or_refused(whole, tmp_path, data):
    ending = data.draw(st.sampled_from(list(PICTURES)))
    path = tmp_path / f"a.{data.draw(st.sampled_from([ending, *PICTURES]))}"  # a name may lie
    path.write_bytes(data.draw(damaged_bytes(whole[0][ending])))
    tried(lambda: read_image(path), lambda: read_metadata(path), lambda: read_record(path))


@examples(25)
@given(data=st.data())
def test_any_clip_or_sound_is_read_or_refused(whole, tmp_path, data):
    ending = data.draw(st.sampled_from(list(whole[1])))
    path = tmp_path / f"b.{data.draw(st.sampled_from([ending, *CLIPS])).removeprefix('ours.')}"
    path.write_bytes(data.draw(damaged_bytes(whole[1][ending])))
    tried(
        lambda: probe(path),
        lambda: is_still(path),
        lambda: describe_picture(path),
        lambda: read_video(path, 9, 24, 32, 32, start=data.draw(st.sampled_from([0.0, 0.2]))),
        lambda: read_audio(path, 48000, start=data.draw(st.sampled_from([0.0, 0.2]))),
        lambda: check_remux(path),
        lambda: remux(path, tone(300, 0.1), tmp_path / "out.mp4"),
        lambda: read_record(path),
    )
