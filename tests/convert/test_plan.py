"""The real model's 5947 tensors have their places, and what does not fit is told all at once."""

import json

import pytest

from mlx_ltxw.convert import run
from mlx_ltxw.convert.quantize import Quantization
from mlx_ltxw.convert.writer import header_bytes
from mlx_ltxw.errors import UserError
from tests.convert.made import ROOT, command, made, write_header

KEYS = json.loads((ROOT / "tests/data/ltx23_keys.json").read_text())
CONFIG = json.loads((ROOT / "tests/data/ltx23_config.json").read_text())
METADATA = {"config": json.dumps(CONFIG), "model_version": "2.3.0"}


def real_header(path, keys=KEYS, metadata=METADATA):
    tensors = {name: ("F32" if "scale_shift_table" in name else "BF16", shape) for name, shape in keys.items()}
    return write_header(path, tensors, metadata)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return real_header(tmp_path_factory.mktemp("real") / "ltx-2.3-22b-dev.safetensors")


@pytest.fixture(scope="module")
def plan(real):
    return run.prepare(str(real), data=False, shard_bytes=10**9).plan


def test_every_tensor_of_the_real_model_has_a_place(plan):
    """Each parameter of the networks built from the real config gets one tensor of its shape, and none is left."""
    assert plan.faults == []
    assert (plan.placed, plan.total) == (5947, 5947)
    counts = {component: len(entries) for component, entries in plan.entries.items()}
    assert counts == {
        "transformer": 4186, "connectors": 258, "text_projection": 4, "video_vae": 170, "audio_vae": 102,
        "vocoder": 1227,
    }  # fmt: skip
    assert sum(entry.source.elements for entries in plan.entries.values() for entry in entries) == 23_069_505_387
    assert plan.nbytes == 46_148_472_534  # as stored: bfloat16, tables float32


def test_real_axis_moves(plan):
    """Hand-worked: one tensor of each kind, PyTorch's shape and MLX's."""
    shapes = {
        f"{component}/{entry.name}": entry.shape for component, entries in plan.entries.items() for entry in entries
    }
    assert shapes["video_vae/encoder.conv_in.conv.weight"] == (128, 3, 3, 3, 48)
    assert shapes["audio_vae/encoder.conv_in.conv.weight"] == (128, 3, 3, 2)
    assert shapes["vocoder/vocoder.conv_pre.weight"] == (1536, 7, 128)
    assert shapes["vocoder/vocoder.ups.0.weight"] == (768, 11, 1536)  # transposed conv: in and out change places
    assert shapes["vocoder/bwe_generator.ups.0.weight"] == (256, 12, 512)
    assert shapes["transformer/transformer_blocks.47.audio_to_video_attn.to_q.weight"] == (2048, 4096)
    assert shapes["connectors/video_embeddings_connector.learnable_registers"] == (128, 4096)


def test_audio_side_lies_apart(plan):
    """The official audio-only rule takes 30 tensors a block, hand-counted, and 17 outside."""
    sides = {"transformer.audio": [], "transformer.video": []}
    for shard in plan.shards:
        if shard.component == "transformer":
            sides[shard.file.partition("-")[0]] += shard.entries
    audio = [entry.name for entry in sides["transformer.audio"]]
    by_block = [name for name in audio if name.startswith("transformer_blocks.0.")]
    # two attentions of 11 + feed-forward 4 + two tables; outside: patchify, head, two adalns of 6, a table
    assert len(by_block) == 2 * 12 + 4 + 2
    assert len(audio) == 48 * 30 + 2 + 2 + 6 + 6 + 1
    assert not [name for name in audio if "attn" in name and "audio_attn" not in name]
    assert len(sides["transformer.video"]) + len(audio) == 4186


def test_shards_stay_small(plan):
    """No file over the limit of 1 GB but for the one tensor that is larger."""
    large = [shard for shard in plan.shards if sum(entry.nbytes for entry in shard.entries) > 10**9]
    assert [[entry.name for entry in shard.entries] for shard in large] == [["video_aggregate_embed.weight"]]
    names = [array.name for shard in plan.shards for entry in shard.entries for array in entry.arrays]
    assert len(names) == 5947


