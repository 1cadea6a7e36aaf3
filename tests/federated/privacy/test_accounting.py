"""Epsilon and noise; what cannot be stated is refused. Recorded values: tests/golden."""

import logging
import sys

import numpy as np
import pytest

from gradax import federated
from gradax.federated.privacy import _accounting


def test_one_gaussian_among_everybody_has_its_closed_form():
    from scipy import optimize, stats

    def delta(epsilon, mu):
        upper, lower = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return stats.norm.cdf(upper) - np.exp(epsilon) * stats.norm.cdf(lower)

    mu = np.sqrt(100) / 10
    exact = optimize.brentq(lambda e: delta(e, mu) - 1e-5, 0, 20)
    assert exact == pytest.approx(4.37718, abs=1e-5)
    assert federated.dp_epsilon(1.0, 10.0, 100, 1e-5, "pld") == pytest.approx(exact, rel=1e-3)
    # Renyi's orders give an upper bound.
    assert federated.dp_epsilon(1.0, 10.0, 100, 1e-5) == pytest.approx(4.7285, abs=1e-4)


def test_sets_of_fixed_size_are_about_replaced_clients():
    found = federated.dp_epsilon(0.01, 1.1, 1000, 1e-5, sampling="fixed", num_clients=1000)
    assert found == pytest.approx(3.19, abs=0.001)


def test_nothing_happened_nothing_is_spent():
    assert federated.dp_epsilon(0.1, 1.0, 0, 1e-5) == 0.0


def test_rounds_of_two_kinds_add_up():
    events = [_accounting.Event("poisson", 1.0, z, None) for z in (2.0, 4.0)]
    # Precisions of Gaussian noise add up: 3 / 2^2 + 4 / 4^2 = 1 / 1^2.
    for accountant in ("rdp", "pld"):
        mixed = _accounting.composed_epsilon(zip(events, (3, 4), strict=True), 1e-5, accountant)
        one = federated.dp_epsilon(1.0, 1.0, 1, 1e-5, accountant)
        assert mixed == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("target", [0.05, 1.0, 60.0])
def test_calibrated_noise_spends_the_target_and_no_more(target):
    z = federated.calibrate_noise(target, 0.1, 50, 1e-5)
    spent = federated.dp_epsilon(0.1, z, 50, 1e-5)
    assert target * (1 - 1e-3) < spent <= target


def test_low_orders_are_not_reported_as_failures(caplog):
    log = logging.getLogger("absl")
    with caplog.at_level(logging.DEBUG, "absl"):
        federated.dp_epsilon(0.01, 0.51, 10, 1e-5)
    assert not caplog.records
    assert not log.disabled


GOOD = {"sampling_rate": 0.1, "noise_multiplier": 1.0, "num_rounds": 10, "delta": 1e-5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 0.001, "num_clients": 1000}, "delta must be below 1 / num_clients = 0.001"),
        ({"delta": 0.0}, "delta must lie"),
        ({"noise_multiplier": 0.0}, r"noise_multiplier must lie in \(0, inf\), got 0.0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must lie"),
        ({"sampling_rate": 0.0}, "sampling_rate must lie"),
        ({"sampling_rate": 1.1}, "sampling_rate must lie"),
        ({"num_rounds": -1}, "num_rounds must be an integer"),
        ({"accountant": "moments"}, "accountant must be one of"),
        ({"sampling": "shuffled"}, "sampling must be one of"),
        ({"sampling": "fixed"}, "num_clients must be given"),
        ({"sampling": "fixed", "num_clients": 15}, "must be a whole number"),
        ({"sampling": "fixed", "num_clients": 20, "accountant": "pld"}, "must be 'rdp'"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        federated.dp_epsilon(**{**GOOD, **changes})


@pytest.mark.parametrize("target", [0.0, -1.0, np.inf])
def test_refuses_a_target_that_no_noise_meets(target):
    with pytest.raises(ValueError, match="target_epsilon must lie"):
        federated.calibrate_noise(target, 0.1, 10, 1e-5)


def test_says_when_no_noise_is_enough():
    with pytest.raises(ValueError, match="above a million"):
        federated.calibrate_noise(1e-9, 1.0, 10**6, 1e-9)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"gradax\[privacy\]"):
        federated.dp_epsilon(0.3, 1.7, 10, 1e-5)
