"""Schedules of asynchronous servers and the weights that go with them: NumPy alone."""

import json
import pathlib
from fractions import Fraction

import jax
import numpy as np
import pytest
from scipy import stats

from gradax import federated

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "async_federated.json"
CASES = {case["name"]: case["hyperparams"] for case in json.loads(GOLDEN.read_text())["cases"]}
#: The fastest of five clients needs 20 % of the time of the slowest.
F80 = [1.0, 0.8, 0.6, 0.4, 0.2]


def by_fractions(kind, times, num_steps, buffer_size=1, window=None):
    """The rules once more, in exact arithmetic: start models, and times."""
    tau = [Fraction(str(time)) for time in times]
    ready, version, now = list(tau), [0] * len(tau), Fraction(0)
    starts, clock = np.full((num_steps, len(tau)), -1), []
    for step in range(num_steps):
        if kind == "fedfix":
            now += Fraction(str(window))
            who = [i for i, time in enumerate(ready) if time <= now]
        else:
            count = len(tau) if kind == "sync" else buffer_size
            who = sorted(range(len(tau)), key=lambda i: (ready[i], i))[:count]
            now = max(now, *(ready[i] for i in who))
        for i in who:
            starts[step, i], version[i], ready[i] = version[i], step + 1, now + tau[i]
        clock.append(float(now))
    return starts, clock


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sync", {}),
        ("async", {}),
        ("fedbuff", {"buffer_size": 2}),
        ("fedbuff", {"buffer_size": 5}),
        ("fedfix", {"window": 0.3}),
        ("fedfix", {"window": 0.1}),
    ],
)
@pytest.mark.parametrize("times", [F80, [0.3, 0.1, 0.7, 0.7]], ids=["F-80", "equal"])
def test_equals_exact_arithmetic_where_floats_would_not(kind, options, times):
    if options.get("buffer_size", 1) > len(times):
        options = {"buffer_size": len(times)}
    schedule = federated.async_schedule(kind, times, 400, **options)
    starts, clock = by_fractions(kind, times, 400, **options)
    np.testing.assert_array_equal(schedule.matrix(), starts)
    np.testing.assert_allclose(schedule.times, clock, rtol=1e-9)


def test_a_window_that_divides_the_times():
    """3 * 0.2 > 0.6 in floats: no client may come a window late."""
    times = [0.2 * k for k in range(1, 8)]
    assert 3 * 0.2 > 0.6
    schedule = federated.async_schedule("fedfix", times, 420, window=0.2)
    np.testing.assert_array_equal(schedule.participation, 1 / np.arange(1, 8))
    weights = federated.unbiased_weights("fedfix", times, window=0.2)
    np.testing.assert_allclose(weights, np.arange(1, 8) / 7, rtol=1e-12)


def test_the_worked_weights():
    weigh = federated.unbiased_weights
    np.testing.assert_allclose(
        weigh("async", F80), [2.28333, 1.82667, 1.37, 0.91333, 0.45667], atol=5e-6
    )
    np.testing.assert_allclose(weigh("fedfix", F80, window=0.5), [0.4, 0.4, 0.4, 0.2, 0.2])
    np.testing.assert_allclose(weigh("fedfix", F80, window=0.3), [0.8, 0.6, 0.4, 0.4, 0.2])
    np.testing.assert_allclose(weigh("sync", F80), 0.2)


@pytest.mark.parametrize(("kind", "options"), [("async", {}), ("fedfix", {"window": 0.3})])
def test_weight_times_participation_is_importance(kind, options):
    shares = np.array([0.4, 0.1, 0.2, 0.1, 0.2])
    often = federated.async_schedule(kind, F80, 12_000, **options).participation
    found = federated.unbiased_weights(kind, F80, 10 * shares, **options) * often
    np.testing.assert_allclose(found, shares, rtol=2e-3)


def test_the_recorded_weights_of_a_buffer():
    """Counted over 38 steps by the recorded scheduler, which compares floats as they come."""
    hp = CASES["fedbuff_2_weight"]
    schedule = federated.async_schedule(
        "fedbuff", hp["client_times"], 38, buffer_size=2, tolerance=0.0
    )
    np.testing.assert_allclose(0.2 / schedule.participation, hp["aggregation_weights"], rtol=1e-12)
    ours = federated.unbiased_weights("fedbuff", hp["client_times"], buffer_size=2)
    np.testing.assert_allclose(ours, hp["aggregation_weights"], rtol=0.06)


