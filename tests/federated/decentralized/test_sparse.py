"""Sparse mixing: the numbers of the dense form, in every placement, at the cost of the edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from gradax import federated
from gradax.federated.decentralized._sparse_rows import Placed, SparseRows
from tests.federated.nodes import apply_to_all
from tests.federated.placements import PLACEMENTS

topology = federated.topology


def random_matrix(n, seed, heavy=0):
    """Few entries in most rows, many in some; none in the last."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n, n)) < 3 / n
    mask[rng.choice(n, heavy, replace=False)] = True
    mask[-1] = False
    return sparse.csr_array(np.where(mask, rng.normal(size=(n, n)), 0.0))


MATRICES = {
    "even": [topology.exponential(12, sparse=True)],
    "star": [topology.metropolis_weights(topology.star(20, sparse=True))],
    "full": [sparse.csr_array(np.random.default_rng(0).normal(size=(18, 18)))],
    "in_turn": [random_matrix(30, seed, heavy) for seed, heavy in ((1, 3), (2, 0), (3, 1))],
}


@pytest.mark.parametrize("matrices", MATRICES.values(), ids=MATRICES)
def test_rows_times_what_all_hold(matrices):
    n, rng = matrices[0].shape[0], np.random.default_rng(0)
    values, present = jnp.asarray(rng.normal(size=(n, 2, 3)), jnp.float32), rng.random(n) < 0.7
    rows, nodes = SparseRows(matrices), jnp.arange(n)
    seats = np.flatnonzero(present)[::-1]  # those who are there, in another order
    lane_of = np.zeros(n, np.int32)
    lane_of[seats] = np.arange(len(seats))
    placed = Placed(jnp.asarray(present), jnp.asarray(lane_of))

    @jax.jit
    def every_row(t):
        plain = jax.vmap(lambda node: rows.times(t, node, values))(nodes)
        some = jax.vmap(lambda node: rows.times(t, node, values[seats], placed))(nodes)
        return plain, some

    for t in range(2 * len(matrices) - 1):
        matrix = matrices[t % len(matrices)].toarray()
        plain, some = every_row(t)
        np.testing.assert_allclose(plain, np.tensordot(matrix, values, 1), rtol=1e-4, atol=1e-5)
        there = np.tensordot(matrix[:, present], values[present], 1)
        np.testing.assert_allclose(some, there, rtol=1e-4, atol=1e-5)


def test_padding_takes_from_nobody():
    values = jnp.ones(30).at[0].set(jnp.nan)
    rows, nodes = SparseRows(MATRICES["in_turn"]), jnp.arange(30)
    every_row = jax.jit(lambda t: jax.vmap(lambda node: rows.times(t, node, values))(nodes))
    for t, matrix in enumerate(MATRICES["in_turn"]):
        dense = matrix.toarray()
        filled = dense.any(axis=1)
        np.testing.assert_array_equal(jnp.isnan(every_row(t))[filled], dense[filled, 0] != 0)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_equals_numpy_in_every_placement(placement):
    n, rng = placement.size, np.random.default_rng(0)
    star = topology.metropolis_weights(topology.star(n, sparse=True))
    stack = [*topology.one_peer_exponential(n, sparse=True), star]
    tx = federated.gossip(stack, placement.axis_name, steps=2)
    draw = lambda *shape: rng.normal(size=(n, *shape)).astype(np.float32)
    params, updates = ({"w": draw(2, 3), "none": draw(0)} for _ in range(2))
    present = np.arange(n) % 4 != 1

    def step(params, updates, present, count):
        state = tx.init(params)._replace(count=count)
        moved, state = tx.update(updates, state, params, active=present)
        return moved, state.wire_copies

    moved, copies = placement.run(step, params, updates, present, np.full(n, len(stack) - 1))
    matrix = np.where(present, star.toarray(), 0.0)
    matrix += np.diag(1 - matrix.sum(axis=1))
    matrix[~present] = np.eye(n)[~present]
    half = params["w"] + updates["w"]
    expected = np.tensordot(matrix @ matrix, half, 1) - params["w"]
    np.testing.assert_allclose(moved["w"][present], expected[present], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moved["w"][~present], 0.0)
    heard_by = 2 * ((matrix != 0).sum(axis=0) - 1)
    np.testing.assert_array_equal(copies, np.where(present, heard_by, 0))


