"""Names, shapes and values of a made checkpoint's tensors, from the official modules.

The values are random but of a scale at which every part matters and nothing saturates: activations of order one, gates
that are open, waveforms and pictures inside [-1, 1]. A tensor's values depend on the seed and its name alone.
"""

from __future__ import annotations

import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `tests` is found whatever the working directory

import torch

import tests.reference  # noqa: F401
from tests.reference.torchaudio_stand_in import slaney_filterbank

from ltx_core.model.audio_vae.model_configurator import (
    AudioDecoderConfigurator,
    AudioEncoderConfigurator,
    VocoderConfigurator,
)
from ltx_core.model.audio_vae.vocoder import kaiser_sinc_filter1d
from ltx_core.model.transformer.model_configurator import LTXModelConfigurator
from ltx_core.model.video_vae.model_configurator import VideoDecoderConfigurator, VideoEncoderConfigurator
from ltx_core.text_encoders.gemma.embeddings_connector import (
    AudioEmbeddings1DConnectorConfigurator,
    Embeddings1DConnectorConfigurator,
)
from ltx_core.text_encoders.gemma.feature_extractor import FeatureExtractorV2

Specs = dict[str, tuple[tuple[int, ...], torch.dtype]]
FP8_MAX = 448.0
STATISTICS = "per_channel_statistics."
BLOCK_LINEAR = re.compile(r"^model\.diffusion_model\.transformer_blocks\.(\d+)\..*(?<!norm)\.weight$")


def components(config: dict[str, Any], gemma: dict[str, Any]) -> list[tuple[str, torch.nn.Module]]:
    """The official modules on the meta device with their checkpoint prefixes, in the file's order."""
    diffusion, transformer = "model.diffusion_model.", config["transformer"]
    features = gemma["hidden_size"] * (gemma["num_hidden_layers"] + 1)
    widths = [
        transformer["num_attention_heads"] * transformer["attention_head_dim"],
        transformer["audio_num_attention_heads"] * transformer["audio_attention_head_dim"],
    ]
    with torch.device("meta"):
        video, audio = (torch.nn.Linear(features, width) for width in widths)
        return [
            (diffusion, LTXModelConfigurator.from_config(config)),
            (f"{diffusion}video_embeddings_connector.", Embeddings1DConnectorConfigurator.from_config(config)),
            (f"{diffusion}audio_embeddings_connector.", AudioEmbeddings1DConnectorConfigurator.from_config(config)),
            ("text_embedding_projection.", FeatureExtractorV2(video, gemma["hidden_size"], audio)),
            ("vae.encoder.", VideoEncoderConfigurator.from_config(config)),
            ("vae.decoder.", VideoDecoderConfigurator.from_config(config)),
            ("audio_vae.encoder.", AudioEncoderConfigurator.from_config(config)),
            ("audio_vae.decoder.", AudioDecoderConfigurator.from_config(config)),
            ("vocoder.", VocoderConfigurator.from_config(config)),
        ]


def tensor_specs(config: dict[str, Any], gemma: dict[str, Any]) -> Specs:
    """Every tensor of the checkpoint: key -> (shape, dtype). The scale-shift tables are fp32, all else bf16."""
    specs: Specs = {}
    for prefix, module in components(config, gemma):
        for name, tensor in module.state_dict().items():
            # Encoder and decoder share one set of statistics, stored beside them.
            root = prefix.split(".")[0] + "." if name.startswith(STATISTICS) else prefix
            dtype = torch.float32 if "scale_shift_table" in name else torch.bfloat16
            specs[root + name] = (tuple(tensor.shape), dtype)
    return specs


def tensors(
    config: dict[str, Any], gemma: dict[str, Any], seed: int, prefixes: tuple[str, ...] = ("",)
) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's tensors, made one at a time in the order of `tensor_specs`."""
    for name, (shape, dtype) in tensor_specs(config, gemma).items():
        if name.startswith(prefixes):
            yield name, values(name, shape, seed, config).to(dtype)


def is_fp8(name: str) -> bool:
    """Whether the fp8 layout stores this tensor in e4m3: the blocks' linears, gates too, but for the first block's."""
    found = BLOCK_LINEAR.match(name)
    return found is not None and int(found[1]) > 0


def fp8_specs(specs: Specs) -> Specs:
    """The fp8 layout of `specs`: e4m3 weights, each followed by its two scalar scales."""
    out: Specs = {}
    for name, (shape, dtype) in specs.items():
        out[name] = (shape, torch.float8_e4m3fn if is_fp8(name) else dtype)
        if is_fp8(name):
            out |= {f"{name}_scale": ((), torch.float32), f"{name[:-6]}input_scale": ((), torch.float32)}
    return out


