"""Exported files, read by the programs they are for."""

import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mlx_ltxw.adapter import container
from mlx_ltxw.adapter.deltas import DoRA, Full, LoHa, LoKr, LowRank
from mlx_ltxw.adapter.export import export, fold
from mlx_ltxw.adapter.formats import Adapter, read
from mlx_ltxw.adapter.names import official_linears
from mlx_ltxw.errors import UserError
from tests.adapter.helpers import SECTION, TARGETS, factors, model_pair, shapes
from tests.numbers import relative_error

from ltx_core.loader.fuse_loras import apply_loras  # isort: skip  # after tests.reference made it importable
from ltx_core.loader.primitives import LoraStateDictWithStrength, StateDict  # isort: skip
from ltx_core.loader.sd_ops import LTXV_LORA_COMFY_RENAMING_MAP  # isort: skip

KEYS = json.loads((Path(__file__).parents[1] / "data" / "ltx23_keys.json").read_text())


def adapter(scale=2.0, dtype=mx.float32, targets=TARGETS, alphas=True):
    """A LoRA on the small model whose alpha is `scale` times its rank of 4, and its factors."""
    pairs = factors(shapes(model_pair()[1]), targets)
    deltas = {n: LowRank(mx.array(a).astype(dtype), mx.array(b).astype(dtype), scale) for n, (a, b) in pairs.items()}
    return Adapter("small", "kohya", deltas, alphas=dict.fromkeys(deltas, 4 * scale) if alphas else {}), pairs


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_every_official_name_is_a_real_key(tmp_path):
    one = LowRank(mx.ones((1, 2)), mx.ones((2, 1)))
    whole = Adapter("all", "official", dict.fromkeys(official_linears(), one))
    keys = load_file(export(whole, "comfyui", tmp_path / "all.safetensors"))
    assert len(keys) == 2 * 1660
    for key in keys:
        assert KEYS["model." + re.sub(r"\.lora_[AB]\.weight$", ".weight", key)]


def test_official_loader_fuses_the_exported_file(tmp_path):
    """The official renaming and fuse, in bf16: `W + scale * B A` without any alpha."""
    given, pairs = adapter(scale=2.0, dtype=mx.bfloat16)
    path = export(given, "comfyui", tmp_path / "a.safetensors")
    _, reference = model_pair()
    renamed = {LTXV_LORA_COMFY_RENAMING_MAP.apply_to_key(key): value for key, value in load_file(path).items()}
    assert {value.dtype for value in renamed.values()} == {torch.bfloat16}
    weights = {f"{n}.weight": reference.get_submodule(n).weight.data.bfloat16() for n in TARGETS}
    device = torch.device("cpu")
    lora = LoraStateDictWithStrength(StateDict(renamed, device, 0, set()), 1.0)
    fused = apply_loras(StateDict(weights, device, 0, set()), [lora]).sd
    for name, (a, b) in pairs.items():
        delta = (2 * torch.from_numpy(b).bfloat16()) @ torch.from_numpy(a).bfloat16()
        assert torch.equal(fused[f"{name}.weight"], delta.add(weights[f"{name}.weight"])), name


def diffusers_model():
    from diffusers import LTX2VideoTransformer3DModel

    heads, dims = SECTION["num_attention_heads"], (SECTION["attention_head_dim"], SECTION["audio_attention_head_dim"])
    return LTX2VideoTransformer3DModel(
        in_channels=12, out_channels=12, num_attention_heads=heads, attention_head_dim=dims[0],
        cross_attention_dim=heads * dims[0], audio_in_channels=10, audio_out_channels=10,
        audio_num_attention_heads=heads, audio_attention_head_dim=dims[1], audio_cross_attention_dim=heads * dims[1],
        num_layers=2, gated_attn=True, audio_gated_attn=True, cross_attn_mod=True, audio_cross_attn_mod=True,
        use_prompt_embeddings=False, caption_channels=16, rope_type="split",
    )  # fmt: skip


