"""The configurations of the made checkpoints: the real LTX-2.3 configuration with smaller numbers.

Every size keeps 2.3's features (gated attention, nine-row AdaLN, prompt AdaLN, split RoPE on a float64 grid, two gated
connectors, bandwidth extension). The official modules fix some numbers, whatever the configuration says:

* the vocoder reads 2 x 64 mel bins, so `mel_bins` stays 64;
* the audio VAE's statistics have `ch` entries and are applied to `z_channels * mel_bins / 4` features, so these agree;
* the video encoder starts at `latent_channels` and the decoder's bottleneck is `decoder_base_channels * 8`, so the
  decoder's multipliers have the product 8;
* the width of RoPE's angles must divide among the heads.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

REAL_CONFIG = Path(__file__).resolve().parents[1] / "tests" / "data" / "ltx23_config.json"
MEL_BINS, DOWNSCALE = 64, 4
SIZES = ("tiny", "small", "22b")
OWN = "mlx_ltxw."  # a section of this project: a note to the user, defaults for generation
OPTIONAL = ("transformer.audio_in_channels", OWN)  # left out of the real file, where the former is 128

# A video width of 64 leaves two front pads in the three-axis RoPE (32 angles, 3 x 10 used), as 4096 does.
TINY: dict[str, Any] = {
    "transformer.num_layers": 2,
    "transformer.num_attention_heads": 4,
    "transformer.attention_head_dim": 16,
    "transformer.cross_attention_dim": 64,
    "transformer.in_channels": 8,
    "transformer.out_channels": 8,
    "transformer.audio_num_attention_heads": 4,
    "transformer.audio_attention_head_dim": 8,
    "transformer.audio_cross_attention_dim": 32,
    "transformer.audio_in_channels": 32,
    "transformer.audio_out_channels": 32,
    "transformer.connector_num_attention_heads": 2,  # of 1024 x 1024 scores each
    "transformer.connector_attention_head_dim": 32,
    "transformer.connector_num_layers": 2,
    "transformer.audio_connector_num_attention_heads": 2,
    "transformer.audio_connector_attention_head_dim": 16,
    "vae.latent_channels": 8,
    "vae.encoder_base_channels": 8,
    "vae.decoder_base_channels": 4,
    "vae.encoder_blocks": [
        ["res_x", {"num_layers": 2}],
        ["compress_space_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_time_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
    ],
    "vae.decoder_blocks": [
        ["res_x", {"num_layers": 2}],
        ["compress_space", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
        ["compress_time", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"multiplier": 4}],
        ["res_x", {"num_layers": 1}],
    ],
    "audio_vae.model.params.ddconfig.ch": 32,
    "audio_vae.model.params.ddconfig.z_channels": 2,
    "audio_vae.model.params.ddconfig.ch_mult": [1, 1, 1],
    "audio_vae.model.params.ddconfig.num_res_blocks": 1,
    # Few stages of one block each: sound would be most of what a tiny clip takes.
    "vocoder.vocoder.upsample_initial_channel": 16,
    "vocoder.vocoder.upsample_rates": [8, 5, 4],
    "vocoder.vocoder.upsample_kernel_sizes": [16, 11, 8],
    "vocoder.vocoder.resblock_kernel_sizes": [3],
    "vocoder.vocoder.resblock_dilation_sizes": [[1, 3, 5]],
    "vocoder.bwe.upsample_initial_channel": 8,
    "vocoder.bwe.upsample_rates": [16, 15],
    "vocoder.bwe.upsample_kernel_sizes": [32, 31],
    "vocoder.bwe.resblock_kernel_sizes": [3],
    "vocoder.bwe.resblock_dilation_sizes": [[1, 3, 5]],
    "vocoder.bwe.n_fft": 160,
    "vocoder.bwe.win_size": 160,
    "gemma.hidden_size": 32,
    "gemma.intermediate_size": 64,
    "gemma.num_hidden_layers": 4,
    "gemma.num_attention_heads": 4,
    "gemma.num_key_value_heads": 2,
    "gemma.head_dim": 16,
    "gemma.query_pre_attn_scalar": 16,
    "gemma.sliding_window_pattern": 3,
    "gemma.vocab_size": 512,
}

SMALL: dict[str, Any] = {
    "transformer.num_layers": 4,
    "transformer.num_attention_heads": 8,
    "transformer.attention_head_dim": 32,
    "transformer.cross_attention_dim": 256,
    "transformer.in_channels": 32,
    "transformer.out_channels": 32,
    "transformer.audio_num_attention_heads": 8,
    "transformer.audio_attention_head_dim": 16,
    "transformer.audio_cross_attention_dim": 128,
    "transformer.audio_in_channels": 64,
    "transformer.audio_out_channels": 64,
    "transformer.connector_num_attention_heads": 8,
    "transformer.connector_attention_head_dim": 32,
    "transformer.connector_num_layers": 2,
    "transformer.audio_connector_num_attention_heads": 8,
    "transformer.audio_connector_attention_head_dim": 16,
    "vae.latent_channels": 32,
    "vae.encoder_base_channels": 32,
    "vae.decoder_base_channels": 8,
    "vae.encoder_blocks": [
        ["res_x", {"num_layers": 2}],
        ["compress_space_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
        ["compress_time_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 2}],
        ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
    ],
    "audio_vae.model.params.ddconfig.ch": 64,
    "audio_vae.model.params.ddconfig.z_channels": 4,
    "audio_vae.model.params.ddconfig.ch_mult": [1, 1, 2],
    "vocoder.vocoder.upsample_initial_channel": 128,
    "vocoder.bwe.upsample_initial_channel": 64,
    "gemma.hidden_size": 128,
    "gemma.intermediate_size": 512,
    "gemma.num_hidden_layers": 12,
    "gemma.num_attention_heads": 4,
    "gemma.num_key_value_heads": 2,
    "gemma.head_dim": 32,
    "gemma.query_pre_attn_scalar": 32,
    "gemma.sliding_window_pattern": 6,
    "gemma.vocab_size": 512,
}

# google/gemma-3-12b-it's text configuration; the keys its config.json leaves to defaults are written out.
GEMMA_12B: dict[str, Any] = {
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 131072,
    "vocab_size": 262208,
}


def configuration(size: str, changes: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The checkpoint's `config` and Gemma's text configuration.

    Args:
        size: `tiny`, `small` or `22b`.
        changes: Dotted path -> value, set last; paths under `gemma.` go to the text configuration, those under
            `mlx_ltxw.` (`mlx_ltxw.note`, `mlx_ltxw.generation`) to a section of this project.

    Raises:
        ValueError: a path is not there, or the official modules cannot be built from these numbers.
    """
    tree = {**json.loads(REAL_CONFIG.read_text()), "gemma": copy.deepcopy(GEMMA_12B)}
    if any(path.startswith(OWN) for path in changes or {}):
        tree[OWN.removesuffix(".")] = {}
    for path, value in {**{"tiny": TINY, "small": SMALL, "22b": {}}[size], **(changes or {})}.items():
        *sections, key = path.split(".")
        target: Any = tree
        for section in sections:
            target = target.get(section) if isinstance(target, dict) else None
        if not isinstance(target, dict) or (key not in target and not path.startswith(OPTIONAL)):
            raise ValueError(f"the configuration has no '{path}'")
        target[key] = copy.deepcopy(value)
    gemma = tree.pop("gemma")
    tree["transformer"]["caption_channels"] = gemma["hidden_size"]
    _check(tree)
    return tree, gemma


