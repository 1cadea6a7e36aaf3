"""diffGrad: its relation to Adam, and the authors' three functions of one variable."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import optimizers


def _gradients(seed, steps=6):
    return np.random.default_rng(seed).normal(size=(steps, 5)).astype(np.float32)


def _directions(tx, gradients):
    state = tx.init(gradients[0])
    for gradient in gradients:
        direction, state = tx.update(jnp.asarray(gradient), state)
        yield direction


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lies_between_half_of_adam_and_adam(seed):
    gradients = _gradients(seed)
    ours = _directions(optimizers.scale_by_diffgrad(), gradients)
    for u, w in zip(ours, _directions(optax.scale_by_adam(), gradients), strict=True):
        share = np.asarray(u) / np.asarray(w)
        assert np.all(share >= 0.5 - 1e-6)
        assert np.all(share <= 1 + 1e-6)


def test_is_half_of_adam_once_the_gradient_stands_still():
    gradients = np.repeat(_gradients(1, steps=1), 4, axis=0)
    ours = list(_directions(optimizers.scale_by_diffgrad(), gradients))
    adam = list(_directions(optax.scale_by_adam(), gradients))
    for u, w in zip(ours[1:], adam[1:], strict=True):
        chex.assert_trees_all_close(u, w / 2, rtol=1e-6)


def test_is_adam_where_gradients_change_violently():
    gradients = np.array([[1e3], [-2e3], [3e3], [-1e3]], np.float32)
    ours = _directions(optimizers.scale_by_diffgrad(), gradients)
    for u, w in zip(ours, _directions(optax.scale_by_adam(), gradients), strict=True):
        chex.assert_trees_all_close(u, w, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(size=st.floats(2**-10, 2**10, width=32), sign=st.sampled_from([-1, 1]))
def test_first_step_is_sign_times_friction(size, sign):
    g, tx = jnp.float32(sign * size), optimizers.scale_by_diffgrad()
    direction, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(direction, sign / (1 + np.exp(-size)), rtol=1e-4)


def test_two_steps_worked_out_by_hand():
    w, tx = jnp.array([1.0, -2.0]), optimizers.diffgrad(0.1)
    state, expected = tx.init(w), ([0.937754, -1.926894], [0.887754, -1.931530])
    for gradient, after in zip(([0.5, -1.0], [0.5, 1.0]), expected, strict=True):
        updates, state = tx.update(jnp.array(gradient), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, after, atol=1e-6)


# Derivatives of the three functions of the paper's analysis.
CURVES = {
    "F1": lambda x: jnp.where(x <= 0, 2 * x + 0.6, 2 * x - 0.4),
    "F2": lambda x: jnp.where(x <= -0.9, -40.0, x * jnp.cos(8 * x) + jnp.sin(8 * x) + 3 * x**2),
    "F3": lambda x: jnp.select(
        [x <= -0.5, x <= -0.4, x <= 0, x <= 0.4, x <= 0.5],
        [2 * x, 1.0, -7 / 8, 7 / 8, -1.0],
        2 * x,
    ),
}


def _walk(tx, derivative):
    """The 300 iterates from -1 on."""

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(derivative(x), state, x)
        return (optax.apply_updates(x, updates), state), x

    x = jnp.array(-1.0)
    return np.asarray(jax.lax.scan(step, (x, tx.init(x)), length=300)[1])


@pytest.mark.parametrize(
    ("curve", "adam_end", "our_end"), [("F1", 0.2001, -0.3001), ("F2", 0.0002, -0.8121)]
)
def test_stops_in_the_global_minimum_that_adam_passes(curve, adam_end, our_end):
    adam, ours = optax.adam(0.1, b1=0.95), optimizers.diffgrad(0.1, b1=0.95)
    np.testing.assert_allclose(_walk(adam, CURVES[curve])[-1], adam_end, atol=1e-4)
    np.testing.assert_allclose(_walk(ours, CURVES[curve])[-1], our_end, atol=1e-4)


def test_overshoots_less_than_adam():
    adam = _walk(optax.adam(0.1, b1=0.95), CURVES["F3"])
    ours = _walk(optimizers.diffgrad(0.1, b1=0.95), CURVES["F3"])
    np.testing.assert_allclose([adam.max(), ours.max()], [0.267, 0.183], atol=1e-3)
    assert abs(adam[-1]) < 0.03
    assert abs(ours[-1]) < 0.03


def test_remembers_the_latest_gradient_in_alternating_slots():
    gradients, tx = jnp.asarray(_gradients(1)), optimizers.scale_by_diffgrad()
    state = tx.init(gradients[0])
    np.testing.assert_array_equal(state.prev_grad, 0.0)
    for number, gradient in enumerate(gradients, start=1):
        _, state = tx.update(gradient, state)
        np.testing.assert_array_equal(state.prev_grad, gradient)
        slot = state.odd_grad if number % 2 else state.even_grad
        np.testing.assert_array_equal(slot, gradient)


def test_a_donated_step_copies_no_leaf():
    params = {"w": jnp.ones((64, 64)), "b": jnp.ones(64)}
    tx = optimizers.diffgrad(1e-3)
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    copies = [line for line in compiled.as_text().splitlines() if " copy(f32[64" in line]
    assert not copies
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 64 * 4


def test_decay_through_the_gradient_or_beside_the_direction():
    w, g = jnp.array([1.0, -2.0]), jnp.array([0.5, -1.0])
    plain, coupled, decoupled = (
        optimizers.diffgrad(0.1, **options)
        for options in ({}, {"weight_decay": 0.2}, {"weight_decay": 0.2, "decoupled": True})
    )
    step = lambda tx, g: tx.update(g, tx.init(w), w)[0]
    chex.assert_trees_all_close(step(coupled, g), step(plain, g + 0.2 * w), rtol=1e-6)
    chex.assert_trees_all_close(step(decoupled, g), step(plain, g) - 0.1 * 0.2 * w, rtol=1e-6)


def test_keeps_the_first_moment_in_another_dtype():
    g = jnp.ones(3, jnp.bfloat16)
    tx = optimizers.diffgrad(0.1, mu_dtype=jnp.float32)
    updates, state = tx.update(g, tx.init(g), g)
    assert updates.dtype == jnp.bfloat16
    assert optax.tree.get(state, "mu").dtype == jnp.float32
    assert optax.tree.get(state, "nu").dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("b1", 1.0, r"\[0, 1\)"),
        ("b2", -0.1, r"\[0, 1\)"),
        ("eps", -1e-8, r"\[0, inf\)"),
        ("weight_decay", -0.1, r"\[0, inf\)"),
    ],
)
def test_rejects_constants_out_of_range(name, value, allowed):
    with pytest.raises(ValueError, match=rf"diffgrad: {name} must lie in {allowed}, got {value}"):
        optimizers.diffgrad(1e-3, **{name: value})
