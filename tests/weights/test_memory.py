"""Whether a model fits, from its headers alone."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.weights.memory import layer_bytes, network_bytes
from tests.convert.made import converted


@pytest.mark.parametrize("quantize", [None, "8", "mxfp4"])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_counts_what_is_loaded(quantize, dtype):
    """The figure is the sum of the loaded arrays' own bytes."""
    model = converted(quantize, 32 if quantize else None)
    for component in ("transformer", "connectors", "vocoder", "video_vae"):
        arrays = tree_flatten(model.load(component, dtype).parameters())
        assert network_bytes(model, component, dtype) == sum(array.nbytes for _, array in arrays), component


def test_audio_only_counts_the_audio_side():
    model = converted()
    arrays = tree_flatten(model.load("transformer", mx.bfloat16, audio_only=True).parameters())
    counted = network_bytes(model, "transformer", mx.bfloat16, audio_only=True)
    assert counted == sum(array.nbytes for _, array in arrays)


@pytest.mark.parametrize("quantize", [None, "8"])
def test_layers_and_the_rest_are_the_whole(quantize):
    model = converted(quantize, 32 if quantize else None)
    for component in ("transformer", "text_encoder"):
        layers, rest = layer_bytes(model, component, mx.float32)
        assert len(layers) == model.network_config(component).layers
        assert sum(layers) + rest == network_bytes(model, component, mx.float32)
    first = tree_flatten(model.load_transformer(mx.float32).transformer_blocks[0].parameters())
    assert layer_bytes(model, "transformer", mx.float32)[0][0] == sum(array.nbytes for _, array in first)
