"""FedSpeed: worked numbers, FedDyn as a case of it, and both rules of the server."""

import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.algorithms.toy import (
    FOUR,
    OPTIMUM,
    RATE,
    START,
    STEPS,
    TWO,
    drawn,
    play,
)


def by_hand(rounds, rho, merge, beta, steps, problem, active, rule, rate=RATE):
    """Written out for scalars; the perturbation is ``rho g / (|g| + 1e-7)``."""
    (h, a), x = problem, START
    duals, path = np.zeros(len(h)), []
    for present in active[:rounds]:
        y = np.full(len(h), x)
        for _ in range(steps):
            g = h * (y - a)
            ahead = h * (y + rho * g / (np.abs(g) + 1e-7) - a)
            y = y - rate * ((1 - merge) * g + merge * ahead + beta * (duals + y - x))
        duals = np.where(present, duals + y - x, duals)
        counted = duals.mean() if rule == "all" else duals[present].mean()
        x = y[present].mean() + counted
        path.append(x)
    return np.array(path), duals


@pytest.mark.parametrize(("merge", "path"), [(1.0, [0.262, -0.98074]), (0.5, [0.296, -0.94025750])])
def test_the_toy_numbers(merge, path):
    found, _ = play(federated.fedspeed(RATE, 0.1, merge, 0.5), 2)
    np.testing.assert_allclose(found, path, atol=1e-7)


def test_the_toy_duals():
    for rounds, duals in ((1, [-0.2035, -1.5345]), (2, [-0.02964625, -2.08209375])):
        _, state = play(federated.fedspeed(RATE, 0.1, 1.0, 0.5), rounds)
        np.testing.assert_allclose(state.client.dual, duals, atol=1e-7)
        np.testing.assert_allclose(state.shared.server.mean_dual, np.mean(duals), atol=1e-7)


@pytest.mark.parametrize("rule", ["all", "active"])
@pytest.mark.parametrize("merge", [0.3, 1.0])
def test_follows_its_formula_with_some_of_the_clients(merge, rule):
    active = drawn(8)
    found, state = play(federated.fedspeed(RATE, 0.05, merge, 0.4, rule), 8, 3, FOUR, active=active)
    path, duals = by_hand(8, 0.05, merge, 0.4, 3, FOUR, active, rule)
    np.testing.assert_allclose(found, path, rtol=1e-10)
    np.testing.assert_allclose(state.client.dual, duals, rtol=1e-10)
    if rule == "all":  # the server has never seen the duals of those who stayed away
        np.testing.assert_allclose(state.shared.server.mean_dual, duals.mean(), rtol=1e-10)


def test_both_rules_agree_if_everybody_takes_part():
    paths = [
        play(federated.fedspeed(RATE, server_rule=r), 5, 3, FOUR)[0] for r in ("all", "active")
    ]
    np.testing.assert_allclose(*paths, rtol=1e-12)


def feddyn(rounds, beta, active, steps, problem):
    """FedDyn as its authors state it: linear terms of clients, and a server that adds them up."""
    (h, a), x = problem, START
    linear, server, path = np.zeros(len(h)), 0.0, []
    for present in active[:rounds]:
        y = np.full(len(h), x)
        for _ in range(steps):
            y = y - RATE * (h * (y - a) - linear + beta * (y - x))
        linear = np.where(present, linear - beta * (y - x), linear)
        server = server - beta * np.sum((y - x)[present]) / len(h)
        x = y[present].mean() - server / beta
        path.append(x)
    return path


@pytest.mark.parametrize("arguments", [{"rho": 0.0}, {"merge": 0.0, "rho": 0.3}])
def test_without_perturbation_it_is_feddyn(arguments):
    active = drawn(8)
    found, _ = play(
        federated.fedspeed(RATE, prox_weight=0.3, **arguments), 8, 3, FOUR, active=active
    )
    np.testing.assert_allclose(found, feddyn(8, 0.3, active, 3, FOUR), rtol=1e-9)


