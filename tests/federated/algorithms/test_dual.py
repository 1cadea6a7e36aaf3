"""Duals of clients and their mean on the server."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import federated

X = {"a": jnp.array([1.0, -2.0]), "masked": None}


def fixed_step(delta, seen):
    """An inner transformation that always moves by ``delta`` and notes its correction."""

    def update(updates, state, params=None, *, correction, **extras):
        del updates, params, extras
        seen.append(correction)
        return delta, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@pytest.mark.parametrize("send_dual", [False, True])
def test_adds_displacements_up_and_passes_them_inwards(send_dual):
    delta, seen = jax.tree.map(jnp.ones_like, X), []
    tx = federated.dual_correction(fixed_step(delta, seen), 0.5, send_dual=send_dual)
    state = tx.init(X)
    for number in range(3):
        message, state = tx.update(X, state, X, correction="what came from outside is not it")
        np.testing.assert_allclose(seen[number]["a"], 0.5 * number)
        np.testing.assert_allclose(state.dual["a"], number + 1)
        np.testing.assert_allclose(message["a"], 1 + (number + 1) * send_dual)
    assert state.dual["masked"] is None


def test_the_server_counts_the_share_that_took_part():
    tx = federated.dual_server()
    state, mean = tx.init(X), np.zeros(2)
    for active, delta in ((4, 1.0), (1, 2.0), (2, -1.0)):
        minus = jax.tree.map(lambda x, d=delta: -d * jnp.ones_like(x), X)
        step, state = tx.update(minus, state, X, num_active=jnp.array(active), num_clients=4)
        mean = mean + active / 4 * delta
        np.testing.assert_allclose(state.mean_dual["a"], mean)
        np.testing.assert_allclose(step["a"], delta + mean)


def test_dtypes_are_kept():
    x = jnp.ones(2, jnp.bfloat16)
    inner = federated.local_steps(optax.chain(federated.add_correction(), optax.sgd(0.1)))
    tx, server = federated.dual_correction(inner, 0.1), federated.dual_server()
    extras = {"grad_fn": lambda x, batch: x, "batches": jnp.zeros(2)}
    delta, state = tx.update(x, tx.init(x), x, **extras)
    step, total = server.update(delta, server.init(x), x, num_active=3, num_clients=7)
    assert {leaf.dtype for leaf in jax.tree.leaves((delta, state, step, total))} == {x.dtype}


def test_the_weight_may_be_injected():
    inner = federated.local_steps(optax.chain(federated.add_correction(), optax.sgd(0.1)))
    make = optax.inject_hyperparams(
        lambda prox_weight: federated.dual_correction(inner, prox_weight)
    )
    extras = {"grad_fn": lambda x, batch: x, "batches": jnp.zeros(2)}
    found, expected = (
        jax.jit(lambda x, tx=tx: tx.update(x, tx.init(x), x, **extras)[0])(jnp.ones(2))
        for tx in (make(prox_weight=0.5), federated.dual_correction(inner, 0.5))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_names_what_is_missing_or_wrong():
    server = federated.dual_server()
    for given, missing in (({"num_clients": 3}, "num_active"), ({"num_active": 3}, "num_clients")):
        with pytest.raises(gradax.MissingExtraError, match=f"dual_server needs {missing}="):
            server.update(X, server.init(X), X, **given)
    for weight in (0.0, -1.0):
        with pytest.raises(
            ValueError, match=r"dual_correction: prox_weight must lie in \(0, inf\)"
        ):
            federated.dual_correction(optax.identity(), weight)