@pytest.mark.parametrize("target", ["diffusers", "comfyui"])
def test_diffusers_and_peft_load_it(tmp_path, target):
    """Into diffusers' own transformer: each layer's scale times B A, mixed ranks and a top-level module included."""
    from diffusers import LTX2Pipeline

    sizes = shapes(model_pair()[1])
    pairs = factors(sizes, [*TARGETS, "audio_patchify_proj"], rank=lambda name: 2 if "to_k" in name else 4)
    deltas = {n: LowRank(mx.array(a), mx.array(b), 1.5) for n, (a, b) in pairs.items()}
    path = export(Adapter("mixed", "kohya", deltas), target, tmp_path / "a.safetensors")
    state, loaded = LTX2Pipeline.lora_state_dict(path, return_lora_metadata=True)
    model = diffusers_model()
    LTX2Pipeline.load_lora_into_transformer(state, model, adapter_name="whisper", metadata=loaded)
    found = 0
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or "whisper" not in module.lora_A:
            continue
        official = "audio_patchify_proj" if name == "audio_proj_in" else name
        got = module.scaling["whisper"] * module.lora_B["whisper"].weight @ module.lora_A["whisper"].weight
        a, b = pairs[official]
        assert relative_error(got.detach(), 1.5 * b @ a) < 1e-6
        found += 1
    assert found == 25
    assert (loaded is not None) == (target == "diffusers")


def test_mlx_spelling(tmp_path):
    extra = ["transformer_blocks.1.audio_ff.net.0.proj", "transformer_blocks.1.audio_ff.net.2",
             "audio_adaln_single.emb.timestep_embedder.linear_2"]  # fmt: skip
    given, _ = adapter(targets=TARGETS + extra)
    keys = set(load_file(export(given, "mlx", tmp_path / "a.safetensors")))
    assert "diffusion_model.transformer_blocks.0.audio_attn1.to_out.lora_A.weight" in keys
    assert "diffusion_model.transformer_blocks.1.audio_ff.proj_in.lora_B.weight" in keys
    assert "diffusion_model.transformer_blocks.1.audio_ff.proj_out.lora_B.weight" in keys
    assert "diffusion_model.audio_adaln_single.emb.timestep_embedder.linear2.lora_A.weight" in keys
    assert not any(".to_out.0" in key or ".net." in key or "linear_" in key for key in keys)
    assert len(keys) == 2 * 27


@pytest.mark.parametrize("target", ["comfyui", "diffusers", "mlx"])
def test_reading_it_back_gives_the_same_change_and_no_note(tmp_path, target):
    given, pairs = adapter(scale=0.75)
    again = read(export(given, target, tmp_path / "a.safetensors"))
    assert set(again.deltas) == set(pairs)
    assert not again.notes
    for name, (a, b) in pairs.items():
        assert relative_error(again.deltas[name].dense(), 0.75 * b @ a) < 1e-6
    assert metadata(tmp_path / "a.safetensors")["lora_alpha"] == "3"
    assert metadata(tmp_path / "a.safetensors")["lora_rank"] == "4"


def test_folding_is_exact_or_widened():
    b = mx.array([1.0, 1.5, -2.75]).astype(mx.bfloat16)
    assert fold(b, 0.5).dtype == mx.bfloat16
    assert fold(b, 1 / 3).dtype == mx.float32
    assert np.array_equal(np.asarray(fold(b, 1 / 3)), np.array([1, 1.5, -2.75], np.float32) * np.float32(1 / 3))


def test_both_factors_have_one_dtype(tmp_path):
    """The official loader multiplies the two as they are."""
    given, _ = adapter(scale=1 / 3, dtype=mx.bfloat16)
    tensors = load_file(export(given, "comfyui", tmp_path / "a.safetensors"))
    assert {t.dtype for t in tensors.values()} == {torch.float32}


