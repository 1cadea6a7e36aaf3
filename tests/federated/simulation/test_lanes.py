"""Lanes: cutting them into chunks, mapping over them, and binding axes."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradax.federated import axis
from gradax.federated.simulation._lanes import Lanes, Sum, add_up, map_lanes, split, under_axis


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, [[3], [1], [4]]), (2, [[3, 1], [4, 9]]), (3, [[3, 1, 4]]), (5, [[3, 1, 4, 9, 9]])],
)
def test_the_last_chunk_is_filled_up_with_nobody(size, expected):
    ids = jnp.array([3, 1, 4])
    lanes = Lanes(ids, {"weight": jnp.arange(6.0).reshape(3, 2)}, ids)
    chunks = split(lanes, size, nobody=9)
    assert chunks.ids.tolist() == expected
    assert chunks.extras["weight"].shape == (len(expected), size, 2)
    kept = chunks.extras["weight"].reshape(-1, 2)[:3]
    np.testing.assert_array_equal(kept, lanes.extras["weight"])


def test_one_lane_is_a_plain_call_and_several_are_mapped():
    ranks = []

    def function(row, common):
        ranks.append(type(row).__name__)
        return {"sum": row.sum() + common, "row": row}

    for lanes in (1, 3):
        rows = jnp.arange(2.0 * lanes).reshape(lanes, 2)
        out = map_lanes(function, ((0), None), rows, jnp.array(10.0))
        np.testing.assert_allclose(out["sum"], rows.sum(axis=1) + 10)
        np.testing.assert_allclose(out["row"], rows)
    assert ranks[0] != ranks[1]


def test_axes_may_be_trees():
    out = map_lanes(
        lambda pair, rows: pair["a"] * pair["b"] + rows,
        ({"a": 0, "b": None}, 0),
        {"a": jnp.arange(1.0), "b": jnp.array(5.0)},
        jnp.ones(1),
    )
    assert out.tolist() == [1.0]


@pytest.mark.parametrize("name", ["nodes", ("hosts", "nodes"), ("sites", "hosts", "nodes")])
def test_binds_one_name_or_a_nest(name):
    tell = lambda x: (axis.size(name) + 0 * x, axis.index(name), axis.mean(x, name))
    size, index, mean = under_axis(tell, name, (0,))(jnp.array([1.0, 2.0, 6.0]))
    assert size.tolist() == [3, 3, 3]
    assert index.tolist() == [0, 1, 2]
    assert mean.tolist() == [3.0, 3.0, 3.0]
    common = under_axis(lambda x: axis.mean(x, name), name, (0,), None)
    assert float(common(jnp.array([1.0, 3.0]))) == 2.0


def test_sums_are_wide():
    lanes = Sum(jnp.ones(300), {"v": jnp.ones(300, jnp.bfloat16), "n": jnp.arange(300)})
    total = add_up(lanes)
    assert total.weight == 300
    assert total.values["v"].dtype == jnp.float32
    assert total.values["v"] == 300
    assert total.values["n"] == 299 * 150
