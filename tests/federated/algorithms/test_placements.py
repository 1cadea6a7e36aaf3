"""The algorithms that keep or tell more than a model give one result however they are laid out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.placements import PLACEMENTS

ROUNDS, STEPS, START = 4, 2, 1.0


def anchors(round):
    """A role for each of eight clients, another one each round."""
    return (jnp.arange(8) + round) % 3 == 0


SOLVER = federated.gradient_solver(optax.sgd(0.2), num_steps=3)
MAKE = {
    "scaffold": functools.partial(federated.scaffold, 0.1),
    "feddyn": functools.partial(federated.feddyn, 0.1),
    "mofedsam": functools.partial(federated.mofedsam, 0.1, weighting="uniform"),
    "fedamd": functools.partial(federated.fedamd, 0.1, anchors),
    "rerce_fed": functools.partial(federated.rerce_fed, 1.0, SOLVER),
    "rerce_fed_continual": functools.partial(federated.rerce_fed, 1.0, SOLVER, continual=True),
}


def problem(size):
    return 0.5 + jnp.arange(size) / size, jnp.cos(2.0 * jnp.arange(size))


def one(axis_name, h, a, number):
    """All rounds of one participant, of all algorithms, in one compilation."""
    grad_fn = lambda x, *_, batch=None: h * (x - a)
    extras = {"grad_fn": grad_fn, "full_grad_fn": grad_fn, "batches": jnp.zeros(STEPS)}
    extras |= {"client_id": number, "key": jax.random.key(0)}

    def path(algorithm):
        tx, x = federated.as_transformation(algorithm), jnp.array(START)

        def step(carry, _):
            x, state = carry
            updates, state = tx.update(x, state, x, **extras)
            x = optax.apply_updates(x, updates)
            return (x, state), x

        return jax.lax.scan(step, (x, tx.init(x)), length=ROUNDS)[1]

    return {name: path(make(axis_name=axis_name)) for name, make in MAKE.items()}


@functools.cache
def reference(size):
    lanes = jax.jit(jax.vmap(functools.partial(one, "lanes"), axis_name="lanes"))
    return lanes(*problem(size), jnp.arange(size))


@pytest.mark.parametrize("placement", PLACEMENTS[1:], ids=lambda placement: placement.name)
def test_every_placement_gives_the_same(placement):
    run = functools.partial(one, placement.axis_name)
    paths = placement.run(run, *problem(placement.size), jnp.arange(placement.size))
    for name, path in paths.items():
        np.testing.assert_allclose(path, reference(placement.size)[name], rtol=1e-5, err_msg=name)
        assert not np.allclose(path[0, 1:], START), name


@pytest.mark.parametrize("name", MAKE)
def test_a_simulation_gives_the_same(name):
    h, a = (np.asarray(part) for part in problem(8))
    rows = federated.data.padded({"h": h, "a": a}, np.arange(8)[:, None])
    result = federated.simulate(
        MAKE[name](),
        lambda x, batch: jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2,
        jnp.array(START),
        rows,
        ROUNDS,
        batch_size=None,
        num_steps=STEPS,
        chunk=8,
    )
    np.testing.assert_allclose(result.params, reference(8)[name][0, -1], rtol=1e-5)
