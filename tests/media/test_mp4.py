"""Mp4 out, read back with FFmpeg: times, colours, sound, and stream copies."""

from fractions import Fraction

import av
import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.media.mp4 import _repeatable, frame_rate, open_mp4, write_mp4
from mlx_ltxw.media.remux import remux
from tests.media.signals import moving_picture, tone

NTSC_FILM = Fraction(24000, 1001)


def packets(path, kind="video"):
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(bytes(p), p.pts * p.time_base, p.is_keyframe) for p in container.demux(stream) if p.size]


def pictures(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        (24, Fraction(24)), (25.0, Fraction(25)), (23.976, NTSC_FILM), (23.98, NTSC_FILM),
        (59.94, Fraction(60000, 1001)), (29.97, Fraction(30000, 1001)), (12.5, Fraction(25, 2)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
    ],
)  # fmt: skip
def test_rounded_rates_mean_exact_ones(value, exact):
    assert frame_rate(value) == exact


@pytest.mark.parametrize("value", [0, -24, float("nan"), float("inf")])
def test_a_rate_is_positive(value):
    with pytest.raises(UserError, match="frame rate"):
        frame_rate(value)


@pytest.mark.parametrize("rate", [24, 23.976, 25, 29.97, Fraction(60000, 1001)])
@pytest.mark.parametrize("seconds", [0.01, 10.0])
def test_sound_and_picture_last_equally_long(tmp_path, rate, seconds):
    """To the sample and the frame, whether the sound was too short (padded) or too long (cut)."""
    exact = frame_rate(rate)
    write_mp4(tmp_path / "a.mp4", [moving_picture(97, 32, 64)], rate, tone(300, seconds))
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.start_time, audio.start_time) == (0, 0)
        assert video.duration * video.time_base == 97 / exact
        assert audio.duration * audio.time_base == Fraction(round(97 / exact * 48000), 48000)
        assert video.average_rate == exact
        assert (audio.rate, audio.channels, audio.codec_context.name) == (48000, 2, "aac")
        assert [frame.pts * frame.time_base for frame in container.decode(video)] == [i / exact for i in range(97)]
    sound = read_audio(tmp_path / "a.mp4", 48000)
    assert len(sound) == round(97 / exact * 48000)
    if seconds < 1:
        assert np.abs(sound[4000:]).max() < 1e-3


def test_lossless_is_lossless_in_any_chunks(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (20, 32, 64, 3), dtype=np.uint8)
    chunks = [frames[:1], frames[1:1], frames[1:13], frames[13:]]
    write_mp4(tmp_path / "a.mp4", chunks, 24, None, lossless=True)
    assert np.array_equal(pictures(tmp_path / "a.mp4"), frames)


def test_the_picture_is_near_lossless(tmp_path):
    frames = moving_picture(25, 64, 96)
    frames[..., 2] = frames[..., 0]  # no hard edges: half-resolution colour would cost more than the coding
    write_mp4(tmp_path / "a.mp4", [frames], 24, None)
    error = ((pictures(tmp_path / "a.mp4").astype(float) - frames) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 38


@pytest.mark.parametrize(("colour", "luma"), [((255, 0, 0), 63), ((0, 255, 0), 173), ((255, 255, 255), 235)])
def test_colours_are_bt709(tmp_path, colour, luma):
    """Luma worked by hand, 16 + 219 (0.2126 R + 0.7152 G + 0.0722 B); BT.601 would give red 81."""
    write_mp4(tmp_path / "a.mp4", [np.full((3, 32, 32, 3), colour, np.uint8)], 24, None)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        assert abs(int(frame.to_ndarray()[5, 5]) - luma) <= 1
        context = container.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]


def test_the_same_frames_are_the_same_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    for number in range(20):
        write_mp4(tmp_path / f"{number}.mp4", [noise], 24, None)
    assert len({(tmp_path / f"{number}.mp4").read_bytes() for number in range(20)}) == 1


@pytest.mark.parametrize(("has_it", "options"), [(True, {"x264-params": "asm=avx2"}), (False, {})])
def test_avx512_is_left_alone(monkeypatch, has_it, options):
    monkeypatch.setattr("mlx_ltxw.media.mp4.has_avx512", lambda: has_it)
    assert _repeatable() == options


