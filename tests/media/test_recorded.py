"""Clips of cameras, broadcasts, screen recorders and editors: what players show is what is read and copied."""

import logging
import os
import struct

import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import audio_blocks, read_audio
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.cut_off import ends_early
from mlx_ltxw.media.remux import check_remux, remux
from mlx_ltxw.media.video import describe_picture, picture_seconds, read_video
from tests.media.recorded import SWEEP, described, ffmpeg, needs_ffmpeg, packed, packets, record
from tests.media.signals import tone

pytestmark = needs_ffmpeg

X264 = ("-c:v", "libx264", "-g", "48", "-bf", "2", "-crf", "20")
KINDS = {
    "a.ts": (*X264, "-c:a", "aac"),
    "a.mpg": ("-c:v", "mpeg2video", "-q:v", "2", "-bf", "2", "-c:a", "mp2", "-f", "vob"),
    "a.vob": ("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "ac3", "-f", "vob"),
    "a.avi": ("-c:v", "mjpeg", "-q:v", "2", "-c:a", "adpcm_ima_wav"),
    "a.ac3": ("-vn", "-c:a", "ac3"),
    "a.mp3": ("-vn", "-c:a", "libmp3lame", "-q:a", "4"),
    "a.wav": ("-vn", "-c:a", "adpcm_ima_wav"),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of each kind, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("recorded")
    return lambda name: folder / name if (folder / name).exists() else record(folder / name, *KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_a_part_is_the_part_of_the_whole_in_every_container(clip, name):
    whole = read_audio(clip(name), 48000, 1)
    for start in (1.7, 5.9):
        part = read_audio(clip(name), 48000, 1, start=start, seconds=1.0)
        assert np.abs(part - whole[round(start * 48000) :][:48000]).max() < 2e-3
    assert len(whole) == pytest.approx(8 * 48000, abs=3000)


@pytest.mark.parametrize("name", ["a.ts", "a.mpg", "a.avi"])
def test_the_picture_after_a_seek_is_the_one_on_screen(clip, name):
    whole = read_video(clip(name), 190, 24, 32, 32, hold=8)[:, 16, 16, 0].astype(int)
    assert (np.diff(whole) >= -1).all()
    assert whole[-1] > 210
    part = read_video(clip(name), 40, 24, 32, 32, start=5.5, hold=8)[:, 16, 16, 0].astype(int)
    assert np.abs(part - whole[132:172]).max() <= 2


def test_a_stream_with_one_key_frame_is_read_from_its_beginning(tmp_path):
    path = record(tmp_path / "a.ts", "-c:v", "libx264", "-g", "250", "-sc_threshold", "0", "-an", seconds=4)
    assert read_video(path, 12, 24, 32, 32, start=3.0)[0, 16, 16, 0] == pytest.approx(72 * 255 / 219, abs=3)


def test_a_gap_in_the_sound_is_silence(tmp_path):
    """A second of a tone, half a second without packets, a second of a tone."""
    ffmpeg("-f", "lavfi", "-i", "sine=500:r=48000:d=2.5", "-af", "aselect='not(between(t,1,1.5))'", "-c:a", "pcm_s16le",
           tmp_path / "a.mka")  # fmt: skip
    wave = read_audio(tmp_path / "a.mka", 48000, 1)[:, 0]
    assert len(wave) == pytest.approx(120000, abs=1100)
    assert not wave[50000:71000].any()
    assert np.abs(wave[74000:]).max() > 0.1


def test_blocks_are_the_whole(clip):
    blocks = list(audio_blocks(clip("a.mp3"), 16000, 2))
    assert [round(len(block) / 16000) for block in blocks if len(block) > 8000] == [5, 3]
    assert np.array_equal(np.concatenate(blocks), read_audio(clip("a.mp3"), 16000, 2))


def copied(source, tmp_path):
    check_remux(source)
    remux(source, tone(900, 2.0), tmp_path / "out.mp4")
    return tmp_path / "out.mp4"


def test_a_broadcast_begins_at_second_0(clip, tmp_path):
    ffmpeg("-i", clip("a.ts"), "-c", "copy", "-output_ts_offset", "50000", tmp_path / "late.ts")
    out = copied(tmp_path / "late.ts", tmp_path)
    assert described(out, "stream=start_time,duration,nb_frames") == "0.000000,8.000000,192"
    assert float(described(out, "stream=duration", "a:0")) == pytest.approx(8.0, abs=1e-3)


def test_joined_recordings_go_on_where_the_clock_starts_anew(clip, tmp_path):
    (tmp_path / "joined.ts").write_bytes(clip("a.ts").read_bytes() * 2)
    assert picture_seconds(tmp_path / "joined.ts") == pytest.approx(16, abs=0.05)
    assert len(read_audio(tmp_path / "joined.ts", 48000)) == pytest.approx(16 * 48000, abs=5000)
    assert float(described(copied(tmp_path / "joined.ts", tmp_path), "stream=duration")) == pytest.approx(16, abs=0.05)


def test_hevc_keeps_the_tag_that_apple_plays(tmp_path):
    source = record(
        tmp_path / "a.mov", "-c:v", "libx265", "-x265-params", "log-level=error", "-tag:v", "hvc1", seconds=1
    )
    out = copied(source, tmp_path)
    assert described(out, "stream=codec_tag_string") == "hvc1"
    assert packets(out) == packets(source)


@pytest.mark.parametrize(("turn", "size"), [("90", (36, 64)), ("180", (64, 36)), ("270", (36, 64))])
def test_a_phone_held_upright(tmp_path, turn, size):
    record(tmp_path / "a.mp4", *X264, size="64x36", seconds=1)
    ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", "-metadata:s:v:0", f"rotate={turn}", tmp_path / "b.mp4")
    shown = describe_picture(tmp_path / "b.mp4")
    assert ((shown.width, shown.height), shown.seconds) == (size, 1.0)
    out = copied(tmp_path / "b.mp4", tmp_path)
    assert describe_picture(out) == shown
    assert packets(out) == packets(tmp_path / "b.mp4")


def test_pixels_that_are_not_square(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=720x576:r=25:d=0.4", "-vf", "setsar=64/45", *X264, tmp_path / "a.mp4")
    out = copied(tmp_path / "a.mp4", tmp_path)
    for path in (tmp_path / "a.mp4", out):
        assert (describe_picture(path).width, describe_picture(path).height) == (1024, 576)


def test_what_an_edit_list_hides_stays_hidden(tmp_path):
    """A cut at the start, and one at the end, as editors make them without encoding anew."""
    record(tmp_path / "a.mp4", *X264, "-c:a", "aac")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = -1
    while (at := data.find(b"elst", at + 1)) >= 0:
        data[at + 12 : at + 16] = struct.pack(">I", 3000)  # of FFmpeg's 1000 ticks a second
    (tmp_path / "end.mp4").write_bytes(data)
    ffmpeg("-ss", "3.3", "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "start.mp4")
    for name, seconds, frames in (("end.mp4", 3.0, 72), ("start.mp4", 4.667, 112)):
        assert picture_seconds(tmp_path / name) == pytest.approx(seconds, abs=2e-3)
        out = copied(tmp_path / name, tmp_path)
        assert float(described(out, "stream=duration")) == pytest.approx(seconds, abs=2e-3)
        assert described(out, "stream=start_time") == "0.000000"
        assert float(described(out, "format=duration")) == pytest.approx(seconds, abs=2e-3)
        ffmpeg("-i", out, "-f", "framemd5", tmp_path / "frames")
        lines = (tmp_path / "frames").read_text().splitlines()
        assert sum(line.startswith("0,") for line in lines) == frames


def test_the_last_frame_stays_as_long_as_it_says(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=10:d=1", "-c:v", "libx264", "-bf", "0", tmp_path / "a.mp4")
    for name, seconds in (("b.mp4", "3.1"), ("c.mp4", "90000")):
        hold = f"setts=duration='if(eq(N,9),{seconds}/TB,DURATION)'"
        ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", "-bsf:v", hold, tmp_path / name)
    assert picture_seconds(tmp_path / "b.mp4") == pytest.approx(4.0)
    assert len(read_video(tmp_path / "b.mp4", 96, 24, 32, 32)) == 96
    assert float(described(copied(tmp_path / "b.mp4", tmp_path), "stream=duration")) == pytest.approx(4.0)
    for refused in (picture_seconds, check_remux):
        with pytest.raises(UserError, match="claims to last 90,000 s"):
            refused(tmp_path / "c.mp4")


def test_a_webm_of_a_browser_has_no_duration(tmp_path):
    codecs = ("-c:v", "libvpx-vp9", "-b:v", "100k", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus")
    path = record(tmp_path / "a.webm", *codecs, "-f", "webm", "-live", "1", seconds=2)
    assert describe_picture(path).seconds == pytest.approx(2, abs=0.01)
    out = copied(path, tmp_path)
    assert float(described(out, "stream=duration")) == pytest.approx(2, abs=0.05)
    assert packets(out) == packets(path)


def test_a_capture_with_dropped_frames(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=24:d=2", "-vf", "select='not(eq(n,10))'", "-vsync", "vfr",
           "-enc_time_base", "1/24", "-c:v", "mjpeg", tmp_path / "a.avi")  # fmt: skip
    assert picture_seconds(tmp_path / "a.avi") == pytest.approx(2.0)
    assert described(copied(tmp_path / "a.avi", tmp_path), "stream=duration,nb_frames") == "2.000000,47"


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "libxvid"])
def test_an_avi_tells_no_times_of_frames_that_are_built_on_later_ones(tmp_path, codec):
    """Frame i has luma 16 + 2 i; FFmpeg itself shows each a frame or two late, and those of x264 in another order."""
    path = tmp_path / "a.avi"
    grey = "color=c=black:s=64x64:r=24:d=4,geq=lum='16+2*N':cb=128:cr=128"
    quality = ("-crf", "1") if codec == "libx264" else ("-q:v", "1")
    ffmpeg("-f", "lavfi", "-i", grey, "-pix_fmt", "yuv420p", "-c:v", codec, *quality, "-bf", "2", "-g", "24", path)
    wanted = 2 * np.arange(90) * 255 / 219  # limited range
    for start in (0, 1.5):
        seen = read_video(path, 50, 24, 64, 64, start=start).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(seen, wanted[round(24 * start) :][:50], atol=1.2)
    seen = read_video(copied(path, tmp_path), 90, 24, 64, 64).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(seen, wanted, atol=1.2)
    ffmpeg("-i", copied(path, tmp_path), "-pix_fmt", "gray", "-f", "rawvideo", tmp_path / "raw")
    raw = np.fromfile(tmp_path / "raw", np.uint8).reshape(-1, 64 * 64)
    assert len(raw) >= 95  # libxvid keeps one back
    np.testing.assert_allclose(raw[:90].mean(axis=1), wanted, atol=1.2)


@pytest.mark.parametrize("between", [1, 2])
def test_two_frames_in_one_packet(tmp_path, between):
    """DivX's and Xvid's packed AVI: read in step; copied as FFmpeg's own filter takes them apart."""
    grey = "color=c=black:s=64x64:r=24:d=3,geq=lum='16+2*N':cb=128:cr=128"
    ffmpeg("-f", "lavfi", "-i", grey, "-c:v", "mpeg4", "-q:v", "1", "-bf", between, "-g", "24", "-vtag", "XVID",
           tmp_path / "plain.avi")  # fmt: skip
    path = packed(tmp_path / "plain.avi", tmp_path / "a.avi")
    wanted = 2 * np.arange(72) * 255 / 219
    assert picture_seconds(path) == pytest.approx(3.0)
    for start in (0, 1.5):
        seen = read_video(path, 30, 24, 64, 64, start=start).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(seen, wanted[round(24 * start) :][:30], atol=1.2)
    out = copied(path, tmp_path)
    np.testing.assert_allclose(read_video(out, 72, 24, 64, 64).mean(axis=(1, 2, 3)), wanted, atol=1.2)
    ffmpeg("-i", path, "-c", "copy", "-bsf:v", "mpeg4_unpack_bframes", tmp_path / "theirs.avi")
    assert packets(out) == packets(tmp_path / "theirs.avi")
    assert packets(out) != packets(path)
    header = out.read_bytes().partition(b"mdat")[0]
    assert b"DivX503b1393\0" in header


def with_matrix(path, out, matrix, size=(64, 48)):
    """A copy of an mp4 whose first track has another display matrix, ((a, b), (c, d))."""
    (a, b), (c, d) = matrix
    shift = (size[0] if a < 0 or c < 0 else 0, size[1] if b < 0 or d < 0 else 0)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    fixed = [round(value * 65536) for value in (a, b, 0, c, d, 0, *shift)]
    data[at : at + 36] = struct.pack(">9i", *fixed, 1 << 30)
    out.write_bytes(data)
    return out


@pytest.mark.parametrize(
    "matrix",
    [((-1, 0), (0, 1)), ((1, 0), (0, -1)), ((-1, 0), (0, -1)), ((0, 1), (1, 0)), ((0, -1), (-1, 0)), ((0, 1), (-1, 0))],
    ids=["mirrored", "upended", "turned", "transposed", "transposed the other way", "a quarter turn"],
)
def test_a_mirrored_picture_is_shown_as_players_show_it(tmp_path, matrix):
    """The selfies of some phones; the picture by FFmpeg's own command."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=24:d=0.25", "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv444p",
           tmp_path / "plain.mp4")  # fmt: skip
    path = with_matrix(tmp_path / "plain.mp4", tmp_path / "a.mp4", matrix)
    width, height = (64, 48) if matrix[0][0] else (48, 64)
    assert (describe_picture(path).width, describe_picture(path).height) == (width, height)
    for file in (path, copied(path, tmp_path)):
        ffmpeg("-i", file, "-f", "rawvideo", "-pix_fmt", "rgb24", tmp_path / "raw")
        theirs = np.fromfile(tmp_path / "raw", np.uint8).reshape(-1, height, width, 3)
        assert np.abs(read_video(file, 6, 24, width, height).astype(int) - theirs).max() <= 1


def test_a_picture_at_a_slant_is_shown_as_it_is_stored(tmp_path, caplog):
    record(tmp_path / "plain.mp4", *X264, size="64x48", seconds=0.25)
    path = with_matrix(tmp_path / "plain.mp4", tmp_path / "a.mp4", ((0.5, 0.866), (-0.866, 0.5)))
    with caplog.at_level(logging.WARNING):
        seen = read_video(path, 6, 24, 64, 48)
    assert np.array_equal(seen, read_video(tmp_path / "plain.mp4", 6, 24, 64, 48))
    assert "turns its picture by no right angle" in caplog.text


def test_the_default_track_is_heard_and_the_other_one_mentioned(tmp_path, caplog):
    inputs = ("-f", "lavfi", "-i", "anullsrc=r=48000:cl=mono", "-f", "lavfi", "-i", "sine=500:r=48000:d=1")
    marks = ("-disposition:a:0", "0", "-disposition:a:1", "default")
    ffmpeg(*inputs, "-map", "0", "-map", "1", "-t", "1", *marks, tmp_path / "a.mka")
    with caplog.at_level(logging.WARNING):
        assert np.abs(read_audio(tmp_path / "a.mka", 48000)).max() > 0.1
    assert "a.mka has 2 sound tracks; track 2" in caplog.text


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.avi", "a.mkv", "a.webm", "a.ogg", "a.flac"])
def test_a_file_that_is_cut_off_is_read_with_a_word(clip, tmp_path, caplog, name):
    codecs = {"a.mkv": X264, "a.webm": ("-vn", "-c:a", "libopus"), "a.ogg": ("-vn", "-c:a", "libvorbis")}
    whole = clip(name) if name in KINDS else record(tmp_path / name, *codecs.get(name, ("-vn",)))
    with caplog.at_level(logging.WARNING):
        read_audio(whole, 48000)
    assert not caplog.text
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        assert len(read_audio(cut, 48000)) > 48000
    assert f"cut-{name}" in caplog.text
    assert "cut off" in caplog.text


def test_high_dynamic_range_is_tone_mapped(tmp_path, caplog):
    """PQ's signal of 75 %, 1000 cd/m2, is brighter on an ordinary screen than its plain value, which is grey 191."""
    options = "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    grey = "color=c=black:s=64x64:r=24:d=0.2,format=yuv420p10le,geq=lum=721:cb=512:cr=512"
    ffmpeg("-f", "lavfi", "-i", grey, "-c:v", "libx265", "-x265-params", options, tmp_path / "a.mp4")
    with caplog.at_level(logging.WARNING):
        found = read_video(tmp_path / "a.mp4", 2, 24, 32, 32)[1, 16, 16].astype(int)
    assert "high dynamic range" in caplog.text
    assert np.ptp(found) <= 2
    assert 198 < found[0] < 225


def test_local_files_alone(tmp_path):
    (tmp_path / "12:30 take.wav").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.wav")
    record(tmp_path / "a.mp3", "-vn", seconds=1)
    (tmp_path / "list.wav").write_text("ffconcat version 1.0\nfile a.mp3\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp3\n#EXT-X-ENDLIST\n")
    cases = {
        "pipe.wav": "pipe or device",
        "list.wav": "playlist",
        "list.m3u8": "playlist",
        "x" * 300: "cannot be opened",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            probe(tmp_path / name)
    for address in ("http://127.0.0.1:9/a.mp4", "tcp://127.0.0.1:9", "concat:a.mp3|b.mp3"):
        with pytest.raises(UserError, match=r"no file on this machine|does not exist"):
            probe(address)
    (tmp_path / "12:30 take.wav").write_bytes((tmp_path / "a.mp3").read_bytes())
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        assert probe("12:30 take.wav").rate == 48000
    finally:
        os.chdir(here)


STREAMS = {
    "a.mp3": ("-c:a", "libmp3lame", "-b:a", "64k", "-write_xing", "0"),
    "tagged.mp3": ("-ar", "22050", "-c:a", "libmp3lame", "-b:a", "32k", "-write_xing", "0", "-write_id3v1", "1"),
    "a.mp2": ("-c:a", "mp2", "-b:a", "96k"),
    "a.ac3": ("-c:a", "ac3", "-b:a", "128k"),
    "44.ac3": ("-ar", "44100", "-c:a", "ac3", "-b:a", "96k"),
    "a.eac3": ("-c:a", "eac3", "-b:a", "96k"),
    "a.aac": ("-c:a", "aac", "-b:a", "64k"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_frames_that_are_cut_off(tmp_path, name):
    """No header counts their frames; that the last one is not all there tells."""
    path = tmp_path / name
    ffmpeg("-f", "lavfi", "-i", SWEEP, *STREAMS[name], "-metadata", "title=x", path)
    assert ends_early(path) is None
    data = path.read_bytes()
    random = np.random.default_rng(0)
    cuts = random.integers(len(data) // 2, len(data) - 200, 40)
    told = 0
    for cut in cuts:
        (tmp_path / "cut").write_bytes(data[:cut])
        told += ends_early(tmp_path / "cut") == "ends inside a frame; it may be cut off."
    assert told >= 36  # but for cuts between two frames or inside the next one's header