def test_with_a_tiny_weight_the_first_round_moves_twice_the_mean():
    found, _ = play(federated.fedspeed(RATE, rho=0.0, prox_weight=1e-12))
    np.testing.assert_allclose(found[0], START + 2 * (1.14 - START), rtol=1e-9)


def test_the_scaled_dual_is_a_running_mean_of_gradients():
    beta, rate = 0.5, RATE
    _, one = play(federated.fedspeed(rate, rho=0.0, prox_weight=beta), 1)
    path, two = play(federated.fedspeed(rate, rho=0.0, prox_weight=beta), 2)
    gamma = 1 - (1 - rate * beta) ** STEPS
    omega = (1 - rate * beta) ** np.arange(STEPS)[::-1]
    (h, a), x, p = TWO, path[0], one.client.dual
    y, gradients = np.full(2, x), []
    for _ in range(STEPS):
        gradients.append(h * (y - a))
        y = y - rate * (gradients[-1] + beta * (p + y - x))
    mean = omega @ np.array(gradients) / omega.sum()
    before, after = -beta * p, -beta * two.client.dual
    np.testing.assert_allclose(after, (1 - gamma) * before + gamma * mean, rtol=1e-12)


@pytest.mark.parametrize(("rho", "limit"), [(0.0, -0.5), (0.1, -0.55)])
def test_settles_at_the_optimum_up_to_the_perturbation(rho, limit):
    path, _ = play(federated.fedspeed(RATE, rho, prox_weight=0.5), 400)
    np.testing.assert_allclose(path[-1], limit, rtol=1e-5)


def test_with_some_of_the_clients_only_the_rule_of_all_settles():
    active = drawn(500)
    spread = {}
    for rule in ("all", "active"):
        algorithm = federated.fedspeed(RATE, rho=0.0, prox_weight=0.5, server_rule=rule)
        path, _ = play(algorithm, 500, 5, FOUR, active=active)
        spread[rule] = np.abs(path[-50:] - OPTIMUM).mean()
    assert spread["all"] < 1e-6
    assert spread["active"] > 0.1


def test_a_round_of_nobody_can_be_skipped():
    algorithm = federated.fedspeed(RATE, prox_weight=0.5)
    algorithm = algorithm._replace(server=federated.skip_empty(algorithm.server))
    active = np.array([[True] * 2, [False] * 2, [True] * 2])
    found, _ = play(algorithm, 3, active=active)
    assert found[1] == found[0]
    expected, _ = play(algorithm, 2, active=active[:1].repeat(2, axis=0))
    np.testing.assert_allclose(found[[0, 2]], expected, rtol=1e-14)


def test_the_order_of_clients_permutes_their_duals():
    order = np.array([2, 0, 3, 1])
    active = drawn(4)
    path, state = play(federated.fedspeed(RATE), 4, 3, FOUR, active=active)
    mixed_path, mixed = play(
        federated.fedspeed(RATE), 4, 3, tuple(p[order] for p in FOUR), active=active[:, order]
    )
    np.testing.assert_allclose(mixed_path, path, rtol=1e-12)
    np.testing.assert_allclose(mixed.client.dual, state.client.dual[order], rtol=1e-11)


def test_clients_may_have_an_optimizer_of_their_own():
    decayed = optax.chain(optax.add_decayed_weights(0.1), federated.scale_by_round_rate(RATE))
    found, _ = play(federated.fedspeed(client=decayed, rho=0.0, prox_weight=0.5))
    plain, _ = play(federated.fedspeed(RATE, rho=0.0, prox_weight=0.5))
    assert found[0] < plain[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rho": -0.1}, r"rho must lie in \[0, inf\), got -0.1"),
        ({"merge": 1.5}, r"merge must lie in \[0, 1\], got 1.5"),
        ({"merge": -0.5}, r"merge must lie in \[0, 1\], got -0.5"),
        ({"prox_weight": 0.0}, r"prox_weight must lie in \(0, inf\), got 0.0"),
        ({"server_rule": "paper"}, "server_rule must be one of 'all', 'active', got 'paper'"),
    ],
)
def test_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=f"fedspeed: {sentence}"):
        federated.fedspeed(0.1, **arguments)