CLOCKS = {
    "exponential": federated.client_clock("exponential", [1.0, 0.5, 0.25]),
    "lognormal": federated.client_clock("lognormal", [1.0, 0.5, 0.25], spread=0.8),
    "trace": federated.client_clock("trace", [[1.0, 0.25], [0.5, 0.5], [0.7, 0.1]]),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_random_clocks_are_unbiased_too(name):
    clock = CLOCKS[name]
    for kind, options in (("async", {}), ("fedfix", {"window": 0.3})):
        often = federated.async_schedule(kind, clock, 20_000, seed=1, **options).participation
        weights = federated.unbiased_weights(kind, clock, **options)
        np.testing.assert_allclose(weights * often, 1 / 3, rtol=0.04)


@pytest.mark.parametrize("name", CLOCKS)
def test_a_clock_follows_one_law_on_the_host_and_in_a_scan(name):
    clock, count = CLOCKS[name], 4000
    ids, jobs = np.repeat(np.arange(3), count), np.tile(np.arange(count), 3)
    host = clock.draw(np.random.default_rng(0), ids, jobs).reshape(3, count)
    keys = jax.random.split(jax.random.key(0), count)
    rows = np.arange(3)
    sample = lambda key, job: clock.sample(key, rows, np.zeros(3, np.int32) + job)
    device = np.asarray(jax.jit(jax.vmap(sample))(keys, np.arange(count))).T
    for mine, theirs, mean in zip(host, device, clock.mean, strict=True):
        np.testing.assert_allclose([mine.mean(), theirs.mean()], mean, rtol=0.08)
        if name != "trace":
            assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
    if name == "trace":
        np.testing.assert_allclose(host, device, rtol=1e-6)


def test_mean_windows_are_those_of_many_draws():
    for clock in CLOCKS.values():
        ids, jobs = np.repeat(np.arange(3), 50_000), np.tile(np.arange(50_000), 3)
        drawn = clock.draw(np.random.default_rng(0), ids, jobs).reshape(3, -1)
        found = np.ceil(drawn / 0.3).mean(axis=1)
        np.testing.assert_allclose(clock.mean_windows(0.3), found, rtol=0.01)


def test_a_seed_decides_a_schedule():
    make = lambda seed: federated.async_schedule("async", CLOCKS["lognormal"], 50, seed=seed)
    np.testing.assert_array_equal(make(3).matrix(), make(3).matrix())
    assert (make(3).matrix() != make(4).matrix()).any()


def test_a_matrix_comes_back():
    for hp in CASES.values():
        starts = np.array(hp["server_schedule"])
        schedule = federated.AsyncSchedule.of_matrix(starts)
        np.testing.assert_array_equal(schedule.matrix(), starts)
        ages = np.arange(len(starts))[:, None] - starts
        assert schedule.max_age == ages[starts >= 0].max()
        assert schedule.num_versions == schedule.max_age + 1


def test_after_the_last_step_nobody_comes():
    schedule = federated.async_schedule("fedbuff", F80, 3, buffer_size=2)
    cohort = schedule.cohort()
    for round in range(5):
        draw, _ = cohort.draw(cohort.init(), None, round)
        at = min(round, 2)
        here = schedule.ids[at] if round < 3 else [5, 5]
        np.testing.assert_array_equal(draw.ids, here)
        np.testing.assert_allclose(draw.shared["time"], schedule.times[at], rtol=1e-6)
        begun = schedule.versions[at] if round < 3 else [round, round]
        np.testing.assert_array_equal(draw.lane["version"], begun)


schedule, weights, clock = (
    federated.async_schedule,
    federated.unbiased_weights,
    federated.client_clock,
)
of_matrix = federated.AsyncSchedule.of_matrix
MISTAKES = {
    "kind": (lambda: schedule("late", F80, 3), "kind must be one of 'sync', 'async'"),
    "steps": (lambda: schedule("sync", F80, 0), "num_steps must be an integer >= 1"),
    "no window": (lambda: schedule("fedfix", F80, 3), "needs window="),
    "window zero": (lambda: schedule("fedfix", F80, 3, window=0.0), r"window must lie in \(0, inf"),
    "window below": (lambda: weights("fedfix", F80, window=-1.0), r"window must lie in \(0, inf"),
    "no buffer": (lambda: schedule("fedbuff", F80, 3), "buffer_size must be an integer >= 1"),
    "buffer": (
        lambda: schedule("fedbuff", F80, 3, buffer_size=6),
        "buffer_size must not exceed the number of clients, 5, got 6",
    ),
    "tolerance": (lambda: schedule("async", F80, 3, tolerance=1.0), "tolerance must lie in"),
    "time zero": (lambda: schedule("async", [1.0, 0.0], 3), "times must be positive and finite"),
    "time NaN": (lambda: clock("exponential", [np.nan]), "times must be positive and finite"),
    "no clients": (lambda: clock("fixed", []), r"times must have the axes \[clients\], got \(0,"),
    "flat trace": (lambda: clock("trace", [1.0]), r"must have the axes \[clients, jobs\]"),
    "clock": (lambda: clock("normal", F80), "kind must be one of 'fixed', 'exponential'"),
    "spread": (lambda: clock("lognormal", F80, spread=-1.0), "spread must lie in"),
    "importance": (lambda: weights("async", F80, [1.0, 1.0]), "must be 5 positive numbers"),
    "importance zero": (lambda: weights("sync", [1.0], [0.0]), "must be 1 positive numbers"),
    "never there": (
        lambda: weights("fedbuff", [1.0, 1.0, 99.0], buffer_size=1, num_steps=9),
        "client 2 does not take part within 9 steps",
    ),
    "future": (lambda: of_matrix([[0], [2]]), "in step 1 client 0 begins with model 2; .* 0 to 1"),
    "below": (lambda: of_matrix([[0], [-2]]), "begins with model -2"),
    "twice": (lambda: of_matrix([[0], [0]]), "contributed to model 1 already"),
    "float": (lambda: of_matrix([[0.0]]), r"starts must be integers \[steps, clients\]"),
    "times back": (lambda: of_matrix([[0], [1]], [2.0, 1.0]), "and not decrease"),
    "times short": (lambda: of_matrix([[0], [1]], [2.0]), r"times must have shape \(2,\)"),
}


@pytest.mark.parametrize(("make", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_refuses(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
