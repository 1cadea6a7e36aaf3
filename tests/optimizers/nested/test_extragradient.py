"""Extragradient on bilinear games: exact factors, constraints, participants."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import federated, optimizers

extragradient = optimizers.extragradient
bilinear = lambda z: jnp.array([z[1], -z[0]])


def play(tx, z, steps, field=bilinear):
    """Where some steps lead."""

    def step(carry, _):
        z, state = carry
        updates, state = tx.update(field(z), state, z, grad_fn=field)
        return (optax.apply_updates(z, updates), state), None

    return jax.lax.scan(step, (z, tx.init(z)), length=steps)[0][0]


def test_norms_change_by_the_exact_factors():
    rates = np.array([0.05, 0.3, 0.9, 1.0, 1.2])

    @jax.jit
    @jax.vmap
    def norms(rate):
        methods = (
            extragradient(optax.sgd(rate)),
            optax.with_extra_args_support(optax.sgd(rate)),
            extragradient(optax.sgd(0.0), optax.sgd(rate)),
        )
        return [jnp.linalg.norm(play(tx, jnp.array([1.0, 0.0]), 3)) for tx in methods]

    ours, descent, without_looking_ahead = norms(jnp.asarray(rates))
    np.testing.assert_allclose(ours, (1 - rates**2 + rates**4) ** 1.5, rtol=1e-5)
    np.testing.assert_allclose(descent, (1 + rates**2) ** 1.5, rtol=1e-5)
    np.testing.assert_allclose(without_looking_ahead, descent, rtol=1e-6)


def test_norms_after_two_thousand_steps():
    methods = (
        optax.with_extra_args_support(optax.sgd(0.1)),
        extragradient(optax.sgd(0.1)),
        optax.with_extra_args_support(optimizers.optimistic_gradient_descent(0.1)),
    )
    with jax.enable_x64(True):
        ends = jax.jit(lambda z: [play(tx, z, 2000) for tx in methods])(jnp.ones(2))
    norms = [np.linalg.norm(end) for end in ends]
    np.testing.assert_allclose(norms, [2.96e4, 6.8e-5, 5.6e-5], rtol=1e-2)


@pytest.mark.parametrize("update", [None, optax.sgd(0.2)], ids=["same", "other"])
def test_never_leaves_what_is_allowed(update):
    low, high = jnp.array([0.5, -1.0]), jnp.array([2.0, 1.0])
    inside = lambda z: jnp.all((z >= low) & (z <= high))
    field = lambda z: jnp.where(inside(z), bilinear(z), jnp.nan)
    tx = extragradient(optax.sgd(0.2), update, lambda z: jnp.clip(z, low, high))
    end = jax.jit(lambda z: play(tx, z, 100, field))(jnp.array([2.0, -1.0]))
    np.testing.assert_allclose(end, [0.5, 1.0], atol=1e-6)


def test_the_raw_gradient_is_that_of_the_point_ahead():
    def with_grad(updates, state, params=None, *, grad, **_):
        return jax.tree.map(lambda u, g: -0.5 * (u + g) / 2, updates, grad), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, with_grad)
    z, tx = jnp.array([1.0, 0.0]), extragradient(inner)
    step, _ = tx.update(bilinear(z), tx.init(z), z, grad_fn=bilinear, grad=bilinear(z))
    np.testing.assert_allclose(z + step, [0.75, 0.5])


def test_participants_that_average_both_values_play_the_mean_game():
    tx = extragradient(optax.chain(federated.average("nodes"), optax.sgd(0.3)))
    factors = jnp.array([0.5, 1.0, 1.5])
    run = lambda factor: play(tx, jnp.ones(2), 3, lambda z: factor * bilinear(z))
    ends = jax.jit(jax.vmap(run, axis_name="nodes"))(factors)
    alone = play(extragradient(optax.sgd(0.3)), jnp.ones(2), 3)
    np.testing.assert_allclose(ends, np.tile(alone, (3, 1)), rtol=1e-6)


def test_asks_for_the_function():
    tx, z = extragradient(optax.sgd(0.1)), jnp.ones(2)
    with pytest.raises(gradax.MissingExtraError, match="extragradient needs grad_fn="):
        tx.update(z, tx.init(z), z)
