"""Figures of an adapter against plain NumPy."""

import json
import math
import resource
import time

import mlx.core as mx
import numpy as np
import pytest

from mlx_ltxw.adapter import container, outline
from mlx_ltxw.adapter.deltas import DoRA, Full, LoHa, LoKr, LowRank, rms
from mlx_ltxw.adapter.describe import describe_adapter_file
from mlx_ltxw.adapter.names import kind
from mlx_ltxw.errors import UserError
from tests.adapter.helpers import factors, model_pair, official_file, save, shapes


def rand(draw, *shape):
    return mx.array(draw.standard_normal(shape).astype(np.float32))


def dense64(delta):
    def matrix(parts):
        arrays = [np.asarray(p, np.float64) for p in parts]
        return arrays[0] if len(arrays) == 1 else arrays[0] @ arrays[1]

    if isinstance(delta, LowRank):
        return delta.scale * matrix((delta.b, delta.a))
    if isinstance(delta, LoKr):
        return delta.scale * np.kron(matrix(delta.w1), matrix(delta.w2))
    if isinstance(delta, LoHa):
        return delta.scale * matrix(delta.w1) * matrix(delta.w2)
    return matrix((delta.diff,))


@pytest.mark.parametrize("size", [(8, 6), (40, 12)])
def test_rms_of_every_kind(size):
    draw = np.random.default_rng(0)
    out, into = size
    low = LowRank(rand(draw, 3, into), rand(draw, out, 3), -0.5)
    for delta in (
        low,
        LoKr((rand(draw, 2, 3),), (rand(draw, out // 2, 2), rand(draw, 2, into // 3)), 0.25),
        LoHa((rand(draw, out, 2), rand(draw, 2, into)), (rand(draw, out, 2), rand(draw, 2, into)), 2.0),
        Full(rand(draw, out, into)),
    ):
        want = dense64(delta)
        assert delta.shape == size
        assert np.allclose(np.asarray(delta.dense()), want, rtol=1e-5, atol=1e-5)
        assert rms(delta) == pytest.approx(np.sqrt((want**2).mean()), rel=1e-5)
    assert rms(DoRA(low, rand(draw, out), "rows")) == rms(low)


def test_low_rank_rms_needs_no_large_matrix():
    """A product of 60,000 by 60,000 (14 GB in fp32) is described without being formed."""
    ones = LowRank(mx.ones((2, 60_000)), mx.ones((60_000, 2)), 0.5)
    assert rms(ones) == pytest.approx(1.0)


def test_description_of_a_mixed_file(tmp_path):
    sizes = shapes(model_pair()[1])
    pairs = factors(sizes, rank=lambda name: 2 if "to_k" in name else 6)
    path = official_file(tmp_path / "mixed.safetensors", pairs, metadata={"lora_alpha": "6", "base": "LTX-2.3 " * 60})
    told = describe_adapter_file(path)
    assert told.ranks == {"6": 18, "2": 6}
    assert told.alphas == {}
    assert told.scales == {"1": 24}
    assert told.methods == {"LoRA": 24}
    assert told.dtypes == {"float32": 48}
    assert told.targets == {"audio_attn1": 8, "audio_attn2": 8, "video_to_audio_attn": 8}
    assert told.parameters == sum(a.size + b.size for a, b in pairs.values())
    for module in told.targets:
        squares = [((b.astype(np.float64) @ a) ** 2) for name, (a, b) in pairs.items() if kind(name) == module]
        want = np.sqrt(sum(s.sum() for s in squares) / sum(s.size for s in squares))
        assert told.rms[module] == pytest.approx(want, rel=1e-6)
    text = str(told)
    assert "rank        6 (18), 2 (6)" in text
    assert "alpha       not stored; scale 1" in text
    assert "audio_attn2               8   rms " in text
    assert max(map(len, text.splitlines())) < 200
    assert json.loads(json.dumps(told.as_dict()))["format"] == "official"


def test_leftovers_and_alpha_are_shown(tmp_path):
    ones = np.ones((2, 2), np.float32)
    tensors = {}
    for name in ("lora_unet_transformer_blocks_0_audio_attn1_to_q", "lora_unet_embeddings_connector_proj"):
        tensors |= {f"{name}.lora_down.weight": ones, f"{name}.lora_up.weight": ones, f"{name}.alpha": np.float32(1)}
    told = describe_adapter_file(save(tmp_path / "a.safetensors", tensors))
    assert told.format == "kohya"
    assert told.alphas == {"1": 1}
    assert told.scales == {"0.5": 1}
    assert told.leftover == {"lora_unet_embeddings_connector_proj": "belongs to the text connectors"}
    assert "no place    lora_unet_embeddings_connector_proj: belongs to the text connectors" in str(told)


@pytest.mark.parametrize(("count", "more"), [(40, None), (41, "and 1 more"), (1063, "and 1,023 more")])
def test_of_many_leftovers_the_first_are_shown(tmp_path, count, more):
    ones = np.ones((2, 2), np.float32)
    tensors = {f"{MODULE}.lora_A.weight": ones, f"{MODULE}.lora_B.weight": ones}
    told = describe_adapter_file(save(tmp_path / "a.safetensors", tensors | {f"x{i:04}": ones for i in range(count)}))
    lines = [line.removeprefix("no place    ") for line in str(told).splitlines() if line.startswith("no place")]
    assert lines[:40] == [f"x{i:04}: not the name of an adapter's tensor" for i in range(40)]
    assert lines[40:] == ([more] if more else [])


def test_a_large_file_is_described_from_its_header(tmp_path, monkeypatch):
    """As far as names, shapes, dtypes and alphas go, the same as by reading all of it."""
    ones = np.ones((2, 2), np.float32)
    tensors = {}
    for name in ("lora_unet_transformer_blocks_0_audio_attn1_to_q", "lora_unet_embeddings_connector_proj"):
        tensors |= {f"{name}.lora_down.weight": ones, f"{name}.lora_up.weight": ones, f"{name}.alpha": np.float32(1)}
    kohya = save(tmp_path / "a.safetensors", tensors)
    pairs = factors(shapes(model_pair()[1]), rank=lambda name: 2 if "to_k" in name else 6)
    official = official_file(tmp_path / "mixed.safetensors", pairs, metadata={"base": "x"})
    for path in (kohya, official):
        read = describe_adapter_file(path)
        with monkeypatch.context() as patch:
            patch.setattr(outline, "_LARGEST_FILE", 10)
            patch.setattr(container, "read_tensors", lambda _: pytest.fail("the whole file is read"))
            told = describe_adapter_file(path)
        for field in ("name", "format", "methods", "ranks", "targets", "leftover", "metadata"):
            assert getattr(told, field) == getattr(read, field), field
        assert told.modules.keys() == read.modules.keys()
        assert not told.rms
        assert "its changes were not measured" in str(told)
    assert told.dtypes == read.dtypes
    assert told.parameters == read.parameters


def sparse(path, shapes):
    """A file of zeros that takes no space."""
    header, size = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [size, size + nbytes]}
        size += nbytes
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + size)
    return path


_LOHA = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"]
MODULE = "diffusion_model.transformer_blocks.0.audio_attn1.to_q"


@pytest.mark.parametrize(
    "shapes",
    [
        {f"{MODULE}.hada_w{i}_{x}": s for i in "12" for x, s in (("a", (200_000, 1)), ("b", (1, 200_000)))},
        {f"{MODULE}.lora_A.weight": (2**20, 4096), f"{MODULE}.lora_B.weight": (2048, 2**20)},
        {f"{MODULE}.diff": (2**17, 2**17)},
        {f"diffusion_model.x{i}.lora_A.weight": (1, 1) for i in range(30_000)},
    ],
    ids=["LoHa of 160 GB", "LoRA of 12 GB", "difference of 32 GB", "30,000 tensors"],
)
def test_huge_adapters_take_no_memory(tmp_path, shapes):
    path = sparse(tmp_path / "huge.safetensors", shapes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    assert "not measured" in str(describe_adapter_file(path))
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize("flat", ["hada_w1_a", "hada_w1_b", "hada_w2_b", "lokr_w1", "diff"])
def test_factors_that_are_no_matrices_get_a_sentence(tmp_path, flat):
    names = [flat] if flat == "diff" else ["lokr_w1", "lokr_w2"] if flat == "lokr_w1" else _LOHA
    tensors = {f"{MODULE}.{name}": np.ones(4 if name == flat else (4, 4), np.float32) for name in names}
    with pytest.raises(UserError, match=r"audio_attn1\.to_q"):
        describe_adapter_file(save(tmp_path / "flat.safetensors", tensors))


def test_what_a_file_says_is_printed_escaped(tmp_path):
    ones = np.ones((2, 2), np.float32)
    tensors = {f"{MODULE}.lora_A.weight": ones, f"{MODULE}.lora_B.weight": ones, "\x1b[31mred": ones}
    text = str(describe_adapter_file(save(tmp_path / "a.safetensors", tensors, {"note": "\x1b[2Jgone"})))
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text
    assert "\\x1b[2Jgone" in text
