"""clip_coordinates: an exact order statistic, and what cutting to it does."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import optimizers

U = jnp.array([0.1, -5.0, 0.3, 2.0, -0.2])


def _clip(u, *args, **kwargs):
    return optimizers.clip_coordinates(*args, **kwargs).update(u, optax.EmptyState())[0]


def _sizes(tree):
    leaves = [np.abs(np.asarray(leaf, np.complex128)).ravel() for leaf in jax.tree.leaves(tree)]
    return np.sort(np.concatenate(leaves))[::-1]


def _tree(dtype, seed=1):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return {"w": draw(7, 3), "b": draw(), "v": draw(50), "empty": draw(0, 3), "none": None}


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.0, [0.1, -5.0, 0.3, 2.0, -0.2]),
        (0.2, [0.1, -2.0, 0.3, 2.0, -0.2]),
        (0.4, [0.1, -0.3, 0.3, 0.3, -0.2]),
        (1.0, [0.1, -0.1, 0.1, 0.1, -0.1]),
    ],
)
def test_the_worked_example(fraction, expected):
    chex.assert_trees_all_equal(_clip(U, fraction), jnp.array(expected))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])
def test_cuts_to_the_order_statistic(dtype):
    tree = _tree(dtype)
    whole, by_leaf = jax.jit(lambda t: (_clip(t, 0.3), _clip(t, 0.3, "leaf")))(tree)
    # 72 coordinates: 21 are clipped; of the 50 of one leaf 15, of one scalar none.
    np.testing.assert_allclose(_sizes(whole)[0], _sizes(tree)[21], rtol=1e-6)
    np.testing.assert_allclose(_sizes(whole)[22:], _sizes(tree)[22:], rtol=1e-6)
    np.testing.assert_allclose(_sizes(by_leaf["v"])[0], _sizes(tree["v"])[15], rtol=1e-6)
    chex.assert_trees_all_equal(by_leaf["b"], tree["b"])
    chex.assert_trees_all_equal_shapes_and_dtypes((whole, by_leaf), (tree, tree))


def test_leaves_of_several_dtypes_are_ranked_together():
    with jax.enable_x64(True):
        tree = {"a": jnp.array([1.0, -4.0], jnp.bfloat16), "b": jnp.array([3.0, 2.0], jnp.float16)}
        tree |= {"c": jnp.array([0.5, -6.0]), "d": jnp.array([5.0 + 0.0j], jnp.complex64)}
        clipped = _clip(tree, 0.45)  # 3 of 7
        expected = {"a": [1.0, -3.0], "b": [3.0, 2.0], "c": [0.5, -3.0], "d": [3.0]}
        chex.assert_trees_all_equal_dtypes(clipped, tree)
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x: np.asarray(x, complex), clipped),
            {name: np.array(values, complex) for name, values in expected.items()},
        )


@settings(deadline=None, max_examples=25)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
        min_size=6,
        max_size=6,
    )
)
def test_keeps_signs_and_is_idempotent(values):
    u = np.array(values, np.float32)
    once = jitted(u)
    size = np.sort(np.abs(u))[::-1][2]
    np.testing.assert_array_equal(once, np.clip(u, -size, size))
    np.testing.assert_array_equal(jitted(once), once)


jitted = jax.jit(lambda u: _clip(u, 0.4))


@pytest.mark.parametrize("factor", [2.0**-60, -(2.0**60)])
def test_scales_with_its_input(factor):
    chex.assert_trees_all_equal(_clip(factor * U, 0.4), factor * _clip(U, 0.4))


def test_one_tenth_unless_told_otherwise():
    u = _tree(jnp.float32)
    chex.assert_trees_all_equal(_clip(u), _clip(u, 0.1))


def test_a_fraction_counts_as_it_is_written():
    u = jnp.arange(100.0)  # 0.29 * 100 is 28.999999999999996 in floating point
    assert float(jnp.max(_clip(u, 0.29))) == 70.0


def test_a_threshold_is_the_clipping_of_optax():
    tree = _tree(jnp.float32)
    reference, _ = optax.clip(0.7).update(tree, None)
    chex.assert_trees_all_equal(_clip(tree, threshold=0.7), reference)
    z = jnp.array([3.0 + 4.0j, 0.1j])
    chex.assert_trees_all_close(_clip(z, threshold=1.0), jnp.array([0.6 + 0.8j, 0.1j]))


def test_a_threshold_may_be_traced():
    cut = jax.jit(lambda tau: _clip(U, threshold=tau))
    chex.assert_trees_all_equal(cut(0.3), _clip(U, 0.4))


def test_nothing_but_nan_becomes_nan():
    u = jnp.array([jnp.nan, 1.0, -jnp.inf, 2.0])
    np.testing.assert_array_equal(_clip(u, 0.5), [jnp.nan, 1.0, -2.0, 2.0])


def test_keeps_no_array_of_the_size_of_the_tree():
    u = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64))}
    compiled = jax.jit(lambda u: _clip(u, 0.1)).lower(u).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 64 * 4


def test_runs_under_checked_shard_map():
    mesh = jax.make_mesh((1,), ("x",), (jax.sharding.AxisType.Auto,))
    cut = jax.shard_map(
        lambda u: _clip(u, 0.4), mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x")
    )
    chex.assert_trees_all_equal(jax.jit(cut)(U), _clip(U, 0.4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": -0.1}, r"fraction must lie in \[0, 1\], got -0.1"),
        ({"fraction": 1.5}, r"fraction must lie in \[0, 1\], got 1.5"),
        ({"fraction": jnp.float32(0.1)}, "fraction must be a number known before tracing"),
        ({"scope": "tree"}, "scope must be one of 'global', 'leaf', got 'tree'"),
        ({"threshold": 0.0}, r"threshold must lie in \(0, inf\), got 0.0"),
        ({"fraction": 0.1, "threshold": 1.0}, "fraction must be None beside a threshold"),
    ],
)
def test_rejects_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"clip_coordinates: {message}"):
        optimizers.clip_coordinates(**arguments)


def test_refuses_more_coordinates_than_it_can_count():
    half = jax.ShapeDtypeStruct((2**30,), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"scope must hold fewer than 2\*\*31 coordinates"):
        jax.eval_shape(lambda u: _clip(u, 0.1), {"a": half, "b": half})
    jax.eval_shape(lambda u: _clip(u, 0.1, "leaf"), {"a": half, "b": half})
