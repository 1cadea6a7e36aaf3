"""sam_gradient: closed forms on quadratics, limits, and what it needs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import optimizers

H = jnp.array([[2.0, 0.5], [0.5, 4.0]])
TARGET = {"a": jnp.array([1.0]), "b": jnp.array([-2.0])}


def _flat(tree):
    return jnp.concatenate([tree["a"], tree["b"]])


def _grad_fn(params, *_):
    away = H @ (_flat(params) - _flat(TARGET))
    return {"a": away[:1], "b": away[1:]}


PARAMS = {"a": jnp.array([3.0]), "b": jnp.array([0.5])}


def _update(tx, params=PARAMS):
    return tx.update(_grad_fn(params), tx.init(params), params, grad_fn=_grad_fn)[0]


@pytest.mark.parametrize("merge", [0.0, 0.25, 1.0])
def test_closed_form_on_a_quadratic(merge):
    g = _flat(_grad_fn(PARAMS))
    uphill = g + 0.3 * H @ g / jnp.linalg.norm(g)  # one norm over both leaves
    expected = (1 - merge) * g + merge * uphill
    tx = optimizers.sam_gradient(0.3, merge=merge)
    chex.assert_trees_all_close(_flat(_update(tx)), expected, rtol=1e-5)


def test_without_radius_it_is_the_gradient():
    chex.assert_trees_all_close(_update(optimizers.sam_gradient(0.0)), _grad_fn(PARAMS))


def test_a_zero_gradient_moves_nothing():
    updates = _update(optimizers.sam_gradient(0.5), TARGET)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, TARGET))


def test_eps_stands_beside_the_norm():
    g = jnp.array([3e-3, 4e-3])
    tx = optimizers.sam_gradient(1.0, eps=5e-3)
    seen = []
    tx.update(g, tx.init(g), jnp.zeros(2), grad_fn=lambda w: seen.append(w) or w)
    np.testing.assert_allclose(seen[0], [0.3, 0.4], rtol=1e-6)


def test_is_half_of_a_step_of_optax_sam():
    # optax's reaches the same gradient in two calls, the first of which only climbs.
    sgd = optax.sgd(0.1)
    ours = optax.chain(optimizers.sam_gradient(0.05), sgd)
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    theirs = optax.contrib.sam(sgd, adversary, sync_period=2, opaque_mode=True)
    expected, _ = theirs.update(_grad_fn(PARAMS), theirs.init(PARAMS), PARAMS, grad_fn=_grad_fn)
    chex.assert_trees_all_close(_update(ours), expected, rtol=1e-5)


def test_keeps_the_dtype_of_params_and_gradient():
    w = jnp.ones(3, jnp.bfloat16)

    def grad_fn(params):
        assert params.dtype == jnp.bfloat16
        return params

    tx = optimizers.sam_gradient(0.1)
    assert tx.update(w, tx.init(w), w, grad_fn=grad_fn)[0].dtype == jnp.bfloat16


def test_says_what_it_needs():
    tx, w = optimizers.sam_gradient(0.1), jnp.ones(2)
    with pytest.raises(gradax.MissingExtraError, match="sam_gradient needs grad_fn="):
        tx.update(w, tx.init(w), w)
    with pytest.raises(ValueError, match="sam_gradient needs params"):
        tx.update(w, tx.init(w), grad_fn=_grad_fn)


@pytest.mark.parametrize(("name", "value"), [("rho", -0.1), ("merge", 1.5), ("eps", 0.0)])
def test_rejects_bad_constants(name, value):
    with pytest.raises(ValueError, match=f"sam_gradient: {name} must lie in .*got {value}"):
        optimizers.sam_gradient(**{"rho": 0.1, name: value})
