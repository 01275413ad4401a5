# ruff: noqa: E402
"""The voice model's own network code against the official classes and HF's Gemma 3."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ltx_core")

import tests.reference  # noqa: F401
from scripts.voice_model import activation, sound, text
from scripts.voice_model.corpus import SCENES, SENTENCES, VOICES, caption

from ltx_core.model.audio_vae.vocoder import Activation1d, SnakeBeta


def test_polyphase_activation_equals_the_official_one_away_from_the_ends():
    torch.manual_seed(0)
    official = Activation1d(SnakeBeta(5))
    official.act.alpha.data.normal_(std=0.5)
    official.act.beta.data.normal_(std=0.5)
    x = torch.randn(2, 5, 64)
    up, down = official.upsample.filter.flatten().tolist(), official.downsample.lowpass.filter.flatten().tolist()
    made = activation.polyphase(x, official.act.alpha, official.act.beta, up, down)
    torch.testing.assert_close(made[..., 8:-8], official(x)[..., 8:-8], rtol=1e-5, atol=1e-5)


def test_log_mel_equals_the_official_processor():
    from ltx_core.model.audio_vae.ops import AudioProcessor
    from ltx_core.types import Audio

    wave = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    official = AudioProcessor(16000, 64, 160, 1024).waveform_to_mel(Audio(waveform=wave[:, None], sampling_rate=16000))
    torch.testing.assert_close(sound.LogMel()(wave), official[:, 0], rtol=1e-4, atol=1e-4)


def test_stft_bases_give_the_spectrum_and_its_inverse():
    forward, inverse = sound.stft_bases(512)
    x = torch.randn(512, generator=torch.Generator().manual_seed(0))
    truth = torch.fft.rfft(x * torch.hann_window(512))
    made = forward[:, 0] @ x
    torch.testing.assert_close(made[:257], truth.real, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made[257:], truth.imag, rtol=1e-4, atol=1e-4)
    again = inverse[:, 0].T @ made  # analysis and synthesis window: x times the window squared
    torch.testing.assert_close(again, x * torch.hann_window(512) ** 2, rtol=1e-4, atol=1e-4)


def test_every_caption_word_is_in_the_tokenizer_and_case_does_not_matter():
    made = text.tokenizer()
    longest = 0
    for voice in VOICES:
        for scene in SCENES:
            for line in SENTENCES:
                ids = made.encode(caption(voice, "whispering quietly", line, scene)).ids
                assert text.SPECIAL.index("<unk>") not in ids
                longest = max(longest, len(ids))
    assert longest < text.WINDOW
    loose, tight = 'A Woman, (Woman): "Close your eyes."', 'a woman,(woman):"close your eyes ."'
    assert made.encode(loose).ids == made.encode(tight).ids
    assert made.encode("").ids == [2]


@pytest.fixture(scope="module")
def path():
    torch.manual_seed(0)
    made = text.TextPath()
    for parameter in made.parameters():
        if parameter.dim() == 1:
            parameter.data.normal_(std=0.1)
    return made.requires_grad_(False)


def test_gemma_equals_transformers(path):
    from transformers import Gemma3TextConfig, Gemma3TextModel

    settings = text.gemma_config()["text_config"]
    old = ("rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern")
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = Gemma3TextConfig(**{k: v for k, v in settings.items() if k not in old}, rope_parameters=ropes)
    official = Gemma3TextModel(config).eval()
    official.load_state_dict(path.gemma.state_dict())
    ids = torch.tensor([text.tokenizer().encode(caption(VOICES[1], "", SENTENCES[4])).ids])
    padded = torch.nn.functional.pad(ids, (20, 0))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (20, 0))
    states = official(padded, attention_mask=mask, output_hidden_states=True).hidden_states
    truth = torch.stack(states, dim=-1)[:, 20:]
    torch.testing.assert_close(path.gemma(ids), truth, rtol=1e-4, atol=1e-4)


def test_connectors_take_captions_of_unequal_length(path):
    from ltx_core.text_encoders.gemma.embeddings_processor import convert_to_additive_mask

    lengths = torch.tensor([9, 3])
    features = torch.randn(2, 12, 80, generator=torch.Generator().manual_seed(1))
    made = text.connect(path.video_connector, features, lengths, 256)
    for row, length in enumerate(lengths.tolist()):
        padded = torch.zeros(1, 256, 80)
        padded[0, -length:] = features[row, :length]
        mask = convert_to_additive_mask((torch.arange(256) >= 256 - length).long()[None], torch.float32)
        truth, _ = path.video_connector(padded, mask)
        torch.testing.assert_close(made[row], truth[0], rtol=1e-4, atol=1e-5)


def test_gemma_folder_is_in_the_layout_of_the_hub(tmp_path, path):
    from safetensors import safe_open

    text.write_gemma(tmp_path, path.gemma)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "language_model.model.layers.3.self_attn.q_norm.weight" in names
    assert all(name.startswith("language_model.model.") for name in names)
    config = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
