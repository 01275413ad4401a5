"""The request in a file's metadata: as long and as foreign as prompts get, and readable by others."""

import struct
import tracemalloc
import zlib

import av
import numpy as np
import pytest
import soundfile

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import write_wav
from mlx_ltxw.media.metadata import read_metadata
from mlx_ltxw.media.mp4 import write_mp4
from mlx_ltxw.media.spectrogram import write_png

REQUEST = {
    "prompt": '(Frau, flüstert): "schließ die Augen" ☃ 你好 😀 \\ "quoted"\n\ttabs\0',
    "seed": 7,
    "sigmas": [1.0, 0.725, 0.421875],
    "adapters": [{"file": "a/b.safetensors", "strength": 1.0}],
    "long": "whisper ☃ " * 2000,
}


def write(path, metadata):
    if path.suffix == ".wav":
        write_wav(path, np.zeros((4801, 2), np.float32), metadata=metadata)
    elif path.suffix == ".mp4":
        write_mp4(path, [np.zeros((9, 32, 32, 3), np.uint8)], 24, np.zeros((10, 2)), metadata=metadata)
    else:
        write_png(path, np.zeros((4, 5, 3), np.uint8), metadata)


@pytest.mark.parametrize("name", ["a.wav", "a.mp4", "a.png"])
def test_it_comes_back_whole(tmp_path, name):
    write(tmp_path / name, REQUEST)
    assert read_metadata(tmp_path / name) == REQUEST


@pytest.mark.parametrize("name", ["a.wav", "a.mp4", "a.png"])
def test_a_file_without_it_says_so(tmp_path, name):
    write(tmp_path / name, None)
    with pytest.raises(UserError, match="carries no settings"):
        read_metadata(tmp_path / name)


def test_a_foreign_comment_is_no_request(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 48000, 1) as file:
        file.comment = "recorded at home"
        file.write(np.zeros(100))
    with pytest.raises(UserError, match="carries no settings"):
        read_metadata(tmp_path / "a.wav")


@pytest.mark.parametrize(("name", "content"), [("missing.mp4", None), ("a.mp4", b"not a video"), ("b.png", b"")])
def test_an_unreadable_file_is_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_metadata(tmp_path / name)


def test_the_wav_is_well_formed(tmp_path):
    """Walks the RIFF chunks by hand: sizes add up, and the comment is where the format has it."""
    write(tmp_path / "a.wav", REQUEST)
    data = (tmp_path / "a.wav").read_bytes()
    assert struct.unpack("<4sI4s", data[:12]) == (b"RIFF", len(data) - 8, b"WAVE")
    chunks, at = {}, 12
    while at < len(data):
        name, size = struct.unpack("<4sI", data[at : at + 8])
        chunks[name] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    assert at == len(data)
    assert len(chunks[b"data"]) == 4801 * 4
    assert chunks[b"LIST"][:8] == b"INFOICMT"


def test_ffmpeg_reads_the_png(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (7, 11, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", picture, REQUEST)
    with av.open(str(tmp_path / "a.png")) as container:
        assert np.array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), picture)
    data = (tmp_path / "a.png").read_bytes()
    assert data.endswith(struct.pack(">I", zlib.crc32(b"IEND")))


def test_of_a_png_only_the_text_is_read(tmp_path):
    """Behind 3 GB that are no text, and none of them read: a sparse file."""
    path = tmp_path / "a.png"
    write_png(path, np.zeros((4, 5, 3), np.uint8), REQUEST)
    whole, large = path.read_bytes(), 3_000_000_000
    with path.open("wb") as file:
        file.write(whole[:8] + struct.pack(">I", large) + b"zzZz")
        file.seek(large + 4, 1)
        file.write(whole[8:])
    tracemalloc.start()
    assert read_metadata(path) == REQUEST
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
