"""The mean of messages: weights, divisor, nobody, and precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import federated


@functools.cache
def under_vmap(tx):
    update = lambda row, extras: tx.update(row, optax.EmptyState(), **extras)[0]
    return jax.jit(jax.vmap(update, axis_name="clients"))


AVERAGE = federated.average("clients")


def mean_of(rows, tx=AVERAGE, **extras):
    """What every participant receives; all are equal."""
    out = jax.tree.map(np.asarray, under_vmap(tx)(rows, extras))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, np.broadcast_to(x[0], x.shape)), out)
    return jax.tree.map(lambda x: x[0], out)


ROWS = {"a": np.arange(12.0, dtype=np.float32).reshape(3, 2, 2), "b": np.float32([1, -1, 5])}
WEIGHTS = np.float32([1.0, 2.0, 5.0])


@pytest.mark.parametrize("leaf", list(ROWS))
def test_weighs_by_examples(leaf):
    expected = np.average(ROWS[leaf], axis=0, weights=WEIGHTS)
    np.testing.assert_allclose(mean_of(ROWS, weight=WEIGHTS)[leaf], expected, rtol=1e-6)


def test_without_weights_all_are_alike():
    np.testing.assert_allclose(mean_of(ROWS)["b"], 5 / 3, rtol=1e-6)


def test_uniform_ignores_weights():
    uniform = federated.average("clients", "uniform")
    np.testing.assert_allclose(mean_of(ROWS, uniform, weight=WEIGHTS)["b"], 5 / 3, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(2**-60, 2**60))
def test_scaling_the_weights_changes_nothing(scale):
    scaled = mean_of(ROWS, weight=WEIGHTS * np.float32(scale))
    np.testing.assert_allclose(scaled["a"], mean_of(ROWS, weight=WEIGHTS)["a"], rtol=1e-5)


def test_a_participant_with_all_the_weight_decides():
    alone = mean_of(ROWS, weight=np.float32([0, 1, 0]))
    np.testing.assert_array_equal(alone["a"], ROWS["a"][1])


def test_only_the_active_count():
    out = mean_of(ROWS, weight=WEIGHTS, active=np.array([True, False, True]))
    np.testing.assert_allclose(out["b"], (1 * 1 + 5 * 5) / 6, rtol=1e-6)


@pytest.mark.parametrize("divisor", [None, 2.0])
def test_the_mean_of_nobody_is_zero(divisor):
    tx = federated.average("clients", divisor=divisor)
    out = mean_of({**ROWS, "nan": np.full(3, np.nan)}, tx, active=np.zeros(3, bool))
    assert all(not leaf.any() for leaf in jax.tree.leaves(out))


@pytest.mark.parametrize(("divisor", "expected"), [(1.0, 24.0), (4.0, 6.0)])
def test_a_divisor_takes_the_place_of_the_weights_sum(divisor, expected):
    tx = federated.average("clients", divisor=divisor)
    np.testing.assert_allclose(mean_of(ROWS, tx, weight=WEIGHTS)["b"], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    # 600 examples each: the sum of weighted messages, 192,000, is beyond float16.
    rows, weight = jnp.full(160, 2.0, dtype), jnp.full(160, 600.0)
    out = mean_of(rows, weight=weight)
    assert out.dtype == dtype
    assert float(out) == 2.0
    # In bfloat16 the sum 256 + 1 would be 256, and the divisor 257 be rounded as well.
    rows = jnp.ones(257, dtype).at[0].set(258)
    assert float(mean_of(rows)) == 2.0


def test_integers_and_complex_numbers():
    rows = {"i": jnp.array([1, 2, 2]), "c": jnp.array([1j, 2.0, 0.0])}
    out = mean_of(rows)
    np.testing.assert_allclose(out["i"], 5 / 3, rtol=1e-6)
    np.testing.assert_allclose(out["c"], (2 + 1j) / 3, rtol=1e-6)
    assert jnp.issubdtype(out["i"].dtype, jnp.floating)


def test_masked_and_empty_leaves_pass():
    out = mean_of({"masked": None, "empty": jnp.zeros((3, 0)), "here": jnp.ones((3, 1))})
    assert out["masked"] is None
    assert out["empty"].shape == (0,)
    assert out["here"].tolist() == [1.0]


def test_float64_does_not_pass_through_float32():
    with jax.enable_x64(True):
        rows = np.array([1.0, 1e-12, -1.0])
        np.testing.assert_allclose(mean_of(rows), 1e-12 / 3, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weighting": "size"}, "weighting must be one of 'examples', 'uniform', got 'size'"),
        ({"divisor": 0.0}, r"divisor must lie in \(0, inf\), got 0.0"),
        ({"divisor": -1}, r"divisor must lie in \(0, inf\), got -1"),
    ],
)
def test_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=f"average: {sentence}"):
        federated.average(**arguments)
