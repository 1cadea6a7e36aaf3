"""Gradient tracking: its invariant, its exactness, every placement (golden: test_gossip)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from tests.federated.nodes import apply_to_all, run_nodes
from tests.federated.placements import PLACEMENTS

topology = federated.topology
RING = topology.metropolis_weights(topology.ring(4))


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_equals_numpy_in_every_placement(placement):
    n, rng = placement.size, np.random.default_rng(0)
    stack = topology.one_peer_exponential(n)
    tx = federated.scale_by_gradient_tracking(stack, placement.axis_name)
    grads = rng.normal(size=(n, 5, 2, 3)).astype(np.float32)

    def five_updates(grads):
        state = tx.init(grads[0])
        for grad in grads:
            estimate, state = tx.update(grad, state)
        return estimate

    tracker = grads[:, 0]
    for t in range(1, 5):
        mixed = np.tensordot(stack[t % len(stack)], tracker, axes=1)
        tracker = mixed + grads[:, t] - grads[:, t - 1]
    np.testing.assert_allclose(placement.run(five_updates, grads), tracker, rtol=1e-4, atol=1e-5)


def test_the_mean_estimate_is_the_mean_gradient_at_every_step():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        tx = federated.scale_by_gradient_tracking(RING, "nodes")
        state = jax.vmap(tx.init)(jnp.zeros((4, 3)))
        for step in range(6):
            grads = jnp.asarray(rng.normal(size=(4, 3)))
            estimate, state = apply_to_all(tx, grads, state, None)
            if step == 0:
                np.testing.assert_array_equal(estimate, grads)
            np.testing.assert_allclose(estimate.mean(axis=0), grads.mean(axis=0), atol=1e-14)


def test_full_averaging_is_gradient_descent_on_the_mean():
    J, targets = np.full((4, 4), 0.25), jnp.arange(8.0).reshape(4, 2)
    tx = federated.gradient_tracking(0.3, J, "nodes")
    x, _ = run_nodes(tx, jnp.ones((4, 2)), lambda x: x - targets, 5)
    expected = 1.0
    for _ in range(5):
        expected = expected - 0.3 * (expected - targets.mean(axis=0))
    np.testing.assert_allclose(x, jnp.broadcast_to(expected, x.shape), rtol=1e-5)


def test_the_first_step_is_that_of_decentralized_sgd():
    grad, x0 = lambda x: 2 * x + 1, jnp.arange(4.0)
    tracked = federated.gradient_tracking(0.1, RING, "nodes", order="cta")
    plain = federated.decentralized_sgd(0.1, RING, "nodes")
    np.testing.assert_allclose(run_nodes(tracked, x0, grad, 1)[0], run_nodes(plain, x0, grad, 1)[0])


@pytest.mark.parametrize("order", ["atc", "cta"])
def test_converges_exactly_at_a_constant_rate(order):
    n, rng = 10, np.random.default_rng(0)
    A = rng.normal(size=(n, 3, 3))
    with jax.enable_x64(True):
        Q = jnp.asarray(A @ A.transpose(0, 2, 1) / 3 + 0.3 * np.eye(3))
        b = jnp.asarray(rng.normal(size=(n, 3)))
        best = jnp.linalg.solve(Q.sum(axis=0), b.sum(axis=0))
        mixing = topology.metropolis_weights(topology.ring(n))
        tx = federated.gradient_tracking(0.05, mixing, "nodes", order=order)
        x, _ = run_nodes(tx, jnp.zeros((n, 3)), lambda x: jnp.einsum("nij,nj->ni", Q, x) - b, 4000)
        assert jnp.mean(jnp.sum((x - best) ** 2, axis=1)) < 1e-25


def test_keeps_the_dtype_of_params_for_other_gradients():
    tx = federated.scale_by_gradient_tracking(RING, "nodes")
    state = jax.vmap(tx.init)(jnp.zeros((4, 2), jnp.bfloat16))
    estimate, state = apply_to_all(tx, jnp.ones((4, 2), jnp.float32), state, None)
    assert estimate.dtype == state.prev_grad.dtype == state.tracker.dtype == jnp.bfloat16


def test_the_round_chooses_the_matrix():
    stack = topology.one_peer_exponential(4)
    tx = federated.scale_by_gradient_tracking(stack, "nodes")
    tracker = jnp.arange(4.0)
    state = jax.vmap(tx.init)(jnp.zeros(4))._replace(tracker=tracker)
    node = lambda state: tx.update(jnp.zeros(()), state, round=jnp.int32(3))[0]
    mixed = jax.vmap(node, axis_name="nodes")(state)
    np.testing.assert_allclose(mixed, stack[1] @ tracker)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixing": np.eye(4)}, r"gradient_tracking: mixing must be connected"),
        ({"mixing": np.ones((3, 4)) / 4}, r"gradient_tracking: mixing must be square"),
        ({"mixing": 2 * RING}, r"rows of mixing must sum to 1, got 2 in row 0"),
        ({"mixing": [[0.5, 0.5], [0.2, 0.8]]}, r"columns of mixing must sum to 1 as rows do"),
        ({"learning_rate": -1.0}, r"learning_rate must lie in \[0, inf\), got -1.0"),
        ({"order": "dig"}, r"order must be one of 'atc', 'cta', got 'dig'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    good = {"learning_rate": 0.1, "mixing": RING, "axis_name": "nodes"}
    with pytest.raises(ValueError, match=message):
        federated.gradient_tracking(**good | arguments)


def test_a_matrix_of_another_size_is_refused():
    tx, x = federated.gradient_tracking(0.1, RING, "nodes"), jnp.zeros(3)
    with pytest.raises(ValueError, match=r"matrix of 4 nodes, but the axis 'nodes' has 3"):
        apply_to_all(tx, x, jax.vmap(tx.init)(x), x)
