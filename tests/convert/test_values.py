"""Converted weights are the source's: against the official modules, PyTorch's fp8, and packed bits decoded by hand."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from safetensors import safe_open
from safetensors.torch import load_file

from mlx_ltxw.convert import run
from mlx_ltxw.convert.tensors import bfloat16_bits, fp8_values
from mlx_ltxw.errors import UserError
from mlx_ltxw.weights.components import IN_CHECKPOINT
from tests.convert.made import contents, converted, edited, made, prepare, read_file
from tests.numbers import relative_error
from tests.reference.weights import official_arrays

OFFICIAL = {
    "model.diffusion_model.": "transformer",
    "model.diffusion_model.video_embeddings_connector.": "connectors",
    "model.diffusion_model.audio_embeddings_connector.": "connectors",
    "text_embedding_projection.": "text_projection",
    "vae.encoder.": "video_vae",
    "vae.decoder.": "video_vae",
    "audio_vae.encoder.": "audio_vae",
    "audio_vae.decoder.": "audio_vae",
    "vocoder.": "vocoder",
}
STRIPPED = {"transformer": "model.diffusion_model.", "connectors": "model.diffusion_model."}


def official(source):
    """Component -> parameter -> array in MLX's layout, with the axes moved by the official modules' own types."""
    from scripts.made_weights import STATISTICS, components

    with safe_open(source.checkpoint, "pt") as file:
        config = json.loads(file.metadata()["config"])
    state = load_file(source.checkpoint)
    arrays = {component: {} for component in IN_CHECKPOINT}
    for prefix, module in components(config, json.loads((source.gemma / "config.json").read_text())["text_config"]):
        component = OFFICIAL[prefix]
        root = prefix.partition(".")[0] + "." if component.endswith("_vae") else STRIPPED.get(component, prefix)
        own = {name: state[(root if name.startswith(STATISTICS) else prefix) + name] for name in module.state_dict()}
        module = module.to_empty(device="cpu")
        module.load_state_dict(own, assign=True)
        inner = prefix.removeprefix(root)
        for name, array in official_arrays(module).items():
            arrays[component][name if name.startswith(STATISTICS) else inner + name] = array
    return arrays


@pytest.fixture(scope="module")
def reference():
    return official(made())


@pytest.mark.parametrize("component", IN_CHECKPOINT)
def test_weights_equal_the_official_modules(reference, component):
    """Every parameter of every network, bit for bit (bfloat16 is exact in float32)."""
    loaded = dict(tree_flatten(converted().load(component, mx.float32).parameters()))
    assert loaded.keys() == reference[component].keys()
    different = [n for n, array in loaded.items() if not np.array_equal(np.array(array), reference[component][n])]
    assert not different


def test_dtypes_on_disk_are_the_sources():
    """bfloat16, with float32 scale-shift tables."""
    dtypes = {t.name: t.dtype for component in IN_CHECKPOINT for t in converted().tensors(component)}
    assert {dtype for name, dtype in dtypes.items() if "scale_shift_table" in name} == {"F32"}
    assert {dtype for name, dtype in dtypes.items() if "scale_shift_table" not in name} == {"BF16"}


@pytest.mark.parametrize("name", [None, "mxfp4"])
def test_safetensors_reads_every_file(name):
    """The library's own reader takes the headers (order, offsets, no gaps) and finds what the index promises."""
    model = converted(name)
    for index in model.path.rglob("*.index.json"):
        found = {n: f.name for f in index.parent.glob(f"{index.name.split('.')[0]}*.safetensors") for n in load_file(f)}
        assert found == json.loads(index.read_text())["weight_map"]


def test_fp8_values_are_pytorchs():
    expected = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(fp8_values(), expected)


def test_bfloat16_rounding_is_pytorchs():
    """Ties to even, denormals, the largest values that stay finite."""
    ties = np.array([0x3F808000, 0x3F818000, 0x3F80FFFF, 0x00000001, 0x7F7F0000, 0x80000000], np.uint32)
    bits = np.concatenate([ties, np.random.default_rng(0).integers(0, 0x7F000000, 5000, np.uint32)])
    values = bits.view(np.float32)
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bfloat16_bits(values), expected)


def test_official_fp8_becomes_bfloat16():
    """weight * weight_scale in float32, rounded once, as `fp8_cast.py` folds it; input scales are set aside."""
    source = made(fp8=True)
    state = load_file(source.checkpoint)
    scaled = [name.removesuffix("_scale") for name in state if name.endswith(".weight_scale")]
    assert len(scaled) == 34  # all of one block's linears, gates too
    model = converted(fp8=True)
    loaded = dict(tree_flatten(model.load("transformer", mx.float32).parameters()))
    for name in scaled:
        assert state[name].dtype == torch.float8_e4m3fn
        expected = (state[name].float() * state[f"{name}_scale"]).bfloat16().float().numpy()
        np.testing.assert_array_equal(np.array(loaded[name.removeprefix("model.diffusion_model.")]), expected)
    plan = prepare(source.checkpoint, source.gemma).plan
    assert plan.placed == plan.total == len(state) - 2 * len(scaled)


