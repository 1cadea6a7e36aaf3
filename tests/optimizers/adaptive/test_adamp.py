"""AdamP: worked steps and its relation to AdamW."""

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

W = jnp.array([[3.0, 4.0], [0.0, 2.0]])
G = jnp.array([[4.0, -3.0], [1.0, 0.0]])


def _step(tx, g, w):
    return tx.update(g, tx.init(w), w)[0]


def test_step_worked_out_by_hand():
    tx = optimizers.adamp(0.1, weight_decay=0.1, channel_axis=0)
    after = optax.apply_updates(W, _step(tx, G, W))
    np.testing.assert_allclose(after, [[2.885, 4.08], [-0.1, 1.998]], atol=1e-6)


def test_channels_are_where_the_axis_says():
    by_rows = _step(optimizers.adamp(0.1, channel_axis=0), G, W)
    by_columns = _step(optimizers.adamp(0.1), G.T, W.T)
    chex.assert_trees_all_close(by_rows, by_columns.T, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_kernels_of_flax_and_of_other_layouts_take_the_same_steps(nesterov):
    rng = np.random.default_rng(1)
    draw = lambda: jnp.asarray(rng.normal(size=(3, 2, 2, 4)), jnp.float32)  # (h, w, in, out)
    to_other = lambda kernel: jnp.transpose(kernel, (3, 2, 0, 1))  # (out, in, h, w)
    build = lambda axis: optimizers.adamp(
        0.1, weight_decay=0.2, delta=0.5, nesterov=nesterov, channel_axis=axis
    )
    flax, other, w = build(-1), build(0), draw()
    states, projected = [flax.init(w), other.init(to_other(w))], 0
    never = optimizers.adamp(0.1, weight_decay=0.2, delta=0.0, nesterov=nesterov)
    for _ in range(4):
        g = draw()
        plain, _ = never.update(g, states[0], w)
        u, states[0] = flax.update(g, states[0], w)
        v, states[1] = other.update(to_other(g), states[1], to_other(w))
        chex.assert_trees_all_close(to_other(u), v, rtol=1e-5, atol=1e-7)
        projected += not np.allclose(u, plain)
        w = optax.apply_updates(w, u)
    assert projected


@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_is_adamw_on_vectors_or_without_threshold(delta):
    rng = np.random.default_rng(1)
    params = {"b": jnp.ones(4), "w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}
    if delta:
        del params["w"]
    ours, theirs = (
        optimizers.adamp(0.1, weight_decay=0.2, delta=delta),
        optax.adamw(0.1, weight_decay=0.2),
    )
    states = [ours.init(params), theirs.init(params)]
    for seed in (1, 2, 3):
        rng = np.random.default_rng(seed)
        grads = {k: jnp.asarray(rng.normal(size=v.shape), v.dtype) for k, v in params.items()}
        (u, states[0]), (v, states[1]) = (
            tx.update(grads, state, params)
            for tx, state in zip((ours, theirs), states, strict=True)
        )
        chex.assert_trees_all_close(u, v, rtol=1e-5)


def test_nesterov_looks_one_step_ahead_with_one_bias_correction():
    g = [jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0])]
    tx = optimizers.adamp(1.0, b1=0.8, b2=0.9, nesterov=True)
    state, m, v = tx.init(g[0]), 0.0, 0.0
    for t, gradient in enumerate(g, start=1):
        updates, state = tx.update(gradient, state, g[0])
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        ahead = (0.8 * m + 0.2 * gradient) / (1 - 0.8**t)
        expected = -ahead / (jnp.sqrt(v / (1 - 0.9**t)) + 1e-8)
        chex.assert_trees_all_close(updates, expected, rtol=1e-5)


def test_turns_a_scale_invariant_weight_without_lengthening_it():
    direction = lambda w: w[:, 0] / jnp.linalg.norm(w)
    w = jnp.array([[1.0], [0.5]])
    g = jnp.array([[0.2], [-0.4]])  # orthogonal to w
    updates = _step(optimizers.adamp(1e-2), g, w)
    assert abs(float(jnp.vdot(updates, w))) < 1e-8
    after = optax.apply_updates(w, updates)
    np.testing.assert_allclose(jnp.sum(after**2), jnp.sum(w**2) + jnp.sum(updates**2), rtol=1e-6)
    assert jnp.linalg.norm(direction(after) - direction(w)) > 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1.0),
        ("b1", 1.0),
        ("b2", -0.1),
        ("eps", 0.0),
        ("weight_decay", -0.1),
        ("delta", -1.0),
        ("wd_ratio", 2.0),
        ("channel_axis", "last"),
    ],
)
def test_rejects_bad_constants(name, value):
    with pytest.raises(ValueError, match=f"adamp: {name} must .*got '?{value}"):
        optimizers.adamp(**{"learning_rate": 1e-3, name: value})
