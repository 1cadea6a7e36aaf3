"""hessian_top_eigenvalue against dense eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers


def quadratic(eigenvalues, seed=0):
    """A quadratic loss with these eigenvalues on a tree of two leaves, and its Hessian."""
    size = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    hessian = jnp.asarray(basis * np.asarray(eigenvalues) @ basis.T, jnp.float32)

    def loss(params):
        w = jnp.concatenate([params["a"].ravel(), params["b"].ravel()])
        return 0.5 * w @ hessian @ w

    return loss, {"a": jnp.ones((2, 2)), "b": jnp.ones(size - 4)}, hessian


@pytest.mark.parametrize("top", [9.0, -9.0])
def test_finds_the_largest_magnitude_with_its_sign(top):
    loss, params, hessian = quadratic([top, 3.0, 2.0, 1.0, 0.0, -1.0])
    value, vector = optimizers.hessian_top_eigenvalue(jax.grad(loss), params, num_iters=30)
    np.testing.assert_allclose(value, top, rtol=1e-5)
    v = jnp.concatenate([vector["a"].ravel(), vector["b"]])
    np.testing.assert_allclose(hessian @ v, top * v, atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(v), 1.0, rtol=1e-6)


def test_one_iteration_is_a_rayleigh_quotient():
    loss, params, hessian = quadratic([5.0, 3.0, 2.0, 1.0, 0.5, -1.0])
    start = {"a": jnp.full((2, 2), 2.0), "b": jnp.zeros(2)}
    value, vector = optimizers.hessian_top_eigenvalue(jax.grad(loss), params, start, num_iters=1)
    v = jnp.array([0.5] * 4 + [0.0] * 2)  # divided by its length first
    np.testing.assert_allclose(value, v @ hessian @ v, rtol=1e-5)
    following = hessian @ v / jnp.linalg.norm(hessian @ v)
    np.testing.assert_allclose(vector["b"], following[4:], rtol=1e-4)


def test_a_warm_start_follows_a_moving_hessian():
    loss = lambda w: jnp.sum(w**4) + 3 * w[0] ** 2 * w[1] ** 2
    here, there = jnp.array([1.0, 0.5, 0.2]), jnp.array([1.02, 0.53, 0.2])
    top = lambda w: jnp.linalg.eigvalsh(jax.hessian(loss)(w))[-1]
    find = optimizers.hessian_top_eigenvalue
    _, vector = find(jax.grad(loss), here, num_iters=30)
    warm, _ = find(jax.grad(loss), there, vector, num_iters=2)
    cold, _ = find(jax.grad(loss), there, jnp.array([0.1, 1.0, 1.0]), num_iters=2)
    assert abs(warm - top(there)) < 1e-2 < abs(cold - top(there))


def test_stops_at_the_tolerance_and_takes_a_traced_number():
    loss, params, _ = quadratic([1.0, 0.99, 0.98, 0.97, 0.96, 0.95])
    find = jax.jit(
        lambda n, tol: optimizers.hessian_top_eigenvalue(
            jax.grad(loss), params, num_iters=n, tol=tol
        )[0]
    )
    long, short = find(500, 0.0), find(500, 0.1)
    assert 0.995 < long < 1.0001
    assert short == find(2, 0.0) < 0.99


def test_a_random_start_sees_what_ones_do_not():
    x, y = jnp.linspace(-1, 1, 12).reshape(6, 2), jnp.arange(6) % 3

    def loss(w):  # softmax regression does not mind a constant added to all logits
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ w, y))

    w = jnp.zeros((2, 3))
    top = np.linalg.eigvalsh(jax.hessian(loss)(w).reshape(6, 6))[-1]
    blind, _ = optimizers.hessian_top_eigenvalue(jax.grad(loss), w, jnp.ones((2, 3)), num_iters=1)
    value, _ = optimizers.hessian_top_eigenvalue(jax.grad(loss), w, num_iters=40, key=3)
    assert abs(blind) < 1e-7
    np.testing.assert_allclose(value, top, rtol=1e-4)


def test_keeps_a_vector_that_the_hessian_maps_to_nothing():
    v = jnp.array([0.6, 0.8])
    for slope in (0.0, 1e38):  # no curvature, or too much for single precision
        grad_fn = lambda w, slope=slope: slope * w
        _, vector = optimizers.hessian_top_eigenvalue(grad_fn, v, v)
        np.testing.assert_allclose(vector, v, rtol=1e-6)
    assert optimizers.hessian_top_eigenvalue(lambda w: 0 * w, v, v)[0] == 0


def test_complex_and_half_precision_leaves():
    loss = lambda p: 3 * jnp.sum(jnp.abs(p["z"]) ** 2) + jnp.sum(p["h"] ** 2)
    params = {"z": jnp.array([1 + 2j, 0.5j]), "h": jnp.ones(3, jnp.bfloat16)}
    value, vector = optimizers.hessian_top_eigenvalue(jax.grad(loss), params)
    np.testing.assert_allclose(value, 6.0, rtol=1e-2)
    assert value.dtype == jnp.float32
    assert [v.dtype for v in jax.tree.leaves(vector)] == [jnp.bfloat16, jnp.complex64]


def test_differentiates_through_loops():
    def loss(w):
        return jax.lax.scan(lambda x, _: (jnp.sin(x), None), w, length=3)[0].sum()

    w = jnp.array([0.1, 1.3])
    value, _ = jax.jit(
        lambda w: optimizers.hessian_top_eigenvalue(jax.grad(loss), w, num_iters=60)
    )(w)
    eigenvalues = np.linalg.eigvalsh(jax.hessian(loss)(w))
    np.testing.assert_allclose(value, eigenvalues[np.argmax(abs(eigenvalues))], rtol=1e-4)


@pytest.mark.parametrize(("name", "value"), [("num_iters", 0), ("num_iters", 2.0), ("tol", -1.0)])
def test_rejects_a_bad_number(name, value):
    with pytest.raises(ValueError, match=f"hessian_top_eigenvalue: {name} must"):
        optimizers.hessian_top_eigenvalue(lambda w: w, jnp.ones(2), **{name: value})
