"""ChebCB: against the history that it does not keep, least squares in a box, what it learns."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import chebyshev
from scipy.optimize import lsq_linear

from gradax import schedules
from gradax.schedules.feedback._cheb_cb import box_least_squares, probabilities

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
CASES = json.loads((GOLDEN / "cheb_cb.json").read_text())["cases"]
make = functools.partial(schedules.cheb_cb, range(4), 3, -1.0, 3.0)


def arm(state, action):
    return state._replace(action=jnp.array(action, jnp.int32))


class History:
    """The same rule from the list of all that was observed, with another least squares solver."""

    def __init__(self, arms, m, low, high, pad_min):
        self.arms, self.m, self.low, self.width = arms, m, low, high - low
        self.pad_min, self.rounds, self.boxed = pad_min, [], 0
        self.theta, self.eta, self.scale = np.zeros((arms, m)), 0.0, 0.0

    def features(self, context):
        return chebyshev.chebvander(2 * (context - self.low) / self.width - 1, self.m - 1)[0]

    def fit(self, arm, box, candidate):
        phi, actions, _, costs = map(np.array, zip(*self.rounds, strict=True))
        own = actions == arm
        if not own.any():
            return 0.0
        target = (costs[own] - 1) / self.scale
        self.theta[arm] = np.linalg.lstsq(phi[own], target, rcond=1e-7)[0]
        if (np.abs(self.theta[arm]) <= box).all():
            return 0.0
        self.boxed += 1
        box = np.maximum(box, 1e-15)  # the solver wants an inside
        found = lsq_linear(phi[own], target, (-box, box), method="bvls", tol=1e-15)
        self.theta[arm] = found.x
        if np.linalg.matrix_rank(phi[own], tol=1e-6) < self.m:  # as good as any other
            assert (np.abs(candidate) <= box).all()
            error = ((phi[own] @ candidate - target) ** 2).sum()
            np.testing.assert_allclose(error, 2 * found.cost, rtol=1e-7, atol=1e-12)
            self.theta[arm] = candidate
        return 2 * found.cost

    def update(self, context, action, cost, candidates):
        phi = self.features(context)
        self.rounds.append((phi, action, self.theta[action] @ phi, cost))
        _, _, predicted, costs = map(np.array, zip(*self.rounds, strict=True))
        most, t, m = costs.max(), len(costs), self.m
        spread = most - (0 if self.pad_min else costs.min())
        n = 2 + 4 * spread / most * (1 + np.log(m))
        old, self.scale = self.scale, most * n
        box = np.array([1 / n] + [2 * spread / (self.scale * j) for j in range(1, m)])
        again = range(self.arms) if self.scale != old else [action]
        residual = sum(self.fit(arm, box, candidates[arm]) for arm in again)
        alpha = (np.pi + 2 / np.pi * np.log(2 * m + 1)) * spread / (2 * self.scale * (m + 1))
        error = ((predicted - costs / self.scale) ** 2).sum() - residual
        self.eta = 2 * t * np.sqrt(self.arms * t / (max(error, 0) + 2 * alpha**2 * t))


@pytest.mark.parametrize("pad_min", [True, False])
def test_sums_stand_for_the_whole_history(pad_min):
    # Noisy costs at few distinct contexts drive many of the fits against their boxes.
    rng, low, high = np.random.default_rng(2), -1.0, 3.0
    slow = History(4, 3, low, high, pad_min)
    with jax.enable_x64(True):
        bandit = make(pad_min=pad_min)
        contexts = rng.choice([0.5, 0.7, 0.9, 1.5], 60)
        update, state = jax.jit(bandit.update), bandit.init(0, contexts[0])
        for t in range(59):
            action, cost = rng.integers(4), 1 + 20 * rng.random() + 30 * (t > 30) * rng.random()
            state = update(arm(state, action), cost, contexts[t + 1])
            slow.update(contexts[t], action, cost, np.asarray(state.theta))
            np.testing.assert_allclose(state.scale, slow.scale, rtol=1e-12)
            np.testing.assert_allclose(state.theta, slow.theta, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(state.eta, slow.eta, rtol=1e-7)
            y = slow.theta @ slow.features(contexts[t + 1])
            rest = 1 / (4 + slow.eta * (y - y.min()))
            rest[y.argmin()] += 1 - rest.sum()
            np.testing.assert_allclose(state.probs, rest, rtol=1e-5, atol=1e-9)
    assert slow.boxed > 20


@pytest.mark.parametrize(("m", "examples", "width"), [(3, 4, 1.0), (6, 10, 1.0), (6, 3, 0.5)])
def test_least_squares_in_a_box(m, examples, width):
    rng, boxed = np.random.default_rng(0), 0
    box = np.array([0.15] + [0.15 / j for j in range(1, m)])
    with jax.enable_x64(True):
        for _ in range(15):
            phi = chebyshev.chebvander(rng.uniform(-width, width, examples), m - 1)
            target = rng.uniform(0, 0.15, examples)
            found, outside = box_least_squares(
                *map(jnp.asarray, (phi.T @ phi, phi.T @ target, box))
            )
            shortest = np.linalg.lstsq(phi, target)[0]
            assert bool(outside) == (np.abs(shortest) > box).any()
            if not outside:
                np.testing.assert_allclose(found, shortest, rtol=1e-6, atol=1e-9)
                continue
            boxed += 1
            assert (np.abs(found) <= box * (1 + 1e-12)).all()
            best = 2 * lsq_linear(phi, target, (-box, box), method="bvls", tol=1e-15).cost
            assert ((phi @ found - target) ** 2).sum() <= best * (1 + 1e-9) + 1e-12
    assert boxed >= 3


def test_probabilities():
    y = jnp.array([0.3, 0.1, 0.5, 0.1])
    np.testing.assert_allclose(probabilities(y, 0.0), 0.25)
    found = np.asarray(probabilities(y, 10.0))
    np.testing.assert_allclose(found, [1 / 6, 1 - 1 / 6 - 1 / 8 - 1 / 4, 1 / 8, 1 / 4], rtol=1e-6)
    np.testing.assert_allclose(probabilities(y[::-1], 10.0).sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_32_bits_are_enough_for_the_recorded_runs(case):
    hp, contexts, outputs = case["hyperparams"], case["inputs"]["contexts"], case["outputs"]
    low, high = hp["context_low"], hp["context_high"]
    bandit = schedules.cheb_cb(hp["grid"], hp["num_features"], low, high)
    update, state = jax.jit(bandit.update), bandit.init(0, contexts[0])
    for t, (probs, action) in enumerate(zip(outputs["probs"], outputs["actions"], strict=True)):
        assert state.probs.dtype == jnp.float32
        np.testing.assert_allclose(state.probs, probs, atol=2e-4)
        following = contexts[min(t + 1, len(contexts) - 1)]
        state = update(arm(state, action), outputs["costs"][t], following)


def test_round_one_is_uniform_in_every_context():
    for context in (None, -1.0, 2.2):
        np.testing.assert_allclose(make().init(0, context).probs, 0.25)
    assert make().init(0).context == 1.0


@pytest.mark.parametrize("key", [1, 2, 3])
def test_finds_the_best_arm_of_each_context(key):
    bandit = make()
    cost = lambda action, context: 10.0 + jnp.abs(action - (context + 1) * 0.75)  # 0 to 3
    contexts = jnp.asarray(np.random.default_rng(key).uniform(-1, 3, 401), jnp.float32)

    def round_(state, context):
        paid = cost(state.action, state.context)
        return bandit.update(state, paid, context), paid

    run = jax.jit(lambda state: jax.lax.scan(round_, state, contexts[1:]))
    _, paid = run(bandit.init(key, contexts[0]))
    best = cost(jnp.arange(4)[:, None], contexts[:-1])
    excess = paid - best.min(axis=0)
    any_fixed = (best - best.min(axis=0)).mean(axis=1).min()
    assert excess[-150:].mean() < 0.5 * any_fixed


def test_one_feature_is_blind_to_the_context():
    bandit = schedules.cheb_cb(range(3), 1, 0.0, 1.0)
    update, state = jax.jit(bandit.update), bandit.init(0, 0.2)
    for cost in (3.0, 7.0, 4.0, 4.5):
        state = update(state, cost, 0.9)
    np.testing.assert_allclose(update(state, 2.0, 0.1).probs, update(state, 2.0, 0.8).probs)


def test_traced_contexts_are_cut_and_unknown_ones_are_the_middle():
    bandit = make()
    update = jax.jit(bandit.update)
    state = update(update(bandit.init(0, 0.0), 5.0, 2.0), 9.0, -0.5)
    for given, taken in ((9.0, 3.0), (-np.inf, -1.0), (np.nan, 1.0)):
        found, expected = update(state, 4.0, given), update(state, 4.0, taken)
        jax.tree.map(np.testing.assert_array_equal, found[:-1], expected[:-1])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_cost_counts_as_the_largest_before_it(broken):
    bandit = make()
    update = jax.jit(bandit.update)
    state = arm(update(arm(bandit.init(0, 0.0), 0), 5.0, 2.0), 1)
    found, expected = update(state, broken, -0.5), update(state, 5.0, -0.5)
    jax.tree.map(np.testing.assert_array_equal, found[:-1], expected[:-1])
    first = update(bandit.init(0), broken, 0.0)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in first[:-1])


@pytest.mark.parametrize("pad_min", [True, False])
def test_costs_of_zero_break_nothing(pad_min):
    bandit = make(cost_offset=0.0, pad_min=pad_min)
    update, state = jax.jit(bandit.update), bandit.init(0)
    for _ in range(3):
        state = update(state, 0.0, 0.5)
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in state[:-1])
    np.testing.assert_allclose(state.probs, 0.25)


def test_no_leaf_of_the_state_is_weakly_typed():
    begin = make().init(0)
    for state in (begin, make().update(begin, 3.0, 0.0)):
        assert not any(leaf.weak_type for leaf in state[:-1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f([], 3, 0.0, 1.0), "cheb_cb: grid must list one value or more"),
        (lambda f: f([1.0], 0, 0.0, 1.0), "num_features must be an integer >= 1, got 0"),
        (lambda f: f([1.0], 3, 1.0, 1.0), r"cheb_cb: high must lie in \(1.0, inf\), got 1.0"),
        (lambda f: f([1.0], 3, np.nan, 1.0), r"low must lie in \(-inf, inf\), got nan"),
        (lambda f: f([1.0], 3, 0.0, 1.0, cost_offset=-1.0), r"cost_offset must lie in \[0, inf\)"),
        (lambda f: make().init(0, 3.5), r"cheb_cb: context must lie in \[-1.0, 3.0\], got 3.5"),
        (lambda f: make().update(make().init(0), 2.0, -2.0), "context must lie in"),
        (lambda f: make().update(make().init(0), 0.5, 0.0), r"cost must lie in \[1.0, inf\)"),
        (lambda f: make().init(None), "cheb_cb: key must be a JAX key or an integer"),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules.cheb_cb)
