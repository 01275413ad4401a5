"""What `inspect` says of a made file."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_ltxw.errors import UserError
from mlx_ltxw.takes.describe import describe
from tests.takes.test_record import made


def facts(path, **request):
    """Label -> value, of the lines after the file's name."""
    request = {"prompt": "a", "seeds": [3], "width": 96, "height": 64, "frames": 9, "frame_rate": 24.0} | request
    lines = str(describe(str(made(path, {"kind": "clip", "mlx_ltxw": "0.1.0", **request})))).splitlines()
    assert lines[0] == str(path)
    return {line[:16].rstrip(): line[16:] for line in lines[1:]}


@pytest.mark.parametrize(
    ("request_", "lock"),
    [
        ({}, None), ({"audio_only": True}, None), ({"adapters": ["whisper"], "audio_only": True}, None),
        ({"adapters": ["whisper"]}, "on"), ({"adapters": ["whisper"], "lock_video": False}, "off"),
    ],
)  # fmt: skip
def test_the_lock_is_named_where_there_is_a_picture_to_lock(tmp_path, request_, lock):
    assert facts(tmp_path / "a.wav", **request_).get("video lock") == lock


def test_size_and_length(tmp_path):
    told = facts(tmp_path / "a.wav")
    assert told["size"] == "96 x 64, 9 frames at 24 a second"
    assert told["kind"] == "clip, 0.01 s"
    assert told["written by"] == "mlx-ltxw 0.1.0"
    assert (told["prompt"], told["seed"]) == ("a", "3")
    assert facts(tmp_path / "b.wav", audio_only=True)["size"] == "9 frames at 24 a second"


def test_a_folder_with_an_adapter(tmp_path):
    """A training run's, or a download's: without PEFT's configuration, too. One of neither is asked for its model."""
    name = "diffusion_model.transformer_blocks.0.audio_attn1.to_q"
    pair = {f"{name}.lora_A.weight": np.ones((2, 4), "f"), f"{name}.lora_B.weight": np.ones((4, 2), "f")}
    save_file(pair, tmp_path / "adapter.safetensors")
    assert "audio_attn1" in str(describe(str(tmp_path)))
    save_file({"vocoder.x": np.ones(1, "f")}, tmp_path / "adapter.safetensors")
    with pytest.raises(UserError, match="not a finished model"):
        describe(str(tmp_path))