def test_dry_run_ends_with_the_count(real):
    done = command("convert", real, "--dry-run", "-q", "4")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "placed 5947 of 5947 tensors"
    row = next(line for line in lines if line.startswith("transformer"))
    assert "18,988,838,144" in row
    assert "4-bit affine of 64 x 1344" in row  # 48 blocks: 6 attentions of q, k, v, out and 2 feed-forwards of 2


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8", "nvfp4", "4", "8"])
def test_what_is_never_quantised(real, name):
    """Norms, tables, gates, patchify, heads, noise embeddings and all other networks stay as they are."""
    plan = run.prepare(str(real), data=False, quantization=Quantization.parse(name)).plan
    assert {component for component in plan.entries if plan.quantized(component)} == {"transformer"}
    layers = plan.quantized("transformer")
    kinds = {layer.split(".", 2)[2] for layer in layers}
    attentions = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
    expected = {f"{a}.{p}" for a in attentions for p in ("to_q", "to_k", "to_v", "to_out.0")}
    assert kinds == expected | {"ff.net.0.proj", "ff.net.2", "audio_ff.net.0.proj", "audio_ff.net.2"}
    assert len(layers) == 48 * 28


@pytest.mark.parametrize("name", [None, "4", "nvfp4"])
def test_words_are_aligned(real, name):
    """Readers that map the real model's files see float32 and packed words at addresses that their size divides."""
    how = Quantization.parse(name) if name else None
    for shard in run.prepare(str(real), data=False, quantization=how).plan.shards:
        raw = header_bytes(shard)
        assert len(raw) % 8 == 0
        entries = json.loads(raw[8:])
        odd = [n for n, e in entries.items() if e.get("dtype") in ("F32", "U32") and e["data_offsets"][0] % 4]
        assert odd == []


def test_mismatches_are_listed_together(tmp_path):
    """A tensor is gone, one is unknown, one has another shape: one error names all three, exit 2."""
    keys = dict(KEYS)
    del keys["vae.decoder.conv_out.conv.bias"]
    del keys["model.diffusion_model.transformer_blocks.3.attn1.to_q.bias"]
    keys["model.diffusion_model.transformer_blocks.0.extra.weight"] = [4, 4]
    keys["something.else"] = [3]
    keys["vocoder.vocoder.ups.0.weight"] = [1536, 768, 13]
    done = command("convert", real_header(tmp_path / "ltx-dev.safetensors", keys), "--dry-run")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "placed 5944 of 5947 tensors"
    for part in (
        "video_vae: missing: decoder.conv_out.conv.bias",
        "transformer: missing: transformer_blocks.3.attn1.to_q.bias",
        "transformer: unexpected: transformer_blocks.0.extra.weight",
        "no component takes something.else",
        "vocoder.ups.0.weight is [768, 13, 1536] instead of [768, 11, 1536]",
    ):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("section", "key"),
    [("transformer", "av_ca_timestep_scale_multiplier"), ("vae", "decoder_blocks"), ("audio_vae", "preprocessing")],
)
def test_config_without_a_key(tmp_path, section, key):
    config = json.loads(json.dumps(CONFIG))
    del config[section][key]
    path = real_header(tmp_path / "ltx-dev.safetensors", metadata={**METADATA, "config": json.dumps(config)})
    with pytest.raises(UserError, match=rf"lacks '{section}\.{key}'"):
        run.prepare(str(path), data=False)


def test_config_without_a_section(tmp_path):
    config = {name: value for name, value in CONFIG.items() if name != "audio_vae"}
    path = real_header(tmp_path / "ltx-dev.safetensors", metadata={**METADATA, "config": json.dumps(config)})
    with pytest.raises(UserError, match="no section 'audio_vae'"):
        run.prepare(str(path), data=False)


def test_text_encoder_that_does_not_belong(real):
    """A Gemma with other widths is told apart before anything is written."""
    entry = run.prepare(str(real), str(made().gemma), data=False)
    states = 32 * 5  # the made Gemma: hidden size x (4 layers + 1)
    assert f"text_encoder: this Gemma gives {states} features a token, and the checkpoint expects 188160" in (
        entry.plan.faults
    )
