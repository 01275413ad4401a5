"""The vocoder and its bandwidth extension against the official PyTorch classes, random weights."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten, tree_map

from mlx_ltxw.errors import UserError
from mlx_ltxw.models.audio_vae import VocoderConfig, VocoderWithBWE, activation, bandwidth, soften_onset, vocoder
from mlx_ltxw.models.audio_vae.resample import downsample, hann_sinc, kaiser_sinc, upsample
from mlx_ltxw.models.ops import convolution, device
from tests.numbers import relative_error as relative
from tests.reference.audio import official_vocoder, render, vocoder_section
from tests.reference.weights import load_official

from ltx_core.model.audio_vae.vocoder import DownSample1d, UpSample1d, kaiser_sinc_filter1d

DATA = Path(__file__).parent.parent / "data"
REAL = json.loads((DATA / "ltx23_config.json").read_text())["vocoder"]


def made_mel(frames, batch=1, seed=0):
    return np.random.default_rng(seed).normal(-5, 2, (batch, frames, 64, 2)).astype(np.float32)


def build(section):
    official = official_vocoder(section)
    own = VocoderWithBWE(VocoderConfig.read(section))
    load_official(own, official)
    return own, official


@pytest.fixture(scope="module")
def pair():
    return build(vocoder_section())


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (2, 2), (13, 1)])
def test_base(pair, frames, batch):
    own, official = pair
    mel = made_mel(frames, batch)
    waveform = own.vocoder(mx.array(mel))
    assert waveform.shape == (batch, frames * 160, 2)
    assert relative(waveform, render(official.vocoder, mel)) < 1e-5


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (2, 2), (13, 1)])
def test_whole(pair, frames, batch):
    own, official = pair
    mel = made_mel(frames, batch)
    waveform = own(mx.array(mel))
    assert own.output_rate == 48000
    assert waveform.shape == (batch, frames * 480, 2)
    expected = render(official, mel)
    assert 0.05 < np.abs(expected).mean() < 0.9
    assert relative(waveform, expected) < 1e-5


@pytest.mark.parametrize(
    ("base", "frames"),
    [
        ({"use_tanh_at_final": True, "use_bias_at_final": True}, 3),
        ({"upsample_rates": [5, 4, 2], "upsample_kernel_sizes": [11, 8, 4]}, 7),  # 280 samples, no multiple of 80
        (
            {
                "upsample_initial_channel": 64,
                "upsample_rates": [5, 2, 2, 2, 2, 2],
                "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
            },
            2,
        ),
        ({"resblock_kernel_sizes": [5], "resblock_dilation_sizes": [[2, 4, 1]]}, 2),
    ],
    ids=["tanh and bias", "not a multiple of the hop", "official rates", "one block"],
)
def test_configurations(base, frames):
    own, official = build(vocoder_section(base=base))
    mel = made_mel(frames)
    assert relative(own(mx.array(mel)), render(official, mel)) < 1e-5


def test_pieces_make_the_whole(pair, monkeypatch):
    """Long sounds are rendered piece by piece on the CPU."""
    own, official = pair
    monkeypatch.setattr(convolution, "PIECE", 1)
    monkeypatch.setattr(convolution, "SHORTEST_PIECE", 300)
    mel = made_mel(6)
    assert relative(own(mx.array(mel)), render(official, mel)) < 1e-5


@pytest.mark.parametrize("base", [{}, {"upsample_rates": [5, 4, 2], "upsample_kernel_sizes": [11, 8, 4]}])
def test_a_long_sound_in_pieces_is_the_whole(base, monkeypatch):
    """Its frames reach each other over 50 others: rendered 30 at a time, with and without the hop among the rates."""
    widest = {"resblock_kernel_sizes": [11], "resblock_dilation_sizes": [[1, 3, 5]]}  # the others reach less far
    own, official = build(vocoder_section(base | widest, widest))
    mel = made_mel(2 * own.reach() + 41)
    whole = np.array(own(mx.array(mel)))
    monkeypatch.setattr(bandwidth, "FRAMES", 31)
    pieces = np.array(own(mx.array(mel)))
    assert relative(pieces, whole) < 1e-6
    assert np.abs(pieces - whole).max() < 1e-5
    assert relative(pieces, render(official, mel)) < 1e-5


def test_a_gpu_takes_the_stages_in_pieces(pair, monkeypatch):
    own, official = pair
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(convolution, "PIECE_ON_GPU", 1)
    monkeypatch.setattr(convolution, "SHORTEST_PIECE", 300)
    mel = made_mel(6)
    assert relative(own(mx.array(mel)), render(official, mel)) < 1e-5


def test_as_a_gpu_computes_it(pair, monkeypatch):
    """MLX's own convolution and sine in place of the CPU's."""
    own, official = pair
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    mel = made_mel(3)
    assert relative(own(mx.array(mel)), render(official, mel)) < 1e-5


def test_evaluated_by_stage(pair, monkeypatch):
    own, _ = pair
    mel = mx.array(made_mel(3))
    expected = np.array(own(mel))
    evaluated = []
    evaluate = mx.eval
    monkeypatch.setattr(mx, "eval", lambda x: (evaluated.append(x.shape[1]), evaluate(x)))
    waveform = own(mel)
    assert evaluated == [15, 60, 240, 480, 48, 288, 1440, 1440]  # four stages, three of the extension, their sum
    np.testing.assert_array_equal(np.array(waveform), expected)


def test_float32_whatever_the_weights():
    """With bf16 weights and mel, what float arithmetic makes of exactly those values."""
    section = vocoder_section()
    official = official_vocoder(section).bfloat16()
    own = VocoderWithBWE(VocoderConfig.read(section))
    load_official(own, official)
    own.update(tree_map(lambda array: array.astype(mx.bfloat16), own.parameters()))
    mel = mx.array(made_mel(5)).astype(mx.bfloat16)
    waveform = own(mel)
    assert waveform.dtype == mx.float32
    official.double().resampler = UpSample1d(3, persistent=False, window_type="hann").double()
    assert relative(waveform, render(official, np.array(mel.astype(mx.float32)))) < 1e-5


@torch.no_grad()
def test_spectrogram_between_the_two(pair):
    own, official = pair
    waveform = np.random.default_rng(0).normal(0, 0.1, (2, 800, 2)).astype(np.float32)
    waveform[1] = 0  # silence lies on the floor
    mel = own.mel_stft(mx.array(waveform))
    assert np.array(mel)[1] == pytest.approx(np.log(1e-5))
    expected = official._compute_mel(torch.from_numpy(waveform).double().transpose(1, 2)).permute(0, 3, 2, 1)
    assert relative(mel, expected.numpy()) < 1e-5


def test_nothing_is_scattered(pair, tmp_path, monkeypatch):
    own, _ = pair
    monkeypatch.setattr(mx, "eval", lambda *arrays: None)  # the whole graph, which is else computed by stage
    graph = tmp_path / "graph.dot"
    mx.export_to_dot(str(graph), own(mx.array(made_mel(2))))
    text = graph.read_text()
    assert "Matmul" in text
    assert "Scatter" not in text


def test_real_size_has_the_real_keys():
    """Names and shapes of the published file; convs [O, I, K] as [O, K, I], transposed ones [I, O, K] as [O, K, I]."""
    keys = json.loads((DATA / "ltx23_keys.json").read_text())
    expected = {}
    for key, shape in keys.items():
        if key.startswith("vocoder."):
            name = key.removeprefix("vocoder.")
            if ".ups." in name and len(shape) == 3:
                shape = [shape[1], shape[2], shape[0]]
            elif name.endswith(".weight"):
                shape = [shape[0], shape[2], shape[1]]
            expected[name] = shape
    own = VocoderWithBWE(VocoderConfig.read(REAL))
    assert {name: list(array.shape) for name, array in tree_flatten(own.parameters())} == expected
    assert own.output_rate == 48000


def test_sine_of_the_cpu():
    x = np.concatenate([np.linspace(-30, 30, 20001), [0.0, 1e-4, 1e3, -1e3, 1e6]]).astype(np.float32)[None, :, None]
    act = activation.SnakeBeta(1)
    act.alpha, act.beta = mx.array([0.3]), mx.array([-1.2])
    alpha, beta = np.exp(np.float32(0.3)).astype(np.float64), np.exp(np.float32(-1.2)).astype(np.float64)
    theta = np.float32(x * np.float32(alpha))  # the rounding of the angle is the format's, not the sine's
    expected = x.astype(np.float64) + np.sin(theta.astype(np.float64)) ** 2 / (beta + 1e-9)
    error = np.abs(np.array(act(mx.array(x))) - expected)[0, :, 0]
    assert error[:-3].max() < 2e-5
    assert error[:-5][np.abs(x[0, :-5, 0]) < 2].max() < 2e-6
    assert np.isfinite(error).all()


@pytest.mark.parametrize(("rate", "size"), [(5, 11), (2, 4), (6, 12), (8, 16), (3, 3), (4, 12)])
def test_transposed_convolution(rate, size):
    torch.manual_seed(0)
    official = torch.nn.ConvTranspose1d(3, 4, size, rate, padding=(size - rate) // 2)
    own = vocoder.ConvTranspose1d(3, 4, size, rate)
    load_official(own, official)
    x = torch.randn(2, 3, 7)
    expected = official(x).detach().transpose(1, 2).numpy()
    assert relative(own(mx.array(x.transpose(1, 2).numpy())), expected) < 1e-6


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 50])
def test_resampling(length):
    x = np.random.default_rng(length).normal(size=(2, length, 3)).astype(np.float32)
    torch_x = torch.from_numpy(x).transpose(1, 2)
    hann = hann_sinc(3)
    tripled = upsample(mx.array(x), mx.array(hann), 3, (hann.size - 1) // 2)
    assert relative(tripled, UpSample1d(3, window_type="hann")(torch_x).transpose(1, 2).numpy()) < 1e-6
    kaiser = mx.array(kaiser_sinc(12, 0.25, 0.3))
    np.testing.assert_allclose(kaiser, kaiser_sinc_filter1d(0.25, 0.3, 12).flatten(), atol=1e-7)
    doubled = upsample(mx.array(x), kaiser, 2, 5)
    assert relative(doubled, UpSample1d(2, 12)(torch_x).transpose(1, 2).numpy()) < 1e-6
    halved = DownSample1d(2, 12)(torch.from_numpy(np.array(doubled)).transpose(1, 2)).transpose(1, 2).numpy()
    assert relative(downsample(doubled, kaiser, 2), halved) < 1e-6


def test_flat_config_is_refused():
    """LTX-2's vocoder renders 24 kHz at once."""
    flat = vocoder_section()["vocoder"] | {"resblock": "1", "upsample_rates": [6, 5, 2, 2, 2]}
    with pytest.raises(UserError, match=r"no bandwidth extension.*Use an LTX-2\.3 checkpoint"):
        VocoderConfig.read(flat)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("vocoder", {"activation": "snake"}, "vocoder.vocoder.activation"),
        ("vocoder", {"use_tanh_at_final": None}, "lacks 'vocoder.vocoder.use_tanh_at_final'"),
        ("bwe", {"hop_length": None}, "lacks 'vocoder.bwe.hop_length'"),
        ("bwe", {"upsample_rates": [8, 6, 4], "upsample_kernel_sizes": [16, 12, 12]}, "192 samples of a hop of 80"),
        ("vocoder", {"upsample_kernel_sizes": [12, 8, 8, 4]}, "do not go with its rates"),
        ("vocoder", {"upsample_initial_channel": 24}, "cannot halve 24"),
        ("bwe", {"win_size": 400}, "win_size"),
    ],
)
def test_config_is_strict(part, change, words):
    section = vocoder_section()
    for key, value in change.items():
        if value is None:
            del section[part][key]
        else:
            section[part][key] = value
    with pytest.raises(UserError, match=words):
        VocoderConfig.read(section)