def fp8_tensors(pairs: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Stores w as e4m3(w / scale) with scale = max|w| / 448; the input scale is one that activations of 10 allow."""
    for name, tensor in pairs:
        if not is_fp8(name):
            yield name, tensor
            continue
        scale = tensor.float().abs().max() / FP8_MAX
        yield name, (tensor.float() / scale).to(torch.float8_e4m3fn)
        yield f"{name}_scale", scale
        yield f"{name[:-6]}input_scale", torch.tensor(10.0 / FP8_MAX)


def generator(name: str, seed: int) -> torch.Generator:
    """A generator of its own for each tensor, so that adding a layer leaves the others as they were."""
    return torch.Generator().manual_seed((zlib.crc32(name.encode()) + 0x9E3779B1 * seed) % 2**63)


def values(name: str, shape: tuple[int, ...], seed: int, config: dict[str, Any]) -> torch.Tensor:
    """One tensor's values, fp32."""
    if name.endswith((".upsample.filter", ".lowpass.filter")):
        return kaiser_sinc_filter1d(cutoff=0.25, half_width=0.3, kernel_size=shape[-1]).reshape(shape)
    if name.startswith("vocoder.mel_stft."):
        return _stft_buffer(name, config["vocoder"]["bwe"])
    for pattern, rule in RULES:
        if re.search(pattern, name):
            noise = torch.randn(shape, generator=generator(name, seed))
            return rule(noise)
    raise KeyError(f"no rule for {name}")


def _linear(gain: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Keeps the variance of independent inputs, times `gain` squared."""
    return lambda noise: noise * (gain / math.sqrt(noise[0].numel()))


def _around(mean: float, deviation: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda noise: mean + deviation * noise


def _transposed(noise: torch.Tensor) -> torch.Tensor:
    # An output sample of a transposed convolution (in, out, kernel) with stride kernel/2 sees about two taps of each
    # input channel.
    return noise / math.sqrt(2 * noise.shape[0])


# First match wins. The log-mel lies around -5, so what reads it starts small and what writes it has that bias.
RULES: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = [
    (r"mean-of-means$", _around(0.0, 0.3)),
    (r"std-of-means$", lambda noise: 0.7 + 0.6 * torch.sigmoid(noise)),
    (r"scale_shift_table", _around(0.0, 0.3)),
    (r"learnable_registers$", torch.tanh),
    (r"[qk]_norm\.weight$", _around(1.6, 0.2)),
    (r"act\.(alpha|beta)$", _around(0.0, 0.2)),
    (r"audio_vae\.decoder\.conv_out\.conv\.bias$", _around(-5.0, 0.2)),
    (r"bias$", _around(0.0, 0.05)),
    (r"adaln_single\.linear\.weight$", _linear(0.5)),
    (r"to_gate_logits\.weight$", _linear(0.5)),
    (r"audio_vae\.decoder\.conv_out\.conv\.weight$", _linear(2.0)),
    (r"audio_vae\.encoder\.conv_in\.conv\.weight$", _linear(0.3)),
    (r"^vae\.decoder\.conv_out\.conv\.weight$", _linear(0.6)),
    (r"^vocoder\..*conv_pre\.weight$", _linear(0.2)),
    (r"^vocoder\..*ups\.\d+\.weight$", _transposed),
    (r"^vocoder\..*resblocks.*\.weight$", _linear(0.5)),
    (r"^vocoder\.vocoder\.conv_post\.weight$", _linear(0.1)),
    (r"^vocoder\.bwe_generator\.conv_post\.weight$", _linear(0.03)),
    (r"\.weight$", _linear(1.0)),
]


def _stft_buffer(name: str, bwe: dict[str, Any]) -> torch.Tensor:
    """The stored mel filterbank and STFT bases: rows are the cosines of all frequencies, then minus their sines."""
    size, bins = bwe["n_fft"], bwe["n_fft"] // 2 + 1
    if name.endswith("mel_basis"):
        rate = bwe["input_sampling_rate"]
        return slaney_filterbank(bins, 0.0, rate / 2, bwe["num_mels"], rate).T.contiguous()
    angles = (
        torch.arange(bins, dtype=torch.float64)[:, None] * torch.arange(size, dtype=torch.float64) * math.tau / size
    )
    basis = torch.cat([angles.cos(), -angles.sin()])
    if name.endswith("inverse_basis"):
        basis = torch.linalg.pinv(basis * (size / bwe["hop_length"])).T
    window = torch.hann_window(size, dtype=torch.float64)
    return (basis * window)[:, None].float()
