"""Nodes that are absent from a round: what their neighbours do, and what they keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import sparse

from gradax import federated

topology = federated.topology
N = 8
RING = topology.metropolis_weights(topology.ring(N))
DIRECTED = topology.exponential(N)
PRESENT = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)


def reduced(matrix, present=PRESENT):
    """Weights for absent nodes stay with who would give them; the absent stay as they are."""
    kept = np.where(present, matrix, 0.0)
    kept = kept + np.diag(1.0 - kept.sum(axis=1))
    return np.where(present[:, None], kept, np.eye(len(matrix)))


def effective_matrix(tx, present):
    """What gossip multiplies by, found by mixing unit vectors."""
    x = jnp.eye(N)

    def node(x, active):
        return x + tx.update(jnp.zeros_like(x), tx.init(x), x, active=active)[0]

    return np.asarray(jax.jit(jax.vmap(node, axis_name="nodes"))(x, jnp.asarray(present)))


WAYS = {
    "dense": (np.asarray, "gather"),
    "sparse": (sparse.csr_array, "gather"),
    "permute": (np.asarray, "permute"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("matrix", "steps"), [(RING, 1), (RING, 3), (DIRECTED, 2)])
def test_the_weight_of_the_absent_stays_with_the_node(way, matrix, steps):
    convert, backend = way
    tx = federated.gossip(convert(matrix), "nodes", steps=steps, backend=backend)
    found = effective_matrix(tx, PRESENT)
    expected = np.linalg.matrix_power(reduced(matrix), steps)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(found[~PRESENT], np.eye(N)[~PRESENT])
    np.testing.assert_array_equal(found[:, ~PRESENT][PRESENT], 0.0)
    if matrix is RING:  # symmetric: the mean of those present is kept as well
        np.testing.assert_allclose(found.sum(axis=0), 1.0, rtol=1e-5)


def test_everybody_present_is_the_matrix_itself():
    everybody = np.ones(N, bool)
    for convert, backend in WAYS.values():
        tx = federated.gossip(convert(RING), "nodes", backend=backend)
        np.testing.assert_allclose(effective_matrix(tx, everybody), RING, atol=1e-7)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_an_absent_node_holds_reaches_nobody(way):
    convert, backend = way
    tx = federated.gossip(convert(RING), "nodes", backend=backend)
    x = jnp.where(PRESENT, jnp.arange(N), jnp.nan)
    node = lambda x, active: tx.update(jnp.ones_like(x), tx.init(x), x, active=active)
    moved, state = jax.vmap(node, axis_name="nodes")(x, jnp.asarray(PRESENT))
    assert np.isfinite(moved).all()
    np.testing.assert_array_equal(moved[~PRESENT], 0.0)
    np.testing.assert_array_equal(state.wire_copies, [1, 0, 1, 1, 0, 1, 2, 2])


def zero_gradient(params, batch):
    del batch
    return jnp.zeros_like(params)


def play(mixing, ids, rounds, **settings):
    """Gossip alone, by the nodes of a list."""
    nodes = federated.data.padded(np.zeros(N, np.float32), np.arange(N)[:, None])
    return federated.simulate(
        optax.chain(optax.sgd(1.0), federated.gossip(mixing, "nodes", **settings)),
        None,
        jnp.asarray(np.arange(N) ** 2, jnp.float32),
        nodes,
        rounds=rounds,
        cohort=federated.scheduled_cohort(N, np.array(ids)),
        grad_fn=zero_gradient,
        replicate=False,
    )


IDS = {
    "fewer_lanes": [[5, 0, 1], [7, 6, 0], [8, 8, 8], [2, 3, 8]],
    "as_many_lanes": [[8, 5, 8, 0, 8, 1, 8, 8], [8, 7, 6, 8, 0, 8, 8, 8]],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_a_cohort_mixes_among_itself(way, ids):
    convert, backend = way
    expected = np.arange(N) ** 2.0
    for row in ids:
        expected = reduced(RING, np.isin(np.arange(N), row)) @ expected
    found = play(convert(RING), ids, len(ids), backend=backend).params
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("way", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("matrix", [RING, DIRECTED], ids=["symmetric", "directed"])
def test_trackers_add_up_to_the_last_gradients(way, matrix):
    rng = np.random.default_rng(0)
    present = jnp.asarray(rng.random((6, N)) < 0.6)
    with jax.enable_x64(True):
        grads = jnp.asarray(rng.normal(size=(6, N, 2)))
        tx = federated.scale_by_gradient_tracking(way(matrix), "nodes")
        node = lambda grad, state, active: tx.update(grad, state, active=active)

        def step(state, inputs):
            grads, active = inputs
            out, state = jax.vmap(node, axis_name="nodes")(grads, state, active)
            return state, (out, state.tracker, state.prev_grad, state.count)

        start = jax.vmap(tx.init)(grads[0])
        out, trackers, last, counts = jax.jit(functools.partial(jax.lax.scan, step))(
            start, (grads, present)
        )[1]
        np.testing.assert_allclose(trackers.sum(axis=1), last.sum(axis=1), atol=1e-12)
        np.testing.assert_array_equal(out[~present], 0.0)
        np.testing.assert_array_equal(last[present], grads[present])
        np.testing.assert_array_equal(counts[-1], present.sum(axis=0))


def test_a_matrix_for_another_number_of_nodes_is_refused():
    message = r"gossip: mixing is a matrix of 4 nodes, but there are 8 participants"
    with pytest.raises(ValueError, match=message):
        play(topology.complete(4) / 4 + np.eye(4) / 4, [[0, 1, 2]], 1)


def test_models_of_another_shape_are_refused():
    tx = federated.gossip(RING, "nodes")
    node = lambda u, x: tx.update(u, tx.init(x), x)[0]
    everywhere = jax.vmap(node, axis_name="nodes")
    with pytest.raises(ValueError, match=r"same shapes, got \[\(3,\)\] and \[\(1, 3\)\]"):
        everywhere(jnp.ones((N, 3)), jnp.ones((N, 1, 3)))
    with pytest.raises(ValueError, match=r"trees of one structure, got"):
        everywhere({"w": jnp.ones(N)}, {"w": jnp.ones(N), "b": jnp.ones(N)})
    nodes = federated.data.padded(np.zeros(N, np.float32), np.arange(N)[:, None])
    uneven = {"w": jnp.ones((N, 2)), "b": jnp.ones(N - 1)}
    with pytest.raises(ValueError, match=r"must have a leading axis of 8 nodes"):
        federated.simulate(tx, lambda x, batch: 0.0, uneven, nodes, rounds=1, replicate=False)
