"""The command's quantisation options."""

import pytest

from mlx_ltxw.convert.quantize import Quantization, in_blocks
from mlx_ltxw.errors import UserError


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("4", None, (4, 64, "affine")),
        ("8", 128, (8, 128, "affine")),
        ("mxfp4", None, (4, 32, "mxfp4")),
        ("mxfp8", 32, (8, 32, "mxfp8")),
        ("nvfp4", None, (4, 16, "nvfp4")),
    ],
)
def test_options(name, group, expected):
    how = Quantization.parse(name, group)
    assert (how.bits, how.group_size, how.mode) == expected


@pytest.mark.parametrize(("name", "group"), [("mxfp4", 64), ("nvfp4", 32), ("4", 48), ("8", 0), ("5", None)])
def test_options_that_do_not_exist(name, group):
    with pytest.raises(UserError):
        Quantization.parse(name, group)


def test_packed_sizes():
    """Hand-worked: 64 x 256 weights at 4 bits are 64 x 32 words, with a scale and a bias for each 64."""
    packed = Quantization.parse("4").packed((64, 256), "BF16")
    assert packed == {"weight": ("U32", (64, 32)), "scales": ("BF16", (64, 4)), "biases": ("BF16", (64, 4))}
    assert Quantization.parse("nvfp4").packed((64, 256), "BF16")["scales"] == ("U8", (64, 16))


def test_width_that_cannot_be_packed():
    assert not in_blocks("transformer", "transformer_blocks.0.attn1.to_q", 96, Quantization.parse("4"))
    assert in_blocks("transformer", "transformer_blocks.0.attn1.to_q", 96, Quantization.parse("4", 32))