def comfy_spelling(tensors, metadata):
    """The older 'scaled fp8' files of ComfyUI: other names for the scales, a marker tensor, no prefix `model.`."""
    tensors["scaled_fp8"] = ("F8_E4M3", [2], b"\0\0")
    for name in list(tensors):
        entry = tensors.pop(name)
        name = name.replace("weight_scale", "scale_weight").replace("input_scale", "scale_input")
        tensors[name.removeprefix("model.")] = entry


def test_comfy_fp8_is_the_same_model(tmp_path):
    source = made(fp8=True)
    path = edited(source.checkpoint, tmp_path / source.checkpoint.name, comfy_spelling)
    out = run.convert(prepare(path, source.gemma, shard_bytes=run.SHARD_BYTES), tmp_path / "out")
    ours, theirs = contents(out.path), contents(converted(fp8=True).path)
    weights = [name for name in theirs if name.endswith(".safetensors")]
    assert weights
    assert [name for name in weights if ours[name] != theirs[name]] == []


def no_scale(tensors, metadata):
    del tensors[next(name for name in tensors if name.endswith(".weight_scale"))]


def block_scales(tensors, metadata):
    name = next(name for name in tensors if name.endswith(".weight_scale"))
    tensors[name] = ("F32", [2], bytes(8))


def stray_scale(tensors, metadata):
    tensors["model.diffusion_model.nothing.weight_scale"] = ("F32", [], bytes(4))


def other_fp8(tensors, metadata):
    name = next(name for name, entry in tensors.items() if entry[0] == "F8_E4M3")
    tensors[name] = ("F8_E5M2", *tensors[name][1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_scale, "fp8 without a scale"),
        (block_scales, "instead of one number"),
        (stray_scale, "belongs to no weight"),
        (other_fp8, "has dtype F8_E5M2"),
    ],
)
def test_fp8_that_cannot_be_read(tmp_path, change, said):
    source = made(fp8=True)
    path = edited(source.checkpoint, tmp_path / "ltx-dev.safetensors", change)
    with pytest.raises(UserError, match=said):
        prepare(path)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_fp8_scale_that_is_none(tmp_path, scale):
    def change(tensors, metadata):
        name = next(name for name in tensors if name.endswith(".weight_scale"))
        tensors[name] = ("F32", [], np.float32(scale).tobytes())

    source = made(fp8=True)
    path = edited(source.checkpoint, tmp_path / "ltx-dev.safetensors", change)
    with pytest.raises(UserError, match="is no scale"):
        run.convert(prepare(path), tmp_path / "out")


def test_split_files_are_the_same_model(tmp_path):
    source = made(split=True)
    folder = tmp_path / "parts"
    folder.mkdir()
    for file in source.files:
        (folder / file.name).symlink_to(file)
    out = run.convert(prepare(folder, source.gemma, shard_bytes=run.SHARD_BYTES), tmp_path / "out")
    ours, theirs = contents(out.path), contents(converted().path)
    assert [name for name in theirs if name.endswith(".safetensors") and ours[name] != theirs[name]] == []


def bare(tensors, metadata):
    """Names without any prefix, as files with one component alone often have them."""
    prefixes = ("model.diffusion_model.", "text_embedding_projection.", "vae.", "audio_vae.", "vocoder.")
    for name in list(tensors):
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        tensors[name.removeprefix(prefix)] = tensors.pop(name)


def test_split_files_without_prefixes(tmp_path):
    """The two autoencoders have the same names then; their convs' axes tell them apart."""

    def only_vae(tensors, metadata):
        for name in [n for n in tensors if n.startswith("vocoder.")]:
            del tensors[name]
        bare(tensors, metadata)

    def only_vocoder(tensors, metadata):
        for name in [n for n in tensors if n.startswith("audio_vae.")]:
            del tensors[name]
        bare(tensors, metadata)

    source = made(split=True)
    for file in source.files:
        if "audio-vae" in file.name:
            edited(file, tmp_path / file.name, only_vae)
            edited(file, tmp_path / file.name.replace("audio-vae", "vocoder"), only_vocoder)
        else:
            edited(file, tmp_path / file.name, bare)
    plan = prepare(tmp_path, source.gemma).plan
    assert plan.faults == []
    assert plan.placed == plan.total == sum(len(read_file(file)[0]) - 1 for file in source.files)


