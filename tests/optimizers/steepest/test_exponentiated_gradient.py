"""Exponentiated gradient: what multiplying weights keeps, and what it can never do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

W, G = jnp.array([2.0, -2.0, 0.5]), jnp.array([1.0, 1.0, -2.0])


def _step(tx, g, w):
    updates, _ = tx.update(g, tx.init(w), w)
    return optax.apply_updates(w, updates)


def _draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_one_step_worked_out_by_hand():
    after = _step(optimizers.exponentiated_gradient(0.1), G, W)
    np.testing.assert_allclose(after, [1.809675, -2.210342, 0.610701], rtol=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_signs_never_change_and_zeros_stay(seed):
    w = _draw(seed, 6).at[2].set(0.0)
    tx = optimizers.exponentiated_gradient(0.5, momentum=0.9, nesterov=True, weight_decay=0.1)
    after, state = w, tx.init(w)
    for number in range(5):
        updates, state = tx.update(3 * _draw(10 * seed + number, 6), state, after)
        after = optax.apply_updates(after, updates)
    np.testing.assert_array_equal(jnp.sign(after), jnp.sign(w))
    assert float(jnp.max(jnp.abs(after - w))) > 1


def test_logarithms_move_by_addition():
    w, g = _draw(1, 8), _draw(2, 8)
    after = _step(optimizers.exponentiated_gradient(0.3), g, w)
    expected = jnp.log(jnp.abs(w)) - 0.3 * jnp.sign(w) * g
    np.testing.assert_allclose(jnp.log(jnp.abs(after)), expected, atol=2e-6)


def test_small_steps_are_proportional_to_the_weight():
    w, g = _draw(1, 8), _draw(2, 8)
    tx = optimizers.exponentiated_gradient(1e-6)
    updates, _ = tx.update(g, tx.init(w), w)
    # A difference of two exponentials would have lost all but a digit here.
    np.testing.assert_allclose(updates, -1e-6 * jnp.abs(w) * g, rtol=1e-5)


def test_renormalised_on_positive_weights_it_is_the_entropic_step():
    w, g = jax.nn.softmax(_draw(1, 5)), _draw(2, 5)
    after = _step(optimizers.exponentiated_gradient(0.4), g, w)
    entropic = _step(optimizers.composite_mirror_descent(0.4, mirror="entropic"), g, w)
    np.testing.assert_allclose(after / jnp.sum(after), entropic, rtol=1e-5)


def test_decay_shrinks_by_a_constant_factor():
    tx = optimizers.exponentiated_gradient(0.1, weight_decay=0.5)
    after = _step(tx, jnp.zeros(3), W)
    np.testing.assert_allclose(after, np.exp(-0.05) * W, rtol=1e-6)


def test_makes_any_optimizer_multiplicative():
    tx = optax.chain(optax.adam(0.1), optimizers.signed_exponentiate())
    # Adam's first step is the sign of the gradient.
    expected = W * jnp.exp(-0.1 * jnp.sign(W) * jnp.sign(G))
    np.testing.assert_allclose(_step(tx, G, W), expected, rtol=1e-5)


def test_bounds_the_exponent_in_both_directions():
    tx = optimizers.signed_exponentiate(max_exponent=16.0)
    after = _step(tx, jnp.array([-1e9, -1e9, 0.1]), W)
    np.testing.assert_allclose(after[1] / W[1], np.exp(16), rtol=1e-5)
    assert 0 < float(after[0]) < 1e-6
    np.testing.assert_allclose(after[2], 0.5 * np.exp(0.1), rtol=1e-6)
    assert float(_step(optimizers.signed_exponentiate(), jnp.full(3, -1e9), W)[0]) == 0.0


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("momentum", 1.0, r"\[0, 1\)"),
        ("weight_decay", -0.1, r"\[0, inf\)"),
        ("max_exponent", 0.0, r"\(0, inf\)"),
    ],
)
def test_rejects_constants_out_of_range(name, value, allowed):
    message = rf"exponentiated_gradient: {name} must lie in {allowed}, got {value}"
    with pytest.raises(ValueError, match=message):
        optimizers.exponentiated_gradient(0.1, **{name: value})


def test_refuses_complex_weights():
    w = jnp.ones(2, jnp.complex64)
    for tx in (optimizers.signed_exponentiate(), optimizers.exponentiated_gradient(0.1, 0.9)):
        with pytest.raises(ValueError, match="params must be real, got a complex leaf"):
            tx.update(w, tx.init(w), w)