def _check(config: dict[str, Any]) -> None:
    transformer, vae, audio = config["transformer"], config["vae"], config["audio_vae"]["model"]["params"]["ddconfig"]
    features = audio["z_channels"] * MEL_BINS // DOWNSCALE
    multipliers = 1
    for name, block in vae["decoder_blocks"]:
        multipliers *= block.get("multiplier", 1) if name.startswith("compress") else 1
    agreements = {
        "audio ch and z_channels * 16": (audio["ch"], features),
        "audio_in_channels and z_channels * 16": (transformer.get("audio_in_channels", 128), features),
        "transformer.in_channels and vae.latent_channels": (transformer["in_channels"], vae["latent_channels"]),
        "the decoder's multipliers and 8": (multipliers, 8),
        "cross_attention_dim and the video width": (
            transformer["cross_attention_dim"],
            transformer["num_attention_heads"] * transformer["attention_head_dim"],
        ),
        "audio_cross_attention_dim and the audio width": (
            transformer["audio_cross_attention_dim"],
            transformer["audio_num_attention_heads"] * transformer["audio_attention_head_dim"],
        ),
    }
    unequal = [f"{name}: {left} != {right}" for name, (left, right) in agreements.items() if left != right]
    if unequal:
        raise ValueError("these must be equal: " + "; ".join(unequal))
