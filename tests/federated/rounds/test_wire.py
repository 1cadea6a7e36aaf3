"""Bytes of a round, from static shapes."""

import jax
import jax.numpy as jnp
import optax
import pytest

from gradax import federated

PARAMS = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4, jnp.bfloat16)}
MODEL = 3 * 4 * 4 + 4 * 2

#: Bytes up and down, in models, as the methods' table has them.
TABLE = {
    "fedavg": (federated.fedavg(0.1), 1, 1),
    "fedprox": (federated.fedprox(0.1), 1, 1),
    "fedavgm": (federated.fedavgm(0.1), 1, 1),
    "fedadam": (federated.fedadam(0.1), 1, 1),
    "fedyogi": (federated.fedyogi(0.1), 1, 1),
    "fedadagrad": (federated.fedadagrad(0.1), 1, 1),
    "fedspeed": (federated.fedspeed(0.1), 1, 1),
    "fedspeed, active": (federated.fedspeed(0.1, server_rule="active"), 1, 1),
    "peers": (federated.peers(optax.sgd(0.1)), 1, 1),
    "a server that publishes its momentum": (
        federated.fedavgm(0.1)._replace(publishes=("trace",)),
        1,
        2,
    ),
}


@pytest.mark.parametrize(("algorithm", "up", "down"), TABLE.values(), ids=TABLE)
@pytest.mark.parametrize("abstract", [False, True])
def test_counts_models(algorithm, up, down, abstract):
    params = jax.eval_shape(lambda: PARAMS) if abstract else PARAMS
    assert MODEL == 56
    found = federated.communication_bytes(algorithm, params)
    assert found == {"up": up * MODEL, "down": down * MODEL}
    assert all(type(count) is int for count in found.values())


def test_a_message_of_two_parts_counts_twice():
    both = optax.GradientTransformation(
        optax.init_empty_state, lambda u, s, p=None: ({"u": u, "norm": optax.tree.norm(u)}, s)
    )
    client = optax.chain(federated.local_steps(optax.sgd(0.1)), both)
    algorithm = federated.fedavg(0.1)._replace(client=client)
    assert federated.communication_bytes(algorithm, PARAMS) == {"up": 60, "down": 56}


def test_large_models_do_not_overflow():
    params = jax.ShapeDtypeStruct((2**31, 5), jnp.float32)
    found = federated.communication_bytes(federated.fedavg(0.1), params)
    assert found == {"up": 2**33 * 5, "down": 2**33 * 5}


def test_what_is_published_must_exist():
    algorithm = federated.fedavg(0.1)._replace(publishes=("control",))
    with pytest.raises(ValueError, match="publishes='control'"):
        federated.communication_bytes(algorithm, PARAMS)
