"""The majority vote of signs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.placements import PLACEMENTS


def vote(rows, active=None):
    tx = federated.sign_majority_vote("clients")
    active = jnp.ones(len(rows), bool) if active is None else active
    update = lambda message, there: tx.update(message, optax.EmptyState(), active=there)[0]
    return jax.vmap(update, axis_name="clients")(rows, active)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_equals_numpy_in_every_placement(placement):
    rows = np.random.default_rng(0).normal(size=(placement.size, 5)).astype(np.float32)
    rows[0, 0], rows[1, 1] = np.nan, 0.0
    tx = federated.sign_majority_vote(placement.axis_name)
    found = placement.run(lambda message: tx.update(message, optax.EmptyState())[0], rows)
    expected = np.sign(np.nansum(np.sign(rows), axis=0))
    np.testing.assert_array_equal(found, np.tile(expected, (placement.size, 1)))


def test_one_voter_is_the_sign_and_ties_and_nobody_give_zero():
    alone = jnp.array([[2.0, -3.0, 0.0]])
    assert vote(alone)[0].tolist() == [1.0, -1.0, 0.0]
    assert vote(jnp.array([[5.0], [-1.0]]))[0].tolist() == [0.0]
    assert vote(alone, jnp.array([False]))[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("liars", [1, 2, 3])
def test_agreement_of_the_honest_outvotes_a_minority(liars):
    honest = jnp.tile(jnp.array([0.1, -0.2]), (7 - liars, 1))
    lies = -1e9 * honest[:liars]
    assert vote(jnp.concatenate([honest, lies]))[0].tolist() == [1.0, -1.0]


def test_scale_does_not_matter_and_halves_stay_halves():
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(5, 8)), jnp.bfloat16)
    found = vote(rows)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, vote(rows * jnp.bfloat16(64)))
