"""Listening samples are made again from what they say of themselves."""

import numpy as np

import mlx_ltxw as ltx
from mlx_ltxw.adapter.builtin import BUILTIN_ADAPTERS
from mlx_ltxw.media.audio import read_audio
from mlx_ltxw.train.config import TrainConfig
from mlx_ltxw.train.preview import encoded, make_samples, samples_folder
from mlx_ltxw.weights.dtype import default_dtype

PROMPT = 'a woman in dim light, (woman, whispering): "close your eyes"'


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
