"""Optimistic Newton steps: against dense matrices, and where they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

D, G, ALPHA = 2.0, 2.0, 0.5


def _run(tx, x, gradients):
    update, state = jax.jit(tx.update), tx.init(x)
    for g in gradients:
        updates, state = update(g, state, x)
        x = optax.apply_updates(x, updates)
    return x, state


def test_one_step_worked_out_by_hand():
    tx = optimizers.optimistic_newton(2.0, 1.0, 1.0)
    x, state = _run(tx, jnp.array([1.0, 0.0]), [jnp.array([1.0, -1.0])])
    np.testing.assert_allclose(state.hat, [0.030303, 0.969697], atol=1e-6)
    np.testing.assert_allclose(x, [-0.883983, 1.883983], atol=1e-6)


@pytest.mark.parametrize("alpha", [ALPHA, 0.01])
def test_equals_dense_steps_however_params_are_split(alpha):
    gradients = np.random.default_rng(1).normal(size=(8, 4))
    beta = 0.5 * min(1 / (4 * G * D), alpha)
    matrix, hat, x = (1 + beta * G**2 / 2) * np.eye(4), np.zeros(4), np.zeros(4)
    for g in gradients:
        hat = hat - np.linalg.solve(matrix, g)
        matrix += beta / 2 * np.outer(g, g)
        x = hat - np.linalg.solve(matrix, g)
    with jax.enable_x64(True):
        tx = optimizers.optimistic_newton(D, G, alpha)
        split = [{"a": jnp.array(g[:2]).reshape(1, 2), "b": jnp.array(g[2:])} for g in gradients]
        start = {"a": jnp.zeros((1, 2)), "b": jnp.zeros(2)}
        ours, state = _run(tx, start, split)
        flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        np.testing.assert_allclose(flat(ours), x, rtol=1e-12)
        np.testing.assert_allclose(flat(state.hat), hat, rtol=1e-12)
        root = np.concatenate([np.reshape(state.root[k], (2, 4)) for k in "ab"])
        np.testing.assert_allclose(root @ root.T, np.linalg.inv(matrix), rtol=1e-11, atol=1e-13)


def test_the_inverse_stays_positive_in_single_precision():
    gradients = 1e4 * jnp.asarray(np.random.default_rng(2).normal(size=(30, 3)), jnp.float32)
    x, state = _run(optimizers.optimistic_newton(1.0, 1.0, 1.0), jnp.zeros(3), gradients)
    assert bool(jnp.all(jnp.isfinite(x)))
    inverse = np.asarray(state.root @ state.root.T, np.float64)
    assert np.linalg.eigvalsh(inverse).min() >= -1e-6 * np.abs(inverse).max()


def test_refuses_what_is_too_large_for_a_dense_matrix():
    with pytest.raises(ValueError, match=r"at most max_size = 4096 elements, got 4097"):
        optimizers.optimistic_newton(D, G, ALPHA).init(jnp.zeros(4097))
    with pytest.raises(ValueError, match=r"at most max_size = 3 elements, got 4"):
        optimizers.optimistic_newton(D, G, ALPHA, max_size=3).init([jnp.zeros(2), jnp.zeros(2)])


@pytest.mark.parametrize("name", ["diameter", "lipschitz", "exp_concavity"])
def test_rejects_constants_that_are_not_positive(name):
    options = {"diameter": D, "lipschitz": G, "exp_concavity": ALPHA, name: 0.0}
    with pytest.raises(ValueError, match=rf"optimistic_newton: {name} must lie in \(0, inf\)"):
        optimizers.optimistic_newton(**options)
    with pytest.raises(ValueError, match="max_size must be an integer >= 1"):
        optimizers.optimistic_newton(D, G, ALPHA, max_size=0)
