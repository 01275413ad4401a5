"""In which dtype everything of a run is multiplied, and how often, by what networks describe; nothing is computed.

On a GPU a product of float32 takes many times as long as one of bfloat16, and one float32 number on the way makes
all that follows float32. Counts are worked out from the architecture.
"""

import dataclasses

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.adapter import branches
from mlx_ltxw.convert.quantize import Quantization, in_blocks
from mlx_ltxw.models.ops import packed as ops_packed
from mlx_ltxw.models.ops.twins import gradients_wanted
from mlx_ltxw.models.packed import quantize
from mlx_ltxw.models.transformer import rope
from mlx_ltxw.models.transformer.compiled import COMPILED_UP_TO
from mlx_ltxw.pipeline.contexts import Contexts
from mlx_ltxw.pipeline.denoise import Denoiser
from mlx_ltxw.pipeline.guidance import passes
from mlx_ltxw.pipeline.networks import Networks
from mlx_ltxw.pipeline.plan import plan
from mlx_ltxw.pipeline.request import Request
from mlx_ltxw.pipeline.run import run
from mlx_ltxw.weights.model_dir import ModelDir
from mlx_ltxw.weights.streaming import RESIDENT
from tests.adapter.helpers import factors, official_file
from tests.graph import multiplied, multiplying_as_on_cuda

REQUEST = Request("a woman whispers", width=64, height=64, frames=9, steps=1, seeds=(3,), dtype="bfloat16")
BF16, FP32 = ("bfloat16",), ("float32",)
ATTENTION = ("attention", "bfloat16")
TEXT, BLOCKS = 32, 2
EIGHT = Quantization.parse("8", 32)
READING = "video_to_audio_attn.to_k"


class Described(Exception):
    """The first step has been looked at."""


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    multiplying_as_on_cuda(monkeypatch)


@pytest.fixture(scope="module")
def adapter(dev, tmp_path_factory):
    sizes = {tensor.name.removesuffix(".weight"): tensor.shape for tensor in dev.tensors("transformer")}
    targets = [name for name in sizes if name.endswith(("audio_attn1.to_q", READING))]
    return str(official_file(tmp_path_factory.mktemp("adapter") / "a.safetensors", factors(sizes, targets)))


def of_a_step(job, monkeypatch, packed=False):
    """What all passes of a run's first step multiply."""
    seen, load = [], ModelDir.load_transformer

    def describe(self, latents, sigma):
        every = passes(self.video_guidance, self.audio_guidance, self._layers)
        with multiplied() as found:
            made = self.predict(latents, sigma, every)
        seen.append((found, [*made]))
        raise Described

    def contexts(self, prompts, cache):
        config = self.model.network_config("transformer")
        widths = config.video.context_dim, config.audio.context_dim
        return Contexts(*(mx.zeros((len(prompts), TEXT, width)) for width in widths), tuple(prompts))

    def loaded(*given, **options):
        network = load(*given, **options)
        if packed:
            of_blocks = lambda path, module: isinstance(module, nn.Linear) and in_blocks("transformer", path, 32, EIGHT)  # noqa: E731
            quantize(network, of_blocks, group_size=32, bits=8)
        return network

    monkeypatch.setattr(Denoiser, "__call__", describe)
    monkeypatch.setattr(Networks, "contexts", contexts)
    monkeypatch.setattr(ModelDir, "load_transformer", loaded)
    with pytest.raises(Described):
        list(run(job, Networks(job.model, job.dtype)))
    return seen[0]


def guided(job):
    """With a perturbed pass that leaves the last block's attentions to themselves out."""
    (stage,) = job.stages
    own, of_audio = (
        dataclasses.replace(one, stg=1.0, stg_blocks=(BLOCKS - 1,))
        for one in (stage.video_guidance, stage.audio_guidance)
    )
    return dataclasses.replace(job, stages=(dataclasses.replace(stage, video_guidance=own, audio_guidance=of_audio),))


TEXTS = 2
"""Keys and values of both streams' text, made once for passes that read the same."""
JOINT = 2 * 2 + 4 * 3 + 2 * 2
"""Of a block: two attentions to themselves with one product and one behind it, four others with two and one, and two
networks of two."""
BASE = BLOCKS * (2 * JOINT + JOINT - 2 * 3 - TEXTS) + (JOINT - TEXTS + 2 * 2) + 8 * 3 + 2 + 4 * 2
"""Two passes of a text each; one without the two attentions between the streams; a fourth in the last block alone, with
keys, values and gates of attentions to themselves one by one; eight networks of three for the noise levels, two linears
before, and two behind each pass."""
OF_BASE = BLOCKS * (6 + 6 + 4) + 4
OWN = BLOCKS * (2 * (5 + 3 + 5 + 2) + 5 + 2 + 2) + (4 + 2 + 5 + 2) + 4 * 3 + 1 + 4
"""The adapted sound's: of its attention to itself one linear alone has an adapter, so five stay apart; three of that to
the text, one less where that has been read; keys of the picture have two factors in the place of the weight, and
their values stay apart; a network of two."""
OF_OWN = BLOCKS * (3 + 3 + 2) + 2


