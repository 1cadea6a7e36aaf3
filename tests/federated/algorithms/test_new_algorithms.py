"""The example of algorithms of one's own: they do what their papers say, however they are run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples import new_algorithms as example
from gradax import federated
from gradax.federated import topology

ALGORITHMS = {
    "fedexp": example.fedexp(0.02),
    "majority": example.majority_vote(0.02, 0.05),
}


@functools.cache
def run(name, chunk=8, stacked=False, cohort=None):
    algorithm = ALGORITHMS[name]
    if stacked:
        algorithm = algorithm._replace(aggregate=optax.chain(algorithm.aggregate))
    clients, best = example.make_problem()
    return federated.simulate(
        algorithm,
        example.loss_fn,
        jnp.zeros_like(best),
        clients,
        rounds=4,
        cohort=cohort,
        batch_size=None,
        num_steps=3,
        segment=4,
        chunk=chunk,
    )


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    "options", [{"chunk": 3}, {"chunk": 1}, {"stacked": True}], ids=["3", "1", "stacked"]
)
def test_chunks_do_not_matter(name, options):
    np.testing.assert_allclose(run(name, **options).params, run(name).params, atol=1e-6)


def displacements(params, num_steps=3, rate=0.02):
    """Local training of each client, in NumPy."""
    clients, _ = example.make_problem()
    x, y = clients.arrays["x"], clients.arrays["y"]
    local = np.stack([params] * len(x))
    for _ in range(num_steps):
        gap = np.einsum("cnd,cd->cn", x, local) - y
        local = local - rate * np.einsum("cnd,cn->cd", x, gap) / x.shape[1]
    return local - params


def test_fedexp_follows_its_formula():
    params = np.zeros(20)
    for _ in range(4):
        moves = displacements(params)
        mean = moves.mean(axis=0)
        rate = np.sum(moves**2) / (2 * len(moves) * (mean @ mean + 1e-3))
        assert rate > 1
        params = params + max(1.0, rate) * mean
    np.testing.assert_allclose(run("fedexp").params, params, rtol=1e-4, atol=1e-5)


def test_fedexp_sends_one_number_more():
    assert run("fedexp").history.rows[0]["bytes_up"] == 8 * (20 * 4 + 4)
    sizes = federated.communication_bytes(ALGORITHMS["fedexp"], jnp.zeros(20))
    assert sizes == {"up": 84, "down": 80}


def test_fedexp_is_fedavg_where_clients_agree():
    server = example.extrapolate()
    delta = jnp.array([-1.0, 2.0])
    sent = example.Sent(delta, -jnp.sum(delta**2))
    np.testing.assert_array_equal(server.update(sent, server.init(delta))[0], delta)


def test_a_majority_follows_the_signs():
    params = np.zeros(20)
    for _ in range(4):
        params = params + 0.05 * np.sign(np.sign(displacements(params)).sum(axis=0))
    np.testing.assert_allclose(run("majority").params, params, atol=1e-6)


def test_exact_diffusion_finds_the_optimum_and_gossip_does_not():
    ring = topology.metropolis_weights(topology.ring(8))
    plain = optax.chain(optax.sgd(0.2), federated.gossip(topology.lazy(ring), "nodes"))
    exact = example.exact_diffusion(0.2, ring)
    assert example.distance(exact, 600, 1) < 3e-3
    assert example.distance(plain, 600, 1) > 0.3


def test_exact_diffusion_follows_its_recursion():
    ring = topology.lazy(topology.metropolis_weights(topology.ring(8)))
    tx = example.exact_diffusion(0.1, topology.metropolis_weights(topology.ring(8)))
    targets = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)

    @jax.jit
    @functools.partial(jax.vmap, axis_name="nodes")
    def step(x, state, target):
        updates, state = tx.update(x - target, state, x)
        return optax.apply_updates(x, updates), state

    x, previous = np.zeros((8, 2), np.float32), None
    nodes, states = jnp.zeros((8, 2)), federated.init_participants(tx, jnp.zeros(2), jnp.arange(8))
    for _ in range(5):
        half = x - 0.1 * (x - targets)
        corrected = half if previous is None else half + x - previous
        x, previous = ring @ corrected, half
        nodes, states = step(nodes, states, targets)
        np.testing.assert_allclose(nodes, x, atol=1e-5)


def test_the_script_prints_a_line_for_each(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["new_algorithms.py", "--rounds", "2"])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(line.endswith("from the optimum") for line in lines)