def other_kinds():
    draw = np.random.default_rng(0)

    def rand(*shape):
        return mx.array(draw.standard_normal(shape).astype(np.float32))

    low = LowRank(rand(2, 6), rand(8, 2), 0.5)
    return {
        "transformer_blocks.0.audio_attn1.to_q": LoKr((rand(2, 3),), (rand(4, 2),), 0.5),
        "transformer_blocks.0.audio_attn1.to_k": LoKr((rand(2, 1), rand(1, 3)), (rand(4, 1), rand(1, 2)), 3.0),
        "transformer_blocks.0.audio_attn1.to_v": LoHa((rand(8, 2), rand(2, 6)), (rand(8, 2), rand(2, 6)), 0.25),
        "transformer_blocks.0.audio_attn1.to_out.0": Full(rand(8, 6)),
        "transformer_blocks.0.audio_attn2.to_q": DoRA(low, rand(8), "base_rows"),
        "transformer_blocks.0.audio_attn2.to_k": DoRA(low, rand(6), "columns"),
    }


def test_other_methods_survive_comfyui_export(tmp_path):
    given = Adapter("other", "kohya", other_kinds(), {"patchify_proj": mx.array([1.0, 2.0])})
    again = read(export(given, "comfyui", tmp_path / "a.safetensors"))
    assert mx.array_equal(again.biases["patchify_proj"], mx.array([1.0, 2.0]))
    for name, delta in given.deltas.items():
        inner, copy = (d.inner if isinstance(d, DoRA) else d for d in (delta, again.deltas[name]))
        assert relative_error(copy.dense(), inner.dense()) < 1e-6, name
        if isinstance(delta, DoRA):
            assert again.deltas[name].length == delta.length
            assert mx.array_equal(again.deltas[name].magnitude, delta.magnitude)


def test_what_a_target_cannot_read_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for name, delta in other_kinds().items():
        for target in ("diffusers", "mlx"):
            with pytest.raises(UserError, match=f"holds {type(delta).__name__}, which {target} cannot read"):
                export(Adapter("x", "kohya", {name: delta}), target, path)
    low = LowRank(mx.ones((2, 6)), mx.ones((8, 2)))
    with pytest.raises(UserError, match="PEFT's"):
        export(Adapter("x", "peft", {"a": DoRA(low, mx.ones(8), "rows")}), "comfyui", path)
    with pytest.raises(UserError, match="changed bias"):
        export(Adapter("x", "bare", {"a": low}, {"a": mx.ones(8)}), "mlx", path)
    with pytest.raises(UserError, match="not for the transformer: text_embedding"):
        export(Adapter("x", "bare", {"a": low}, leftover={"text_embedding_projection.x": "y"}), "mlx", path)
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        export(Adapter("x", "bare", {"a": low}), "mlx", tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_and_nothing_lost(tmp_path, monkeypatch):
    given, _ = adapter()
    path = export(given, "comfyui", tmp_path / "a.safetensors")
    before = path.read_bytes()

    def interrupted(file, *rest):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(container.mx, "save_safetensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(given, "mlx", path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_not_a_number_is_never_saved(tmp_path):
    bad = LowRank(mx.array([[1.0, float("nan")]]), mx.ones((2, 1)))
    with pytest.raises(UserError, match=r"NaN .*audio_attn1\.to_q\.lora_A"):
        export(
            Adapter("x", "bare", {"transformer_blocks.0.audio_attn1.to_q": bad}), "comfyui", tmp_path / "a.safetensors"
        )
    assert not list(tmp_path.iterdir())


def test_other_metadata_is_kept(tmp_path):
    given, _ = adapter(alphas=False)
    given.metadata.update({"base_model": "LTX-2.3", "lora_alpha": "999", "ss_network_alpha": "7"})
    path = export(given, "comfyui", tmp_path / "a.safetensors", {"steps": "2000"})
    written = metadata(path)
    assert written == {
        "base_model": "LTX-2.3",
        "steps": "2000",
        "lora_rank": "4",
        "alpha_folded": "true",
        "format": "pt",
    }
