"""monitor_directional_sharpness: exact on quadratics, and what clipping does to it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers


def _quadratic(seed, size=6):
    """Hessian, eigenvalues, eigenvectors and a point; float64."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(size, size)))[0]
    values = np.sort(rng.normal(size=size) * 5)
    return vectors @ np.diag(values) @ vectors.T, values, vectors, rng.normal(size=size)


def _record(hessian, w, u, **options):
    monitor = optimizers.monitor_directional_sharpness(**options)
    with jax.enable_x64(True):
        hessian, w, u = (jnp.asarray(x) for x in (hessian, w, u))
        _, state = monitor.update(u, monitor.init(w), w, grad_fn=lambda params: hessian @ params)
        return jax.tree.map(np.asarray, state)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_predicts_the_change_of_a_quadratic_exactly(seed):
    hessian, values, _, w = _quadratic(seed)
    u = np.random.default_rng(seed + 10).normal(size=w.size)
    loss = lambda x: 0.5 * x @ hessian @ x
    state = _record(hessian, w, u)
    np.testing.assert_allclose(state.predicted_change, loss(w + u) - loss(w), rtol=1e-10)
    np.testing.assert_allclose(state.slope, w @ hessian @ u, rtol=1e-10)
    assert values[0] <= state.directional_sharpness <= values[-1]


def test_is_the_eigenvalue_along_an_eigenvector():
    hessian, values, vectors, w = _quadratic(4)
    for value, vector in zip(values[[0, -1]], vectors.T[[0, -1]], strict=True):
        state = _record(hessian, w, -0.3 * vector)
        np.testing.assert_allclose(state.directional_sharpness, value, rtol=1e-10)


@pytest.mark.parametrize(("normalized", "power"), [(True, 0), (False, 2)])
def test_longer_steps_count_only_if_it_is_not_normalized(normalized, power):
    hessian, _, vectors, w = _quadratic(5)
    u = vectors.sum(axis=1)
    once, thrice = (_record(hessian, w, c * u, normalized=normalized) for c in (1.0, -3.0))
    np.testing.assert_allclose(
        thrice.directional_sharpness, 3.0**power * once.directional_sharpness, rtol=1e-10
    )
    np.testing.assert_allclose(thrice.slope, -3 * once.slope, rtol=1e-10)


def test_is_far_smaller_for_signs_than_for_gradients():
    curvatures = jnp.ones(200).at[:2].set(1e3)
    w, grad_fn = jax.random.normal(jax.random.key(1), (200,)), lambda w: curvatures * w

    def sharpness(tx):
        tx = optax.chain(tx, optimizers.monitor_directional_sharpness())
        _, state = tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn)
        return optax.tree.get(state, "directional_sharpness")

    gradient, sign = sharpness(optax.sgd(0.1)), sharpness(optax.sign_sgd(0.1))
    np.testing.assert_allclose(sign, 2198 / 200, rtol=1e-5)  # trace over dimension
    assert gradient > 50 * sign


def test_takes_updates_of_another_dtype_than_params():
    monitor, w = optimizers.monitor_directional_sharpness(), jnp.array([1.0, 2.0])
    u = jnp.array([1.0, -0.5], jnp.bfloat16)
    _, state = monitor.update(u, monitor.init(w), w, grad_fn=lambda w: 3 * w)
    assert (state.directional_sharpness, state.slope) == (3, 0)
    assert state.slope.dtype == jnp.float32


@pytest.mark.parametrize("value", [None, "yes"])
def test_rejects_a_choice_that_is_none(value):
    with pytest.raises(ValueError, match="normalized must be one of True, False, got"):
        optimizers.monitor_directional_sharpness(value)
