# ruff: noqa: E402
"""The voice model's checkpoint and adapters as other programs read them: through the official key rules."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ltx_core")

import tests.reference  # noqa: F401
from scripts.voice_model import adapters, export
from scripts.voice_model.audio_vae import AudioVAE
from scripts.voice_model.config import CONFIG
from scripts.voice_model.transformer import Model, positions
from scripts.voice_model.video_vae import VideoVAE
from scripts.voice_model.vocoder import build


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Model()


def stripped(tensors, rules):
    """What the official loader hands to a module: matching keys, renamed."""
    out = {}
    for key, value in tensors.items():
        name = rules.apply_to_key(key)
        if name is not None:
            for result in rules.apply_to_key_value(name, value):
                out[result.new_key] = result.new_value
    return out


def test_official_rules_find_every_tensor_of_every_component(model):
    from ltx_core.model.audio_vae import model_configurator as audio
    from ltx_core.model.transformer import model_configurator as transformer
    from ltx_core.model.video_vae import model_configurator as video
    from ltx_core.text_encoders.gemma.encoders.encoder_configurator import EMBEDDINGS_PROCESSOR_KEY_OPS

    parts = {"audio": AudioVAE(), "video": VideoVAE(), "vocoder": build()}
    tensors = export.official_keys(model, parts["audio"], parts["video"], parts["vocoder"])
    for rules, module in (
        (audio.AUDIO_VAE_DECODER_COMFY_KEYS_FILTER, parts["audio"].decoder),
        (audio.AUDIO_VAE_ENCODER_COMFY_KEYS_FILTER, parts["audio"].encoder),
        (video.VAE_DECODER_COMFY_KEYS_FILTER, parts["video"].decoder),
        (video.VAE_ENCODER_COMFY_KEYS_FILTER, parts["video"].encoder),
        (audio.VOCODER_COMFY_KEYS_FILTER, audio.VocoderConfigurator.from_config(CONFIG)),
    ):
        module.load_state_dict(stripped(tensors, rules), strict=True)
    found = stripped(tensors, transformer.LTXV_MODEL_COMFY_RENAMING_MAP)
    result = model.dit.load_state_dict(found, strict=False)  # the connectors' keys pass the rule too
    assert not result.missing_keys
    assert all("embeddings_connector" in key for key in result.unexpected_keys)
    text = stripped(tensors, EMBEDDINGS_PROCESSOR_KEY_OPS)
    assert {key.split(".")[0] for key in text} == {"feature_extractor", "video_connector", "audio_connector"}
    assert len(text) == len(model.text.extractor.state_dict()) + 2 * len(model.text.video_connector.state_dict())


def test_checkpoint_is_small_and_keeps_the_tables_in_fp32(model):
    tensors = export.official_keys(model, AudioVAE(), VideoVAE(), build())
    for name, value in tensors.items():
        assert value.dtype == (torch.float32 if "scale_shift_table" in name else torch.bfloat16), name
    assert sum(value.numel() * value.element_size() for value in tensors.values()) < 24e6
    assert json.loads(json.dumps(CONFIG)) == CONFIG


def test_adapter_starts_as_nothing_and_is_saved_in_the_official_spelling(tmp_path, model):
    from safetensors.torch import load_file

    sigma, contexts = torch.tensor([0.5]), (torch.randn(1, 8, 80), torch.randn(1, 8, 160))
    inputs = (torch.randn(1, 208, 32), torch.randn(1, 101, 32))
    with torch.no_grad():
        before = model.velocity(*inputs, sigma, contexts)
        placed = adapters.attach(model)
        torch.testing.assert_close(model.velocity(*inputs, sigma, contexts), before, rtol=0, atol=0)
        for layer in placed.values():
            layer.B.normal_(std=0.02)
        changed = model.velocity(*inputs, sigma, contexts)
    adapters.save_adapter(tmp_path / "a.safetensors", placed)
    tensors = load_file(tmp_path / "a.safetensors")
    assert len(tensors) == 6 * 3 * 4 * 2
    assert tensors["diffusion_model.transformer_blocks.5.video_to_audio_attn.to_k.lora_A.weight"].shape == (32, 80)
    assert tensors["diffusion_model.transformer_blocks.0.audio_attn1.to_out.0.lora_B.weight"].shape == (160, 32)
    with torch.no_grad():  # fused by hand, the adapter does the same
        for name, layer in placed.items():
            key = f"diffusion_model.{name}"
            delta = tensors[f"{key}.lora_B.weight"].float() @ tensors[f"{key}.lora_A.weight"].float()
            layer.base.weight += delta
            layer.B.zero_()
        fused = model.velocity(*inputs, sigma, contexts)
    assert float((changed[1] - before[1]).abs().max()) > 1e-3
    torch.testing.assert_close(fused, changed, rtol=1e-2, atol=2e-3)  # the file holds bf16


def test_token_positions_are_in_seconds():
    video, audio = positions(1)
    assert video.shape == (1, 3, 208, 2)
    assert audio.shape == (1, 1, 101, 2)
    frames = video[0, 0, [0, 16, 32]].flatten().tolist()
    assert frames == pytest.approx([0, 1 / 24, 1 / 24, 9 / 24, 9 / 24, 17 / 24])
    assert audio[0, 0, [0, 1, 2]].mean(-1).tolist() == pytest.approx([0.005, 0.03, 0.07])
