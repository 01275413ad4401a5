"""A file's sound in a new mp4, packet by packet."""

import subprocess

import av
import numpy as np
import pytest

from mlx_ltxw.media.audio import read_audio, write_wav
from mlx_ltxw.media.mp4 import open_mp4

RATE = 48000
WAVE = (np.random.default_rng(4).standard_normal((2 * RATE, 2)).cumsum(0) * 0.002).astype(np.float32).clip(-0.5, 0.5)
FRAMES = np.zeros((36, 32, 64, 3), np.uint8)  # 1.5 s


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def encoded(folder, name, *options):
    write_wav(folder / "source.wav", WAVE, RATE)
    call = ["ffmpeg", "-v", "error", "-y", "-i", "source.wav", *options, name]
    subprocess.run(call, cwd=folder, check=True)
    return folder / name


def written(path, sound_from, frames=FRAMES):
    with open_mp4(path, 64, 32, 24, sound_from=sound_from) as file:
        file.frames(frames)
        file.audio(np.zeros((RATE, 2), np.float32))
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.m4a", ("-c:a", "aac")), ("a.mp3", ("-c:a", "libmp3lame")), ("a.m4a", ("-c:a", "alac")),
        ("a.opus", ("-c:a", "libopus")), ("a.mka", ("-c:a", "ac3")), ("a.aac", ("-c:a", "aac")),
        ("a.mp4", ("-f", "lavfi", "-i", "color=s=64x32:d=2", "-c:a", "aac")),
    ],
    ids=["aac", "mp3", "alac", "opus", "ac3", "adts", "clip"],
)  # fmt: skip
def test_packets_and_samples_stay_as_they_are(tmp_path, name, options):
    """As many packets as the picture is long, byte for byte, and what they sound like lies where it did."""
    source = encoded(tmp_path, name, *options)
    made = written(tmp_path / "made.mp4", source)
    header = 7 if name.endswith(".aac") else 0  # ADTS repeats in each packet what an mp4 says once
    theirs, ours = [packet[header:] for packet in packets(source)], packets(made)
    assert ours == theirs[: len(ours)]
    assert 0.7 * len(theirs) < len(ours) < 0.85 * len(theirs)  # 1.5 of 2 s
    before, after = (read_audio(path, RATE)[: round(1.45 * RATE)] for path in (source, made))
    assert len(after) == round(1.45 * RATE)
    skip = 4800 if name.endswith((".opus", ".aac")) else 0  # decoders that start in the middle of their own start-up
    np.testing.assert_allclose(after[skip:], before[skip:], atol=1e-3)


def test_a_shorter_sound_ends_and_the_picture_goes_on(tmp_path):
    source = encoded(tmp_path, "a.m4a", "-c:a", "aac", "-t", "1")
    made = written(tmp_path / "made.mp4", source)
    assert packets(made) == packets(source)
    with av.open(str(made)) as container:
        assert container.streams.video[0].frames == 36


@pytest.mark.parametrize("options", [("-c:a", "pcm_s16le", "a.wav"), ("-c:a", "flac", "a.flac")])
def test_what_mp4_players_do_not_read_is_encoded(tmp_path, options):
    source = encoded(tmp_path, options[-1], *options[:-1])
    made = written(tmp_path / "made.mp4", source)
    assert np.abs(read_audio(made, RATE)).max() < 1e-3  # the waveform that was given beside it, which is silence
