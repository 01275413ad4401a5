"""The made checkpoints are what the official code and the real file's key list say they must be."""

import json
import math
import struct
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from scripts.made_sizes import configuration
from scripts.made_weights import is_fp8, tensor_specs
from scripts.make_checkpoint import main, make
from tests.reference.official import Official

REAL_KEYS = Path(__file__).parents[1] / "data" / "ltx23_keys.json"
REAL_BYTES = 46_148_472_534  # the published file's data, bf16 with fp32 tables


def test_real_size_has_the_real_keys_and_bytes(tmp_path):
    made = make(tmp_path, "22b", keys_only=True)
    with made.checkpoint.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__")
    assert {name: entry["shape"] for name, entry in header.items()} == json.loads(REAL_KEYS.read_text())
    assert max(entry["data_offsets"][1] for entry in header.values()) == REAL_BYTES
    assert json.loads(metadata["config"])["transformer"]["num_layers"] == 48
    assert metadata["model_version"] == "2.3.0"
    assert made.checkpoint.stat().st_size == 8 + length + REAL_BYTES
    assert made.checkpoint.stat().st_blocks * 512 < 4_000_000
    sizes = [path.stat().st_size for path in made.gemma.glob("*.safetensors")]
    assert sum(sizes) > 23_000_000_000
    with safe_open(made.gemma / "model-00002-of-00002.safetensors", "pt") as file:
        assert file.get_slice("language_model.model.layers.47.mlp.gate_proj.weight").get_shape() == [15360, 3840]


def test_tiny_is_small_and_reproducible(made_dir, made_checkpoint, tmp_path):
    files = [made_checkpoint, *(made_dir / "gemma").rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 3_100_000
    again = make(tmp_path / "again", "tiny")
    assert again.checkpoint.read_bytes() == made_checkpoint.read_bytes()
    other = make(tmp_path / "other", "tiny", seed=1)
    key = "model.diffusion_model.transformer_blocks.1.attn1.to_q.weight"
    with safe_open(made_checkpoint, "pt") as left, safe_open(other.checkpoint, "pt") as right:
        assert left.keys() == right.keys()
        assert (left.get_tensor(key) - right.get_tensor(key)).abs().mean() > 0.05


def test_tables_are_fp32_and_the_rest_bf16(made_checkpoint):
    with safe_open(made_checkpoint, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            expected = "F32" if "scale_shift_table" in name else "BF16"
            assert file.get_slice(name).get_dtype() == expected, name


def test_rope_of_the_tiny_video_width_has_front_pads():
    transformer = configuration("tiny")[0]["transformer"]
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    assert width // 2 - 3 * (width // 6) == 2  # as the real 4096 has


def test_changes_reach_the_config_and_disagreements_are_refused(tmp_path):
    config, gemma = configuration("tiny", {"transformer.num_layers": 3, "gemma.hidden_size": 48})
    assert config["transformer"]["num_layers"] == 3
    assert config["transformer"]["caption_channels"] == gemma["hidden_size"] == 48
    names = tensor_specs(config, gemma)
    assert "model.diffusion_model.transformer_blocks.2.attn1.to_q.weight" in names
    assert names["text_embedding_projection.video_aggregate_embed.weight"][0] == (64, 48 * 5)
    with pytest.raises(ValueError, match="audio ch and z_channels"):
        configuration("tiny", {"audio_vae.model.params.ddconfig.z_channels": 3})
    with pytest.raises(ValueError, match=r"no 'transformer\.num_layer'"):
        configuration("tiny", {"transformer.num_layer": 3})
    assert CliRunner().invoke(main, [str(tmp_path), "--set", "transformer.depth=3"]).exit_code == 2
    assert CliRunner().invoke(main, [str(tmp_path), "--set", "transformer.num_layers"]).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_stft_bases_are_a_windowed_dft(made_checkpoint):
    with safe_open(made_checkpoint, "pt") as file:
        basis = file.get_tensor("vocoder.mel_stft.stft_fn.forward_basis").float()[:, 0]
        mel = file.get_tensor("vocoder.mel_stft.mel_basis").float()
    size = basis.shape[1]
    time = torch.arange(size) / size
    tone = torch.cos(2 * math.pi * 10 * time + 0.3)
    real, imaginary = (basis @ tone).chunk(2)
    expected = torch.fft.rfft(tone * torch.hann_window(size))
    torch.testing.assert_close(torch.complex(real, imaginary), expected, atol=0.2, rtol=0)  # bf16 bases
    peaks = mel.argmax(dim=1)[mel.sum(dim=1) > 0]
    assert (peaks.diff() >= 0).all()


def test_fp8_layout_decodes_to_the_weights(made_checkpoint, tmp_path):
    made = make(tmp_path, "tiny", fp8=True)
    with safe_open(made_checkpoint, "pt") as plain, safe_open(made.checkpoint, "pt") as packed:
        names = set(plain.keys())
        quantised = {name for name in names if packed.get_slice(name).get_dtype() == "F8_E4M3"}
        assert len(quantised) == 34  # of one block: five a attention, two a feed-forward
        assert quantised == {name for name in names if is_fp8(name)}
        scales = {
            f"{name.removesuffix('weight')}{scale}" for name in quantised for scale in ("weight_scale", "input_scale")
        }
        assert set(packed.keys()) == names | scales
        for name in sorted(quantised)[:5]:
            scale = packed.get_tensor(f"{name}_scale")
            assert scale.shape == ()
            assert scale.dtype == torch.float32
            weight = plain.get_tensor(name).float()
            error = packed.get_tensor(name).float() * scale - weight
            assert error.norm() / weight.norm() < 0.04


def test_split_files_hold_the_single_file(made_checkpoint, tmp_path):
    made = make(tmp_path, "tiny", split=True)
    parts = {}
    for path in made.files:
        with safe_open(path, "pt") as file:
            assert "config" in file.metadata()
            parts |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with safe_open(made_checkpoint, "pt") as file:
        assert set(parts) == set(file.keys())
        assert all(torch.equal(parts[name], file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


@torch.no_grad()
def test_official_models_load_it_and_stay_in_range(made_checkpoint):
    official = Official.open(made_checkpoint)  # loads every module strictly
    random = torch.Generator().manual_seed(0)
    picture = official.video_decoder(1.2 * torch.randn(1, 8, 2, 2, 3, generator=random))
    assert 0.2 < picture.std() < 0.5
    assert picture.abs().gt(1).float().mean() < 0.01
    mel = official.audio_decoder(1.2 * torch.randn(1, 2, 26, 16, generator=random))
    assert -6 < mel.mean() < -4
    waveform = official.vocoder(mel)
    assert 0.05 < waveform.std() < 0.3
    assert waveform.abs().max() < 0.99
