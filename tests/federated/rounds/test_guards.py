"""Clients that diverged, and rounds in which nobody took part."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import federated

BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("bad", BAD)
def test_a_message_that_is_not_finite_does_not_count(bad):
    tx = federated.skip_nonfinite(federated.average("clients"))
    update = lambda m, w: tx.update(m, optax.EmptyState(), weight=w)[0]
    messages = {"a": jnp.arange(8.0).reshape(4, 2), "b": jnp.array([0.0, bad, 1.0, 2.0])}
    out = jax.vmap(update, axis_name="clients")(messages, jnp.array([1.0, 7.0, 1.0, 2.0]))
    np.testing.assert_allclose(out["b"][0], 5 / 4)
    np.testing.assert_allclose(out["a"][0], np.array([0 + 4 + 12, 1 + 5 + 14]) / 4)


def test_if_all_diverged_the_mean_is_zero():
    tx = federated.skip_nonfinite(federated.average("clients"))
    update = lambda m: tx.update(m, optax.EmptyState())[0]
    assert jax.vmap(update, axis_name="clients")(jnp.full(3, jnp.nan)).tolist() == [0.0] * 3


def test_finite_messages_pass_unchanged_and_empty_ones_too():
    plain = federated.average("clients")
    guarded = federated.skip_nonfinite(plain)
    rows = {"a": jnp.linspace(-3, 4, 5), "masked": None, "n": jnp.arange(5)}
    out, expected = (
        jax.vmap(lambda m, tx=tx: tx.update(m, optax.EmptyState())[0], axis_name="clients")(rows)
        for tx in (guarded, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, out, expected)
    nothing = jax.vmap(lambda _: guarded.update({}, optax.EmptyState())[0], axis_name="clients")
    assert nothing(jnp.zeros(2)) == {}


def test_a_client_that_diverged_does_not_break_a_run():
    targets = np.array([1.0, np.nan, 3.0], np.float32)
    clients = federated.data.padded(targets, [np.array([i]) for i in range(3)])
    algorithm = federated.fedavg(1.0)
    algorithm = algorithm._replace(aggregate=federated.skip_nonfinite(algorithm.aggregate))
    loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
    result = federated.simulate(algorithm, loss_fn, jnp.array(0.0), clients, rounds=2, num_steps=1)
    assert float(result.params) == 2.0


def test_only_what_streams_can_be_guarded():
    with pytest.raises(TypeError, match="skip_nonfinite: aggregate must be a SumAggregate"):
        federated.skip_nonfinite(optax.identity())


SERVERS = {"sgd": optax.sgd(0.5, momentum=0.9), "adam": optax.adam(0.1), "noise": None}


@pytest.mark.parametrize("name", SERVERS)
def test_an_empty_round_changes_nothing(name):
    server = SERVERS[name] or optax.add_noise(1.0, 0.5, jax.random.key(0))
    tx, x = federated.skip_empty(server), {"x": jnp.array([1.0, -2.0]), "masked": None}
    update = jax.jit(lambda g, state, n: tx.update(g, state, x, num_active=n))
    updates, state = update(x, tx.init(x), 3)
    plain_updates, plain_state = jax.jit(server.update)(x, server.init(x), x)
    jax.tree.map(np.testing.assert_array_equal, updates, plain_updates)
    raw = lambda tree: jax.tree.map(
        lambda k: jax.random.key_data(k) if jnp.issubdtype(k.dtype, jax.dtypes.prng_key) else k,
        tree,
    )
    jax.tree.map(np.testing.assert_array_equal, raw(state), raw(plain_state))
    nothing, same = update(jax.tree.map(jnp.zeros_like, x), state, 0)
    assert not nothing["x"].any()
    jax.tree.map(np.testing.assert_array_equal, raw(same), raw(state))


def test_a_server_with_momentum_would_move_in_an_empty_round():
    cohort = federated.scheduled_cohort(2, np.array([[0, 1], [2, 2]]))
    clients = federated.data.padded(np.float32([1, 3]), [np.array([0]), np.array([1])])
    loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
    moved = {}
    for name, wrap in (("plain", lambda tx: tx), ("guarded", federated.skip_empty)):
        algorithm = federated.fedavg(0.5, server=wrap(optax.sgd(1.0, momentum=0.5)))
        result = federated.simulate(
            algorithm, loss_fn, jnp.array(0.0), clients, rounds=2, cohort=cohort, num_steps=1
        )
        moved[name] = float(result.params)
        assert result.history.column("num_active") == [2, 0]
        assert result.history.column("bytes_up") == [8, 0]
    assert moved == {"plain": 1.5, "guarded": 1.0}


def test_skip_empty_needs_to_know_how_many_there_are():
    tx = federated.skip_empty(optax.sgd(1.0))
    with pytest.raises(gradax.MissingExtraError, match="skip_empty needs num_active="):
        tx.update(jnp.zeros(2), tx.init(jnp.zeros(2)))
