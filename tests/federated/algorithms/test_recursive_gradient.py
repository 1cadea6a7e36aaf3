"""The recursive gradient: differences on one batch, from a start that is broadcast."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated


def test_follows_its_formula_on_changing_batches():
    tx, start = federated.recursive_gradient(), {"w": jnp.array([1.0, 2.0]), "masked": None}
    batches, y = np.array([3.0, -1.0, 0.5, 2.0]), np.array([4.0, -2.0])
    state, estimate, previous = tx.init(start), np.array([1.0, 2.0]), y
    for batch in batches:
        grad_fn = lambda x, b=batch: {"w": b * jnp.sin(x["w"]), "masked": None}
        params = {"w": jnp.asarray(y, jnp.float32), "masked": None}
        found, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn, broadcast=start)
        estimate = estimate + batch * (np.sin(y) - np.sin(previous))
        np.testing.assert_allclose(found["w"], estimate, rtol=1e-5)
        previous, y = y, y - 0.3 * estimate
    assert int(state.count) == len(batches)


def test_with_one_function_it_is_the_start_plus_the_change_of_the_gradient():
    tx, x0 = federated.recursive_gradient(), jnp.array(2.0)
    grad_fn, state = lambda x: x**3, tx.init(x0)
    for x in (x0, jnp.array(0.5), jnp.array(-1.0)):
        found, state = tx.update(grad_fn(x), state, x, grad_fn=grad_fn, broadcast=jnp.array(1.5))
        np.testing.assert_allclose(found, 1.5 + x**3 - 8, rtol=1e-6)


def test_names_what_is_missing():
    tx, x = federated.recursive_gradient(), jnp.ones(2)
    for given, missing in (({}, "grad_fn"), ({"grad_fn": lambda x: x}, "broadcast")):
        with pytest.raises(ValueError, match=f"recursive_gradient needs {missing}="):
            tx.update(x, tx.init(x), x, **given)
    with pytest.raises(ValueError, match="recursive_gradient needs params"):
        tx.update(x, tx.init(x), grad_fn=lambda x: x, broadcast=x)
