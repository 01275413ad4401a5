"""A network whose layers are spread over machines: what comes together is what the files hold."""

import itertools

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_ltxw.weights.gathering import GatheredLayers, own_rows
from mlx_ltxw.weights.streaming import Residency
from mlx_ltxw.world import World
from tests.convert.made import converted

HELD = Residency(0, vectors_stay=True)


class Together:
    """In the place of collectives: what all machines have of an array, found by its identity."""

    def __init__(self, machines):
        self.places = {
            id(array): (number, path)
            for machine in machines
            for number, layer in enumerate(machine._own)
            for path, array in layer.items()
        }
        self.machines = machines

    def gather(self, x):
        number, path = self.places[id(x)]
        return mx.stack([machine._own[number][path] for machine in self.machines])


def gathered(model, count):
    """The layers as each of several machines has them."""
    machines = [
        GatheredLayers(model.load_transformer(mx.float32, False, HELD).transformer_blocks, World(rank, count))
        for rank in range(count)
    ]
    for machine in machines:
        machine.turns = Together(machines)
    return machines


@pytest.mark.parametrize("count", [2, 3])
def test_rows_come_together(made_model, count):
    """No number of rows divides by three."""
    whole = made_model.load_transformer(mx.float32).transformer_blocks
    machines = gathered(made_model, count)
    for machine in machines:
        for number, block in enumerate(whole):
            found = dict(tree_flatten(machine[number].parameters()))
            wanted = dict(tree_flatten(block.parameters()))
            assert found.keys() == wanted.keys()
            assert all(mx.array_equal(found[name], wanted[name]) for name in wanted)
    own = sum(array.nbytes for layer in machines[-1]._own for array in layer.values())
    every = sum(
        value.nbytes for block in whole for name, value in tree_flatten(block.parameters())
        if value.ndim == 2 and "table" not in name
    )  # fmt: skip
    assert every / count <= own <= 1.1 * every / count


def test_packed_rows_come_together():
    model = converted("8", 32)
    whole, (machine, _) = model.load_transformer(mx.float32).transformer_blocks, gathered(model, 2)
    found, wanted = (dict(tree_flatten(each.parameters())) for each in (machine[1], whole[1]))
    assert found.keys() == wanted.keys()
    assert all(mx.array_equal(found[name], wanted[name]) for name in wanted)


def test_each_machine_reads_its_rows_alone(made_model):
    """By hand: of 5 rows of three machines the first two have two."""
    tensor = next(one for one in made_model.tensors("transformer") if len(one.shape) == 2)
    parts = [own_rows(tensor, World(rank, 3)) for rank in range(3)]
    assert parts[0].start == tensor.start
    assert parts[2].stop == tensor.stop
    assert all(before.stop == after.start for before, after in itertools.pairwise(parts))
    assert sum(part.nbytes for part in parts) == tensor.nbytes
