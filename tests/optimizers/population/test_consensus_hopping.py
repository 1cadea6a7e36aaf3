"""Consensus hopping: the jump, and the proximal step that many of them make."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradax import optimizers
from tests.optimizers.population.searches import given, one_step, rastrigin, search

X, LOSSES = jnp.float32([0.0, 1.0, 3.0]), np.float32([2.0, 1.0, 4.0])
CONSENSUS = 0.81074159


def test_jumps_from_the_consensus():
    draws = jnp.float32([1.0, -1.0, 0.5])
    make = lambda xi: optimizers.consensus_hopping(0.2, 1.0, sampler=given(xi))
    x, state = one_step(make, X, LOSSES, draws)
    np.testing.assert_allclose(x, CONSENSUS + 0.2 * draws, rtol=1e-6)
    np.testing.assert_allclose(state.consensus, [CONSENSUS] * 3, rtol=1e-6)


def test_cbo_with_full_drift_hops_with_the_width_of_the_gap():
    draws, dt = jnp.float32([1.0, -1.0, 0.5]), 0.25
    cbo = lambda xi: optimizers.cbo(1 / dt, 0.8, 1.0, dt, "anisotropic", sampler=given(xi))
    width = lambda x: 0.8 * dt**0.5 * jnp.abs(x - CONSENSUS)
    hop = lambda xi, x: optimizers.consensus_hopping(width(x), 1.0, sampler=given(xi))
    expected, _ = one_step(hop, X, LOSSES, draws, X)
    np.testing.assert_allclose(one_step(cbo, X, LOSSES, draws)[0], expected, rtol=1e-5)


def test_the_consensus_makes_a_proximal_step():
    sigma, alpha, curvature, goal = 0.5, 2.0, 2.0, np.float32([0.8, -0.4])
    loss = lambda x: curvature / 2 * jnp.sum((x - goal) ** 2)
    tx = optimizers.consensus_hopping(sigma, alpha)
    _, state = search(tx, loss, jnp.zeros((20_000, 2)), 2)
    tau = alpha * sigma**2
    # The minimum of loss + |x - 0|^2 / (2 tau), as for a Gaussian cloud around the origin.
    expected = tau * curvature * goal / (1 + tau * curvature)
    np.testing.assert_allclose(state.consensus[0], expected, atol=0.02)


def test_a_cloud_from_one_point_leaves_a_local_minimum():
    start = jnp.full((400, 2), 2.5)
    narrow, wide = (
        search(optimizers.consensus_hopping(sigma), rastrigin, start, 150)[1].consensus[0]
        for sigma in (0.05, 0.5)
    )
    np.testing.assert_allclose(narrow, 2.5, atol=0.3)
    np.testing.assert_allclose(wide, 0.5, atol=0.2)


def test_a_schedule_narrows_the_cloud():
    make = lambda: optimizers.consensus_hopping(lambda t: jnp.where(t < 1, 1.0, 0.0), 1.0)
    x, state = one_step(make, X, LOSSES)
    assert np.ptp(x) > 0.1
    x, state = one_step(make, x, LOSSES, state=state)
    np.testing.assert_allclose(x, state.consensus, rtol=1e-6)


@pytest.mark.parametrize("name", ["sigma", "alpha"])
def test_rejects_negative_numbers(name):
    with pytest.raises(ValueError, match=rf"consensus_hopping: {name} must lie in \[0, inf\)"):
        optimizers.consensus_hopping(**{name: -1.0})
