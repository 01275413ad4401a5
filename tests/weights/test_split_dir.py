"""The split layout of ltx-2-mlx: read where it lies, equal to what `convert` makes of the same checkpoint."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.convert.face import convert
from mlx_ltxw.errors import UserError
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.prompt_cache import PromptCache
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.weights.components import IN_CHECKPOINT
from mlx_ltxw.weights.fit import placed
from mlx_ltxw.weights.header import read_header
from mlx_ltxw.weights.memory import network_bytes
from mlx_ltxw.weights.opening import open_dir
from mlx_ltxw.weights.split_dir import SplitDir
from tests.convert.made import command, contents, converted, made
from tests.numbers import relative_error
from tests.reference import upsampler
from tests.weights.split import split_model, split_upsampler


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """bf16, 8 and 4 bits, by their bits."""
    folder = tmp_path_factory.mktemp("split")
    return {bits: split_model(made().checkpoint, folder / f"ltx-2.3-mlx-q{bits}", bits=bits) for bits in (None, 8, 4)}


@pytest.fixture
def tree(trees, tmp_path):
    """A bf16 tree that a test may damage."""
    return shutil.copytree(trees[None], tmp_path / "ltx-2.3-mlx")


def equal(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bool(mx.array_equal(a, b, equal_nan=False))


@pytest.mark.parametrize("component", IN_CHECKPOINT)
def test_bf16_is_what_convert_writes(trees, component):
    """Every parameter of every network, to the last bit."""
    gemma = converted().text_encoder
    theirs = dict(tree_flatten(SplitDir.open(trees[None], gemma=gemma).load(component, mx.bfloat16).parameters()))
    ours = dict(tree_flatten(converted().load(component, mx.bfloat16).parameters()))
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if not equal(theirs[name], ours[name])] == []


@pytest.mark.parametrize("bits", [8, 4])
def test_packed_layers_are_what_convert_packs(trees, bits):
    """Their head gates are packed too, which ours are not; those are what MLX makes of ours."""
    theirs = dict(tree_flatten(open_dir(trees[bits]).load("transformer", mx.bfloat16).parameters()))
    ours = dict(tree_flatten(converted(str(bits), 32).load("transformer", mx.bfloat16).parameters()))
    gates = {name.removesuffix(".weight") for name in ours if name.endswith("to_gate_logits.weight")}
    packed = [name for name in theirs if name.endswith(".scales")]
    assert len(packed) > len(gates) > 0
    for gate in gates:
        parts = mx.quantize(ours.pop(f"{gate}.weight"), group_size=32, bits=bits)
        ours |= dict(zip((f"{gate}.weight", f"{gate}.scales", f"{gate}.biases"), parts, strict=True))
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if not equal(theirs[name], ours[name])] == []


@pytest.mark.parametrize(("mode", "bits", "group"), [("mxfp4", 4, 32), ("mxfp8", 8, 32)])
def test_layers_of_shared_exponents(tree, mode, bits, group):
    """MLX's modes without biases, which no conversion of that layout has used yet; a layer is told by its shapes."""
    name = "transformer.transformer_blocks.0.attn1.to_q"
    packed = {}

    def pack(arrays):
        weight, scales = mx.quantize(arrays.pop(f"{name}.weight"), group_size=group, bits=bits, mode=mode)
        packed.update(weight=weight, scales=scales)
        arrays.update({f"{name}.{leaf}": part for leaf, part in packed.items()})

    change(tree / "transformer-dev.safetensors", pack)
    model = open_dir(tree)
    layer = model.quantized_layers("transformer")["transformer_blocks.0.attn1.to_q"]
    assert layer == {"mode": mode, "bits": bits, "group_size": group}
    assert placed(model)
    loaded = dict(tree_flatten(model.load("transformer", mx.bfloat16).parameters()))
    for leaf, part in packed.items():
        assert mx.array_equal(loaded[f"transformer_blocks.0.attn1.to_q.{leaf}"], part)
    change(tree / "transformer-dev.safetensors", lambda arrays: arrays.pop(f"{name}.scales"))
    with pytest.raises(UserError, match=r"transformer_blocks\.0\.attn1\.to_q\.weight is"):
        placed(open_dir(tree))


