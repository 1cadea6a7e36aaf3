"""MoNNA against its golden trajectories, its parts and its limits."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.golden import assert_follows, golden_cases
from tests.federated.nodes import run_nodes

attacks = federated.attacks
TARGETS = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)
away_from_targets = lambda x: x - TARGETS


@pytest.mark.parametrize("case", golden_cases("monna"), ids=lambda case: case["name"])
def test_follows_the_golden_case(case):
    assert_follows("monna", case)


def test_without_faults_it_is_momentum_sgd_on_the_mean():
    x, _ = run_nodes(federated.monna(0.3, 0, "nodes"), jnp.zeros((7, 3)), away_from_targets, 6)
    centre = optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.3))
    value, state = jnp.zeros(3), centre.init(jnp.zeros(3))
    for _ in range(6):
        update, state = centre.update(value - TARGETS.mean(axis=0), state)
        value = value + update
    np.testing.assert_allclose(x, jnp.broadcast_to(value, x.shape), rtol=1e-4, atol=1e-6)


def test_equal_data_make_it_averaging():
    grad = lambda x: 2.0 * x - 1.0
    x, _ = run_nodes(federated.monna(0.1, 2, "nodes"), jnp.ones((7, 3)), grad, 5)
    alone, _ = run_nodes(federated.monna(0.1, 0, "nodes"), jnp.ones((1, 3)), grad, 5)
    np.testing.assert_allclose(x, jnp.broadcast_to(alone, x.shape), rtol=1e-5)


@pytest.mark.parametrize(
    "attack",
    [
        attacks.sign_flip,
        attacks.a_little_is_enough,
        functools.partial(attacks.inner_product, tau=0.1),
        lambda honest: honest[0] * jnp.nan,
    ],
    ids=["sign_flip", "alie", "foe", "nan"],
)
def test_honest_nodes_stay_near_the_honest_optimum(attack):
    tx = federated.monna(0.1, 1, "nodes", attack=attack)
    x, _ = run_nodes(tx, jnp.zeros((7, 3)), away_from_targets, 300)
    honest = TARGETS[:6]
    assert jnp.isfinite(x[:6]).all()
    spread = jnp.linalg.norm(honest - honest.mean(axis=0), axis=1).max()
    assert jnp.linalg.norm(x[:6] - honest.mean(axis=0), axis=1).max() < spread


def test_the_hook_and_an_injected_attack_agree():
    hooked = federated.monna(0.1, 1, "nodes", attack=attacks.sign_flip)
    injected = optax.chain(
        optax.ema(0.9, debias=False),
        optax.scale_by_learning_rate(0.1),
        federated.inject_attack(attacks.sign_flip, 1, "nodes", on="models"),
        federated.nearest_neighbor_average(1, "nodes"),
    )
    a, b = (run_nodes(tx, jnp.ones((7, 3)), away_from_targets, 4)[0] for tx in (hooked, injected))
    np.testing.assert_allclose(a[:6], b[:6], rtol=1e-5, atol=1e-6)


def test_hyperparameters_may_be_injected():
    make = optax.inject_hyperparams(federated.monna, static_args=("f", "num_responses", "steps"))
    a, b = (
        run_nodes(m(0.1, 1, "nodes", 0.5), jnp.ones((7, 3)), away_from_targets, 4)[0]
        for m in (make, federated.monna)
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -0.1}, r"monna: learning_rate must lie in \[0, inf\), got -0.1"),
        ({"momentum": 1.0}, r"monna: momentum must lie in \[0, 1\), got 1.0"),
        ({"f": -1}, r"f must be an integer >= 0, got -1"),
        ({"num_responses": 1, "key": 0}, r"num_responses must be an integer >= 2, got 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    good = {"learning_rate": 0.1, "f": 1, "axis_name": "nodes"}
    with pytest.raises(ValueError, match=message):
        federated.monna(**good | arguments)


def test_more_mixing_brings_honest_nodes_closer_under_attack():
    spreads = []
    for steps in (1, 3):
        tx = federated.monna(0.1, 1, "nodes", attack=attacks.a_little_is_enough, steps=steps)
        x, _ = run_nodes(tx, jnp.zeros((7, 3)), away_from_targets, 30)
        spreads.append(float(jnp.linalg.norm(x[:6] - x[:6].mean(axis=0))))
    assert spreads[1] < 0.5 * spreads[0]


def test_half_of_the_nodes_cannot_lie():
    with pytest.raises(ValueError, match=r"cannot tolerate 2f >= n, got f = 2 of n = 4"):
        federated.monna(0.1, 2, "nodes", num_nodes=4)
    with pytest.raises(ValueError, match=r"cannot tolerate 2f >= n, got f = 2 of n = 4"):
        run_nodes(federated.monna(0.1, 2, "nodes"), jnp.zeros(4), lambda x: x, 1)
