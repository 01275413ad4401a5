"""Listening samples are made again from what they say of themselves."""

import numpy as np

import mlx_ltxw as ltx
from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.pipeline import run
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.preview import SuspectSample, encoded, make_samples, samples_folder
from mlx_ltxw.weights.dtype import default_dtype

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'


def test_a_silent_sample_is_told_before_it_is_written(tmp_path, monkeypatch):
    """As a clip's is; the run goes on, and says which sample it is."""
    model = ltx.load()
    config = TrainConfig(width=64, height=32, frames=9, frame_rate=24.0, preview_steps=1, preview_seed=6)
    transformer = model.directory.load("transformer", default_dtype(), audio_only=True)
    monkeypatch.setattr(run, "decode_audio", lambda networks, tokens: (np.zeros((18000, 2), np.float32), 48000))
    networks = encoded([PROMPT], model.directory, True, config)
    told = []
    for event in make_samples(tmp_path, 0, None, [PROMPT], networks, transformer, config):
        if isinstance(event, SuspectSample):
            told.append((str(event), (samples_folder(tmp_path, 0) / "1.wav").exists()))
    ((text, there),) = told
    assert text.startswith("Warning: sample 1 of 1 of the base model: The sound is silent.")
    assert not there
    assert (samples_folder(tmp_path, 0) / "1.wav").exists()


def test_a_sample_is_made_again_from_its_own_metadata(tmp_path):
    model = ltx.load()
    config = TrainConfig(width=64, height=32, frames=9, frame_rate=24.0, preview_steps=1, preview_seed=6)
    transformer = model.directory.load("transformer", default_dtype(), audio_only=True)
    adapter = BUILTIN_ADAPTERS["whisper"]
    networks = encoded([PROMPT], model.directory, True, config)
    for _ in make_samples(tmp_path, 40, adapter, [PROMPT], networks, transformer, config):
        pass
    wav = samples_folder(tmp_path, 40) / "1.wav"
    made = ltx.inspect(wav)
    assert (made.record.kind, made.record.training_step) == ("sample", 40)
    assert made.request.adapters == (str(adapter),)
    (clip,) = model.clips(made.request)
    assert np.array_equal(read_audio(clip.save(tmp_path / "again.wav"), 48000), read_audio(wav, 48000))
