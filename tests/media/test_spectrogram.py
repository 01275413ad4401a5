"""Spectrogram pictures: where a tone lies, and colours of even lightness."""

import numpy as np
import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.media.containers import probe
from mlx_ltxw.media.drawing import write_spectrogram
from mlx_ltxw.media.sound import slices
from mlx_ltxw.media.spectrogram import colours, decibels, mel_edges
from mlx_ltxw.media.video import read_video
from tests.media.signals import noise, tone


@pytest.mark.parametrize("hertz", [100, 440, 3000, 12000])
def test_a_tone_lies_in_its_row(hertz):
    level = decibels([tone(hertz)], 48000, 100, 1.0)
    row = 255 - level[:, 50].argmax()
    low, high = mel_edges(16000.0)[[max(row - 1, 0), row + 2]]
    assert low <= hertz <= high


def test_density_does_not_depend_on_the_width_of_the_band():
    """White noise: the same density in narrow low bands and wide high ones."""
    level = 10 ** (decibels(slices(noise(20.0, 48000)[:, None], 48000), 48000, 400, 20.0) / 10)
    bands = level[::-1].mean(axis=1)
    assert 10 * np.log10(bands[20:60].mean() / bands[-40:].mean()) == pytest.approx(0, abs=0.5)


def test_time_runs_to_the_right():
    wave = np.concatenate([tone(300), tone(3000)])
    level = decibels(slices(wave, 48000), 48000, 100, 2.0)
    assert level[:, 25].argmax() > level[:, 75].argmax()
    assert decibels([tone(300)], 48000, 100, 2.0)[:, 75].max() < level.max() - 60


def test_lightness_rises_evenly():
    """CIELAB lightness by its definition (CIE 15): never falling, and even but for the gamut's corners."""
    picture = colours(np.linspace(0, 1, 256)) / 255
    linear = np.where(picture > 0.04045, ((picture + 0.055) / 1.055) ** 2.4, picture / 12.92)
    y = linear @ (0.2126, 0.7152, 0.0722)
    lightness = np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)
    assert (np.diff(lightness) > 0).all()
    assert lightness[0] < 3 < 95 < lightness[-1]
    assert np.abs(lightness - np.linspace(2, 97, 256)).max() < 4


def test_the_scale_is_in_decibels_of_full_scale():
    """The integral over the bands is the sound's power: a full-scale sine has 0 dBFS (AES17), one of a tenth -20."""
    width = np.diff(mel_edges(16000.0))[::-1, None]
    for amplitude, level in ((1.0, 0.0), (0.1, -20.0)):
        density = 10 ** (decibels([tone(1000, 1.0, 48000, amplitude)], 48000, 100, 1.0) / 10)
        assert 10 * np.log10((density * width).sum(axis=0)[50]) == pytest.approx(level, abs=0.05)


def test_blocks_and_whole_clips_look_the_same():
    wave = np.repeat(noise(3.0, 48000)[:, None], 2, 1).astype(np.float32)
    whole = decibels([wave], 48000, 300, 3.0)
    pieces = np.split(wave, [1, 700, 5000, 77777, 100001])
    assert np.abs(decibels(pieces, 48000, 300, 3.0) - whole).max() < 1e-3


def test_opposite_channels_are_not_lost():
    level = decibels([tone(1000) * [1, -1]], 48000, 100, 1.0)
    assert level.max() == pytest.approx(decibels([tone(1000)], 48000, 100, 1.0).max(), abs=0.01)


def test_panels_are_stacked_and_share_one_scale(tmp_path):
    write_spectrogram(tmp_path / "a.png", [tone(1000), 0.001 * tone(1000)], 48000, titles=["one", "two"])
    info = probe(tmp_path / "a.png")
    picture = read_video(tmp_path / "a.png", 1, 25, info.width, info.height)[0].astype(int)
    upper, lower = np.split(picture, 2)
    inside = slice(34 + 1, 34 + 255), 64 + 300
    assert upper[inside].sum(axis=1).max() > 600 > lower[inside].sum(axis=1).max() > 50
    assert (upper[:, :60] < 128).any()  # ink: the labels
    assert (upper[:30, 64:200] < 128).any()  # and the title


def test_it_takes_any_length(tmp_path):
    for seconds in (0.001, 0.3, 90.0):
        write_spectrogram(tmp_path / "a.png", tone(500, seconds, 8000), 8000)
        assert 600 <= probe(tmp_path / "a.png").width <= 1800
    with pytest.raises(UserError, match="not finite"):
        write_spectrogram(tmp_path / "a.png", np.full(1000, np.nan), 8000)
