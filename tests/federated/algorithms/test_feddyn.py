"""FedDyn: as its authors state it, and where it settles."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from tests.federated.algorithms.toy import FOUR, OPTIMUM, RATE, SIZES, START, drawn, play

HALF = federated.feddyn(RATE, 0.5)


def by_hand(rounds, steps, active, weight=0.5):
    """Linear terms of clients, and a server that adds them up."""
    (h, a), x = FOUR, START
    linear, server, path = np.zeros(len(h)), 0.0, []
    for present in active[:rounds]:
        y = np.full(len(h), x)
        for _ in range(steps):
            y = y - RATE * (h * (y - a) - linear + weight * (y - x))
        linear = np.where(present, linear - weight * (y - x), linear)
        server = server - weight * np.sum((y - x)[present]) / len(h)
        x = y[present].mean() - server / weight
        path.append(x)
    return path, linear


def test_follows_the_papers_form_with_some_of_the_clients():
    active = drawn(8)
    path, state = play(HALF, 8, 3, FOUR, active=active, weights=SIZES)
    expected, linear = by_hand(8, 3, active)
    np.testing.assert_allclose(path, expected, rtol=1e-10)
    np.testing.assert_allclose(-0.5 * state.client.dual, linear, rtol=1e-10)
    np.testing.assert_allclose(state.shared.server.mean_dual, state.client.dual.mean(), rtol=1e-10)


def test_settles_at_the_optimum_and_knows_the_gradients_there():
    path, state = play(HALF, 400)
    np.testing.assert_allclose(path[-1], -0.5, rtol=1e-9)
    np.testing.assert_allclose(state.client.dual, [3, -3], rtol=1e-8)


def test_settles_with_half_of_the_clients():
    path, _ = play(HALF, 500, 5, FOUR, active=drawn(500))
    distance = np.abs(path - OPTIMUM)
    assert 1e-5 < distance[50:100].mean() < 0.1
    assert distance[-50:].max() < 1e-7


def test_is_fedspeed_without_a_perturbation():
    path, _ = play(HALF, 5)
    np.testing.assert_allclose(
        play(federated.fedspeed(RATE, 0.0, prox_weight=0.5), 5)[0], path, rtol=1e-12
    )


def test_a_round_of_nobody_changes_nothing():
    active = np.array([[True, True], [False, False], [True, True]])
    path, _ = play(HALF, 3, active=active)
    assert path[1] == path[0]
    np.testing.assert_allclose(path[[0, 2]], play(HALF, 2)[0], rtol=1e-14)


def test_one_model_travels_each_way():
    assert federated.communication_bytes(HALF, jnp.zeros(5)) == {"up": 20, "down": 20}


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_refuses_a_weight(weight):
    sentence = rf"feddyn: prox_weight must lie in \(0, inf\), got {weight}"
    with pytest.raises(ValueError, match=sentence):
        federated.feddyn(0.1, weight)