def test_a_guided_step(dev, monkeypatch):
    found, made = of_a_step(guided(plan(REQUEST, dev)), monkeypatch)
    assert made == ["cond", "uncond", "ptb", "mod"]
    assert found == {BF16: BASE, ATTENTION: OF_BASE}


def test_a_guided_step_of_packed_weights(dev, monkeypatch):
    """Gates are not packed and stay by themselves."""
    found, _ = of_a_step(guided(plan(REQUEST, dev)), monkeypatch, packed=True)
    gates = BLOCKS * (6 + 6 + 4) + 4
    assert found == {BF16: BASE + gates, ATTENTION: OF_BASE}


def test_a_locked_step(dev, adapter, monkeypatch):
    locked = dataclasses.replace(REQUEST, adapters=(adapter,), allow_partial=True, lock_video=True)
    found, _ = of_a_step(guided(plan(locked, dev)), monkeypatch)
    assert found == {BF16: BASE + OWN, ATTENTION: OF_BASE + OF_OWN}


def test_an_adapter_without_the_lock_costs_nothing(dev, adapter, monkeypatch):
    """It is in the weights, which lie together again."""
    fused = dataclasses.replace(REQUEST, adapters=(adapter,), allow_partial=True, lock_video=False)
    found, _ = of_a_step(guided(plan(fused, dev)), monkeypatch)
    assert found == {BF16: BASE, ATTENTION: OF_BASE}


@pytest.mark.parametrize("packed", [False, True], ids=["", "8 bits"])
def test_no_step_is_described_with_its_gradient(dev, adapter, monkeypatch, packed):
    """Where blocks are described each time, that takes Python a tenth longer, and more with packed weights."""

    def wrapped(*_):
        raise AssertionError("with its gradient")

    for module, name in (
        (rope, "_rotated"),
        (branches, "_product"),
        (branches, "_add_product"),
        (ops_packed, "_unpacking"),
    ):
        monkeypatch.setattr(module, name, wrapped)
    monkeypatch.setitem(COMPILED_UP_TO, "cuda", 0)
    locked = dataclasses.replace(REQUEST, adapters=(adapter,), allow_partial=True, lock_video=True)
    found, _ = of_a_step(guided(plan(locked, dev)), monkeypatch, packed)
    assert found
    assert gradients_wanted()


def test_the_text(dev):
    """Seven linears a layer everywhere."""
    encoder, projection = dev.load_text_encoder(mx.bfloat16, RESIDENT).model, dev.load_text_projection(mx.bfloat16)
    connectors, of_projection = dev.load_connectors(mx.bfloat16), projection.config
    layers = len(encoder.layers)
    with multiplied() as found:
        encoder(mx.zeros((1, 7), mx.int32))
    assert found == {BF16: 7 * layers, ATTENTION: layers}
    with multiplied() as found:
        hidden = mx.zeros((1, TEXT, of_projection.text_width, of_projection.text_states), mx.bfloat16)
        features = projection(hidden, mx.ones((1, TEXT), mx.bool_))
    assert found == {BF16: 2}
    config = dev.network_config("connectors")
    layers = config.video.layers + config.audio.layers
    with multiplied() as found:
        connectors(*features, mx.ones((1, TEXT), mx.bool_))
    assert found == {BF16: 7 * layers, ATTENTION: layers}


def convolutions(network):
    """How many a network has."""
    return sum(value.ndim > 2 for _, value in tree_flatten(network.parameters()))


def test_pictures(dev):
    vae = dev.load_video_vae(mx.bfloat16)
    with multiplied() as found:
        vae.decode(mx.zeros((1, 2, 2, 2, vae.config.latent_channels), mx.bfloat16))
    assert found == {BF16: convolutions(vae.decoder)}
    with multiplied() as found:
        vae.encode(mx.zeros((1, 9, 64, 64, 3), mx.bfloat16))
    assert found == {BF16: convolutions(vae.encoder)}


def test_sound(dev):
    """Spectra in bfloat16 and waveforms in float32, whatever comes in."""
    vae, vocoder = dev.load_audio_vae(mx.bfloat16), dev.load("vocoder", mx.bfloat16)
    with multiplied() as found:
        mel = vae.decode(mx.zeros((1, 5, vae.config.features), mx.float32))
    assert found == {BF16: convolutions(vae.decoder)}
    with multiplied() as found:
        vae.encode(mx.zeros(mel.shape, mx.float32))
    assert found == {BF16: convolutions(vae.encoder)}
    with multiplied() as found:
        vocoder(mel.astype(mx.float32))
    assert set(found) == {FP32}
    assert found[FP32] > convolutions(vocoder)
