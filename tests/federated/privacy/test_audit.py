"""The audit stays below what is reported, and catches noise that was halved."""

import functools

import jax.numpy as jnp
import pytest

from gradax import federated

DELTA = 0.05
#: sampling rate, noise multiplier, rounds.
SETTINGS = [(1.0, 2.0, 4), (0.5, 1.0, 2)]


@functools.cache
def audited(setting, factor):
    """The bound for an algorithm whose real noise is ``factor`` times what it says."""
    rate, noise, rounds = setting
    algorithm = federated.dp_fedavg(1.0, 1.0, noise * factor, expected_clients=3, key=0)
    release = federated.canary_release(algorithm, jnp.zeros(1), rounds, rate)
    return federated.audit_epsilon(release, DELTA, num_trials=4000, confidence=0.99, key=7)


def reported(setting):
    rate, noise, rounds = setting
    return federated.dp_epsilon(rate, noise, rounds, DELTA, "pld")


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_bound_stays_below_what_is_reported(setting):
    assert 0.3 * reported(setting) < audited(setting, 1.0).epsilon <= reported(setting)


@pytest.mark.parametrize("setting", SETTINGS)
def test_noise_that_was_halved_is_caught(setting):
    # Also above the looser bound of the other accountant.
    rate, noise, rounds = setting
    looser = federated.dp_epsilon(rate, noise, rounds, DELTA)
    assert audited(setting, 0.5).epsilon > looser > reported(setting)


def test_the_same_seed_gives_the_same_bound():
    release = lambda key, present: present * 1.0
    first, second = (federated.audit_epsilon(release, 0.1, num_trials=50) for _ in range(2))
    assert first == second
    # Twenty-five detections of twenty-five: no more than their number can show.
    assert 0 < first.epsilon < 3.3
    assert (first.detected, first.false_alarms) == (1.0, 0.0)


def test_a_score_that_says_nothing_bounds_nothing():
    assert federated.audit_epsilon(lambda key, present: 0.0 * present, 0.0).epsilon == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 1.0}, "delta must lie"),
        ({"confidence": 1.0}, "confidence must lie"),
        ({"num_trials": 3}, "num_trials must be an integer"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        federated.audit_epsilon(lambda key, present: 0.0, **{"delta": 0.1, **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "num_rounds must be"), ((1, 0.0), "sampling_rate must lie")],
)
def test_a_canary_needs_a_round_to_sing_in(arguments, message):
    with pytest.raises(ValueError, match=message):
        federated.canary_release(federated.fedavg(0.1), jnp.zeros(1), *arguments)


def test_a_canary_needs_a_server():
    nodes = federated.diff2(0.1, 1.0, 1.0, 1.0, 1.0, None, key=0)
    with pytest.raises(ValueError, match="must have a server"):
        federated.canary_release(nodes, jnp.zeros(1), 1)
