"""The audio VAE against the official PyTorch classes, random weights."""

import json
from math import ceil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.audio_vae import AudioVAE, AudioVAEConfig, autoencoder
from tests.numbers import relative_error
from tests.reference.audio import OfficialAudioVAE, audio_vae_section
from tests.reference.weights import load_official

DATA = Path(__file__).parent.parent / "data"
REAL = json.loads((DATA / "ltx23_config.json").read_text())["audio_vae"]
SIZES = {
    "narrowing": {"ch_mult": [2, 1, 1]},
    "growing": {"num_res_blocks": 2},
    "four channels": {"z_channels": 4, "ch": 64, "ch_mult": [1, 1, 2]},
}


def made(**network):
    """The module and the official classes, with the same random weights."""
    section = audio_vae_section(**network)
    official = OfficialAudioVAE(section)
    vae = AudioVAE(AudioVAEConfig.read(section))
    load_official(vae, official, official.rename)
    return vae, official


@pytest.fixture(scope="module", params=SIZES.values(), ids=SIZES)
def pair(request):
    return made(**request.param)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 29])
def test_encode(pair, frames):
    vae, official = pair
    mel = np.random.default_rng(frames).normal(-5, 2, (2, frames, 64, 2)).astype(np.float32)
    tokens = vae.encode(mx.array(mel))
    assert tokens.shape == (2, ceil(ceil(frames / 2) / 2), vae.config.features)
    assert relative_error(tokens, official.encode(mel)) < 1e-5


@pytest.mark.parametrize("frames", [1, 2, 8])
def test_decode(pair, frames):
    vae, official = pair
    tokens = np.random.default_rng(frames).normal(0, 1, (2, frames, vae.config.features)).astype(np.float32)
    mel = vae.decode(mx.array(tokens))
    assert mel.shape == (2, 4 * frames - 3, 64, 2)
    assert relative_error(mel, official.decode(tokens)) < 1e-5


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("size", [1, 7])
def test_a_long_sound_in_pieces_equals_the_official_whole(blocks, size, monkeypatch):
    """Narrow levels: how far a frame depends on those before it is a matter of how many blocks they have."""
    vae, official = made(num_res_blocks=blocks, z_channels=1, ch=16, ch_mult=[1, 1, 1])
    monkeypatch.setattr(autoencoder, "FRAMES", size)
    draw = np.random.default_rng(size)
    mel = draw.normal(-5, 2, (1, vae.encoder.reach() + 4 * size + 9, 64, 2)).astype(np.float32)  # the last see no start
    assert relative_error(vae.encode(mx.array(mel)), official.encode(mel)) < 1e-5
    tokens = draw.normal(0, 1, (1, vae.decoder.reach() + size + 2, vae.config.features)).astype(np.float32)
    assert relative_error(vae.decode(mx.array(tokens)), official.decode(tokens)) < 1e-5


def test_computes_in_the_weights_dtype():
    vae = AudioVAE(AudioVAEConfig.read(audio_vae_section()))
    vae.update(tree_map(lambda array: array.astype(mx.bfloat16), vae.parameters()))
    tokens = vae.encode(mx.zeros((1, 5, 64, 2)))
    assert tokens.dtype == mx.bfloat16
    assert vae.decode(tokens.astype(mx.float32)).dtype == mx.bfloat16


def test_real_size_has_the_real_keys():
    """Names and shapes of the published file, conv weights [O, I, H, W] as [O, H, W, I]; no weight is computed."""
    keys = json.loads((DATA / "ltx23_keys.json").read_text())
    vae = AudioVAE(AudioVAEConfig.read(REAL))
    own = {name: list(array.shape) for name, array in tree_flatten(vae.parameters())}
    expected = {
        name.removeprefix("audio_vae."): [shape[0], *shape[2:], shape[1]] if len(shape) == 4 else shape
        for name, shape in keys.items()
        if name.startswith("audio_vae.")
    }
    assert own == expected


def test_real_config():
    config = AudioVAEConfig.read(REAL)
    assert (config.sample_rate, config.hop, config.n_fft, config.mel_bins) == (16000, 160, 1024, 64)
    assert (config.latent_channels, config.latent_bins, config.features, config.downscale) == (8, 16, 128, 4)
    assert config.frame_rate == 25


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.params.ddconfig.mid_block_add_attention", True, "mid_block_add_attention' to True"),
        ("model.params.ddconfig.mid_block_add_attention", None, "lacks .*mid_block_add_attention"),
        ("model.params.ddconfig.z_channels", None, "lacks 'audio_vae.model.params.ddconfig.z_channels'"),
        ("model.params.ddconfig.ch_mult", [1, 2], "2 levels"),
        ("model.params.ddconfig.mel_bins", 62, "n_mel_channels"),
        ("preprocessing.stft.win_length", 512, "win_length"),
        ("preprocessing.mel.mel_fmax", 4000, "mel_fmax"),
        ("preprocessing.stft.hop_length", None, "lacks .*hop_length"),
    ],
)
def test_config_is_strict(path, value, words):
    section = audio_vae_section()
    *parents, leaf = path.split(".")
    part = section
    for parent in parents:
        part = part[parent]
    if value is None:
        del part[leaf]
    else:
        part[leaf] = value
    with pytest.raises(UserError, match=words):
        AudioVAEConfig.read(section)
