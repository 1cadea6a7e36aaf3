"""States of many participants and their random keys."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated
from gradax.federated.rounds._participants import fold_keys

KEY = jax.random.key(3)


class Keys(NamedTuple):
    key: jax.Array
    shared_key: jax.Array
    several: jax.Array
    count: jax.Array


def with_keys():
    init = lambda params: Keys(KEY, KEY, jax.random.split(KEY, (2, 3)), jnp.zeros([], jnp.int32))
    return optax.GradientTransformation(init, lambda u, s, p=None: (u, s))


def bits(keys):
    return np.asarray(jax.random.key_data(keys))


def test_a_participant_has_keys_of_its_own():
    ids = jnp.array([4, 0, 7])
    states = federated.init_participants(
        optax.chain(with_keys(), optax.sgd(0.1)), jnp.zeros(2), ids
    )
    keys = states[0]
    expected = [bits(jax.random.fold_in(KEY, number)) for number in (4, 0, 7)]
    np.testing.assert_array_equal(bits(keys.key), expected)
    assert keys.several.shape == (3, 2, 3)
    assert len(np.unique(bits(keys.several).reshape(-1, 2), axis=0)) == 18
    np.testing.assert_array_equal(keys.count, 0)


def test_shared_keys_are_left_alone():
    states = federated.init_participants(with_keys(), jnp.zeros(2), jnp.arange(3))
    np.testing.assert_array_equal(bits(states.shared_key), [bits(KEY)] * 3)


def test_everything_below_a_shared_field_is_shared():
    state = {"shared": {"inner": Keys(KEY, KEY, KEY, jnp.array(0))}, "mine": KEY}
    folded = fold_keys(state, jnp.array(5))
    assert (bits(folded["shared"]["inner"].key) == bits(KEY)).all()
    assert (bits(folded["mine"]) != bits(KEY)).any()
    common = fold_keys(state, None, common=jnp.array(2))
    np.testing.assert_array_equal(
        bits(common["shared"]["inner"].key), bits(jax.random.fold_in(KEY, 2))
    )
    assert (bits(common["mine"]) == bits(KEY)).all()


def test_the_order_of_participants_does_not_matter():
    tx, order = optax.add_noise(0.1, 0.5, jax.random.key(0)), jnp.array([2, 0, 1])
    straight = federated.init_participants(tx, jnp.zeros(2), jnp.arange(3))
    mixed = federated.init_participants(tx, jnp.zeros(2), order)
    np.testing.assert_array_equal(bits(straight.rng_key[order]), bits(mixed.rng_key))


def test_a_state_without_leaves_costs_nothing():
    states = federated.init_participants(optax.sgd(0.1), jnp.zeros(2), jnp.arange(1000))
    assert not jax.tree.leaves(states)
