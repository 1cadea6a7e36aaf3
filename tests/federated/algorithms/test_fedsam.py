"""FedSAM: local steps along the gradient of a point uphill."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from tests.federated.algorithms.toy import FOUR, RATE, START, drawn, play

UNIFORM = {"weighting": "uniform"}


def test_the_toy_numbers():
    # 2 -> 1.89 -> 1.791 and 2 -> 1.07 -> 0.419
    path, _ = play(federated.fedsam(RATE, 0.1, **UNIFORM))
    np.testing.assert_allclose(path, [1.105], atol=1e-7)


def test_follows_its_formula_with_some_of_the_clients():
    active, (h, a), x, expected = drawn(6), FOUR, START, []
    for present in active:
        y = np.full(4, x)
        for _ in range(3):
            g = h * (y - a)
            y = y - RATE * h * (y + 0.2 * g / (np.abs(g) + 1e-7) - a)
        x = y[present].mean()
        expected.append(x)
    path, _ = play(federated.fedsam(RATE, 0.2, **UNIFORM), 6, 3, FOUR, active=active)
    np.testing.assert_allclose(path, expected, rtol=1e-11)


def test_without_a_radius_it_is_fedavg():
    weights = np.array([3.0, 1.0])
    paths = [
        play(algorithm, 3, weights=weights)[0]
        for algorithm in (federated.fedsam(RATE, 0.0), federated.fedavg(RATE))
    ]
    np.testing.assert_allclose(*paths, rtol=1e-13)


def test_a_zero_gradient_stays():
    path, _ = play(federated.fedsam(RATE, 0.1), problem=(np.ones(2), np.full(2, START)))
    np.testing.assert_array_equal(path, START)


def test_one_model_travels_each_way():
    sizes = federated.communication_bytes(federated.fedsam(0.1), jnp.zeros(5))
    assert sizes == {"up": 20, "down": 20}


@pytest.mark.parametrize("make", [federated.fedsam, federated.mofedsam])
def test_refuses_a_radius(make):
    with pytest.raises(ValueError, match=rf"{make.__name__}: rho must lie in \[0, inf\), got -1"):
        make(0.1, rho=-1)