def test_the_sound_is_kept_and_not_shifted(tmp_path):
    draw = np.random.default_rng(0)
    wave = np.stack([np.cumsum(draw.standard_normal(96000)), np.cumsum(draw.standard_normal(96000))], 1)
    wave = (0.3 * (wave - wave.mean(0)) / np.abs(wave - wave.mean(0)).max(0)).astype(np.float32)
    write_mp4(tmp_path / "a.mp4", [moving_picture(48, 32, 32)], 24, wave)
    found = read_audio(tmp_path / "a.mp4", 48000)
    assert found.shape == wave.shape
    assert 10 * np.log10((wave**2).mean() / ((found - wave) ** 2).mean()) > 30


def test_the_sound_lies_between_the_pictures_though_it_came_last(tmp_path):
    with open_mp4(tmp_path / "a.mp4", 64, 64, 24) as clip:
        for at in range(0, 288, 8):
            clip.frames(np.random.default_rng(at).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8))
        clip.audio(tone(300, 12.0))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    clock = {"video": 0.0, "audio": 0.0}
    with av.open(str(tmp_path / "a.mp4")) as container:
        for packet in sorted((p for p in container.demux() if p.size), key=lambda p: p.pos):
            clock[packet.stream.type] = float(packet.dts * packet.time_base)
            assert abs(clock["video"] - clock["audio"]) < 0.5


def test_wrong_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="uint8"), open_mp4(tmp_path / "a.mp4", 64, 32, 24) as clip:
        clip.frames(np.zeros((1, 64, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"), open_mp4(tmp_path / "a.mp4", 64, 32, 24) as clip:
        clip.frames(np.zeros((1, 32, 64, 3), np.float32))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_new_voice_keeps_every_byte_of_the_picture(tmp_path, suffix):
    """Also from Matroska, whose first packets carry no decoding time and which rounds times to milliseconds."""
    first, source, out = tmp_path / "first.mp4", tmp_path / f"source.{suffix}", tmp_path / "out.mp4"
    write_mp4(first, [moving_picture(97, 64, 64)], 24, tone(200, 4.1))
    if suffix == "mkv":
        copy_to_matroska(first, source)
    else:
        first.rename(source)
    before = source.read_bytes()
    voice = tone(900, 2.0)
    remux(source, voice, out)
    assert source.read_bytes() == before
    kept, original = packets(out), packets(source)
    assert [p[0] for p in kept] == [p[0] for p in original]
    assert [p[1:] for p in kept] == [p[1:] for p in original]
    sound = read_audio(out, 48000)
    assert abs(len(sound) - 97 * 2000) <= (0 if suffix == "mp4" else 100)
    assert 10 * np.log10((voice[:90000] ** 2).mean() / (sound[:90000] - voice[:90000]).var()) > 30
    assert np.abs(sound[98000:]).max() < 1e-3
    assert np.array_equal(pictures(out), pictures(source))


def copy_to_matroska(source, target):
    with av.open(str(source)) as clip, av.open(str(target), "w") as out:
        stream = clip.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in clip.demux(stream):
            if packet.size:
                packet.stream = copy
                out.mux(packet)


def test_a_clip_may_be_replaced_by_its_own_remux(tmp_path):
    path = tmp_path / "a.mp4"
    write_mp4(path, [moving_picture(25, 32, 32)], 24, tone(200, 1.0))
    before = packets(path)
    remux(path, tone(900, 1.0), path)
    assert packets(path) == before
    spectrum = np.abs(np.fft.rfft(read_audio(path, 48000)[:48000, 0]))
    assert spectrum.argmax() == 900


def test_what_cannot_be_remuxed_is_said(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        video = out.add_stream("prores_ks", rate=24)
        video.width = video.height = 32
        video.pix_fmt = "yuv422p10le"
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux(video.encode(None))
    write_mp4(tmp_path / "b.mp4", [np.zeros((9, 32, 32, 3), np.uint8)], 24, None)
    (tmp_path / "c.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:-50])
    cases = {"a.mov": "prores video, which mp4 cannot hold", "c.mp4": "damaged", "none.mp4": "does not exist"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            remux(tmp_path / name, tone(300), tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mov", "b.mp4", "c.mp4"]