def test_gradient_tracking_and_simulate_take_it():
    ring = topology.metropolis_weights(topology.ring(8, sparse=True))
    nodes = federated.data.padded(np.arange(8.0, dtype=np.float32), np.arange(8)[:, None])
    loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
    tx = federated.gradient_tracking(0.2, ring, "nodes")
    result = federated.simulate(tx, loss, jnp.zeros(()), nodes, rounds=300, segment=300)
    np.testing.assert_allclose(result.params, 3.5, rtol=1e-4)
    # Tracker and parameters, four bytes each, from eight nodes to two neighbours.
    assert result.history.last("bytes_up") == 2 * 4 * 8 * 2


def test_nothing_of_the_size_of_all_pairs_is_made():
    n = 50_000  # a dense matrix would take 20 GB
    ring = topology.metropolis_weights(topology.ring(n, sparse=True))
    tx = federated.gossip([ring, topology.lazy(ring)], "nodes", steps=2)
    x = jax.ShapeDtypeStruct((n, 2), jnp.float32)
    state = jax.eval_shape(jax.vmap(tx.init), x)
    update = jax.jit(jax.vmap(tx.update, axis_name="nodes"))
    memory = update.lower(x, state, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 10 * n * 2 * 4


@pytest.mark.parametrize(
    "backend", [("gather", False), ("gather", True), ("permute", False), ("permute", True)]
)
def test_one_peer_graphs_average_exactly_within_a_scan(backend):
    name, is_sparse = backend
    stack = topology.one_peer_exponential(8, sparse=is_sparse)
    tx = federated.gossip(stack, "nodes", backend=name)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def walk(x, steps):
        def body(carry, _):
            x, state = carry
            updates, state = apply_to_all(tx, jnp.zeros_like(x), state, x)
            return (x + updates, state), jnp.ptp(x + updates, axis=0).max()

        return jax.lax.scan(body, (x, jax.vmap(tx.init)(x)), length=steps)

    (mixed, _), spread = walk(x, 3)
    np.testing.assert_allclose(mixed, jnp.broadcast_to(x.mean(axis=0), x.shape), atol=1e-6)
    assert spread[1] > 0.1


def test_bfloat16_travels_and_is_added_up_in_float32():
    tx = federated.gossip(sparse.csr_array(np.full((3, 3), 1 / 3)), "nodes")
    x = jnp.array([1, 2, 2], jnp.bfloat16)
    moved, _ = apply_to_all(tx, jnp.zeros_like(x), jax.vmap(tx.init)(x), x)
    assert moved.dtype == jnp.bfloat16
    assert moved[0] == jnp.bfloat16(2 / 3)
    rows = SparseRows([sparse.csr_array(np.full((3, 3), 1 / 3))])
    assert rows.times(0, jnp.int32(0), x).dtype == jnp.float32


TWO_PAIRS = sparse.csr_array(np.kron(np.eye(2), np.full((2, 2), 0.5)))
LEFT_ONLY = sparse.csr_array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("mixing", "message"),
    [
        (sparse.csr_array(np.ones((2, 3)) / 3), r"mixing must be square, .*\[\(2, 3\)\]"),
        ([TWO_PAIRS, LEFT_ONLY], r"several of the same n, got shapes \[\(4, 4\), \(3, 3\)\]"),
        ([LEFT_ONLY, 2.0 * LEFT_ONLY], r"rows .* sum to 1, got 2 in row 0 of matrix 1"),
        (TWO_PAIRS, r"mixing must be connected, got a graph of 4 nodes .* with 2, 3"),
        (LEFT_ONLY, r"columns of mixing must sum to 1 as rows do"),
    ],
)
def test_bad_matrices_are_refused(mixing, message):
    with pytest.raises(ValueError, match=message):
        federated.scale_by_gradient_tracking(mixing, "nodes")


def test_permute_needs_a_circulant_one():
    star = topology.metropolis_weights(topology.star(4, sparse=True))
    with pytest.raises(ValueError, match="backend 'permute' needs a circulant mixing matrix"):
        federated.gossip(star, "nodes", backend="permute")
