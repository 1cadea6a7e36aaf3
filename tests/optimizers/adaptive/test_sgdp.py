"""SGDP: a worked step, its relation to SGD, and the toy problem of a normalised weight."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers


def test_step_worked_out_by_hand():
    w, g = jnp.array([[3.0, 4.0], [0.0, 2.0]]), jnp.array([[4.0, -3.0], [1.0, 0.0]])
    tx = optimizers.sgdp(0.1, momentum=0.9, weight_decay=0.1, channel_axis=0)
    after = optax.apply_updates(w, tx.update(g, tx.init(w), w)[0])
    np.testing.assert_allclose(after, [[2.57, 4.26], [-0.1, 1.98]], atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_is_sgd_on_vectors(nesterov):
    w = jnp.array([1.0, -2.0, 0.5])
    ours = optimizers.sgdp(0.1, momentum=0.9, nesterov=nesterov)
    theirs = optax.sgd(0.1, momentum=0.9, nesterov=nesterov)
    states = [ours.init(w), theirs.init(w)]
    for seed in (1, 2, 3):
        g = jnp.asarray(np.random.default_rng(seed).normal(size=3), jnp.float32)
        u, states[0] = ours.update(g, states[0], w)
        v, states[1] = theirs.update(g, states[1], w)
        chex.assert_trees_all_close(u, v, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_threshold_it_is_sgd_with_decoupled_decay(nesterov):
    rng = np.random.default_rng(1)
    draw = lambda: jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    w, options = draw(), {"momentum": 0.8, "nesterov": nesterov}
    ours = optimizers.sgdp(0.1, **options, weight_decay=0.03, dampening=0.5, delta=0.0)
    state, momentum = ours.init(w), 0.0
    for _ in range(3):
        g = draw()
        u, state = ours.update(g, state, w)
        momentum = 0.8 * momentum + 0.5 * g
        direction = g + 0.8 * momentum if nesterov else momentum
        expected = -0.1 * (direction + 0.03 / (1 - 0.8) * w)
        chex.assert_trees_all_close(u, expected, rtol=1e-5, atol=1e-6)
        w = optax.apply_updates(w, u)


def test_dampening_spares_the_undelayed_gradient():
    w = g = jnp.array([1.0, -2.0])
    tx = optimizers.sgdp(1.0, momentum=0.5, dampening=0.2, nesterov=True)
    updates, _ = tx.update(g, tx.init(w), w)
    chex.assert_trees_all_close(updates, -(g + 0.5 * 0.8 * g), rtol=1e-6)


def _train(tx):
    """Norms of the weight and losses for a loss that depends on its direction only."""
    curvature = jnp.array([0.0, 1.0, 10.0])

    def loss(w):
        direction = w[0] / jnp.linalg.norm(w)
        return 0.5 * jnp.sum(curvature * direction**2)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), (jnp.linalg.norm(w), loss(w))

    w = jnp.array([[0.3, 0.6, 0.74]])
    w = w / jnp.linalg.norm(w)
    return jax.lax.scan(step, (w, tx.init(w)), length=300)[1]


def test_keeps_the_norm_and_so_the_speed_where_sgd_slows_down():
    with jax.enable_x64(True):
        sgd = _train(optax.sgd(0.1, momentum=0.9))
        sgdp = _train(optimizers.sgdp(0.1, momentum=0.9, channel_axis=0))
    after = lambda values, steps: [float(values[step - 1]) for step in steps]
    np.testing.assert_allclose(after(sgd[0], (10, 100, 300)), [4.448, 7.762, 7.804], atol=1e-3)
    np.testing.assert_allclose(after(sgdp[0], (10, 100, 300)), [1.421, 1.451, 1.451], atol=1e-3)
    np.testing.assert_allclose(after(sgd[1], (50, 100, 300)), [1.1e-1, 1.9e-2, 5.8e-6], rtol=5e-2)
    ends = after(sgdp[1], (50, 100, 300))
    np.testing.assert_allclose(ends, [3.7e-5, 8.0e-7, 5.7e-16], rtol=5e-2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1.0),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("dampening", 1.1),
        ("weight_decay", -0.1),
        ("eps", -1e-8),
        ("delta", -1.0),
        ("wd_ratio", -0.5),
    ],
)
def test_rejects_bad_constants(name, value):
    with pytest.raises(ValueError, match=f"sgdp: {name} must lie in .*got {value}"):
        optimizers.sgdp(**{"learning_rate": 1e-3, name: value})
