"""Which layers are quantised, how, and how large they get."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_ltxw.errors import UserError

_AFFINE_GROUPS = (32, 64, 128)
_FLOAT_MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}  # bits, group size; both are the format's own
CHOICES = ("4", "8", *_FLOAT_MODES)


@dataclass(frozen=True)
class Quantization:
    """How MLX packs a linear's weight; the fields of mlx-lm's `quantization` entries.

    Attributes:
        bits: Bits a weight takes: 4 or 8.
        group_size: Weights along the input axis that share a scale.
        mode: `affine` (scale and bias), or a shared-exponent float format, whose scales are one byte each.
    """

    bits: int
    group_size: int
    mode: str

    @classmethod
    def parse(cls, name: str, group_size: int | None = None) -> Quantization:
        """Reads the quantisation as people write it.

        Raises:
            UserError: an unknown name, or a group size that the format does not have.
        """
        if name in _FLOAT_MODES:
            bits, group = _FLOAT_MODES[name]
            if group_size not in (None, group):
                raise UserError(
                    f"{name} has groups of {group}, not {group_size}.",
                    "Leave {field:group_size} out, or use {field:quantize=4} or {field:quantize=8}.",
                )
            return cls(bits, group, name)
        if name not in CHOICES:
            raise UserError(f"There is no quantisation '{name}'.", f"Use one of {', '.join(CHOICES)}.")
        group = 64 if group_size is None else group_size
        if group not in _AFFINE_GROUPS:
            raise UserError(f"MLX has no groups of {group}.", "Use {field:group_size} 32, 64 or 128.")
        return cls(int(name), group, "affine")

    @property
    def settings(self) -> dict[str, int | str]:
        """As in `config.json`."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def packed(self, shape: tuple[int, ...], dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The arrays that replace a weight [out, in]: suffix -> (safetensors dtype, shape).

        Args:
            shape: (out, in) of the weight.
            dtype: Of the weight, which affine scales keep.
        """
        out, width = shape
        groups = (out, width // self.group_size)
        arrays = {"weight": ("U32", (out, width * self.bits // 32))}
        if self.mode == "affine":
            return {**arrays, "scales": (dtype, groups), "biases": (dtype, groups)}
        return {**arrays, "scales": ("U8", groups)}


def in_blocks(component: str, layer: str, width: int, quantization: Quantization) -> bool:
    """Whether a linear is quantised: those of the transformer's blocks and of Gemma's, but for the head gates.

    Norms and tables are no linears. Patchify, heads, noise-level embeddings, connectors, autoencoders and vocoder lie
    outside the blocks. A width that the group size does not divide cannot be packed.

    Args:
        component: `transformer`, `text_encoder`, …
        layer: The linear's path.
        width: Its input width.
        quantization: What is asked for.
    """
    block = {"transformer": "transformer_blocks.", "text_encoder": "model.layers."}.get(component)
    return (
        block is not None
        and layer.startswith(block)
        and not layer.endswith(".to_gate_logits")
        and width % quantization.group_size == 0
    )
