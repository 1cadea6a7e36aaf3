"""Hypentropy: its two limits, and numbers at the edge of their dtype."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

W, G = jnp.array([0.3, -2.0, 0.0]), jnp.array([1.0, -0.5, 2.0])


def _updates(tx, g=G, w=W):
    return tx.update(g, tx.init(w), w)[0]


def test_is_the_step_of_its_formula():
    beta, w, g = 0.7, np.asarray(W, np.float64), np.asarray(G, np.float64)
    expected = beta * np.sinh(np.arcsinh(w / beta) - 0.1 * g) - w
    np.testing.assert_allclose(_updates(optimizers.hypentropy(0.1, beta)), expected, rtol=1e-5)


def test_a_large_beta_is_gradient_descent():
    updates = _updates(optimizers.hypentropy(1e-5, beta=1e4))
    np.testing.assert_allclose(updates, -0.1 * G, rtol=0.01)


def test_a_small_beta_is_the_exponentiated_gradient():
    updates = _updates(optimizers.hypentropy(0.1, beta=1e-6))
    expected = _updates(optimizers.exponentiated_gradient(0.1))
    np.testing.assert_allclose(updates[:2], expected[:2], rtol=1e-4)


def test_a_tiny_step_does_not_cancel():
    updates = _updates(optimizers.hypentropy(1e-7))
    np.testing.assert_allclose(updates, -1e-7 * jnp.sqrt(W**2 + 1) * G, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("beta", [0.1, 10.0])
def test_weights_stay_finite(dtype, beta):
    w, tx = jnp.array([1.0, -1.0], dtype), optimizers.hypentropy(1.0, beta)
    for _ in range(2):
        w = optax.apply_updates(w, _updates(tx, jnp.array([3e4, -3e4], dtype), w))
        assert bool(jnp.all(jnp.isfinite(w)))
    assert float(w[0]) < -1e3
    w = optax.apply_updates(w, _updates(tx, jnp.array([-3e4, 3e4], dtype), w))
    assert bool(jnp.all(jnp.isfinite(w)))
    assert float(w[0]) > 1e3


def test_rejects_a_beta_that_is_not_positive():
    with pytest.raises(ValueError, match=r"hypentropy: beta must lie in \(0, inf\), got 0.0"):
        optimizers.hypentropy(0.1, beta=0.0)
