"""A network that is read at once has the numbers of one whose arrays MLX reads when it first needs them."""

import dataclasses

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.errors import UserError
from mlx_ltxw.weights import eager
from mlx_ltxw.weights.dtype import memory_dtype
from mlx_ltxw.weights.reading import TensorReader


def parameters(network):
    return dict(tree_flatten(network.parameters()))


def dtype_in_memory(name, stored):
    return memory_dtype("transformer", name, stored, mx.bfloat16)


def tensors_of(model):
    return {tensor.name: tensor for tensor in model.tensors("transformer")}


def test_same_numbers_and_every_byte_is_read_once(made_model, monkeypatch):
    want = parameters(made_model.load_transformer(mx.bfloat16))
    network, tensors, filled = made_model.load_transformer(mx.bfloat16), tensors_of(made_model), []
    fill, largest = TensorReader.fill, max(tensor.nbytes for tensor in tensors.values())
    monkeypatch.setattr(eager, "GROUP", 3 * largest)
    monkeypatch.setattr(
        TensorReader, "fill", lambda self, places: (filled.append([one.name for one, _ in places]), fill(self, places))
    )
    count = eager.read_now(network, tensors, dtype_in_memory)
    assert count == sum(tensor.nbytes for tensor in tensors.values())
    assert sorted(name for names in filled for name in names) == sorted(tensors)
    assert len(filled) > 3
    assert all(sum(tensors[name].nbytes for name in names) <= 3 * largest for names in filled)
    got = parameters(network)
    assert got.keys() == want.keys()
    assert all(got[name].dtype == want[name].dtype and mx.array_equal(got[name], want[name]) for name in want)


def test_a_lost_file_is_told(made_model, tmp_path):
    tensors = tensors_of(made_model)
    lost = {name: dataclasses.replace(one, path=tmp_path / "gone") for name, one in tensors.items()}
    with pytest.raises(UserError, match="can no longer be read"):
        eager.read_now(made_model.load_transformer(mx.bfloat16), lost, dtype_in_memory)
