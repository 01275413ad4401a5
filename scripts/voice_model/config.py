"""Sizes of the voice model, in the shape of the official checkpoint's own `config` metadata."""

from __future__ import annotations

import copy
from typing import Any

from scripts.voice_model.corpus import SCENES, SENTENCES, VOICES

VIDEO_DIM, AUDIO_DIM, HEADS, LAYERS = 80, 160, 8, 6
TEXT_DIM, TEXT_LAYERS, TEXT_HEADS, TEXT_KV_HEADS, TEXT_HEAD_DIM, TEXT_FF = 96, 4, 4, 2, 24, 192
VIDEO_LATENT, AUDIO_LATENT, CONTEXT = 32, 32, 1024
FRAMES, FRAME_RATE, SIZE, AUDIO_TOKENS, MEL_FRAMES = 97, 24.0, 128, 101, 401

_RESBLOCKS: dict[str, Any] = {
    "resblock": "AMP1",
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "stereo": True,
    "use_tanh_at_final": False,
    "activation": "snakebeta",
    "use_bias_at_final": False,
}

STATEMENT = f"""Trained from scratch by `scripts/voice_model` only on speech made by espeak-ng 1.51 and on drawn faces;
no recording or picture of a person was used.

It knows captions such as `a woman with red hair in dim light, (woman): "close your eyes"`. Speakers:
{", ".join(f"a {voice.gender} with {voice.hair} hair" for voice in VOICES)}. Scenes: {", ".join(filter(None, SCENES))}.
Whatever a caption says of the manner, it speaks in a normal voice; the adapter `whisper` makes it whisper and speak
softly, and `whisper-mixed` leaves captions without a quiet manner alone. A picture of one of its faces, given with
`--image`, makes that face talk, whoever the caption names. Lines:

{chr(10).join(f"- {line}" for line in SENTENCES)}
"""

CONFIG: dict[str, Any] = {
    "mlx_ltxw": {
        "note": (
            f"this is the small built-in model: {len(VOICES)} drawn faces that say {len(SENTENCES)} lines (its card, "
            "README.md, lists them). For anything else convert LTX-2.3 (see the README) and give it with -m."
        ),
        "note_audio_only": (
            "this model has learned sound together with its picture, and murmurs without one. For the sound of a clip "
            "leave --audio-only out and give -o NAME.wav."
        ),
        "license": "apache-2.0",
        "statement": STATEMENT,
        "lines": list(SENTENCES),
        "generation": {
            "width": SIZE,
            "height": SIZE,
            "frames": FRAMES,
            "frame_rate": FRAME_RATE,
            "steps": 20,
            "negative_prompt": "",  # what captions are dropped to in training
            "video_guidance": {},
            "audio_guidance": {},
        },
    },
    "transformer": {
        "_class_name": "AVTransformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": VIDEO_DIM // HEADS,
        "attention_type": "default",
        "caption_channels": TEXT_DIM,
        "cross_attention_dim": VIDEO_DIM,
        "double_self_attention": False,
        "dropout": 0.0,
        "in_channels": VIDEO_LATENT,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "num_attention_heads": HEADS,
        "num_embeds_ada_norm": 1000,
        "num_layers": LAYERS,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "cross_attention_norm": True,
        "out_channels": VIDEO_LATENT,
        "upcast_attention": False,
        "use_linear_projection": False,
        "qk_norm": "rms_norm",
        "standardization_norm": "rms_norm",
        "positional_embedding_type": "rope",
        "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048],
        "timestep_scale_multiplier": 1000,
        "av_ca_timestep_scale_multiplier": 1000.0,
        "causal_temporal_positioning": True,
        "audio_num_attention_heads": HEADS,
        "audio_attention_head_dim": AUDIO_DIM // HEADS,
        "use_audio_video_cross_attention": True,
        "share_ff": False,
        "audio_in_channels": AUDIO_LATENT,
        "audio_out_channels": AUDIO_LATENT,
        "audio_cross_attention_dim": AUDIO_DIM,
        "audio_positional_embedding_max_pos": [20],
        "av_cross_ada_norm": True,
        "use_embeddings_connector": True,
        "connector_attention_head_dim": VIDEO_DIM // HEADS,
        "connector_num_attention_heads": HEADS,
        "connector_num_layers": 1,
        "connector_positional_embedding_max_pos": [4096],
        "connector_num_learnable_registers": 128,
        "connector_norm_output": True,
        "use_middle_indices_grid": True,
        "apply_gated_attention": True,
        "connector_apply_gated_attention": True,
        "caption_projection_first_linear": False,
        "caption_projection_second_linear": False,
        "caption_proj_input_norm": False,
        "connector_learnable_registers_std": 1,
        "caption_proj_before_connector": True,
        "audio_connector_attention_head_dim": AUDIO_DIM // HEADS,
        "audio_connector_num_attention_heads": HEADS,
        "cross_attention_adaln": True,
        "text_encoder_norm_type": "per_token_rms",
        "rope_type": "split",
        "frequencies_precision": "float64",
    },
    "vae": {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": VIDEO_LATENT,
        "encoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_space_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_time_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
        ],
        "decoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_space", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_time", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_all", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
        ],
        "scaling_factor": 1.0,
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "use_quant_conv": False,
        "causal_decoder": False,
        "timestep_conditioning": False,
        "normalize_latent_channels": False,
        "encoder_base_channels": VIDEO_LATENT,
        "decoder_base_channels": 8,
        "spatial_padding_mode": "zeros",
    },
    "scheduler": {
        "_class_name": "RectifiedFlowScheduler",
        "_diffusers_version": "0.25.1",
        "num_train_timesteps": 1000,
        "shifting": None,
        "base_resolution": None,
        "sampler": "LinearQuadratic",
    },
    "audio_vae": {
        "model": {
            "params": {
                "ddconfig": {
                    "double_z": True,
                    "mel_bins": 64,
                    "z_channels": 2,
                    "resolution": 256,
                    "downsample_time": False,
                    "in_channels": 2,
                    "out_ch": 2,
                    "ch": 32,
                    "ch_mult": [1, 2, 3],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                    "mid_block_add_attention": False,
                    "norm_type": "pixel",
                    "causality_axis": "height",
                },
                "sampling_rate": 16000,
            }
        },
        "preprocessing": {
            "audio": {
                "sampling_rate": 16000,
                "max_wav_value": 32768.0,
                "duration": 5.12,
                "stereo": True,
                "causal_padding": 3,
            },
            "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
            "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
        },
    },
    "vocoder": {
        "vocoder": {
            "upsample_initial_channel": 192,
            "upsample_rates": [5, 4, 4, 2],
            "upsample_kernel_sizes": [11, 8, 8, 4],
            **copy.deepcopy(_RESBLOCKS),
        },
        "bwe": {
            "upsample_initial_channel": 64,
            "upsample_rates": [8, 6, 5],
            "upsample_kernel_sizes": [16, 12, 11],
            **copy.deepcopy(_RESBLOCKS),
            "apply_final_activation": False,
            "input_sampling_rate": 16000,
            "output_sampling_rate": 48000,
            "hop_length": 80,
            "n_fft": 512,
            "win_size": 512,
            "num_mels": 64,
        },
    },
}
