"""gradax.shard: every leaf along its largest dimension that the devices divide."""

import chex
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import gradax
from gradax import _sharding


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), P()),
        ((0, 4), P()),
        ((1020,), P()),
        ((1024,), P("model")),
        ((1027,), P()),
        ((30, 80), P(None, "model")),
        ((80, 80), P("model")),
        ((8, 12, 30), P(None, "model")),
    ],
)
def test_cuts_the_largest_dimension_that_divides(shape, spec):
    assert _sharding.leaf_spec(shape, 4, "model") == spec


def test_spreads_a_tree_and_what_is_made_from_it():
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    params = {"w": np.arange(2400, dtype=np.float32).reshape(30, 80), "b": np.float32(2)}
    found = gradax.shard(params, mesh)
    chex.assert_trees_all_equal(found, params)
    for tree in (found, optax.adam(0.1).init(found)[0].mu):
        assert tree["w"].addressable_shards[0].data.shape == (30, 40)


def test_refuses_an_axis_that_is_not_there():
    mesh = jax.make_mesh((4,), ("data",))
    with pytest.raises(ValueError, match=r"shard: axis must be one of 'data', got 'model'"):
        gradax.shard({}, mesh)
