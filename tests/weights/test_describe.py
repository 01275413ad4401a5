"""`mlx-ltxw inspect` on models, checkpoints and adapters."""

import json
import os

import numpy as np
from safetensors.numpy import save_file

from tests.convert.made import command, converted, made


def test_model_directory():
    model = converted("8", 32)
    done = command("inspect", model.path)
    assert done.returncode == 0, done.stderr
    for part in ("LTX-2.3 dev", "affine, 8 bits, groups of 32", made().checkpoint.name, "text_encoder"):
        assert part in done.stdout


def test_json_counts():
    """Tensors and bytes per part add up to the file's."""
    done = command("inspect", made().checkpoint, "--json")
    parts = json.loads(done.stdout)["parts"]
    assert set(parts) == {"model.diffusion_model", "text_embedding_projection", "vae", "audio_vae", "vocoder"}
    raw = made().checkpoint.read_bytes()
    header = int.from_bytes(raw[:8], "little")
    assert sum(part["nbytes"] for part in parts.values()) == len(raw) - 8 - header
    assert parts["model.diffusion_model"]["dtypes"]["F32"] > 0


def test_checkpoint_that_is_cut(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(made().checkpoint.read_bytes())
    os.truncate(path, path.stat().st_size - 5)
    done = command("inspect", path)
    assert done.returncode == 0
    assert "truncated" in done.stdout
    assert "model_version   2.3.0" in done.stdout


def test_adapter(tmp_path):
    """An adapter is told by its names, and described by the adapter room."""
    name = "diffusion_model.transformer_blocks.0.audio_attn1.to_q"
    arrays = {f"{name}.lora_A.weight": np.ones((4, 32)), f"{name}.lora_B.weight": np.ones((32, 4))}
    save_file({key: value.astype(np.float32) for key, value in arrays.items()}, tmp_path / "whisper.safetensors")
    done = command("inspect", tmp_path / "whisper.safetensors")
    assert done.returncode == 0, done.stderr
    assert "audio_attn1" in done.stdout
    assert "rank" in done.stdout


def test_unfinished_directory(tmp_path):
    done = command("inspect", tmp_path)
    assert done.returncode == 2
    assert "not a finished model" in done.stderr


def test_pickle(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x02}")
    done = command("inspect", tmp_path / "x.ckpt")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
