"""Names against the real checkpoint's key list, diffusers' own converter, and the running model."""

import json
import re
from pathlib import Path

import mlx.core as mx
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_ltx2_lora_to_diffusers

from mlx_ltxw.adapter import names
from mlx_ltxw.adapter.keys import layout
from mlx_ltxw.tree import linears
from tests.adapter.helpers import forward, inputs, model_pair

KEYS = json.loads((Path(__file__).parents[1] / "data" / "ltx23_keys.json").read_text())
PREFIX = "model.diffusion_model."
REAL = sorted(
    key.removeprefix(PREFIX).removesuffix(".weight")
    for key, shape in KEYS.items()
    if key.startswith(PREFIX) and "connector" not in key and key.endswith(".weight") and len(shape) == 2
)


def test_table_is_the_real_checkpoints():
    assert sorted(names.official_linears()) == REAL
    assert len(REAL) == 1660  # as many as the official distilled LoRA changes


def test_every_spelling_of_every_module_is_found():
    spellings = names.Spellings()
    flattened = {path.replace(".", "_") for path in REAL}
    assert len(flattened) == len(REAL)  # no two modules flatten to one name
    for path in REAL:
        short = re.sub(r"to_out\.0$", "to_out", path)
        for written in (
            path,
            f"diffusion_model.{path}",
            f"model.diffusion_model.{path}",
            f"base_model.model.{path}",
            f"base_model.model.diffusion_model.{path}",
            f"diffusion_model.{short}",
            f"lora_unet_{path.replace('.', '_')}",
            f"lora_unet_model_{path.replace('.', '_')}",
            f"lycoris_{path.replace('.', '_')}",
        ):
            assert spellings.resolve(written) == path, written


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("diffusion_model.transformer_blocks.3.audio_ff.proj_in", "transformer_blocks.3.audio_ff.net.0.proj"),
        ("diffusion_model.transformer_blocks.3.ff.proj_out", "transformer_blocks.3.ff.net.2"),
        (
            "diffusion_model.adaln_single.emb.timestep_embedder.linear1",
            "adaln_single.emb.timestep_embedder.linear_1",
        ),
        ("lora_unet_transformer_blocks_7_ff_net_0_proj", "transformer_blocks.7.ff.net.0.proj"),
        ("transformer.proj_in", "patchify_proj"),
        ("diffusion_model.transformer_blocks.48.attn1.to_q", None),
        ("diffusion_model.transformer_blocks.0.attn3.to_q", None),
        ("lora_unet_transformer_blocks_0_audio_attn1_to", None),
        ("diffusion_model.transformer_blocks.0.audio_attn1", None),
    ],
)
def test_odd_spellings(written, path):
    assert names.Spellings().resolve(written) == path


def test_a_models_own_list_decides():
    deep = "transformer_blocks.60.attn1.to_q"
    assert names.Spellings([deep]).resolve("lora_unet_transformer_blocks_60_attn1_to_q") == deep
    assert names.Spellings([deep]).resolve("lora_unet_transformer_blocks_0_attn1_to_q") is None


def test_diffusers_names_are_those_of_its_converter():
    state = {f"diffusion_model.{path}.lora_A.weight": torch.zeros(1) for path in REAL}
    theirs = sorted(_convert_non_diffusers_ltx2_lora_to_diffusers(state))
    assert theirs == sorted(f"transformer.{names.diffusers_name(path)}.lora_A.weight" for path in REAL)
    spellings = names.Spellings()
    assert all(spellings.resolve(f"transformer.{names.diffusers_name(path)}") == path for path in REAL)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q", "connectors"),
        ("lora_unet_embeddings_connector_transformer_1d_blocks_0_attn1_to_q", "connectors"),
        ("lora_unet_audio_embeddings_connector_transformer_1d_blocks_0_attn1_to_q", "connectors"),
        ("connectors.video_connector.transformer_blocks.0.attn1.to_q", "connectors"),
        ("text_embedding_projection.aggregate_embed", "text projection"),
        ("lora_te_model_layers_0_self_attn_q_proj", "text encoder"),
        ("text_encoder.layers.0.q_proj", "text encoder"),
    ],
)
def test_other_parts_are_recognised(name, part):
    assert names.Spellings().resolve(name) is None
    assert part in names.not_transformer(name)


def test_unknown_names_belong_to_nothing():
    assert names.not_transformer("diffusion_model.transformer_blocks.0.attn9.to_q") is None


def test_tokens_and_streams_follow_the_running_model():
    """30 video, 7 audio and 6 text tokens tell which of them each linear reads; the rest are noise levels."""
    model, _ = model_pair()
    seen = {}

    class Spy:
        def __init__(self, path, inner):
            self.path, self.inner = path, inner

        def __call__(self, x):
            seen[self.path] = x.shape[-2]
            return self.inner(x)

    for path, linear in linears(model).items():
        *parents, last = path.split(".")
        node = model
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if isinstance(node, list):
            node[int(last)] = Spy(path, linear)
        else:
            dict.__setitem__(node, last, Spy(path, linear))
    forward(model, inputs())
    count = {"video": 30, "audio": 7, "text": 6, "noise": 1}
    assert len(seen) == len(linears(model_pair()[0]))
    assert {path: count[names.tokens_of(path)] for path in seen} == seen


def test_audio_stream_is_what_the_second_stream_of_the_lock_computes():
    """Zeroing an adapted model's weight changes the lock's second audio exactly where `in_audio_stream` says so."""
    from mlx_ltxw.models.transformer import Modality, rotary

    model, _ = model_pair()
    arrays = inputs()
    streams = []
    for stream, a in zip((model.config.video, model.config.audio), arrays, strict=True):
        rotation = rotary(model.config, stream, a["positions"].mean(axis=-1), mx.float32)
        streams.append(Modality(*(mx.array(a[k]) for k in ("latent", "sigma", "timesteps", "context")), rotation))
    video, audio = streams
    base = model.locked(model, video, audio, audio)[2]
    adapted, _ = model_pair()
    for path, linear in linears(adapted).items():
        if "_blocks.1." in path:
            continue
        kept, linear.weight = linear.weight, linear.weight * 0.5
        changed = not mx.array_equal(model.locked(adapted, video, audio, audio)[2], base)
        linear.weight = kept
        assert changed == names.in_audio_stream(path), path


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("base_model.model.proj_out", "peft"),
        ("lora_unet_proj_out", "kohya"),
        ("lycoris_proj_out", "kohya"),
        ("transformer.proj_out", "diffusers"),
        ("connectors.video_connector.proj", "diffusers"),
        ("diffusion_model.proj_out", "official"),
        ("model.diffusion_model.proj_out", "official"),
        ("proj_out", "bare"),
        ("lora_unet.proj_out", "bare"),
        ("transformer_blocks.0.attn1.to_q", "bare"),
    ],
)
def test_which_program_names_modules_so(name, program):
    assert layout(name) == program
