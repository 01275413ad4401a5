"""Cuts of formats in which no time can be sought: the samples of a decoder that began at each cut, read once."""

import av
import numpy as np
import pytest

from mlx_ltxw.media import passed
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.containers import opened
from tests.media.recorded import ffmpeg, needs_ffmpeg

pytestmark = needs_ffmpeg

KINDS = {
    "a.mp3": ("-c:a", "libmp3lame", "-q:a", "4"), "plain.mp3": ("-c:a", "libmp3lame", "-write_xing", "0"),
    "a.aac": ("-c:a", "aac"), "a.ac3": ("-c:a", "ac3"), "a.eac3": ("-c:a", "eac3"), "a.flac": ("-c:a", "flac"),
    "a.wav": ("-c:a", "adpcm_ms"),
    # packets that only the one before tells the size of: entered nowhere
    "a.tta": ("-c:a", "tta"), "a.thd": ("-c:a", "truehd", "-strict", "-2", "-f", "truehd"),
}  # fmt: skip
CUTS = (3.1, 5.0, 8.25, 8.3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passed")
    noise = ["-f", "lavfi", "-i", "anoisesrc=d=10:c=pink:r=48000,tremolo=3:0.9"]
    for name, options in KINDS.items():
        ffmpeg(*noise, *options, folder / name)
    return folder


@pytest.fixture(autouse=True)
def nothing_known():
    passed._files.clear()
    yield
    passed._files.clear()


def ticks_and_bytes(path, second):
    """The first packets from a second on, as the file has them for who reads all of it."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        tick = second / float(stream.time_base)
        kept = [(p.pts, bytes(p)) for p in container.demux(stream) if p.size and p.pts + p.duration >= tick]
    return kept[:40]


@pytest.mark.parametrize("name", KINDS)
def test_packets_and_samples_are_those_of_reading_from_the_beginning(files, name):
    fresh = []
    for cut in CUTS:
        passed._files.clear()
        fresh.append(read_audio(files / name, 48000, 1, start=cut, seconds=1.0))
    passed._files.clear()
    for order in (CUTS, CUTS[::-1]):
        for cut in order:
            part = read_audio(files / name, 48000, 1, start=cut, seconds=1.0)
            assert np.array_equal(part, fresh[CUTS.index(cut)])
            with opened(files / name) as container:
                stream = container.streams.audio[0]
                packets = passed.packets_at(files / name, container, stream, cut)
                found = [(p.pts, bytes(p)) for p, _ in zip((p for p in packets if p.size), range(40), strict=False)]
            assert found == ticks_and_bytes(files / name, cut)


def test_what_was_passed_is_not_read_again(files, monkeypatch):
    """Ten cuts, each half a second on, read each packet about once, not all before each cut."""
    count = 0

    def counted(path, container, stream, tick, real=passed._packets):
        nonlocal count
        for packet in real(path, container, stream, tick):
            count += 1
            yield packet

    monkeypatch.setattr(passed, "_packets", counted)
    for cut in np.arange(4, 9, 0.5):
        read_audio(files / "a.mp3", 48000, 1, start=float(cut), seconds=0.5)
    assert count < 10 / 0.024 + 10 * 1.2 / 0.024  # of 24 ms; each cut decodes half a second before itself


def test_a_file_that_changed_is_read_anew(files, tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes((files / "plain.mp3").read_bytes())
    read_audio(path, 48000, 1, start=8.0, seconds=1.0)
    ffmpeg("-f", "lavfi", "-i", "sine=440:d=10:r=48000", "-c:a", "libmp3lame", "-b:a", "128k", path)
    part = read_audio(path, 48000, 1, start=5.0, seconds=1.0)[:, 0]
    passed._files.clear()
    assert np.array_equal(part, read_audio(path, 48000, 1, start=5.0, seconds=1.0)[:, 0])
    hertz = np.fft.rfftfreq(len(part), 1 / 48000)[np.abs(np.fft.rfft(part)).argmax()]
    assert hertz == pytest.approx(440, abs=1)
