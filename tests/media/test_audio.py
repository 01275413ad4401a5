"""Sound in and out, against soundfile, closed forms and FFmpeg."""

import warnings

import av
import numpy as np
import pytest
import soundfile

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.audio import read_audio, resample, write_wav
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.downmix import downmix_matrix
from mlx_ltxw.media.mp4 import write_mp4
from tests.media.signals import moving_picture, tone


def test_float_wav_is_exact(tmp_path):
    wave = np.random.default_rng(0).standard_normal((4801, 2)).astype(np.float32)
    write_wav(tmp_path / "a.wav", wave, subtype="FLOAT", metadata={"a": 1})
    found, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 48000
    assert np.array_equal(found, wave)
    assert np.array_equal(read_audio(tmp_path / "a.wav", 48000), wave)


def test_pcm_wav_rounds_and_clips(tmp_path):
    wave = np.array([[0.5, -0.5], [1.7, -1.7], [1.0, -1.0]], np.float32)
    write_wav(tmp_path / "a.wav", wave, 16000)
    found, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 16000
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert np.abs(found - wave.clip(-1, 1)).max() < 1 / 16000


def test_mono_goes_to_both_sides_at_its_own_level(tmp_path):
    wave = tone(440, channels=1)[:, 0]
    write_wav(tmp_path / "a.wav", wave, subtype="FLOAT")
    found, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert np.array_equal(found, np.stack([wave, wave], 1))
    soundfile.write(tmp_path / "mono.wav", wave, 48000, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "mono.wav", 48000), np.stack([wave, wave], 1))
    assert np.array_equal(read_audio(tmp_path / "mono.wav", 48000, 1)[:, 0], wave)


