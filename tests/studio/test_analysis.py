"""What is shown of a sound: against FFmpeg's decoder, the mel scale and gains worked out by hand."""

import json
import os
import subprocess

import numpy as np
import pytest
import soundfile
from PIL import Image

from mlx_ltxw.errors import UserError
from mlx_ltxw.studio.analysis import (
    COLUMNS,
    DARKEST_DB,
    DB_PER_LEVEL,
    PICTURE,
    SHOWN,
    SOUND,
    kept,
    matched_gains,
    show,
    shown_folder,
    waveform,
)
from tests.train.recordings import spoken, write, write_mp4

RATE = 48000


def tone(seconds, level, hertz=1000.0):
    return 10 ** (level / 20) * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def test_a_peak_stands_in_its_column_and_no_peak_is_drawn_smaller(tmp_path):
    wave = np.zeros(4 * RATE)
    wave[3 * RATE], wave[RATE] = 0.5, -0.251
    path = tmp_path / "clicks.wav"
    write(path, wave, RATE, subtype="FLOAT")
    found = waveform(path)
    assert found.seconds == 4.0
    assert {number: value for number, value in enumerate(found.high) if value} == {3 * COLUMNS // 4: 64}  # 63.5
    assert {number: value for number, value in enumerate(found.low) if value} == {COLUMNS // 4: -32}  # 31.9
    shown = show(path)
    assert (shown.low, shown.high) == (found.low, found.high)
    assert waveform(path) == found


def test_the_sound_is_what_ffmpeg_decodes_in_step_with_the_picture(tmp_path):
    path = tmp_path / "clip.mp4"
    write_mp4(path, 49, spoken("close your eyes", seconds=2.0).repeat(2)[: 2 * RATE].astype(np.float32))
    shown = show(path)
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "f32le", "-ac", "2", "-"]
    official = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, "<f4").reshape(-1, 2)
    wave, rate = soundfile.read(shown_folder(path) / SOUND, always_2d=True)
    assert (rate, shown.rate, shown.frame_rate) == (RATE, RATE, 24.0)
    assert len(wave) == pytest.approx(shown.seconds * RATE, abs=1)
    length = min(len(wave), len(official))
    assert length > 1.9 * RATE
    assert np.abs(wave[:length] - official[:length]).max() < 2**-22


def test_grey_levels_are_decibels_on_the_mel_scale(tmp_path):
    path = tmp_path / "tone.wav"
    write(path, tone(2, -20), RATE, subtype="FLOAT")
    shown = show(path)
    grey = np.asarray(Image.open(shown_folder(path) / PICTURE)).astype(float)
    row = int(grey.mean(axis=1).argmax())

    def mel(hertz):
        return 2595 * np.log10(1 + hertz / 700)

    assert row == pytest.approx(256 * (1 - mel(1000) / mel(shown.top)), abs=1.5)
    # a Hann window of 40 ms is 37.5 Hz wide, and the band at 1 kHz about as much
    assert DARKEST_DB + DB_PER_LEVEL * grey[row].mean() == pytest.approx(-20 - 10 * np.log10(37.5), abs=1.0)


def test_each_second_is_measured(tmp_path):
    path = tmp_path / "three.wav"
    line = spoken("the rain has stopped in the garden", seconds=2.0)
    write(path, np.concatenate([line, np.zeros(22050), line[:4410]]), 22050)
    shown = show(path)
    assert [second.register for second in shown.by_second] == shown.measured["by_second"]
    speech, silence = shown.by_second[0], shown.by_second[2]
    command = ["ffmpeg", "-t", "1", "-i", path, "-af", "ebur128", "-f", "null", "-"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    integrated = float(told.rpartition("I:")[2].split()[0])
    assert speech.lufs == pytest.approx(integrated, abs=0.11)
    assert speech.voiced > 0.5
    assert (silence.register, silence.lufs, silence.voiced) == ("no speech", -70.0, 0.0)


def test_what_was_found_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write(path, tone(1, -20), RATE)
    first = show(path)
    assert kept(path) == first
    with monkeypatch.context() as patched:
        patched.setattr("mlx_ltxw.studio.analysis.measure", None)  # calling it would fail
        assert show(path) == first
    write(path, tone(1, -30), RATE)
    os.utime(path, (1, 1))
    assert kept(path) is None
    assert show(path).measured["lufs"] == pytest.approx(first.measured["lufs"] - 10, abs=0.1)
    file = shown_folder(path) / SHOWN
    values = json.loads(file.read_text())
    for text in ("{", json.dumps({**values, "format": 0}), json.dumps({**values, "low": ["<b>"]})):
        file.write_text(text)
        assert kept(path) is None
    assert kept(path, shown_folder(path)) is None
    assert show(path) == kept(path)


def test_what_has_no_sound_is_refused(tmp_path):
    silent, empty = tmp_path / "silent.mp4", tmp_path / "empty.wav"
    write_mp4(silent, 9)
    write(empty, np.zeros(0), RATE)
    for path in (silent, empty, tmp_path / "none.wav"):
        with pytest.raises(UserError):
            show(path)
        with pytest.raises(UserError):
            waveform(path)


def test_gains_make_equally_loud_and_clip_nothing():
    # the first can be turned up by 9 dB until its peak is at -1, so -21 LUFS is what both reach
    assert matched_gains([-30.0, -20.0], [-10.0, -5.0]) == [9.0, -1.0]
    # none louder than -16 LUFS, however much room there is; silence stays
    assert matched_gains([-40.0, -70.0], [-39.0, -120.0]) == [24.0, 0.0]
    assert matched_gains([-70.0], [-120.0]) == [0.0]
    # a clip above the ceiling already is turned down
    assert matched_gains([-10.0], [1.5]) == [-6.0]
    lufs, peaks = [-45.0, -16.5, -28.0], [-20.0, -0.5, -9.0]
    gains = matched_gains(lufs, peaks)
    assert len({round(level + gain, 6) for level, gain in zip(lufs, gains, strict=True)}) == 1
    assert max(peak + gain for peak, gain in zip(peaks, gains, strict=True)) == pytest.approx(-1.0)
