"""AdaBelief is optax's: what the catalogue promises about it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import catalogue, optimizers


def test_is_the_original():
    assert optimizers.adabelief is optax.adabelief
    assert catalogue.get("adabelief").reexport_of == "optax.adabelief"


def test_two_steps_worked_out_by_hand():
    w, tx = jnp.array([1.0, -2.0]), optimizers.adabelief(0.1, eps=1e-16, eps_root=1e-16)
    state, expected = tx.init(w), ([0.888889, -1.888889], [0.772088, -1.894452])
    for gradient, after in zip(([0.5, -1.0], [0.5, 1.0]), expected, strict=True):
        updates, state = tx.update(jnp.array(gradient), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, after, atol=1e-5)


@pytest.mark.parametrize("b1", [0.5, 0.9])
def test_first_step_is_the_sign_over_b1(b1):
    g, tx = jnp.array([3.0, -0.01]), optimizers.adabelief(0.1, b1=b1, eps=1e-16, eps_root=1e-16)
    updates, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_allclose(updates, [-0.1 / b1, 0.1 / b1], rtol=1e-4)


def test_steps_grow_beyond_the_rate_when_the_gradient_stands_still():
    g, tx = jnp.array(1.0), optimizers.adabelief(1e-3, eps=1e-16, eps_root=1e-16)

    def step(state, _):
        updates, state = tx.update(g, state, g)
        return state, updates

    _, updates = jax.lax.scan(step, tx.init(g), length=2000)
    np.testing.assert_allclose(updates[-1], -0.0386, atol=1e-4)
