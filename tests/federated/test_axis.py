"""Collectives mean the same in every placement: NumPy on the stacked values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax.federated import axis
from tests.federated.placements import DEVICES, LANES, PLACEMENTS

everywhere = pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
nested = pytest.mark.parametrize(
    "placement", [p for p in PLACEMENTS if isinstance(p.axis_name, tuple)], ids=lambda p: p.name
)


def make_rows(n):
    """A value for each of ``n`` participants: a matrix, a scalar, nothing, integers."""
    rng = np.random.default_rng(n)
    return {
        "matrix": rng.normal(size=(n, 2, 3)).astype(np.float32),
        "scalar": rng.normal(size=n).astype(np.float32),
        "empty": np.zeros((n, 0), np.float32),
        "integer": rng.integers(-9, 9, size=(n, 2)).astype(np.int32),
    }


def to_all(rows, function):
    """What everybody receives, stacked."""
    combine = lambda leaf: np.broadcast_to(function(leaf), (len(leaf), *function(leaf).shape))
    return jax.tree.map(combine, rows)


def assert_close(actual, expected, rtol=1e-5):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


@everywhere
def test_numbers_participants_row_major_and_counts_them(placement):
    tell = lambda _: (axis.index(placement.axis_name), jnp.array(axis.size(placement.axis_name)))
    index, size = placement.run(tell, jnp.zeros(placement.size))
    np.testing.assert_array_equal(index, np.arange(placement.size))
    np.testing.assert_array_equal(size, placement.size)
    assert index.dtype == jnp.int32


@everywhere
def test_gathers_in_the_order_of_index(placement):
    rows = make_rows(placement.size)
    gathered = placement.run(lambda tree: axis.all_gather(tree, placement.axis_name), rows)
    assert_close(gathered, to_all(rows, lambda leaf: leaf), rtol=0)


@everywhere
def test_sums_and_means(placement):
    rows = make_rows(placement.size)
    both = lambda tree: (axis.sum(tree, placement.axis_name), axis.mean(tree, placement.axis_name))
    total, average = placement.run(both, rows)
    assert_close(total, to_all(rows, lambda leaf: leaf.sum(axis=0)))
    assert_close(average, to_all(rows, lambda leaf: leaf.mean(axis=0)))
    assert total["integer"].dtype == jnp.int32
    assert jnp.issubdtype(average["integer"].dtype, jnp.floating)


@everywhere
def test_weighted_sum_is_a_contraction(placement):
    rows, weight = make_rows(placement.size), np.linspace(-1, 2, placement.size, dtype=np.float32)
    weigh = lambda tree, w: axis.weighted_sum(tree, w, placement.axis_name)
    expected = to_all(rows, lambda leaf: np.tensordot(weight, leaf, axes=1))
    assert_close(placement.run(weigh, rows, weight), expected)


@everywhere
def test_permutes_fully_and_in_part(placement):
    n, rows = placement.size, make_rows(placement.size)
    shift = [(i, (i + 3) % n) for i in range(n)]
    swap = [(0, n - 1), (n - 1, 0), (1, 1)]

    def send(tree):
        pairs = (shift, swap, [])
        return [axis.permute(tree, placement.axis_name, chosen) for chosen in pairs]

    def receive(leaf, pairs):
        result = np.zeros_like(leaf)
        for source, destination in pairs:
            result[destination] = leaf[source]
        return result

    expected = [jax.tree.map(lambda x, p=p: receive(x, p), rows) for p in (shift, swap, [])]
    assert_close(placement.run(send, rows), expected, rtol=0)


@nested
def test_one_name_of_a_nest_means_that_level_only(placement):
    values = jnp.arange(DEVICES * LANES, dtype=jnp.float32)
    levels = lambda x: (axis.mean(x, "devices"), axis.mean(x, "lanes"), axis.size("lanes") + 0 * x)
    outer, inner, size = placement.run(levels, values)
    square = np.asarray(values).reshape(DEVICES, LANES)
    np.testing.assert_allclose(outer, np.tile(square.mean(axis=0), DEVICES))
    np.testing.assert_allclose(inner, np.repeat(square.mean(axis=1), LANES))
    np.testing.assert_array_equal(size, LANES)


@everywhere
def test_bfloat16_is_summed_in_float32(placement):
    # 256 + 1 is 256 in bfloat16: adding one by one in it would lose every 1.
    values = jnp.ones(placement.size, jnp.bfloat16).at[0].set(256)
    tell = lambda x: (axis.sum(x, placement.axis_name), axis.mean(x, placement.axis_name))
    total, average = placement.run(tell, values)
    exact = 255 + placement.size
    assert total.dtype == average.dtype == jnp.bfloat16
    assert (total == jnp.bfloat16(exact)).all()
    assert (average == jnp.bfloat16(exact / placement.size)).all()


def test_a_bfloat16_mean_is_rounded_once():
    values = jnp.array([256, 1, 6], jnp.bfloat16)  # their sum, 263, would be rounded to 264
    mean = jax.vmap(lambda x: axis.mean(x, "nodes"), axis_name="nodes")(values)
    assert (mean == jnp.bfloat16(263 / 3)).all()


def test_counts_booleans_and_adds_integers_exactly():
    big = jnp.array([2**24, 1, 1], jnp.int32)
    add = jax.vmap(lambda x: axis.sum(x, "nodes"), axis_name="nodes")
    assert add(jnp.array([True, True, False])).tolist() == [2, 2, 2]
    assert add(big).tolist() == [2**24 + 2] * 3


def test_a_boolean_weight_selects():
    rows, active = jnp.array([1.0, 2.0, 4.0]), jnp.array([True, False, True])
    select = jax.vmap(lambda x, a: axis.weighted_sum(x, a, "nodes"), axis_name="nodes")
    np.testing.assert_allclose(select(rows, active), 5.0)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex64])
def test_keeps_wide_and_complex_dtypes(dtype):
    with jax.enable_x64(True):
        rows = jnp.arange(3).astype(dtype) / 3
        mean = jax.vmap(lambda x: axis.mean(x, "nodes"), axis_name="nodes")(rows)
        assert mean.dtype == dtype
        np.testing.assert_allclose(mean, 1 / 3, rtol=1e-15 if dtype == jnp.float64 else 1e-6)


def test_masked_leaves_pass():
    tree = {"here": jnp.arange(2.0), "masked": None}
    mean = jax.vmap(lambda t: axis.mean(t, "nodes"), axis_name="nodes")(tree)
    assert mean["masked"] is None


@everywhere
def test_tells_devices_from_lanes(placement):
    seen = []

    def look(x):
        seen.append(axis.is_manual(placement.axis_name))
        return x

    placement.run(look, jnp.zeros(placement.size))
    assert set(seen) == {"map" in placement.name.replace("vmap", "")}


CALLS = {
    "all_gather": lambda name: axis.all_gather(1.0, name),
    "index": axis.index,
    "mean": lambda name: axis.mean(1.0, name),
    "permute": lambda name: axis.permute(1.0, name, []),
    "size": axis.size,
    "sum": lambda name: axis.sum(1.0, name),
    "weighted_sum": lambda name: axis.weighted_sum(1.0, 1.0, name),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_unbound_axis_is_explained(call):
    with pytest.raises(ValueError, match=r"axis_name 'nodes' is not bound: call the update inside"):
        call("nodes")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_axis_must_be_named_well(call):
    with pytest.raises(ValueError, match=r"must not repeat a name, got \('a', 'a'\)"):
        call(("a", "a"))
    for wrong in ((), 3, None, ("a", 1)):
        with pytest.raises(ValueError, match="must be a string or a tuple of them"):
            call(wrong)


def test_half_of_a_nest_unbound_names_the_missing_axis():
    inner = jax.vmap(lambda x: axis.mean(x, ("hosts", "nodes")), axis_name="nodes")
    with pytest.raises(ValueError, match="'hosts' is not bound"):
        inner(jnp.zeros(2))


@pytest.mark.parametrize(
    ("pairs", "side"),
    [([(0, 1), (0, 2)], "source"), ([(0, 1), (2, 1)], "destination"), ([(0, 3)], "destination")],
)
def test_a_wrong_permutation_is_refused(pairs, side):
    send = jax.vmap(lambda x: axis.permute(x, "nodes", pairs), axis_name="nodes")
    with pytest.raises(ValueError, match=rf"every {side} must occur once and lie in \[0, 3\)"):
        send(jnp.zeros(3))


def test_other_name_errors_are_left_alone():
    with pytest.raises(NameError, match="undefined_variable"):
        axis._explain_unbound(lambda: undefined_variable)()  # noqa: F821
