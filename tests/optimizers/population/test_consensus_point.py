"""The consensus: which individuals count, and how much."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import optimizers

X, LOSSES = np.float32([0.0, 1.0, 3.0]), np.float32([2.0, 1.0, 4.0])
BEST, MEAN = X[1], np.mean(X)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, None, 0), axis_name="population")
def _meet(x, value, alpha, active):
    return optimizers.consensus_point(x, value, alpha, active=active)


def meet(x=X, losses=LOSSES, alpha=1.0, active=(True,) * 3):
    """The consensus of three numbers, which all three agree on."""
    arguments = jnp.float32(x), jnp.float32(losses), jnp.float32(alpha), jnp.array(active)
    points = np.asarray(_meet(*arguments))
    np.testing.assert_array_equal(points, points[0])
    return points[0]


def test_follows_the_worked_example():
    np.testing.assert_allclose(meet(), 0.81074159, rtol=1e-6)
    weights = [meet(x=row) for row in np.eye(3)]
    np.testing.assert_allclose(weights, [0.25949646, 0.70538451, 0.03511903], rtol=1e-6)


def test_a_constant_added_to_all_losses_changes_nothing():
    assert meet(losses=LOSSES + 1024.0) == meet()


@pytest.mark.parametrize(("alpha", "point"), [(0.0, MEAN), (1e3, BEST), (1e15, BEST)])
def test_alpha_leads_from_the_mean_to_the_best(alpha, point):
    np.testing.assert_allclose(meet(alpha=alpha), point, rtol=1e-6)


@pytest.mark.parametrize(
    ("losses", "alpha", "point"),
    [
        ((3e30, 1e30, 2e30), 1e15, BEST),
        ((3e38, -3e38, 0.0), 0.0, MEAN),
        ((np.nan, 1.0, np.inf), 0.0, BEST),
        ((-np.inf, 1.0, np.nan), 1.0, BEST),
        ((np.inf, np.inf, np.nan), 1.0, MEAN),
    ],
)
def test_losses_that_are_huge_or_not_finite(losses, alpha, point):
    np.testing.assert_allclose(meet(losses=losses, alpha=alpha), point, rtol=1e-6)


def test_who_is_lost_or_absent_is_not_heard():
    assert meet(x=(np.nan, 1.0, np.inf), losses=(np.nan, 2.0, np.nan)) == BEST
    assert meet(active=(True, False, False)) == X[0]
    assert meet(losses=(np.inf, 1.0, np.inf), active=(True, False, True)) == 1.5


def test_keeps_dtypes_and_leaves_integers_alone():
    x = {"half": jnp.bfloat16(X), "count": jnp.arange(3), "none": None}
    meet_all = jax.jit(jax.vmap(optimizers.consensus_point, axis_name="population"))
    point = meet_all(x, jnp.zeros(3))
    assert point["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(point["half"], jnp.full(3, MEAN, jnp.bfloat16))
    np.testing.assert_array_equal(point["count"], x["count"])


def test_rejects_what_cannot_work():
    with pytest.raises(ValueError, match=r"consensus_point: alpha must lie in \[0, inf\), got -1"):
        optimizers.consensus_point(X, 1.0, alpha=-1)
    with pytest.raises(ValueError, match=r"value must be a real scalar.* got float32\[3\]"):
        optimizers.consensus_point(X, LOSSES)
    with pytest.raises(ValueError, match="axis_name 'island' is not bound"):
        optimizers.consensus_point(X, 1.0, axis_name="island")