def test_stereo_to_mono_is_the_mean(tmp_path):
    wave = np.random.default_rng(0).standard_normal((1000, 2)).astype(np.float32)
    write_wav(tmp_path / "a.wav", wave, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "a.wav", 48000, 1)[:, 0], wave.mean(axis=1), atol=1e-6)


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        write_wav(tmp_path / "a.wav", np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="waveform"):
        write_wav(tmp_path / "a.wav", np.zeros((2, 1000)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_file_of_samples_that_are_no_numbers_is_refused(tmp_path, value):
    """Of six channels too, which are mixed; whole numbers in a file of floats are loud, and are read."""
    wave = np.zeros((9600, 6))
    wave[5000, 2] = value
    for name, channels in (("a.wav", wave[:, :3]), ("b.wav", wave)):
        soundfile.write(tmp_path / name, channels.astype(np.float32), 48000, subtype="FLOAT")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserError, match="samples that are no numbers, or far beyond full scale"):
                read_audio(tmp_path / name, 16000)
    wave[5000, 2] = 32767
    soundfile.write(tmp_path / "c.wav", wave[:, 2].astype(np.float32), 48000, subtype="FLOAT")
    assert read_audio(tmp_path / "c.wav", 48000).max() == 32767


@pytest.mark.parametrize(("rate", "target"), [(22050, 16000), (16000, 48000), (48000, 44100), (44100, 16000)])
def test_resampling_keeps_a_tone(rate, target):
    """The same sine drawn at the target rate, away from the ends: 60 dB apart, so neither shifted nor scaled."""
    found = resample(tone(1000, 1.0, rate), rate, target)
    expected = tone(1000, 1.0, target)
    assert found.shape == expected.shape
    inner = slice(target // 20, -target // 20)
    error = np.sqrt(((found - expected)[inner] ** 2).mean() / (expected[inner] ** 2).mean())
    assert error < 1e-3


def test_a_part_is_the_slice_of_the_whole(tmp_path):
    wave = np.random.default_rng(0).uniform(-1, 1, (48000 * 3, 2)).astype(np.float32)
    write_wav(tmp_path / "a.wav", wave, subtype="FLOAT")
    part = read_audio(tmp_path / "a.wav", 48000, start=1.25, seconds=0.5)
    assert np.array_equal(part, wave[60000:84000])
    assert len(read_audio(tmp_path / "a.wav", 16000, start=1.25, seconds=0.5)) == 8000
    assert len(read_audio(tmp_path / "a.wav", 48000, start=2.9, seconds=0.5)) == 4800


def test_a_part_of_a_compressed_track_lies_where_the_whole_has_it(tmp_path):
    wave = np.concatenate([tone(f, 1.0) for f in (300, 500, 700, 900)])
    write_mp4(tmp_path / "a.mp4", [moving_picture(96, 32, 32)], 24, wave)
    whole = read_audio(tmp_path / "a.mp4", 48000)
    part = read_audio(tmp_path / "a.mp4", 48000, start=2.2, seconds=1.1)
    assert np.abs(part - whole[105600:158400]).max() < 1e-3
    assert 20 * np.log10(np.abs(part - wave[105600:158400]).max()) < -30


def test_a_late_track_keeps_step_with_the_picture(tmp_path):
    """The sound begins half a second into the picture: half a second of silence comes first."""
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        video = out.add_stream("ffv1", rate=24)
        video.width = video.height = 32
        audio = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        for i in range(24):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = i
            out.mux(video.encode(frame))
        frame = av.AudioFrame.from_ndarray(np.full((1, 12000), 16384, np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48000, 24000
        out.mux(audio.encode(frame))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
    wave = read_audio(tmp_path / "a.mkv", 48000)
    assert wave.shape == (36000, 2)
    assert not wave[:24000].any()
    assert np.allclose(wave[24000:], 0.5)


def test_what_is_wrong_with_a_file_is_said_and_the_file_named(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    write_mp4(tmp_path / "silent.mp4", [np.zeros((9, 32, 32, 3), np.uint8)], 24, None)
    cases = {"text.wav": "cannot be read", "silent.mp4": "has no sound", "none.wav": "does not exist"}
    for name, message in {**cases, "": "is a folder"}.items():
        with pytest.raises(UserError, match=message) as raised:
            read_audio(tmp_path / name, 48000)
        assert str(tmp_path / name) in raised.value.message


@pytest.mark.parametrize("channels", [(1, 2), (2, 1)])
def test_channels_that_change_on_the_way(tmp_path, channels):
    """As in joined recordings, and in damaged ones; the first frame decides what is given."""
    for name, count in zip("ab", channels, strict=True):
        soundfile.write(tmp_path / f"{name}.mp3", tone(440, channels=count), 48000)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    wave = read_audio(joined, 48000, 2)
    alone = [read_audio(tmp_path / f"{name}.mp3", 48000, 2) for name in "ab"]
    assert len(wave) == pytest.approx(sum(len(x) for x in alone), rel=0.1)
    for middle in (wave[len(alone[0]) // 2 :][:4800], wave[-len(alone[1]) // 2 :][:4800]):
        assert middle.std(axis=0) == pytest.approx(alone[0].std(axis=0), rel=0.05)


def test_a_rate_that_changes_on_the_way(tmp_path):
    for name, rate in (("a", 48000), ("b", 32000)):
        soundfile.write(tmp_path / f"{name}.mp3", tone(440, channels=1, rate=rate), rate)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    wave = read_audio(joined, 48000, 1)[:, 0]
    for part in (wave[4800:28800], wave[-28800:-4800]):
        assert np.abs(np.fft.rfft(part * np.hanning(len(part)))).argmax() * 2 == pytest.approx(440, abs=4)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_mp4_is_refused(tmp_path, keep):
    write_mp4(
        tmp_path / "a.mp4", [moving_picture(97, 64, 64)], 24, np.random.default_rng(0).uniform(-1, 1, (194000, 2))
    )
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=r"cut\.mp4"):
        read_audio(tmp_path / "cut.mp4", 48000)


def test_probe_tells_what_is_there(tmp_path):
    write_mp4(tmp_path / "a.mp4", [np.zeros((48, 32, 64, 3), np.uint8)], 29.97, None)
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.rate, info.channels) == (64, 32, None, None)
    assert info.fps * 1001 == 30000
    assert info.duration == pytest.approx(48 * 1001 / 30000, abs=1e-5)
    write_wav(tmp_path / "a.wav", np.zeros((4800, 2)))
    info = probe(tmp_path / "a.wav")
    assert (info.width, info.fps, info.rate, info.channels, info.duration) == (None, None, 48000, 2, 0.1)


def test_fewer_samples_than_one_of_the_new_rate():
    assert resample(np.ones((3, 1), np.float32), 192000, 8000).shape == (1, 1)
    assert resample(np.ones((11, 2), np.float32), 192000, 16000).shape == (1, 2)


@pytest.mark.parametrize(
    ("layout", "left"),
    [
        ("5.1", {"FL": 1, "FC": 0.707, "BL": 0.707}),
        ("5.1(side)", {"FL": 1, "FC": 0.707, "SL": 0.707}),
        ("7.1", {"FL": 1, "FC": 0.707, "BL": 0.707, "SL": 0.707}),
        ("quad", {"FL": 1, "BL": 0.707}),
        ("3.0", {"FL": 1, "FC": 0.707}),
        ("2.1", {"FL": 1}),
        ("6.1", {"FL": 1, "FC": 0.707, "BC": 0.707, "SL": 0.707}),
    ],
)
def test_more_channels_are_mixed_as_the_official_trainer_mixes_them(tmp_path, layout, left):
    """Each channel has a tone of its own; weights by hand, each side's divided by their sum."""
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    time = np.arange(48000) / 48000
    tones = np.stack([np.sin(2 * np.pi * 100 * (i + 1) * time) for i in range(len(names))], 1).astype(np.float32)
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=48000, layout=layout)
        frame = av.AudioFrame.from_ndarray(tones.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    right = {name[:-1] + {"L": "R"}.get(name[-1], name[-1]): weight for name, weight in left.items()}
    got = read_audio(tmp_path / "a.wav", 48000)
    for side, weights in enumerate((left, right)):
        share = 2 * got[:, side] @ tones / len(time)
        expected = [weights.get(name, 0) / sum(weights.values()) for name in names]
        np.testing.assert_allclose(share, expected, atol=1e-4)


def test_channels_without_names():
    np.testing.assert_array_equal(downmix_matrix(["NONE"] * 6), downmix_matrix(["FL", "FR", "FC", "LFE", "BL", "BR"]))
    np.testing.assert_allclose(downmix_matrix(["NONE"] * 4), np.full((4, 2), 0.25))
