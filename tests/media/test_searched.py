"""What is damaged is searched for so long and no longer, whatever its format: counted in bytes that are read."""

import contextlib
import errno
import os

import av
import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.media import searched
from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.containers import collected_notes, probe
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.media.video import picture_seconds, read_video
from tests.media.signals import moving_picture, tone

SEARCH = 1 << 20
HOLE = 40 * SEARCH
GIVEN_UP = ["is damaged: a long stretch of it holds nothing to play, and what follows is left out."]

REFUSED = {("mp3", "noise"): "packets in a row cannot be decoded", ("mpegts", "zeros"): "cannot be read"}
"""Noise is taken for packets; FFmpeg itself gives up on a broadcast of zeros."""


@pytest.fixture
def counted(monkeypatch):
    """Short searches, and the files that are opened, which count what is read of them."""
    files = []

    class Counted(searched.SearchedFile):
        def __init__(self, *args):
            super().__init__(*args)
            files.append(self)

    monkeypatch.setattr(searched, "SEARCH", SEARCH)
    monkeypatch.setattr(searched, "HEADERS", 2 * SEARCH)
    monkeypatch.setattr(searched, "SearchedFile", Counted)
    return files


def packed(path, format, codec, seconds=2.0):
    """A tone of 440 Hz in a container."""
    with av.open(str(path), "w", format=format) as out:
        stream = out.add_stream(codec, rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(440, seconds)[:, :1].T.copy(), format="fltp", layout="mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(stream.format, "mono", 48000, stream.codec_context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))


def holed(path, fill):
    """Half of a file, much of something else, and the other half."""
    whole = path.read_bytes()
    half = len(whole) // 2
    junk = bytes(HOLE) if fill == "zeros" else np.random.default_rng(0).bytes(SEARCH) * (HOLE // SEARCH)
    path.write_bytes(whole[:half] + junk + whole[half:])


@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize(("format", "codec"), [("mp3", "libmp3lame"), ("flac", "flac"), ("matroska", "aac"),
                                               ("flv", "aac"), ("mpegts", "mp2")])  # fmt: skip
def test_a_hole_in_a_sound(counted, tmp_path, format, codec, fill):
    packed(tmp_path / "a.bin", format, codec)
    holed(tmp_path / "a.bin", fill)
    with collected_notes() as notes:
        if refusal := REFUSED.get((format, fill)):
            with pytest.raises(UserError, match=refusal):
                read_audio(tmp_path / "a.bin", 48000, 1)
        else:
            assert 0.5 < len(read_audio(tmp_path / "a.bin", 48000, 1)) / 48000 < 1.5
            assert notes[:1] == GIVEN_UP
    assert sum(file.count for file in counted) < 8 * SEARCH


def test_a_wav_of_many_chunks_of_nothing(counted, tmp_path, monkeypatch):
    """After its sound: FFmpeg takes eight zeros for a chunk without a name or a size, and goes to the next."""
    monkeypatch.setattr(searched, "_JUMPS", 1000)
    write_wav(tmp_path / "a.wav", tone(440, 0.5))
    with (tmp_path / "a.wav").open("ab") as file:
        file.write(bytes(HOLE))
    assert len(read_audio(tmp_path / "a.wav", 48000, 1)) == 24000
    assert sum(file.count for file in counted) < 4 * SEARCH


def test_a_hole_in_a_picture(counted, tmp_path):
    with av.open(str(tmp_path / "a.h264"), "w", format="h264") as out:
        stream = out.add_stream("libx264", rate=24, options={"g": "4"})
        stream.width = stream.height = 32
        for pixels in moving_picture(49, 32, 32):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    holed(tmp_path / "a.h264", "zeros")
    with collected_notes() as notes:
        picture_seconds(tmp_path / "a.h264")
    assert notes[:1] == GIVEN_UP
    assert sum(file.count for file in counted) < 4 * SEARCH


def test_what_is_whole_is_read_whole(counted, tmp_path, monkeypatch):
    """With less to search than each of its streams takes: a packet of another one is found too."""
    frames = np.random.default_rng(0).integers(0, 256, (72, 128, 128, 3), np.uint8)
    write_mp4(tmp_path / "a.mp4", [frames], 24, tone(440, 3.0))
    monkeypatch.setattr(searched, "SEARCH", 1 << 17)
    assert (tmp_path / "a.mp4").stat().st_size > 4 * searched.SEARCH
    with collected_notes() as notes:
        assert len(read_audio(tmp_path / "a.mp4", 48000, 1)) == 3 * 48000
        assert len(read_video(tmp_path / "a.mp4", 72, 24, 128, 128)) == 72
    assert not notes


def test_headers_may_be_long(counted, tmp_path):
    """A cover of more bytes than are searched, in front of an MP3."""
    packed(tmp_path / "a.mp3", "mp3", "libmp3lame")
    cover = b"APIC" + (3 * SEARCH // 2).to_bytes(4, "big") + bytes(2) + bytes(3 * SEARCH // 2)
    size = len(cover)
    head = b"ID3\3\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    (tmp_path / "a.mp3").write_bytes(head + cover + (tmp_path / "a.mp3").read_bytes())
    assert probe(tmp_path / "a.mp3").rate == 48000
    assert abs(len(read_audio(tmp_path / "a.mp3", 48000, 1)) / 48000 - 2) < 0.1


@pytest.mark.parametrize("size", [0, 1, 4, 40, 128])
@pytest.mark.parametrize(("format", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac"),
                                               ("ogg", "libopus"), ("mov", "aac"), ("matroska", "aac"),
                                               ("mpegts", "mp2"), ("aiff", "pcm_s16be"), ("au", "pcm_s16be"),
                                               ("caf", "pcm_s16le")])  # fmt: skip
def test_the_first_bytes_of_a_file_are_refused_in_a_sentence(tmp_path, format, codec, size):
    """FFmpeg seeks to places before their start."""
    path = tmp_path / f"a.{format}"
    packed(path, format, codec, seconds=0.2)
    path.write_bytes(path.read_bytes()[:size])
    for read in (probe, lambda path: read_audio(path, 48000, 1)):
        with contextlib.suppress(UserError):
            read(path)


def test_a_place_before_the_start_is_ffmpegs_error_and_a_failing_disk_is_not(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(bytes(8))
    file = searched.SearchedFile(tmp_path / "a.bin", SEARCH)
    assert file.seek(-1) == -errno.EINVAL
    assert file.seek(3) == file.tell() == 3
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.seek(0)


@pytest.mark.parametrize("fails", [1, 3])
def test_a_disk_that_fails_in_the_midst_is_one_sentence(tmp_path, monkeypatch, fails):
    """FFmpeg has begun already, and hands on what the file's own reading says."""
    frames = np.random.default_rng(0).integers(0, 256, (12, 128, 128, 3), np.uint8)
    write_mp4(tmp_path / "a.mp4", [frames], 24, tone(440, 0.5))
    read, calls = searched.SearchedFile.read, []

    class Failing:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def read(self, size):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def read_some(self, size):
        calls.append(size)
        if len(calls) == fails:
            self._file = Failing(self._file)
        return read(self, size)

    monkeypatch.setattr(searched.SearchedFile, "read", read_some)
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read: Input/output error\. See that the disk"):
        read_audio(tmp_path / "a.mp4", 48000, 1)
    assert len(calls) == fails