def whisper(seconds=1.0, rate=48000):
    return np.random.default_rng(0).normal(0, 0.01, (1, int(seconds * rate), 2)).astype(np.float32)


def test_onset_click_is_turned_down():
    clip = whisper()
    loudest = np.abs(clip).max()
    clip[:, :3120] += 0.95 * np.sign(np.sin(np.arange(3120)))[None, :, None].astype(np.float32)  # 65 ms
    softened = np.array(soften_onset(mx.array(clip), 48000))
    assert np.abs(softened[:, :3120]).max() <= loudest
    np.testing.assert_array_equal(softened[:, 3600:], clip[:, 3600:])  # 75 ms on: as it was
    steps = np.abs(np.diff(softened[0, :, 0]))
    assert steps.max() < 3 * np.abs(np.diff(clip[0, 4000:, 0])).max()


@pytest.mark.parametrize("kind", ["whisper", "loud throughout", "loud first word", "quiet burst", "very short"])
def test_other_onsets_stay(kind):
    clip = whisper()
    if kind == "loud throughout":
        clip *= 60
    elif kind == "loud first word":
        clip *= 8
        clip[:, :3000] *= 2
        assert np.abs(clip[:, :3000]).max() > 0.5
    elif kind == "quiet burst":
        clip[:, :3000] *= 8
    elif kind == "very short":
        clip = clip[:, :3000] * 60
    np.testing.assert_array_equal(np.array(soften_onset(mx.array(clip), 48000)), clip)


def test_onset_of_each_clip_of_a_batch():
    clip = np.concatenate([whisper(), whisper()])
    clip[1, :2000] *= 90
    softened = np.array(soften_onset(mx.array(clip), 48000))
    np.testing.assert_array_equal(softened[0], clip[0])
    assert np.abs(softened[1]).max() <= np.abs(clip[1, 3120:]).max()