def test_nothing_is_copied(trees):
    """Tensors are said to lie where their bytes are: read there by hand, they are the loaded ones."""
    model = open_dir(trees[None])
    arrays = model.arrays("vocoder")
    for tensor in model.tensors("vocoder"):
        raw = np.fromfile(tensor.path, "<u2", tensor.elements, offset=tensor.start).reshape(tensor.shape)
        assert tensor.path.parent == trees[None]
        np.testing.assert_array_equal(raw, np.array(arrays[tensor.name].view(mx.uint16)))


def test_sound_alone_reads_the_audio_side(trees):
    model, ours = open_dir(trees[8]), converted("8", 32)
    network = model.load_transformer(mx.float32, audio_only=True)
    assert not network.with_video
    names = {tensor.name for tensor in model.tensors("transformer", audio_only=True)}
    assert {tensor.name for tensor in ours.tensors("transformer", audio_only=True)} <= names
    assert network_bytes(model, "transformer", mx.float32, audio_only=True) > 0


def test_every_tensor_is_placed(trees):
    """As many as the files hold, less the second copy of the video's latent statistics."""
    held = sum(len(read_header(file).tensors) for file in trees[None].glob("*.safetensors"))
    assert placed(open_dir(trees[None])) == held - 2
    assert placed(converted()) == held - 2


