"""Learning rates of the round."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import federated


def test_a_number_is_sgd():
    tx, u = federated.scale_by_round_rate(0.25), {"a": jnp.arange(3.0), "masked": None}
    updates, _ = tx.update(u, tx.init(u))
    assert updates["masked"] is None
    np.testing.assert_array_equal(updates["a"], -0.25 * np.arange(3.0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_schedule_reads_the_round_and_keeps_the_dtype(dtype):
    tx = federated.scale_by_round_rate(lambda round: 0.5 * 0.5**round)
    update = jax.jit(lambda u, round: tx.update(u, tx.init(u), round=round)[0])
    for number in range(3):
        updates = update(jnp.ones(2, dtype), jnp.array(number))
        assert updates.dtype == dtype
        np.testing.assert_array_equal(updates.astype(jnp.float32), -(0.5 ** (number + 1)))


def test_a_schedule_without_a_round_is_an_error():
    tx = federated.scale_by_round_rate(optax.constant_schedule(0.1))
    with pytest.raises(gradax.MissingExtraError, match="scale_by_round_rate needs round="):
        tx.update(jnp.zeros(2), tx.init(None))


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
def test_refuses_a_rate_that_is_none(rate):
    with pytest.raises(ValueError, match=r"learning_rate must lie in \[0, inf\)"):
        federated.scale_by_round_rate(rate)


@pytest.mark.parametrize("factory", ["fedavg", "fedprox", "fedadam", "fedavgm", "fedspeed"])
def test_an_algorithm_takes_a_rate_or_an_optimizer(factory):
    make = getattr(federated, factory)
    for arguments in ({}, {"learning_rate": 0.1, "client": optax.sgd(0.1)}):
        with pytest.raises(ValueError, match=f"{factory}: give exactly one of learning_rate and"):
            make(**arguments)
    with pytest.raises(ValueError, match=rf"{factory}: learning_rate must lie in \[0, inf\)"):
        make(-0.1)
