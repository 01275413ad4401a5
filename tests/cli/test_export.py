"""`mlx-ltxw export` as a user runs it."""

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from mlx_ltxw.cli.export import export
from mlx_ltxw.errors import UserError

NAME = "transformer_blocks_3_audio_attn1_to_out_0"


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = np.ones((2, 6), np.float32), np.full((8, 2), 3, np.float32)
    parts = {"lora_down.weight": a, "lora_up.weight": b, "alpha": np.array(1.0, np.float32)}
    save_file({f"lora_unet_{NAME}.{end}": value for end, value in parts.items()}, tmp_path / "in.safetensors")
    return str(tmp_path / "in.safetensors")


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("comfyui", "diffusion_model.transformer_blocks.3.audio_attn1.to_out.0"),
        ("diffusers", "transformer.transformer_blocks.3.audio_attn1.to_out.0"),
        ("mlx", "diffusion_model.transformer_blocks.3.audio_attn1.to_out"),
    ],
)
def test_targets(adapter, tmp_path, target, key):
    result = CliRunner().invoke(export, [adapter, "--to", target], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"wrote 1 modules to in.{target}.safetensors" in result.output
    written = load_file(tmp_path / f"in.{target}.safetensors")
    assert set(written) == {f"{key}.lora_A.weight", f"{key}.lora_B.weight"}
    assert (written[f"{key}.lora_B.weight"] == 1.5).all()  # 3 times alpha 1 over rank 2


def test_output_and_mistakes(adapter, tmp_path):
    run = CliRunner()
    assert run.invoke(export, [adapter, "--to", "mlx", "-o", "sub/new.safetensors"]).exit_code == 0
    assert (tmp_path / "sub" / "new.safetensors").is_file()
    assert run.invoke(export, [adapter]).exit_code == 2
    assert run.invoke(export, [adapter, "--to", "onnx"]).exit_code == 2
    with pytest.raises(UserError, match="There is no adapter"):
        run.invoke(export, ["missing.safetensors", "--to", "mlx"], catch_exceptions=False)
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        run.invoke(export, [adapter, "--to", "mlx", "-o", "x.bin"], catch_exceptions=False)
