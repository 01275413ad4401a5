"""Names of weight files."""

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.text import weight_files
from mlx_ltxw.weights.weight_files import is_one_file, is_weights, missing_pieces

CUT = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors", True), ("folder/MODEL.SAFETENSORS", True), ("a b.safetensors", True),
        ("._model.safetensors", False), ("folder/.hidden.safetensors", False), ("model.safetensors.index.json", False),
        ("model.safetensors.incomplete", False), ("safetensors", False),
    ],
)  # fmt: skip
def test_which_names_are_weights(name, expected):
    assert is_weights(name) == expected


def test_pieces():
    assert missing_pieces([*CUT, "other.safetensors"]) == []
    assert missing_pieces([CUT[1]]) == [CUT[0], CUT[2]]
    assert missing_pieces(["a-00001-of-00002.safetensors", *CUT]) == ["a-00002-of-00002.safetensors"]
    assert is_one_file(CUT)
    assert is_one_file(["x.safetensors"])
    assert not is_one_file(CUT[:2])
    assert not is_one_file([*CUT, "x.safetensors"])
    assert not is_one_file([])


def test_a_text_encoder_that_is_cut(tmp_path):
    (tmp_path / CUT[0]).write_bytes(b"")
    with pytest.raises(UserError, match=f"there is no {CUT[1]}, no {CUT[2]}"):
        weight_files(tmp_path)
