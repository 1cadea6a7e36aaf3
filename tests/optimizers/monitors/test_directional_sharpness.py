"""directional_sharpness: exact on quadratics, whatever the length of the direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import optimizers

CURVATURE = {"a": jnp.array([1.0, 100.0, 7.0]), "b": jnp.array([[3.0]]), "empty": jnp.zeros((0, 2))}


def _quadratic(params):
    terms = jax.tree.map(lambda h, w: 0.5 * jnp.sum(h.astype(w.dtype) * w**2), CURVATURE, params)
    return sum(jax.tree.leaves(terms))


def _params(seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda h: jnp.asarray(rng.normal(size=h.shape), jnp.float32), CURVATURE)


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(float)


measure = jax.jit(lambda w, v: optimizers.directional_sharpness(jax.grad(_quadratic), w, v))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_is_exact_on_a_quadratic(seed):
    w, v = _params(seed), _params(seed + 10)
    h, x, u = _flat(CURVATURE), _flat(w), _flat(v)
    found = measure(w, v)
    np.testing.assert_allclose(found, (u @ (h * u) / (u @ u), (h * x) @ u / np.sqrt(u @ u)), 1e-4)
    assert h.min() <= found[0] <= h.max()


def test_predicts_the_change_of_a_step():
    w, v, length = _params(1), _params(2), 0.01
    sharpness, correlation = measure(w, v)
    step = length / np.linalg.norm(_flat(v))
    moved = jax.tree.map(lambda x, u: x - step * u, w, v)
    predicted = -length * correlation + 0.5 * length**2 * sharpness
    np.testing.assert_allclose(_quadratic(moved) - _quadratic(w), predicted, rtol=1e-3)


def test_an_eigenvector_gives_its_eigenvalue():
    v = jax.tree.map(jnp.zeros_like, _params())
    v["a"] = v["a"].at[1].set(-3.0)
    np.testing.assert_allclose(measure(_params(), v)[0], 100.0, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_does_not_depend_on_the_length(scale):
    w, v = _params(1), _params(2)
    scaled = jax.tree.map(lambda u: scale * u, v)
    np.testing.assert_allclose(measure(w, scaled), measure(w, v), rtol=1e-5)
    opposite = jax.tree.map(jnp.negative, v)
    np.testing.assert_allclose(measure(w, opposite), measure(w, v) * np.array([1, -1]), rtol=1e-5)


def test_signs_and_clipped_directions_are_flatter_than_the_gradient():
    h = np.r_[np.full(2, 1e3), np.ones(198)]
    grad_fn = lambda w: jnp.asarray(h, jnp.float32) * w
    w = jnp.asarray(np.random.default_rng(0).normal(size=200), jnp.float32)
    g = grad_fn(w)
    clipped, _ = optimizers.clip_coordinates(0.1).update(g, None)
    sharp = lambda v: optimizers.directional_sharpness(grad_fn, w, v)[0]
    np.testing.assert_allclose(sharp(jnp.sign(g)), h.mean(), rtol=1e-5)
    assert 10 * sharp(clipped) < sharp(g)


def test_a_zero_direction_gives_zeros():
    w = _params()
    assert np.all(np.asarray(measure(w, jax.tree.map(jnp.zeros_like, w))) == 0)
    assert np.all(np.asarray(optimizers.directional_sharpness(lambda p: p, {}, {})) == 0)


def test_complex_parameters_follow_the_loss_along_the_line():
    loss = lambda z: jnp.sum(jnp.abs(z) ** 2 * jnp.array([1.0, 4.0])) + jnp.real(z[0] ** 3)
    z, v = jnp.array([1 + 2j, 3 - 1j]), jnp.array([0.3 - 1j, 2 + 0.5j])
    along = lambda t: loss(z + t * v)
    norm = jnp.linalg.norm(v)
    found = optimizers.directional_sharpness(jax.grad(loss), z, v)
    expected = jax.grad(jax.grad(along))(0.0) / norm**2, jax.grad(along)(0.0) / norm
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sums_bfloat16_in_float32():
    low = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
    w, v = _params(1), _params(2)
    found = measure(low(w), low(v))
    assert [x.dtype for x in found] == [jnp.float32, jnp.float32]
    np.testing.assert_allclose(found, measure(w, v), rtol=5e-2)