def test_inspect_and_generate(trees, tmp_path):
    done = command("inspect", trees[4])
    assert done.returncode == 0, done.stderr
    assert "of Lightricks/LTX-2.3\n" in done.stdout  # at no revision that is known
    for part in ("split (ltx-2-mlx)", "affine, 4 bits, groups of 32", "placed", "lies in a repository of its own"):
        assert part in done.stdout
    tree = shutil.copytree(trees[8], tmp_path / "model")
    flags = ("--audio-only", "--frames", "9", "--steps", "1", "-m", tree, "-o", tmp_path / "out.wav", "-q")
    alone = command("generate", "a room", *flags, HF_HOME=str(tmp_path / "cache"))
    assert alone.returncode == 2
    assert "has no text encoder" in alone.stderr
    assert "mlx-ltxw pull mlx-community/gemma-3-12b-it-4bit" in alone.stderr
    (tree / "text_encoder").symlink_to(converted().text_encoder)
    done = command("generate", "a room", *flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.wav").stat().st_size > 1000


def test_same_clip_as_ours(trees):
    """Sampled, decoded: the same sound from both layouts."""
    from mlx_ltxw.api import Model

    request = {"audio_only": True, "frames": 9, "steps": 2}
    gemma = converted().text_encoder
    theirs = Model(SplitDir.open(trees[None], gemma=gemma)).generate("a room", **request)
    ours = Model(converted()).generate("a room", **request)
    np.testing.assert_array_equal(theirs.waveform, ours.waveform)


def test_a_repository_of_two_transformers(tree):
    """dev and distilled side by side: the user names one."""
    for name in ("transformer-distilled-1.1.safetensors", "transformer-distilled.safetensors"):
        shutil.copy(tree / "transformer-dev.safetensors", tree / name)
    with pytest.raises(
        UserError, match=r"several transformers: transformer-dev\.safetensors, transformer-distilled-1"
    ) as told:
        open_dir(tree)
    assert f"Name one, such as {tree}/transformer-distilled-1.1.safetensors; dev takes" in told.value.hint
    assert SplitDir.open(tree, "transformer-dev.safetensors").variant == "dev"
    assert SplitDir.open(tree, "transformer-distilled-1.1.safetensors").variant == "distilled"
    with pytest.raises(UserError, match=r"no transformer transformer-x\.safetensors"):
        SplitDir.open(tree, "transformer-x.safetensors")


def test_variant_of_an_unmarked_transformer(tree):
    """Older trees call it `transformer.safetensors`; the list of variants, the folder's name or nothing tells."""
    (tree / "transformer-dev.safetensors").rename(tree / "transformer.safetensors")
    assert open_dir(tree).variant == "dev"
    (tree / "split_model.json").write_text('{"split": true}')
    with pytest.raises(UserError, match="dev or distilled"):
        open_dir(tree)
    assert open_dir(tree.rename(tree.with_name("ltx-2.3-mlx-distilled"))).variant == "distilled"


@pytest.mark.parametrize(
    "settings", [None, "[]", '{"bits": 8, "group_size": 64}'], ids=["missing", "no table", "of another model"]
)
def test_the_tensors_tell_how_they_are_packed(tmp_path, settings):
    """`quantize_config.json` may be missing or wrong; other files beside, and an index, change nothing."""
    folder = split_model(made().checkpoint, tmp_path / "q4", bits=4, group=32)
    whole = open_dir(folder)
    (folder / "quantize_config.json").unlink()
    if settings is not None:
        (folder / "quantize_config.json").write_text(settings)
    (folder / "model.safetensors.index.json").write_text("{}")
    mx.save_safetensors(str(folder / "notes.safetensors"), {"stray": mx.zeros(3)})
    (folder / "sub").mkdir()
    again = open_dir(folder)
    layers = again.quantized_layers("transformer")
    assert {(one["bits"], one["group_size"]) for one in layers.values()} == {(4, 32)}
    assert layers == whole.quantized_layers("transformer")
    assert again.tensors("transformer") == whole.tensors("transformer")


def test_official_names_of_layers_are_taken_too(tree):
    """A tree that keeps `to_out.0` holds the same model."""
    whole = open_dir(tree).load("transformer").parameters()

    def rename(arrays):
        for name in [name for name in arrays if ".to_out." in name]:
            arrays[name.replace(".to_out.", ".to_out.0.")] = arrays.pop(name)

    change(tree / "transformer-dev.safetensors", rename)
    again = dict(tree_flatten(open_dir(tree).load("transformer").parameters()))
    for name, array in tree_flatten(whole):
        np.testing.assert_array_equal(again[name], array)


def test_a_transformer_in_pieces(tree):
    """Two halves of one are not two to choose from."""
    first = tree / "transformer-dev-00001-of-00002.safetensors"
    shutil.copy(tree / "transformer-dev.safetensors", tree / "transformer-dev-00002-of-00002.safetensors")
    (tree / "transformer-dev.safetensors").rename(first)
    with pytest.raises(UserError, match=r"in pieces \(transformer-dev-00001-of-00002"):
        open_dir(tree)


@pytest.mark.parametrize("name", ["vocoder.safetensors", "connector.safetensors", "embedded_config.json"])
def test_files_that_are_missing(tree, name):
    (tree / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}"):
        open_dir(tree)


def change(file, edit):
    arrays = mx.load(str(file))
    mx.eval(arrays)
    edit(arrays)
    file.unlink()
    mx.save_safetensors(str(file), arrays)


def test_what_does_not_fit_is_listed(trees, tree):
    """Names without a place at once; what is missing or misshapen when the networks are asked for it."""
    change(tree / "vae_decoder.safetensors", lambda arrays: arrays.update({"vae_decoder.conv_in.more": mx.zeros(3)}))
    change(tree / "vocoder.safetensors", lambda arrays: arrays.update({"stray": mx.zeros(3)}))
    with pytest.raises(UserError, match=r"placed [\d,]+ of [\d,]+ tensors .* no place for stray of vocoder"):
        open_dir(tree)
    change(tree / "vocoder.safetensors", lambda arrays: arrays.pop("stray"))
    change(tree / "vocoder.safetensors", lambda arrays: arrays.pop("vocoder.conv_pre.bias"))
    with pytest.raises(UserError) as error:
        placed(open_dir(tree))
    held = placed(open_dir(trees[None]))
    assert f"placed {held - 1:,} of {held + 1:,} tensors" in str(error.value)  # one is missing, one too many
    assert "video_vae: unexpected: decoder.conv_in.more" in str(error.value)
    assert "vocoder: missing: vocoder.conv_pre.bias" in str(error.value)
    with pytest.raises(UserError, match=r"missing: vocoder\.conv_pre\.bias"):
        open_dir(tree).load("vocoder")


def test_statistics_that_differ(tree):
    """The two copies must be one."""
    name = "vae_encoder.per_channel_statistics._std_of_means"
    change(tree / "vae_encoder.safetensors", lambda arrays: arrays.update({name: arrays[name] + 1}))
    with pytest.raises(UserError, match=r"differs from vae_decoder\.safetensors's"):
        open_dir(tree)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("leaf", ["scales", "biases"])
def test_a_packed_layer_that_lost_a_part(trees, tmp_path, leaf, whole):
    tree = shutil.copytree(trees[4], tmp_path / "damaged")
    name = f"transformer.transformer_blocks.0.attn1.to_q.{leaf}"

    def lose(arrays):
        part = arrays.pop(name)
        arrays.update({} if whole else {name: part[:, :1]})

    change(tree / "transformer-dev.safetensors", lose)
    with pytest.raises(UserError, match=r"layer transformer_blocks\.0\.attn1\.to_q cannot be read"):
        open_dir(tree)


def test_other_config(tree):
    """A config of two of the four caption keys, as some repositories have, is refused by name."""
    config = json.loads((tree / "embedded_config.json").read_text())
    del config["transformer"]["caption_proj_before_connector"]
    (tree / "embedded_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="caption_proj_before_connector"):
        placed(open_dir(tree))


def test_digests_tell_models_apart(trees, tree):
    """Quick ones, for there are no hashes: other values, other digests."""
    same, model = open_dir(tree).digests("transformer"), open_dir(trees[None])
    assert same == model.digests("transformer")
    name = "transformer.transformer_blocks.1.attn1.to_q.weight"
    change(tree / "transformer-dev.safetensors", lambda arrays: arrays.update({name: arrays[name] * 2}))
    assert open_dir(tree).digests("transformer") != same


def test_prompts_are_cached(tree, tmp_path, monkeypatch):
    """A second process reads no text encoder; another text side, or tokenizer, is another name."""
    gemma = shutil.copytree(converted().text_encoder, tmp_path / "gemma")
    folder = tmp_path / "cache"
    monkeypatch.setenv("MLX_LTXW_CACHE", str(folder))

    def name():
        return PromptCache(SplitDir.open(tree, gemma=gemma), mx.float32, folder).file("a room").name

    first = Networks(SplitDir.open(tree, gemma=gemma), mx.float32).contexts(["a room"])
    assert [file.name for file in folder.glob("*.safetensors")] == [name()]
    with monkeypatch.context() as patched:
        patched.setattr("mlx_ltxw.pipeline.networks.encode_prompts", None)
        again = Networks(SplitDir.open(tree, gemma=gemma), mx.float32).contexts(["a room"])
    assert mx.array_equal(again.audio_contexts, first.audio_contexts)
    names = [name()]
    config = gemma / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    names.append(name())
    tensor = next(iter(mx.load(str(tree / "connector.safetensors"))))
    change(tree / "connector.safetensors", lambda arrays: arrays.update({tensor: arrays[tensor] + 1}))
    names.append(name())
    assert len(set(names)) == 3


def test_convert_says_it_is_usable_already(trees):
    done = command("convert", trees[None], "--dry-run")
    assert done.returncode == 2
    assert "generate -m" in done.stderr


def put_upsampler(tree, **more):
    return split_upsampler(tree, open_dir(tree).network_config("video_vae").latent_channels, **more)


@pytest.mark.parametrize(
    ("kind", "stem", "prefix", "config"),
    [
        ("spatial-x2", "spatial_upscaler_x2_v1_1", True, "beside"),
        ("spatial-x1.5", "spatial_upscaler_x1_5_v1_0", True, "beside"),
        ("temporal-x2", "temporal_upscaler_x2_v1_0", True, "beside"),
        ("spatial-x2", "ltx-2.3-spatial-upscaler-x2-1.1", False, "metadata"),
    ],
)
def test_upsamplers_beside_the_weights(tree, kind, stem, prefix, config):
    """The official classes' own numbers."""
    assert open_dir(tree).upsamplers == []
    reference = put_upsampler(tree, kind=kind, stem=stem, prefix=prefix, config=config)
    model = open_dir(tree)
    assert model.upsamplers == [kind]
    latent = np.random.default_rng(0).standard_normal((1, 3, 4, 4, reference.in_channels)).astype(np.float32)
    ours = np.asarray(model.load_upsampler(kind, mx.float32)(mx.array(latent)))
    assert relative_error(ours, upsampler.forward(reference, latent)) < 1e-5


def test_two_stages_with_an_upsampler_beside_the_weights(tree):
    """A distilled model then makes two stages by itself, as ltx-2-mlx does."""
    (tree / "transformer-dev.safetensors").rename(tree / "transformer-distilled.safetensors")
    put_upsampler(tree)
    model = SplitDir.open(tree, gemma=converted().text_encoder)
    job = plan(Request("a room", width=128, height=64, frames=9), model)
    assert job.settings.pipeline == "two-stage"
    assert [stage.upsampler for stage in job.stages] == [None, "spatial-x2"]


def test_of_several_versions_the_last(tree):
    """And a run that was cut does not go on with another one."""
    gemma, digests = converted().text_encoder, []
    for stem in (None, "spatial_upscaler_x2_v1_0", "spatial_upscaler_x2_v1_1"):
        if stem is not None:
            put_upsampler(tree, stem=stem)
            (path,) = open_dir(tree).shards("upsampler.spatial-x2")
            assert path.name == f"{stem}.safetensors"
        digests.append(SplitDir.open(tree, gemma=gemma).digest)
    assert len(set(digests)) == 3


def test_an_upsampler_without_its_config_or_of_other_axes(tree):
    put_upsampler(tree, config="nowhere")
    with pytest.raises(UserError, match=r"has no config: there is no spatial_upscaler_x2_v1_1_config\.json"):
        open_dir(tree)
    (tree / "spatial_upscaler_x2_v1_1.safetensors").unlink()
    put_upsampler(tree)
    change(
        tree / "spatial_upscaler_x2_v1_1.safetensors",
        lambda arrays: arrays.update({k: v.transpose(0, 4, 1, 2, 3) for k, v in arrays.items() if v.ndim == 5}),
    )
    with pytest.raises(UserError, match=r"initial_conv\.weight"):
        open_dir(tree).load_upsampler("spatial-x2")


def test_nothing_is_converted_into_the_layout(tree, tmp_path):
    """And two stages without an upsampler are refused before anything is loaded."""
    before = contents(tree)
    path = tmp_path / "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"
    channels = open_dir(tree).network_config("video_vae").latent_channels
    upsampler.write_official(path, upsampler.config("spatial-x2", channels, 32))
    with pytest.raises(UserError, match="into which nothing is converted"):
        convert(path, tree)
    assert contents(tree) == before
    with pytest.raises(UserError, match=r"has no upsampler 'spatial-x2' .none.*beside the weights"):
        open_dir(tree).load_upsampler("spatial-x2")


def test_whole_numbers_where_fractions_belong(tree):
    """Shapes and names are right; taken as they are, they would be weights."""
    file = tree / "vocoder.safetensors"
    arrays = dict(mx.load(str(file)))
    name = next(name for name in sorted(arrays) if name.endswith("conv_pre.weight"))
    arrays[name] = mx.array(np.array(arrays[name].astype(mx.int32)))
    mx.save_safetensors(str(file), arrays)
    model = open_dir(tree)
    for check in (placed, lambda model: model.load_vocoder()):
        with pytest.raises(UserError, match=r"vocoder.*of another kind of number: .*conv_pre\.weight"):
            check(model)


def test_faults_of_every_network_are_told_before_a_run(tree):
    """The vocoder is the last to be loaded."""
    from mlx_ltxw.takes.models import open_model

    change(tree / "vocoder.safetensors", lambda arrays: arrays.update({"vocoder.conv_pre.bias": mx.zeros(1)}))
    with pytest.raises(UserError, match=r"vocoder\.conv_pre\.bias is \[1\]"):
        open_model(tree, str(converted().text_encoder))


@pytest.mark.parametrize("section", [[1], {"license": "mit", "statement": "x", "generation": 1}])
def test_a_section_of_ours_that_is_damaged(tree, section):
    config = json.loads((tree / "embedded_config.json").read_text())
    (tree / "embedded_config.json").write_text(json.dumps({**config, "mlx_ltxw": section}))
    with pytest.raises(UserError, match=r"section 'mlx_ltxw' of .* cannot be used"):
        open_dir(tree)


def test_an_upsampler_beside_the_weights_is_looked_at_too(tree):
    """Its faults came after the first of two stages."""
    before, file = placed(open_dir(tree)), tree / "spatial_upscaler_x2_v1_1.safetensors"
    put_upsampler(tree)
    assert placed(open_dir(tree)) == before + len(read_header(file).tensors)
    change(file, lambda arrays: arrays.pop("spatial_upscaler_x2_v1_1.final_conv.bias"))
    with pytest.raises(UserError, match=r"upsampler\.spatial-x2: missing: final_conv\.bias"):
        placed(open_dir(tree))
