"""BigVGAN's anti-aliased snake as two polyphase sums: the same numbers as the official `Activation1d` away from the
ends, in kernels a compiler can fuse (the official depthwise convolutions are most of a vocoder step's time)."""

from __future__ import annotations

import types

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx_core.model.audio_vae.vocoder import Activation1d


def polyphase(x: Tensor, alpha: Tensor, beta: Tensor, up: list[float], down: list[float]) -> Tensor:
    """x (B, C, T), alpha and beta (C,) in log scale, 12 taps each -> (B, C, T). Zeros beyond the ends."""
    length = x.shape[-1]
    padded = F.pad(x, (6, 6))
    wide = length + 6
    even = sum(2 * up[5 + 2 * d] * padded[..., 3 - d : 3 - d + wide] for d in range(-2, 4))
    odd = sum(2 * up[6 + 2 * d] * padded[..., 3 - d : 3 - d + wide] for d in range(-3, 3))
    a, b = alpha.exp()[None, :, None], 1 / (beta.exp()[None, :, None] + 1e-9)
    even, odd = even + b * torch.sin(a * even) ** 2, odd + b * torch.sin(a * odd) ** 2
    out = sum(down[5 + 2 * e] * even[..., e + 3 : e + 3 + length] for e in range(-2, 4))
    return out + sum(down[6 + 2 * e] * odd[..., e + 3 : e + 3 + length] for e in range(-3, 3))


def speed_up(model: torch.nn.Module, compiled: bool) -> None:
    """In training mode, every `Activation1d` of the model runs as `polyphase`; in eval mode as the official one."""
    function = torch.compile(polyphase, dynamic=False) if compiled else polyphase
    for module in model.modules():
        if isinstance(module, Activation1d):
            up, down = module.upsample.filter.flatten().tolist(), module.downsample.lowpass.filter.flatten().tolist()
            module.forward = types.MethodType(_forward(function, up, down), module)


def _forward(function, up: list[float], down: list[float]):  # type: ignore[no-untyped-def]
    def forward(self: Activation1d, x: Tensor) -> Tensor:
        if not self.training:
            return Activation1d.forward(self, x)
        return function(x, self.act.alpha, self.act.beta, up, down)

    return forward