def test_other_statistics_are_set_aside(tmp_path):
    """The 19B file has more latent statistics than networks read; a stray one is named in the plan, not an error."""

    def change(tensors, metadata):
        tensors["vae.per_channel_statistics.mean-of-stds"] = ("BF16", [4], bytes(8))

    conversion = prepare(edited(made().checkpoint, tmp_path / "ltx-dev.safetensors", change))
    assert conversion.plan.faults == []
    assert list(conversion.checkpoint.set_aside.values()) == [["vae.per_channel_statistics.mean-of-stds"]]


def unpack(packed, bits):
    """MLX's packing: element 0 in the lowest bits of a little-endian uint32."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).reshape(*packed.shape[:-1], -1)


def fp4_values(codes):
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # e2m1
    return np.where(codes & 8, -1, 1) * values[codes & 7]


def decoded(file, layer, mode, bits, group):
    """A quantised weight from the bytes on disk, by the formats' definitions."""
    with safe_open(file, "pt") as tensors:
        packed = tensors.get_tensor(f"{layer}.weight").numpy().view(np.uint32)
        scales = tensors.get_tensor(f"{layer}.scales")
        if mode == "affine":
            scales, biases = scales.float().numpy(), tensors.get_tensor(f"{layer}.biases").float().numpy()
            return unpack(packed, bits) * np.repeat(scales, group, -1) + np.repeat(biases, group, -1)
    codes = scales.numpy()
    factors = fp8_values()[codes] if mode == "nvfp4" else 2.0 ** (codes.astype(float) - 127)
    values = fp8_values()[unpack(packed, 8)] if bits == 8 else fp4_values(unpack(packed, 4))
    return values * np.repeat(factors, group, -1)


@pytest.mark.parametrize(
    ("name", "group", "mode", "bits", "error"),
    [
        ("4", 32, "affine", 4, 0.09),
        ("8", 32, "affine", 8, 0.008),
        ("mxfp4", None, "mxfp4", 4, 0.15),
        ("mxfp8", None, "mxfp8", 8, 0.04),
        ("nvfp4", None, "nvfp4", 4, 0.12),
    ],
)
def test_quantised_weights(reference, name, group, mode, bits, error):
    """What lies on disk decodes to the weights, to within the format's own error; the rest is untouched."""
    model = converted(name, group)
    layers = model.quantized_layers("transformer")
    assert len(layers) == 28 * model.checkpoint_config["transformer"]["num_layers"]  # 32 divides every width
    size = next(iter(layers.values()))["group_size"]
    assert {(s["mode"], s["bits"], s["group_size"]) for s in layers.values()} == {(mode, bits, size)}
    files = json.loads((model.path / "transformer.safetensors.index.json").read_text())["weight_map"]
    for layer in layers:
        weight = reference["transformer"][f"{layer}.weight"]
        got = decoded(model.path / files[f"{layer}.weight"], layer, mode, bits, size)
        assert relative_error(got, weight) < error
    untouched = [n for n in reference["transformer"] if n.rpartition(".")[0] not in layers]
    loaded = dict(tree_flatten(model.load("transformer", mx.float32).parameters()))
    assert [n for n in untouched if not np.array_equal(np.array(loaded[n]), reference["transformer"][n])] == []


@pytest.mark.parametrize("name", ["4", "nvfp4"])
def test_quantised_layers_compute(reference, name):
    """A loaded quantised linear multiplies by the weights decoded from disk."""
    model = converted(name, 32 if name == "4" else None)
    settings = model.quantized_layers("transformer")
    layer = "transformer_blocks.1.audio_to_video_attn.to_out.0"
    files = json.loads((model.path / "transformer.safetensors.index.json").read_text())["weight_map"]
    how = settings[layer]
    weight = decoded(model.path / files[f"{layer}.weight"], layer, how["mode"], how["bits"], how["group_size"])
    linear = dict(model.load("transformer", mx.float32).named_modules())[layer]
    x = np.random.default_rng(1).normal(size=(3, weight.shape[1])).astype(np.float32)
    expected = x @ weight.T + reference["transformer"][f"{layer}.bias"]
    np.testing.assert_allclose(np.array(linear(mx.array(x))), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_zero_weights_survive_quantisation(tmp_path):
    """A layer that is zero in the source is zero after, and no error."""

    def change(tensors, metadata):
        name = "model.diffusion_model.transformer_blocks.0.ff.net.2.weight"
        dtype, shape, raw = tensors[name]
        tensors[name] = (dtype, shape, bytes(len(raw)))

    from mlx_ltxw.convert.quantize import Quantization

    path = edited(made().checkpoint, tmp_path / "ltx-dev.safetensors", change)
    model = run.convert(prepare(path, quantization=Quantization.parse("4", 32)), tmp_path / "out")
    linear = dict(model.load("transformer").named_modules())["transformer_blocks.0.ff.net.2"]
    product = linear(mx.ones((1, 256))) - linear.bias
    assert mx.all(product == 0).item()
