"""Whether a model fits, from its headers alone."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.machine import Machine
from mlx_ltxw.weights.memory import check_fit, weights_in_memory
from tests.convert.made import converted

GB = 10**9


@pytest.mark.parametrize("quantize", [None, "8", "mxfp4"])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_counts_what_is_loaded(quantize, dtype):
    """The figure is the sum of the loaded arrays' own bytes."""
    model = converted(quantize, 32 if quantize else None)
    counted = weights_in_memory(model, dtype)
    for component in ("transformer", "connectors", "vocoder", "video_vae"):
        arrays = tree_flatten(model.load(component, dtype).parameters())
        assert counted[component] == sum(array.nbytes for _, array in arrays), component


def test_audio_only_counts_the_audio_side():
    model = converted()
    counted = weights_in_memory(model, mx.bfloat16, audio_only=True)
    arrays = tree_flatten(model.load("transformer", mx.bfloat16, audio_only=True).parameters())
    assert counted["transformer"] == sum(array.nbytes for _, array in arrays)
    assert "video_vae" not in counted


def test_what_does_not_fit_is_refused():
    machine = Machine("metal", total=16 * GB, budget=12 * GB)
    with pytest.raises(UserError, match=r"transformer take 38\.00 GB, and this machine has 16\.00 GB"):
        check_fit({"text_encoder": 8 * GB, "transformer": 38 * GB}, machine)


def test_what_nearly_fills_the_machine_is_a_warning():
    machine = Machine("metal", total=64 * GB, budget=48 * GB)
    (warning,) = check_fit({"text_encoder": 24 * GB, "transformer": 45 * GB}, machine)
    assert "transformer take 45.00 GB of the 48.00 GB" in warning
    assert check_fit({"text_encoder": 24 * GB, "transformer": 40 * GB}, machine) == []
