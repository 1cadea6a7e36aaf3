"""Populations laid out in every way, and through simulate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from gradax import federated, optimizers
from tests.federated.placements import PLACEMENTS
from tests.optimizers.population.searches import rastrigin, search

COUNT, STEPS = 8, 3
START = jnp.asarray(np.random.default_rng(0).normal(size=(COUNT, 2)), jnp.float32)
#: One example for each individual: the function is all there is to know.
NOTHING = federated.data.padded(np.zeros(COUNT, np.float32), np.arange(COUNT)[:, None])
# A large alpha would enlarge the rounding of the losses.
METHODS = {
    "cbo": functools.partial(optimizers.cbo, alpha=1.0, key=5),
    "consensus_hopping": functools.partial(optimizers.consensus_hopping, alpha=1.0, key=5),
}


@functools.cache
def by_vmap(name, count=COUNT):
    """Individuals and their consensus after a few steps of a plain loop."""
    x, state = search(METHODS[name](), rastrigin, START[:count], STEPS)
    return np.asarray(x), np.asarray(state.consensus)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_every_placement_gives_the_same(placement):
    def individual(x):
        found = {}
        for name, method in METHODS.items():
            tx = method(axis_name=placement.axis_name)

            def step(carry, _, tx=tx):
                x, state = carry
                updates, state = tx.update(None, state, x, value=rastrigin(x))
                return (optax.apply_updates(x, updates), state), None

            end, state = jax.lax.scan(step, (x, tx.init(x)), length=STEPS)[0]
            found[name] = end, state.consensus
        return found

    found = placement.run(individual, START[: placement.size])
    for name, ends in found.items():
        for end, expected in zip(ends, by_vmap(name, placement.size), strict=True):
            np.testing.assert_allclose(end, expected, rtol=1e-5, atol=1e-6)


def black_box(x, batch):
    """A loss that JAX cannot differentiate backwards."""
    del batch
    return jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, rastrigin(x)), (0, 0.0))[1]


def simulate(tx, start=START, **options):
    settings = {"replicate": False, "batch_size": None, "num_steps": 1, "segment": STEPS}
    settings |= {"grad_fn": lambda x, batch: jnp.zeros_like(x), "rounds": STEPS}
    algorithm = federated.peers(tx, "population")
    return federated.simulate(algorithm, black_box, start, NOTHING, **(settings | options))


def last_consensus(result):
    return optax.tree.get(result.state.aggregate, "consensus")


@pytest.mark.parametrize("name", METHODS)
def test_simulate_gives_what_a_plain_loop_gives(name):
    result = simulate(METHODS[name]())
    for found, expected in zip((result.params, last_consensus(result)), by_vmap(name), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    sent = START.size * START.dtype.itemsize
    assert result.history.column("bytes_up") == [sent] * STEPS


def test_simulate_on_a_mesh_gives_the_same():
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,))
    result = simulate(METHODS["cbo"](), mesh=mesh)
    np.testing.assert_allclose(result.params, by_vmap("cbo")[0], rtol=1e-5, atol=1e-6)
    assert len(result.params.sharding.device_set) == 4


def test_of_a_sampled_population_only_those_present_move():
    """And they draw the numbers that belong to them, wherever they sit."""
    present = jnp.int32([6, 1, 3])
    cohort = federated.Cohort(
        3, COUNT, lambda: (), lambda state, key, round: (federated.Draw(present), state)
    )
    tx = optimizers.consensus_hopping(alpha=0.0, key=5)
    result = simulate(tx, cohort=cohort, rounds=1)
    rows, mean = np.sort(present), np.mean(START[present], axis=0)
    np.testing.assert_allclose(last_consensus(result)[rows], [mean] * 3, rtol=1e-5)
    everybody = simulate(tx, rounds=1)
    noise = everybody.params - np.mean(START, axis=0)
    expected = START.at[rows].set(mean + noise[rows])
    np.testing.assert_allclose(result.params, expected, rtol=1e-5, atol=1e-6)
