"""Last-iterate schedules: their closed forms, the bound they promise, how they are used."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linprog

from gradax import schedules

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
CASES = json.loads((GOLDEN / "last_iterate_linear_decay.json").read_text())["cases"]

FAMILY = {
    "linear_decay": lambda: schedules.linear_decay_schedule(0.3, 6),
    "last_iterate": lambda: schedules.last_iterate_schedule(2.0, 0.5, 6),
    "linear": lambda: schedules.last_iterate_linear_schedule(0.3, 6),
    "linear_capped": lambda: schedules.last_iterate_linear_schedule(0.3, 6, 8.0),
    "fixed": lambda: schedules.last_iterate_fixed_schedule(0.3, 6, 1.0),
    "inv_sqrt": lambda: schedules.last_iterate_inv_sqrt_schedule(0.3, 4.0),
    "strongly_convex": lambda: schedules.last_iterate_strongly_convex_schedule(0.5, 4.0),
    "strongly_convex_one": lambda: schedules.last_iterate_strongly_convex_schedule(
        0.5, 4.0, numerator=1
    ),
    "heavy_tailed": lambda: schedules.last_iterate_heavy_tailed_schedule(0.3, 1.3),
}
family = pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY)


def values(schedule, counts):
    return np.asarray(schedule(jnp.asarray(counts)))


def descend(a, b, x, schedule, num_steps):
    """Subgradient descent on max_i (a_i x - b_i), with the first maximiser's gradient."""
    tx = optax.sgd(schedule)
    update, state, seen = jax.jit(tx.update), tx.init(x), []
    for _ in range(num_steps):
        updates, state = update(jnp.asarray(a[np.argmax(a @ np.asarray(x) - b)]), state)
        x = optax.apply_updates(x, updates)
        seen.append(np.asarray(x))
    return seen


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_follows_the_recorded_run_and_keeps_its_bound(case):
    hp, (a, b) = case["hyperparams"], (np.array(case["problem"][key]) for key in "ab")
    num_steps = hp["num_steps"]
    with jax.enable_x64(True):
        start = jnp.asarray(case["params0"]["x"])
        schedule = schedules.last_iterate_schedule(hp["lipschitz"], hp["radius"], num_steps)
        seen = descend(a, b, start, schedule, num_steps)
        np.testing.assert_allclose(seen, [p["x"] for p in case["params"]], rtol=1e-9, atol=1e-14)
        # The recorded run starts farther from the solution than its radius: the bound is for this.
        rows = np.hstack([a, -np.ones((len(a), 1))])
        best = linprog([0] * start.size + [1], A_ub=rows, b_ub=b, bounds=(None, None))
        radius = float(np.linalg.norm(best.x[:-1] - start))
        schedule = schedules.last_iterate_schedule(hp["lipschitz"], radius, num_steps)
        last = descend(a, b, start, schedule, num_steps)[-1]
    gap = np.max(a @ last - b) - best.fun
    assert 0 <= gap <= hp["lipschitz"] * radius / np.sqrt(num_steps + 1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_last_gap_is_below_the_optimal_bound(seed):
    # f(x) = max |x_i - s_i| has Lipschitz constant 1 and its minimum at s.
    rng, num_steps = np.random.default_rng(seed), 100
    solution = rng.normal(size=40)
    radius = float(np.linalg.norm(solution))
    steps = values(schedules.last_iterate_schedule(1.0, radius, num_steps), np.arange(num_steps))
    x = np.zeros(40)
    for step in steps:
        worst = np.argmax(np.abs(x - solution))
        x[worst] -= step * np.sign(x[worst] - solution[worst])
    assert np.max(np.abs(x - solution)) <= radius / np.sqrt(num_steps + 1)


def test_hand_computed_steps():
    expected = [0.357771, 0.268328, 0.178885, 0.0894427, 0.0]
    schedule = schedules.last_iterate_schedule(1.0, 1.0, 4)
    np.testing.assert_allclose(values(schedule, np.arange(5)), expected, rtol=3e-6)
    cap = 1 / (2 * 4.0)
    capped = schedules.last_iterate_linear_schedule(1.0, 4, smoothness=4.0)
    np.testing.assert_allclose(values(capped, np.arange(5)), [cap, cap, cap, cap, 0.0])
    t = np.arange(1, 9)
    np.testing.assert_allclose(
        values(FAMILY["inv_sqrt"](), t - 1), np.minimum(1 / 8, 0.3 / np.sqrt(t)), rtol=1e-6
    )
    np.testing.assert_allclose(
        values(FAMILY["strongly_convex"](), t - 1), 2 / (0.5 * (t + 1 + 32)), rtol=1e-6
    )
    np.testing.assert_allclose(
        values(FAMILY["strongly_convex_one"](), t - 1), 1 / (0.5 * (t + 16)), rtol=1e-6
    )
    np.testing.assert_allclose(values(FAMILY["heavy_tailed"](), t - 1), 0.3 * t ** (-1 / 1.3), 1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_sums_of_the_steps(num_steps):
    counts = np.arange(num_steps)
    optimal = values(schedules.last_iterate_schedule(2.0, 3.0, num_steps), counts).sum()
    np.testing.assert_allclose(optimal, 3 * num_steps / (4 * np.sqrt(num_steps + 1)), rtol=1e-5)
    linear = values(schedules.last_iterate_linear_schedule(0.7, num_steps), counts)
    np.testing.assert_allclose(
        linear.sum(), 0.7 * (num_steps + 1) / (2 * np.sqrt(num_steps)), rtol=1e-5
    )
    np.testing.assert_allclose(linear[-1], 0.7 / num_steps**1.5, rtol=1e-5)


def test_identities_between_the_members():
    counts = np.arange(12)
    with jax.enable_x64(True):
        same = functools.partial(np.testing.assert_allclose, rtol=1e-14, atol=0)
        same(
            values(schedules.last_iterate_schedule(2.0, 0.5, 9), counts),
            values(schedules.linear_decay_schedule(0.25 / np.sqrt(10), 9), counts),
        )
        same(
            values(schedules.linear_decay_schedule(0.25, 9), counts),
            values(optax.linear_schedule(0.25 * 9 / 10, 0.0, 9), counts),
        )
        same(
            values(schedules.last_iterate_heavy_tailed_schedule(0.3, 2.0), counts),
            values(schedules.last_iterate_inv_sqrt_schedule(0.3), counts),
        )


@family
def test_broadcasts_and_is_the_same_under_jit_and_vmap(make):
    schedule, counts = make(), jnp.arange(10)
    one_by_one = np.array([float(schedule(count)) for count in range(10)])
    for run in (schedule, jax.jit(schedule), jax.vmap(schedule)):
        np.testing.assert_allclose(run(counts), one_by_one, rtol=1e-6)
    assert schedule(counts.reshape(5, 2)).shape == (5, 2)
    assert jnp.shape(schedule(jnp.int32(3))) == ()


@family
def test_is_finite_and_falling_up_to_the_largest_count(make):
    schedule, largest = make(), np.iinfo(np.int32).max
    seen = values(schedule, [0, 1, 2, 5, 6, 7, 1000, largest])
    assert np.isfinite(seen).all()
    assert (np.diff(seen) <= 1e-9).all()
    assert (seen >= 0).all()


@family
def test_is_finite_before_its_start_as_join_schedules_asks(make):
    joined = optax.join_schedules([optax.constant_schedule(0.5), make()], [3])
    with jax.debug_nans(True):
        np.testing.assert_allclose(joined(2), 0.5)
        np.testing.assert_allclose(joined(3), make()(0))


@family
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_keeps_the_dtype_of_params(make, dtype):
    params = jnp.ones(3, dtype)
    with jax.enable_x64(True):
        tx = optax.inject_hyperparams(optax.sgd)(learning_rate=make())
        updates, state = jax.jit(tx.update)(params, tx.init(params), params)
        assert updates.dtype == dtype
        np.testing.assert_allclose(state.hyperparams["learning_rate"], make()(0), rtol=1e-2)


def test_numbers_may_be_traced():
    make = lambda scale, smoothness: schedules.last_iterate_linear_schedule(scale, 4, smoothness)(1)
    np.testing.assert_allclose(jax.jit(make)(1.0, 0.0), 0.375)
    np.testing.assert_allclose(jax.jit(make)(1.0, 4.0), 0.125)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.linear_decay_schedule(-0.1, 5), r"peak_value must lie in \[0, inf\)"),
        (lambda: schedules.linear_decay_schedule(0.1, 0), "num_steps must be an integer >= 1"),
        (lambda: schedules.linear_decay_schedule(0.1, 2.5), "num_steps must be an integer >= 1"),
        (lambda: schedules.last_iterate_schedule(0.0, 1.0, 5), r"lipschitz must lie in \(0, inf\)"),
        (lambda: schedules.last_iterate_schedule(1.0, -1.0, 5), r"radius must lie in \(0, inf\)"),
        (lambda: schedules.last_iterate_schedule(1.0, 1.0, 0), "num_steps must be"),
        (lambda: schedules.last_iterate_linear_schedule(0.0, 5), r"scale must lie in \(0, inf\)"),
        (lambda: schedules.last_iterate_linear_schedule(1.0, 5, -1.0), "smoothness must lie in"),
        (lambda: schedules.last_iterate_fixed_schedule(1.0, -3), "num_steps must be"),
        (lambda: schedules.last_iterate_fixed_schedule(float("nan"), 3), "scale must lie in"),
        (lambda: schedules.last_iterate_inv_sqrt_schedule(1.0, -0.1), "smoothness must lie in"),
        (lambda: schedules.last_iterate_strongly_convex_schedule(0.0), "strong_convexity must"),
        (
            lambda: schedules.last_iterate_strongly_convex_schedule(1.0, numerator=3),
            "numerator must be one of 1, 2, got 3",
        ),
        (
            lambda: schedules.last_iterate_heavy_tailed_schedule(1.0, 1.0),
            r"last_iterate_heavy_tailed_schedule: tail_index must lie in \(1, 2\], got 1.0",
        ),
        (lambda: schedules.last_iterate_heavy_tailed_schedule(1.0, 2.1), "tail_index must lie in"),
    ],
)
def test_rejects_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
