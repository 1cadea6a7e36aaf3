"""Peers: every node keeps its own parameters, and no server is there."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.simulation.problems import (
    EXAMPLES,
    NUM_CLIENTS,
    PARAMS,
    PARTS,
    assert_close,
    assert_same_bits,
    loss_fn,
    move_to_mean,
    simulate,
)

GOSSIP = optax.chain(optax.sgd(0.1), move_to_mean())


def rows_of(params, n=NUM_CLIENTS):
    return jax.tree.map(lambda x: np.stack([x + i for i in range(n)]).astype(np.float32), params)


def by_hand(rows, rounds):
    """Everybody makes one full step and takes the mean, in NumPy."""
    for _ in range(rounds):
        stepped = []
        for i, part in enumerate(PARTS):
            mine = jax.tree.map(lambda x, i=i: x[i], rows)
            grads = jax.grad(loss_fn)(mine, jax.tree.map(lambda x, at=part: x[at], EXAMPLES))
            stepped.append(jax.tree.map(lambda p, g: p - 0.1 * g, mine, grads))
        mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *stepped)
        rows = jax.tree.map(lambda x: np.stack([x] * NUM_CLIENTS), mean)
    return rows


def test_each_node_steps_and_then_takes_the_mean():
    result = simulate(GOSSIP, rounds=2, batch_size=None, num_steps=1)
    start = jax.tree.map(lambda x: np.stack([x] * NUM_CLIENTS), PARAMS)
    assert_close(result.params, by_hand(start, 2))
    model = 4 * 4
    assert result.history.column("bytes_up") == [NUM_CLIENTS * model] * 2
    assert result.history.column("bytes_down") == [NUM_CLIENTS * model] * 2
    assert result.history.columns[-1] == "loss"


def test_nodes_may_start_apart():
    rows = rows_of(PARAMS)
    result = simulate(GOSSIP, rounds=1, batch_size=None, params=rows, replicate=False)
    assert_close(result.params, by_hand(rows, 1))


def test_without_an_exchange_each_node_is_alone():
    """The same seed gives a node the same batches, whoever else is there."""
    together = simulate(optax.sgd(0.1), rounds=2)
    alone = simulate(
        optax.sgd(0.1),
        rounds=2,
        cohort=federated.scheduled_cohort(NUM_CLIENTS, np.array([[3]])),
    )
    third = lambda tree: jax.tree.map(lambda x: x[3], tree)
    assert_close(third(alone.params), third(together.params))
    others = jax.tree.map(lambda x: np.delete(x, 3, axis=0), alone.params)
    jax.tree.map(
        lambda x, p: np.testing.assert_array_equal(x, np.broadcast_to(p, x.shape)), others, PARAMS
    )


def test_only_those_who_meet_exchange():
    rows = rows_of({"w": np.zeros(3), "b": np.zeros(())})
    meetings = federated.scheduled_cohort(NUM_CLIENTS, np.array([[0, 6], [1, 6]]))
    result = simulate(
        move_to_mean(),
        rounds=2,
        params=rows,
        replicate=False,
        cohort=meetings,
        loss_fn=None,
        grad_fn=lambda params, batch: jax.tree.map(jnp.zeros_like, params),
    )
    np.testing.assert_array_equal(result.params["b"], [3, 2, 2, 3, 4, 5, 2, 7])
    assert "loss" not in result.history.columns


LOCAL = federated.Algorithm(
    federated.local_steps(
        optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(0.1))
    ),
    move_to_mean(),
    axis_name="nodes",
)


def test_local_work_in_chunks_changes_nothing():
    whole = simulate(LOCAL, rounds=3)
    chunked = simulate(LOCAL, rounds=3, chunk=3, segment=2)
    assert_close(chunked.params, whole.params)
    spread = [np.ptp(leaf, axis=0).max() for leaf in jax.tree.leaves(whole.params)]
    assert max(spread) < 1e-6  # everybody ends at the mean


def test_goes_on_from_a_state_without_changing_a_bit():
    whole = simulate(LOCAL, rounds=3, segment=1)
    half = simulate(LOCAL, rounds=2, segment=1)
    assert_same_bits(simulate(LOCAL, rounds=3, state=half.state).params, whole.params)


def test_evaluate_and_record_see_all_nodes():
    spread = lambda rows: {"spread": jnp.ptp(rows["b"]), "means": rows["w"].mean(axis=0)}
    momentum = optax.chain(optax.ema(0.9), optax.scale(-0.1))
    counted = optax.chain(optax.scale_by_schedule(lambda count: 1.0 + count), momentum)
    result = simulate(counted, rounds=2, segment=1, evaluate=spread)
    assert result.history.column("spread")[1] > 0
    assert len(result.history.last("means")) == 3


def test_a_readout_is_what_is_evaluated_and_returned():
    middle = lambda state: {"b": state.params["b"].mean(), "round": state.round}
    look = lambda seen: {"middle": seen["b"], "made": seen["round"]}
    result = simulate(GOSSIP, rounds=2, segment=1, readout=middle, evaluate=look)
    assert set(result.params) == {"b", "round"}
    np.testing.assert_allclose(result.params["b"], np.mean(result.state.params["b"]), rtol=1e-6)
    assert result.history.column("made") == [1, 2]
    assert result.history.last("middle") == pytest.approx(float(result.params["b"]))


def test_rounds_of_nobody_have_no_loss_and_no_bytes():
    meetings = federated.scheduled_cohort(NUM_CLIENTS, np.array([[8, 8], [3, 8]]))
    history = simulate(optax.sgd(0.1), rounds=2, cohort=meetings).history
    assert history.column("num_active") == [0, 1]
    assert history.column("bytes_up") == [0, 4 * 4]
    assert "loss" not in history.rows[0]
    assert np.isfinite(history.rows[1]["loss"])


def test_every_node_has_keys_of_its_own():
    result = simulate(optax.add_noise(0.1, 0.5, jax.random.key(0)), rounds=1)
    keys = jax.random.key_data(result.state.aggregate.rng_key)
    assert len(np.unique(keys, axis=0)) == NUM_CLIENTS


def test_an_axis_that_is_not_the_nodes_is_explained():
    with pytest.raises(ValueError, match="axis_name 'clients' is not bound"):
        simulate(move_to_mean("clients"))
    named = federated.peers(move_to_mean("clients"), "clients")
    assert simulate(named, rounds=1).params["w"].shape == (NUM_CLIENTS, 3)


def test_a_cohort_of_all_nodes_is_everybody_in_whatever_order_it_was_drawn():
    topology = federated.topology
    ring = topology.metropolis_weights(topology.ring(8))
    tx = optax.chain(optax.sgd(0.1), federated.gossip(ring, "nodes"))
    expected = simulate(tx, batch_size=None, num_steps=1)
    drawn = simulate(tx, batch_size=None, num_steps=1, cohort=8)
    chex.assert_trees_all_close(drawn.params, expected.params, rtol=1e-5)
