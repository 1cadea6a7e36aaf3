"""FedProx: worked numbers and limits."""

import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.algorithms.toy import RATE, START, TWO, play


def only(algorithm, client, **options):
    return play(algorithm, active=np.arange(2)[None] == client, **options)[0][0]


def make(prox_weight):
    return federated.fedprox(RATE, prox_weight, weighting="uniform")


def test_the_toy_numbers():
    np.testing.assert_allclose([only(make(0.5), i) for i in (0, 1)], [1.815, 0.515], rtol=1e-12)
    np.testing.assert_allclose(play(make(0.5))[0], [1.165], rtol=1e-12)


def test_without_weight_it_is_fedavg():
    plain = federated.fedavg(RATE, weighting="uniform")
    np.testing.assert_allclose(play(make(0.0), 4)[0], play(plain, 4)[0], rtol=1e-14)


def test_the_first_local_step_is_the_same():
    plain = federated.fedavg(RATE, weighting="uniform")
    np.testing.assert_allclose(play(make(7.0), steps=1)[0], play(plain, steps=1)[0], rtol=1e-14)


@pytest.mark.parametrize("client", [0, 1])
def test_many_steps_find_the_proximal_point(client):
    h, a, mu = TWO[0][client], TWO[1][client], 0.7
    found = only(make(mu), client, steps=400)
    np.testing.assert_allclose(found, (h * a + mu * START) / (h + mu), rtol=1e-12)


def test_the_clients_optimizer_receives_the_pull():
    clipped = federated.fedprox(
        client=optax.chain(optax.clip(0.01), optax.sgd(1.0)), prox_weight=9.0
    )
    np.testing.assert_allclose(play(clipped)[0], [START - 0.02], rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prox_weight": -0.1}, r"prox_weight must lie in \[0, inf\), got -0.1"),
        ({"weighting": "n"}, "weighting must be one of"),
    ],
)
def test_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        federated.fedprox(0.1, **arguments)
