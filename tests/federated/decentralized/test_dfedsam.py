"""DFedSAM: what it becomes in special cases, and its refusals (golden: tests/golden)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from gradax.optimizers import sam_gradient
from tests.federated.placements import PLACEMENTS

topology = federated.topology
RING = topology.metropolis_weights(topology.ring(4))
RNG = np.random.default_rng(0)
ROOTS = RNG.normal(size=(8, 3, 3))
Q = jnp.asarray(ROOTS @ ROOTS.transpose(0, 2, 1) / 3 + 0.3 * np.eye(3), jnp.float32)
B, START = (jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32) for _ in range(2))


def rounds(tx, num_steps, num_rounds=1, n=4):
    """Parameters of all nodes on quadratics; batch k adds k / 10 to the linear term."""

    def node(x, state, Q, b, round):
        grad_fn = lambda y, batch=0.0: Q @ y - b - batch / 10
        extras = {"batches": jnp.arange(num_steps, dtype=jnp.float32), "grad_fn": grad_fn}
        updates, state = tx.update(grad_fn(x), state, x, round=round, **extras)
        return x + updates, state

    def body(carry, round):
        play = jax.vmap(node, (0, 0, 0, 0, None), axis_name="nodes")
        return play(*carry, Q[:n], B[:n], round), None

    start = START[:n], jax.vmap(tx.init)(START[:n])
    return jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(num_rounds))[0])(start)[0]


def by_hand(rate, rho, mixing, num_steps, num_rounds=1, momentum=0.0):
    x = np.asarray(START[: len(mixing)], np.float64)
    Q64, b64 = (np.asarray(a[: len(mixing)], np.float64) for a in (Q, B))
    for round in range(num_rounds):
        velocity = np.zeros_like(x)
        for batch in range(num_steps):
            grad = lambda y, batch=batch: np.einsum("nij,nj->ni", Q64, y) - b64 - batch / 10
            g = grad(x)
            uphill = grad(x + rho * g / np.linalg.norm(g, axis=1, keepdims=True))
            velocity = momentum * velocity + uphill
            x = x - (rate(round) if callable(rate) else rate) * velocity
        x = mixing @ x
    return x


@pytest.mark.parametrize(
    ("rate", "gossip_steps", "momentum"),
    [(0.05, 1, None), (0.05, 4, 0.9), (lambda round: 0.05 / (1.0 + round), 1, None)],
    ids=["once", "momentum_starts_afresh", "schedule_of_the_round"],
)
def test_equals_numpy(rate, gossip_steps, momentum):
    tx = federated.dfedsam(rate, RING, "nodes", 0.1, gossip_steps, momentum)
    mixing = np.linalg.matrix_power(RING, gossip_steps)
    expected = by_hand(rate, 0.1, mixing, 3, 2, momentum or 0.0)
    np.testing.assert_allclose(rounds(tx, 3, 2), expected, rtol=1e-4, atol=1e-6)


def test_one_step_without_ascent_is_decentralized_sgd():
    plain = federated.decentralized_sgd(0.05, RING, "nodes", order="atc")
    flat = federated.dfedsam(0.05, RING, "nodes", rho=0.0)
    np.testing.assert_allclose(rounds(flat, 1), rounds(plain, 1), rtol=1e-5)


def test_without_ascent_it_is_decentralized_federated_averaging():
    steps = federated.local_steps(optax.sgd(0.05))
    averaging = optax.chain(steps, federated.gossip(RING, "nodes"))
    flat = federated.dfedsam(0.05, RING, "nodes", rho=0.0)
    np.testing.assert_allclose(rounds(flat, 3, 2), rounds(averaging, 3, 2), rtol=1e-5)


def test_full_averaging_is_fedsam_with_everybody():
    n, J = 4, np.full((4, 4), 0.25)
    nodes = federated.data.padded({"Q": Q[:n], "b": B[:n]}, np.arange(n)[:, None])
    loss = lambda x, batch: jnp.mean(
        jnp.einsum("i,nij,j->n", x, batch["Q"], x) / 2 - batch["b"] @ x
    )
    local = federated.local_steps(optax.chain(sam_gradient(0.1, eps=1e-12), optax.sgd(0.05)))
    fedsam = federated.Algorithm(local, federated.average("nodes", "uniform"), optax.sgd(1.0))
    fedsam = fedsam._replace(axis_name="nodes")
    peers = federated.dfedsam(0.05, J, "nodes", rho=0.1)
    settings = {"rounds": 3, "num_steps": 4}
    server, own = (
        federated.simulate(tx, loss, START[0], nodes, **settings).params for tx in (fedsam, peers)
    )
    np.testing.assert_allclose(own, jnp.broadcast_to(server, own.shape), rtol=1e-5)


def test_more_mixing_brings_nodes_closer_by_the_gap():
    spread = lambda x: np.linalg.norm(x - x.mean(axis=0))
    local = by_hand(0.05, 0.1, np.eye(4), 3)
    for steps in (1, 3):
        mixed = rounds(federated.dfedsam(0.05, RING, "nodes", 0.1, steps), 3)
        bound = (1 - topology.spectral_gap(RING)) ** steps
        assert spread(mixed) <= bound * spread(local) * (1 + 1e-4)
        np.testing.assert_allclose(mixed.mean(axis=0), local.mean(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("placement", PLACEMENTS[1::2], ids=lambda p: p.name)  # of two names
def test_runs_in_every_placement(placement):
    n = placement.size
    mixing = topology.metropolis_weights(topology.ring(n))
    tx = federated.dfedsam(0.05, mixing, placement.axis_name, 0.1, 2)

    def play(x, Q, b):
        grad_fn = lambda y, batch: Q @ y - b - batch / 10
        batches = jnp.arange(3.0)
        return x + tx.update(x, tx.init(x), x, batches=batches, grad_fn=grad_fn)[0]

    found = placement.run(play, START[:n], Q[:n], B[:n])
    expected = by_hand(0.05, 0.1, mixing @ mixing, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -0.1}, r"dfedsam: learning_rate must lie in \[0, inf\), got -0.1"),
        ({"rho": -1.0}, r"dfedsam: rho must lie in \[0, inf\), got -1.0"),
        ({"gossip_steps": 0}, r"dfedsam: gossip_steps must be an integer >= 1, got 0"),
        ({"momentum": 1.0}, r"dfedsam: momentum must lie in \[0, 1\), got 1.0"),
        ({"mixing": 2 * RING}, r"rows of mixing must sum to 1, got 2 in row 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    good = {"learning_rate": 0.1, "mixing": RING, "axis_name": "nodes"}
    with pytest.raises(ValueError, match=message):
        federated.dfedsam(**good | arguments)


@pytest.mark.parametrize("missing", ["batches", "grad_fn"])
def test_missing_extras_are_named(missing):
    tx, x = federated.dfedsam(0.1, RING, "nodes"), jnp.zeros(())
    extras = {"batches": jnp.zeros(2), "grad_fn": lambda x, batch: x}
    del extras[missing]
    with pytest.raises(ValueError, match=rf"local_steps needs {missing}="):
        tx.update(x, tx.init(x), x, **extras)
