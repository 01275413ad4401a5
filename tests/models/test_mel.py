"""The log-mel front end against the official processor, and its filters against an independent implementation."""

import mlx.core as mx
import numpy as np
import pytest
from transformers import audio_utils

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.audio_vae import AudioVAEConfig, log_mel, mel
from mlx_ltxw.models.audio_vae.mel import filterbank
from tests.numbers import relative_error
from tests.reference.audio import audio_vae_section, official_log_mel
from tests.reference.torchaudio_stand_in import slaney_filterbank

CONFIG = AudioVAEConfig.read(audio_vae_section())


def sound(length, seed=0):
    """Stereo noise with a tone, the second channel much quieter, so that some mels fall below the floor."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (2, length, 2))
    tone = 0.5 * np.sin(2 * np.pi * 440 / 16000 * np.arange(length))
    return ((noise + tone[None, :, None]) * np.array([1.0, 1e-6])).astype(np.float32)


@pytest.mark.parametrize("length", [513, 640, 1023, 1024, 4801, 16000])
def test_log_mel(length):
    waveform = sound(length)
    got, expected = np.array(log_mel(mx.array(waveform), CONFIG)), official_log_mel(waveform)
    assert got.shape == expected.shape == (2, 1 + length // 160, 64, 2)
    assert got.min() == pytest.approx(np.log(1e-5))
    assert relative_error(got, expected) < 1e-5
    assert np.abs(np.exp(got) - np.exp(expected)).max() < 1e-5 * np.exp(expected).max()


def test_a_long_sound_in_pieces(monkeypatch):
    monkeypatch.setattr(mel, "FRAMES", 5)
    test_log_mel(16000)


def test_log_mel_of_another_implementation():
    waveform = sound(8000)
    got = np.array(log_mel(mx.array(waveform), CONFIG))
    filters = audio_utils.mel_filter_bank(513, 64, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    expected = audio_utils.spectrogram(
        waveform[0, :, 0].astype(np.float64), audio_utils.window_function(1024, "hann", periodic=True), 1024, 160,
        power=1.0, center=True, pad_mode="reflect", mel_filters=filters, mel_floor=1e-5, log_mel="log",
    )  # fmt: skip
    np.testing.assert_allclose(got[0, :, :, 0].T, expected, atol=2e-4)


@pytest.mark.parametrize(("rate", "n_fft", "mels"), [(16000, 1024, 64), (16000, 512, 64), (24000, 1024, 80)])
def test_filterbank(rate, n_fft, mels):
    expected = audio_utils.mel_filter_bank(n_fft // 2 + 1, mels, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(filterbank(rate, n_fft, mels), expected, atol=1e-8)
    stand_in = slaney_filterbank(n_fft // 2 + 1, 0.0, rate / 2, mels, rate).numpy()
    np.testing.assert_allclose(stand_in, expected, atol=1e-8)


def test_float32_whatever_the_input():
    waveform = mx.array(sound(2000)).astype(mx.bfloat16)
    mel = log_mel(waveform, CONFIG)
    assert mel.dtype == mx.float32
    expected = official_log_mel(np.array(waveform.astype(mx.float32)))
    assert relative_error(mel, expected) < 1e-5


@pytest.mark.parametrize("length", [0, 1, 512])
def test_too_short(length):
    with pytest.raises(UserError, match=f"{length} samples"):
        log_mel(mx.zeros((1, length, 2)), CONFIG)
