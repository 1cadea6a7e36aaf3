"""Gossip against NumPy in every placement, its identities and its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.golden import assert_follows, golden_cases
from tests.federated.nodes import apply_to_all, run_nodes
from tests.federated.placements import PLACEMENTS

topology = federated.topology
everywhere = pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
RING = topology.metropolis_weights(topology.ring(4))


@pytest.mark.parametrize("case", golden_cases("gossip"), ids=lambda case: case["name"])
def test_follows_the_golden_case(case):
    assert_follows("gossip", case)


def make_nodes(n):
    rng = np.random.default_rng(n)
    draw = lambda: {
        "w": rng.normal(size=(n, 2, 3)).astype(np.float32),
        "b": rng.normal(size=n).astype(np.float32),
        "none": np.zeros((n, 0), np.float32),
        "steps": np.arange(n, dtype=np.int32),
    }
    return draw(), draw()


def expected_update(matrix, x, u, order):
    mix = lambda v: np.tensordot(matrix, v, axes=1)
    if x.dtype == np.int32:
        return u
    return mix(x + u) - x if order == "atc" else mix(x) + u - x


@everywhere
@pytest.mark.parametrize("backend", ["gather", "permute"])
@pytest.mark.parametrize("order", ["atc", "cta"])
def test_equals_numpy_in_every_placement(placement, order, backend):
    n = placement.size
    stack = np.concatenate([topology.one_peer_exponential(n), topology.exponential(n)[None]])
    tx = federated.gossip(stack, placement.axis_name, order=order, steps=2, backend=backend)
    params, updates = make_nodes(n)

    def step(params, updates, count):
        return tx.update(updates, tx.init(params)._replace(count=count), params)[0]

    for t in (0, len(stack) + 1):
        counts = jnp.full(n, t, jnp.int32)
        square = np.linalg.matrix_power(stack[t % len(stack)], 2)
        actual = placement.run(step, params, updates, counts)
        for name, x in params.items():
            reference = expected_update(square, x, updates[name], order)
            np.testing.assert_allclose(actual[name], reference, rtol=1e-4, atol=1e-5)
            assert actual[name].dtype == x.dtype


@everywhere
@pytest.mark.parametrize("backend", ["gather", "permute"])
def test_every_third_update_mixes_in_every_placement(placement, backend):
    n = placement.size
    stack = topology.one_peer_exponential(n)
    tx = federated.gossip(stack, placement.axis_name, every=3, backend=backend)
    x0 = np.arange(n, dtype=np.float32) ** 2

    def seven_updates(x):
        state = tx.init(x)
        for _ in range(7):
            updates, state = tx.update(jnp.ones_like(x), state, x)
            x = x + updates
        return x, state.count

    x, count = placement.run(seven_updates, x0)
    # Mixings happen in updates 3 and 6 and take matrices 0 and 1.
    np.testing.assert_allclose(x, stack[1] @ stack[0] @ x0 + 7, rtol=1e-5)
    np.testing.assert_array_equal(count, 7)


def test_the_round_replaces_the_count_and_stays_a_branch():
    tx = federated.gossip(RING, "nodes", every=2)
    x = jnp.array([0.0, 4.0, 8.0, 0.0])
    state = jax.vmap(tx.init)(x)

    def update(x, state, round):
        node = lambda x, state: tx.update(jnp.ones_like(x), state, x, round=round)
        return jax.vmap(node, axis_name="nodes")(x, state)

    np.testing.assert_allclose(update(x, state, 0)[0], 1.0)
    np.testing.assert_allclose(update(x, state, 1)[0], RING @ (x + 1) - x, rtol=1e-6)
    branches = lambda *a: str(jax.make_jaxpr(update)(*a)).count("cond[")
    assert branches(x, state, jnp.int32(1)) == 1


def test_the_state_counts_and_does_not_wrap():
    tx = federated.gossip(RING, "nodes")
    x = jnp.zeros(4)
    full = jax.vmap(tx.init)(x)._replace(count=jnp.full(4, 2**31 - 1, jnp.int32))
    _, state = apply_to_all(tx, x, full, x)
    assert (state.count == 2**31 - 1).all()


@pytest.mark.parametrize(("steps", "copies"), [(1, 2), (3, 6)])
def test_the_state_says_to_how_many_neighbours_the_model_went(steps, copies):
    tx, x = federated.gossip(RING, "nodes", steps=steps, every=2), jnp.zeros(4)
    state = jax.vmap(tx.init)(x)
    for expected in (0, copies):
        _, state = apply_to_all(tx, x, state, x)
        assert (state.wire_copies == expected).all()


def test_averaging_matrix_gives_sgd_on_the_mean_gradient():
    n = 4
    J = np.full((n, n), 1 / n)
    grads = jnp.arange(8.0).reshape(n, 2)
    for order in ("atc", "cta"):
        tx = federated.decentralized_sgd(0.5, J, "nodes", order=order)
        x, _ = run_nodes(tx, jnp.ones((n, 2)), lambda x: grads, 2)
        spread = 0.0 if order == "atc" else 0.5 * (grads - grads.mean(axis=0))
        expected = jnp.ones((n, 2)) - 2 * 0.5 * grads.mean(axis=0) - spread
        np.testing.assert_allclose(x, expected, rtol=1e-6)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_no_mixing_is_plain_sgd(momentum):
    grad, x0 = lambda x: x - 3.0, jnp.arange(4.0)
    alone = federated.gossip(np.eye(4), "nodes", require_connected=False)
    expected, _ = run_nodes(optax.sgd(0.1, momentum), x0, grad, 5)
    chained = optax.chain(optax.sgd(0.1, momentum), alone)
    np.testing.assert_allclose(run_nodes(chained, x0, grad, 5)[0], expected, rtol=1e-5)
    single = federated.decentralized_sgd(0.1, [[1.0]], "nodes", momentum)
    np.testing.assert_allclose(run_nodes(single, x0[1:2], grad, 5)[0], expected[1:2], rtol=1e-5)


@pytest.mark.parametrize("order", ["atc", "cta"])
def test_the_mean_of_the_nodes_moves_by_the_mean_update(order):
    x, u = (jnp.asarray(np.random.default_rng(s).normal(size=(4, 3))) for s in (1, 2))
    tx = federated.gossip(RING, "nodes", order=order)
    moved, _ = apply_to_all(tx, u, jax.vmap(tx.init)(x), x)
    np.testing.assert_allclose(moved.mean(axis=0), u.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_disagreement_shrinks_by_the_gap(steps):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))
        tx = federated.gossip(RING, "nodes", steps=steps)
        moved, _ = apply_to_all(tx, jnp.zeros_like(x), jax.vmap(tx.init)(x), x)
        distance = lambda x: jnp.linalg.norm(x - x.mean(axis=0))
        factor = (1 - topology.spectral_gap(RING)) ** steps
        assert distance(x + moved) <= factor * distance(x) * (1 + 1e-12)


def test_steps_equal_a_power():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))
    several = federated.gossip(RING, "nodes", steps=3)
    power = federated.gossip(np.linalg.matrix_power(RING, 3), "nodes")
    state = jax.vmap(several.init)(x)
    a, b = (apply_to_all(tx, jnp.ones_like(x), state, x)[0] for tx in (several, power))
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(("order", "expected"), [("cta", [2.1, 1.9]), ("atc", [2.0, 2.0])])
def test_the_worked_example(order, expected):
    J, targets = np.full((2, 2), 0.5), jnp.array([1.0, 3.0])
    tx = federated.decentralized_sgd(0.1, J, "nodes", order=order)
    x, _ = run_nodes(tx, jnp.array([0.0, 4.0]), lambda x: x - targets, 1)
    np.testing.assert_allclose(x, expected, rtol=1e-6)


def test_a_constant_rate_leaves_a_bias_that_shrinks_with_it():
    n, rng = 10, np.random.default_rng(0)
    A = rng.normal(size=(n, 3, 3))
    with jax.enable_x64(True):
        Q = jnp.asarray(A @ A.transpose(0, 2, 1) / 3 + 0.3 * np.eye(3))
        b = jnp.asarray(rng.normal(size=(n, 3)))
        best = jnp.linalg.solve(Q.sum(axis=0), b.sum(axis=0))
        grad = lambda x: jnp.einsum("nij,nj->ni", Q, x) - b
        mixing = topology.metropolis_weights(topology.ring(n))

        def bias(rate, order):
            tx = federated.decentralized_sgd(rate, mixing, "nodes", order=order)
            x, _ = run_nodes(tx, jnp.zeros((n, 3)), grad, 2000)
            return float(jnp.mean(jnp.sum((x - best) ** 2, axis=1)))

        for order in ("cta", "atc"):
            biases = [bias(rate, order) for rate in (0.1, 0.05, 0.025)]
            assert biases[0] > 1.5 * biases[1] > 2.25 * biases[2] > 1e-6
        assert bias(0.1, "atc") < bias(0.1, "cta")


@pytest.mark.parametrize("backend", ["gather", "permute"])
def test_bfloat16_is_mixed_in_float32(backend):
    tx = federated.gossip(np.full((3, 3), 1 / 3), "nodes", backend=backend)
    x = jnp.array([1, 2, 2], jnp.bfloat16)
    moved, _ = apply_to_all(tx, jnp.zeros_like(x), jax.vmap(tx.init)(x), x)
    assert moved.dtype == jnp.bfloat16
    # Neither the weights nor the mean, 5/3, are bfloat16 numbers: only the move is rounded.
    assert moved[0] == jnp.bfloat16(2 / 3)


def test_masked_leaves_stay_out():
    tx = optax.masked(federated.gossip(RING, "nodes"), {"shared": True, "own": False})
    params = {"shared": jnp.arange(4.0), "own": jnp.arange(4.0)}
    updates = jax.tree.map(jnp.ones_like, params)
    moved, _ = apply_to_all(tx, updates, jax.vmap(tx.init)(params), params)
    np.testing.assert_allclose(moved["own"], 1.0)
    np.testing.assert_allclose(moved["shared"], RING @ (params["shared"] + 1) - params["shared"])


def test_the_matrix_may_be_an_injected_hyperparameter():
    x = jnp.arange(4.0)
    make = optax.inject_hyperparams(federated.gossip, static_args=("steps", "every"))
    tx = make(mixing=RING, axis_name="nodes", steps=2)
    state = jax.vmap(tx.init)(x)
    moved, _ = apply_to_all(tx, jnp.zeros(4), state, x)
    np.testing.assert_allclose(x + moved, RING @ RING @ x, rtol=1e-5)


def test_momentum_and_learning_rate_may_be_injected():
    make = optax.inject_hyperparams(
        federated.decentralized_sgd, static_args=("mixing", "steps", "every")
    )
    x0, grad = jnp.arange(4.0), lambda x: x - 1.0
    injected = make(0.1, RING, "nodes", 0.9)
    plain = federated.decentralized_sgd(0.1, RING, "nodes", 0.9)
    actual, expected = (run_nodes(tx, x0, grad, 4)[0] for tx in (injected, plain))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


LEFT_ONLY = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])


def test_a_weighted_mean_is_warned_of():
    with pytest.warns(UserWarning, match="nodes agree on a weighted mean"):
        federated.gossip(LEFT_ONLY, "nodes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixing": np.ones((2, 3)) / 3}, r"gossip: mixing must be square, .*got shape \(2, 3\)"),
        ({"mixing": 0.5 * RING}, r"gossip: rows of mixing must sum to 1, got 0.5 in row 0"),
        ({"mixing": np.eye(4)}, r"gossip: mixing must be connected, got a graph of 4 nodes"),
        ({"axis_name": ("a", "a")}, r"axis_name must not repeat a name"),
        ({"order": "both"}, r"gossip: order must be one of 'atc', 'cta', got 'both'"),
        ({"steps": 0}, r"gossip: steps must be an integer >= 1, got 0"),
        ({"every": 0}, r"gossip: every must be an integer >= 1, got 0"),
        ({"every": 1.5}, r"gossip: every must be an integer >= 1, got 1.5"),
        ({"backend": "mpi"}, r"gossip: backend must be one of 'gather', 'permute', got 'mpi'"),
        (
            {"mixing": topology.metropolis_weights(topology.star(4)), "backend": "permute"},
            r"backend 'permute' needs a circulant mixing matrix",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        federated.gossip(**{"mixing": RING, "axis_name": "nodes"} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -0.1}, r"learning_rate must lie in \[0, inf\), got -0.1"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"mixing": np.eye(4)}, r"mixing must be connected"),
    ],
)
def test_bad_arguments_of_the_alias_are_refused(arguments, message):
    good = {"learning_rate": 0.1, "mixing": RING, "axis_name": "nodes"}
    with pytest.raises(ValueError, match=message):
        federated.decentralized_sgd(**good | arguments)


@pytest.mark.parametrize("backend", ["gather", "permute"])
def test_a_matrix_of_another_size_is_refused(backend):
    tx, x = federated.gossip(RING, "nodes", backend=backend), jnp.zeros(5)
    message = r"gossip: mixing is a matrix of 4 nodes, but the axis 'nodes' has 5 participants"
    with pytest.raises(ValueError, match=message):
        apply_to_all(tx, x, jax.vmap(tx.init)(x), x)


def test_params_and_the_axis_are_required():
    tx = federated.gossip(RING, "nodes")
    with pytest.raises(ValueError, match="gossip needs params"):
        tx.update(jnp.zeros(()), tx.init(jnp.zeros(())))
    with pytest.raises(ValueError, match="axis_name 'nodes' is not bound"):
        tx.update(jnp.zeros(()), tx.init(jnp.zeros(())), jnp.zeros(()))
