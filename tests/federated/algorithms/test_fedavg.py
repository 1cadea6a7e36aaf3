"""FedAvg: worked numbers, and what it is a case of. The golden files are in tests/golden."""

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import federated
from tests.federated.algorithms.toy import RATE, START, STEPS, play

UNIFORM = federated.fedavg(RATE, weighting="uniform")
BY_EXAMPLES = federated.fedavg(RATE)
FOUR = (np.array([0.5, 1.0, 2.0, 4.0]), np.array([3.0, -1.0, 0.5, 2.0]))


def test_the_toy_numbers():
    only = lambda i: play(UNIFORM, active=np.arange(2)[None] == i)[0][0]
    np.testing.assert_allclose([only(0), only(1)], [1.81, 0.47], rtol=1e-12)
    np.testing.assert_allclose(play(UNIFORM)[0], [1.14], rtol=1e-12)


def test_settles_where_the_local_steps_balance_and_not_at_the_optimum():
    path, _ = play(UNIFORM, rounds=400)
    np.testing.assert_allclose(path[-1], -0.457142857, rtol=1e-9)
    h, a = FOUR
    gamma = 1 - (1 - RATE * h) ** 7
    path, _ = play(UNIFORM, rounds=400, steps=7, problem=FOUR)
    np.testing.assert_allclose(path[-1], gamma @ a / gamma.sum(), rtol=1e-9)


def test_one_step_with_everybody_is_gradient_descent():
    (h, a), x, expected = FOUR, START, []
    for _ in range(5):
        x = x - RATE * np.mean(h * (x - a))
        expected.append(x)
    np.testing.assert_allclose(play(UNIFORM, 5, 1, FOUR)[0], expected, rtol=1e-14)


def test_equal_clients_make_local_steps_in_common():
    equal = (np.full(3, 2.0), np.full(3, -1.0))
    expected = -1 + (START + 1) * (1 - RATE * 2.0) ** (5 * np.arange(1, 4))
    np.testing.assert_allclose(play(UNIFORM, 3, 5, equal)[0], expected, rtol=1e-12)


@settings(deadline=None, max_examples=5)
@given(scale=st.floats(1e-3, 1e3))
def test_only_the_ratios_of_weights_count(scale):
    weights = np.array([3.0, 1.0])
    expected = play(BY_EXAMPLES, 3, weights=weights)[0]
    np.testing.assert_allclose(
        play(BY_EXAMPLES, 3, weights=scale * weights)[0], expected, rtol=1e-12
    )
    by_hand = START + (3 * (1.81 - START) + (0.47 - START)) / 4
    np.testing.assert_allclose(expected[0], by_hand, rtol=1e-12)


def test_a_client_without_weight_does_not_matter():
    algorithm = federated.fedavg(RATE)
    path, _ = play(algorithm, 3, weights=[1.0, 0.0])
    np.testing.assert_allclose(path, 1 + (START - 1) * 0.9 ** np.array([2, 4, 6]), rtol=1e-12)
    uniform, _ = play(UNIFORM, 3, weights=[1.0, 0.0])
    assert abs(uniform[0] - 1.14) < 1e-12


def test_averages_over_those_who_take_part():
    rng = np.random.default_rng(0)
    active = rng.random((6, 4)) < 0.5
    active[2] = False
    (h, a), x, expected = FOUR, START, []
    for present in active:
        if present.any():
            x = np.mean((a + (x - a) * (1 - RATE * h) ** STEPS)[present])
        expected.append(x)
    np.testing.assert_allclose(
        play(UNIFORM, 6, STEPS, FOUR, active=active)[0], expected, rtol=1e-12
    )
    assert expected[2] == expected[1]


def test_the_order_of_clients_does_not_matter():
    order = np.array([2, 0, 3, 1])
    mixed = tuple(part[order] for part in FOUR)
    np.testing.assert_allclose(
        play(UNIFORM, 3, 3, mixed)[0], play(UNIFORM, 3, 3, FOUR)[0], rtol=1e-13
    )


def test_the_clients_optimizer_starts_afresh_each_round():
    momentum = federated.fedavg(client=optax.sgd(RATE, momentum=0.9), weighting="uniform")
    two_rounds, _ = play(momentum, 2)
    again, _ = play(momentum, 1, start=two_rounds[0])
    np.testing.assert_allclose(two_rounds[1], again[0], rtol=1e-14)


def test_the_rate_may_be_a_schedule_of_the_round():
    schedule = federated.fedavg(lambda round: RATE * 0.5**round, weighting="uniform")
    path, _ = play(schedule, 3)
    x = START
    for number in range(3):
        x = play(federated.fedavg(RATE * 0.5**number, weighting="uniform"), start=x)[0][0]
        np.testing.assert_allclose(path[number], x, rtol=1e-7)  # 0.5 ** round is a float32


def test_the_servers_rate_scales_the_mean():
    half = federated.fedavg(RATE, weighting="uniform", server=optax.sgd(0.5))
    np.testing.assert_allclose(play(half)[0], (START + 1.14) / 2, rtol=1e-12)


def test_refuses_an_unknown_weighting():
    with pytest.raises(ValueError, match="weighting must be one of 'examples', 'uniform', got 'n'"):
        federated.fedavg(0.1, weighting="n")


def test_names_its_axis():
    algorithm = federated.fedavg(0.1, axis_name=("devices", "clients"))
    assert algorithm.axis_name == algorithm.aggregate.axis_name == ("devices", "clients")
