"""Tsallis-INF: its distribution, what it learns, and costs that are broken."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import schedules
from gradax.schedules.feedback._tsallis_inf import probabilities

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
CASES = json.loads((GOLDEN / "tsallis_inf.json").read_text())["cases"]
ARMS = 6


def play(bandit, table, key=0):
    """Runs along a table of costs, ``[rounds, arms]``; returns the states and the actions."""

    def round_(state, row):
        new = bandit.update(state, row[state.action])
        return new, (state.probs, state.action)

    return jax.jit(lambda state: jax.lax.scan(round_, state, jnp.asarray(table)))(bandit.init(key))


def test_the_worked_example():
    with jax.enable_x64(True):
        costs, eta = jnp.array([0.0, 4.0, 0.0]), 2 / np.sqrt(2)
        found = probabilities(costs, eta)
        np.testing.assert_allclose(found, [0.472741, 0.054518, 0.472741], atol=5e-7)
        # p = 4 / (eta (z - x))^2 gives back the x that all arms share.
        x = costs - 2 / (eta * jnp.sqrt(found))
        np.testing.assert_allclose(x, -2.056853, atol=5e-7)


@settings(deadline=None, max_examples=25)
@given(
    costs=st.lists(st.floats(0, 2**60, width=32), min_size=ARMS, max_size=ARMS),
    rounds=st.integers(1, 10**9),
)
def test_probabilities_sum_to_one_and_fall_with_the_cost(costs, rounds):
    costs = np.array(costs, np.float32)
    found = np.asarray(probabilities(costs, 2 / np.sqrt(rounds)))
    np.testing.assert_allclose(found.sum(), 1, atol=1e-6)
    assert (np.diff(found[np.argsort(costs)]) <= 0).all()
    np.testing.assert_allclose(
        probabilities(costs[::-1], 2 / np.sqrt(rounds))[::-1], found, rtol=1e-5
    )


def test_before_it_is_normalised_the_sum_is_one_already():
    # Normalising must not hide a solver that stopped short.
    with jax.enable_x64(True):
        for scale in (1e-3, 1.0, 1e3, 1e9):
            costs, eta = jnp.asarray(scale * np.random.default_rng(1).random(50)), 0.3
            probs = probabilities(costs, eta)
            x = costs - 2 / (eta * jnp.sqrt(probs))
            np.testing.assert_allclose(x, x[jnp.argmin(costs)], rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_32_bits_are_enough_for_the_recorded_runs(case):
    bandit = schedules.tsallis_inf(case["hyperparams"]["grid"])
    update, state, outputs = jax.jit(bandit.update), bandit.init(0), case["outputs"]
    for probs, action, cost in zip(*map(outputs.get, ("probs", "actions", "costs")), strict=True):
        assert state.probs.dtype == jnp.float32
        np.testing.assert_allclose(state.probs, probs, atol=6e-6)
        state = update(state._replace(action=jnp.array(action, jnp.int32)), float(cost))


def test_round_one_is_uniform_and_one_arm_is_certain():
    np.testing.assert_allclose(schedules.tsallis_inf(range(8)).init(3).probs, 1 / 8)
    single = schedules.tsallis_inf([0.5])
    state, (probs, actions) = play(single, 1.0 + np.arange(5.0)[:, None])
    np.testing.assert_allclose(probs, 1)
    assert not actions.any()
    assert single.value(state) == 0.5


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
def test_finds_the_best_arm_on_any_scale_of_costs(unit):
    rng = np.random.default_rng(0)
    table = unit * (np.linspace(1.0, 2.0, ARMS) + 0.3 * rng.random((600, ARMS)))
    bandit = schedules.tsallis_inf(range(ARMS), cost_offset=0.9 * unit)
    regrets = []
    for key in (1, 2, 3):
        _, (probs, actions) = play(bandit, table.astype(np.float32), key)
        assert probs[-1, 0] > 0.8
        paid = table[np.arange(600), actions]
        regrets.append((paid.mean() - table[:, 0].mean()) / unit)
    assert np.mean(regrets) < 0.1  # 0.5 for an even draw


def test_stays_near_uniform_on_average_while_costs_are_equal():
    # One run may leave out an arm that was drawn against the odds; no arm takes over.
    bandit = schedules.tsallis_inf(range(ARMS))
    equal = jnp.full((300, ARMS), 7.0)
    probs = jax.vmap(lambda key: play(bandit, equal, key)[1][0])(
        jax.random.split(jax.random.key(0), 64)
    )
    np.testing.assert_allclose(probs.mean(axis=(0, 1)), 1 / ARMS, atol=0.035)
    assert probs.mean(axis=1).max() < 0.75


def test_costs_at_or_below_the_offset_teach_nothing():
    bandit = schedules.tsallis_inf(range(ARMS))
    for cost in (1.0, 0.25):
        state, (probs, _) = play(bandit, np.full((9, ARMS), cost))
        np.testing.assert_allclose(probs, 1 / ARMS, rtol=1e-6)
        assert state.mean_cost == 0


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_cost_counts_as_the_largest_before_it(broken):
    bandit, first = schedules.tsallis_inf(range(3)), jnp.array(0, jnp.int32)
    update = jax.jit(bandit.update)
    begin = update(bandit.init(0)._replace(action=first), 5.0)._replace(action=first)
    for found, cost in ((update(begin, broken), 5.0), (update(bandit.init(0), broken), 2.0)):
        start = begin if cost == 5.0 else bandit.init(0)
        jax.tree.map(np.testing.assert_array_equal, found[:-1], update(start, cost)[:-1])


def test_an_arm_that_always_breaks_is_given_up():
    table = np.full((400, 3), 2.0)
    table[:, 1] = np.nan
    table[:, 2] = 3.0
    state, _ = play(schedules.tsallis_inf(range(3)), table)
    assert np.isfinite(np.asarray(state.costs)).all()
    assert state.probs[0] > 0.6


def test_no_leaf_of_the_state_is_weakly_typed():
    bandit = schedules.tsallis_inf(range(3))
    begin = bandit.init(0)
    for state in (begin, bandit.update(begin, 3.0)):
        assert not any(leaf.weak_type for leaf in state[:-1])


def test_the_value_takes_the_dtype_of_what_it_multiplies():
    bandit = schedules.tsallis_inf(np.array([0.1, 0.2]))
    value = bandit.value(bandit.init(0))
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        assert (value * jnp.ones((), dtype)).dtype == dtype
    sizes = schedules.tsallis_inf([16, 32])
    assert sizes.value(sizes.init(0)).dtype == jnp.int32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda make: make([]), r"tsallis_inf: grid must list one value or more, got shape \(0,\)"),
        (lambda make: make([[1.0, 2.0]]), r"got shape \(1, 2\)"),
        (lambda make: make([1.0, np.nan]), r"grid must hold finite real numbers, got \[1.0, nan\]"),
        (lambda make: make(["a"]), "grid must hold finite real numbers"),
        (lambda make: make([1.0], cost_offset=np.inf), r"cost_offset must lie in \(-inf, inf\)"),
        (lambda make: make([1.0]).init(None), "tsallis_inf: key must be a JAX key or an integer"),
        (
            lambda make: make([1.0]).update(make([1.0]).init(0), 0.5),
            r"tsallis_inf: cost must lie in \[1.0, inf\), got 0.5",
        ),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules.tsallis_inf)
