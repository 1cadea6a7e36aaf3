"""Clocks inside a simulation: the order of the schedule, the clock's law, and who is dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated

#: Binary fractions: float32 is exact.
TIMES = np.array([1.0, 0.875, 0.625, 0.375, 0.25])


def play(cohort, steps, seed=0):
    """Ids, versions, times and numbers cut, of all steps in one scan."""

    def step(state, round):
        key = jax.random.fold_in(jax.random.key(seed), round)
        drawn, state = cohort.draw(state, key, round)
        seen = drawn.ids, drawn.lane["version"], drawn.shared["time"], jnp.int32(drawn.num_cut)
        return state, seen

    run = lambda: jax.lax.scan(step, cohort.init(), jnp.arange(steps, dtype=jnp.int32))
    state, seen = jax.jit(run)()
    return (*map(np.asarray, seen), state)


def matrix(ids, versions, count):
    starts = np.full((len(ids), count + 1), -1)
    np.put_along_axis(starts, ids, versions, axis=1)
    return starts[:, :-1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sync", {}),
        ("async", {}),
        ("fedbuff", {"buffer_size": 2}),
        ("fedfix", {"window": 0.3}),
        ("fedfix", {"window": 0.125}),
    ],
)
def test_follows_the_schedule_of_a_fixed_clock(kind, options):
    ids, versions, times, cut, state = play(
        federated.async_cohort(kind, TIMES, max_age=99, **options), 200
    )
    schedule = federated.async_schedule(kind, TIMES, 200, **options)
    np.testing.assert_array_equal(matrix(ids, versions, 5), schedule.matrix())
    np.testing.assert_allclose(times, schedule.times, rtol=2e-7)
    assert not cut.any()
    begun = np.bincount(ids.ravel(), minlength=6)[:5]
    assert (state.jobs - begun).max() <= 1


def test_a_trace_is_played_job_by_job():
    trace = np.array([[1.0, 0.5], [0.25, 1.5], [2.0, 0.125]])
    clock = federated.client_clock("trace", trace)
    ids, versions, times, *_ = play(federated.async_cohort("async", clock, max_age=99), 60)
    schedule = federated.async_schedule("async", clock, 60)
    np.testing.assert_array_equal(matrix(ids, versions, 3), schedule.matrix())
    np.testing.assert_allclose(times, schedule.times, rtol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "lognormal"])
def test_random_clocks_keep_their_means_and_differ_by_seed(kind):
    clock = federated.client_clock(kind, [1.0, 0.5, 0.25])
    cohort = federated.async_cohort("async", clock, max_age=999)
    ids, _, times, _, _ = play(cohort, 4000)
    often = np.bincount(ids.ravel(), minlength=3) / 4000
    weights = federated.unbiased_weights("async", clock)
    np.testing.assert_allclose(weights * often, 1 / 3, rtol=0.1)
    np.testing.assert_allclose(times[-1], 4000 / np.sum(1 / clock.mean), rtol=0.06)
    other, *_ = play(cohort, 4000, seed=1)
    assert (ids != other).any()


def test_what_is_too_old_is_dropped_and_begins_anew():
    ids, versions, _, cut, state = play(federated.async_cohort("async", TIMES, max_age=4), 300)
    schedule = federated.async_schedule("async", TIMES, 300)
    ages = np.arange(300)[:, None] - schedule.versions
    assert schedule.max_age > 4
    np.testing.assert_array_equal(cut, (ages > 4).sum(axis=1))
    np.testing.assert_array_equal(ids, np.where(ages > 4, 5, schedule.ids))
    # Who is absent reads today's model.
    np.testing.assert_array_equal(versions, np.where(ages > 4, ages + schedule.versions, versions))
    assert (np.arange(300)[:, None] - versions).max() <= 4
    jobs = np.bincount(schedule.ids.ravel(), minlength=5)
    assert (state.jobs - jobs).max() <= 1


def test_who_finds_no_room_in_a_window_comes_in_the_next():
    cohort = federated.async_cohort("fedfix", np.ones(5), max_age=9, window=2.0, max_size=2)
    ids, versions, times, cut, _ = play(cohort, 3)
    assert ids.tolist() == [[0, 1], [0, 1], [0, 1]]  # the lowest numbers first
    assert versions.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert cut.tolist() == [3, 3, 3]
    assert times.tolist() == [2, 4, 6]


def test_many_short_times_do_not_get_lost():
    _, _, times, _, _ = play(federated.async_cohort("async", [0.1], max_age=0), 20_000)
    np.testing.assert_allclose(times[-1], 2000.0, rtol=2e-7)


cohort = federated.async_cohort
MISTAKES = {
    "kind": (lambda: cohort("late", TIMES, max_age=1), "async_cohort: kind must be one of"),
    "age": (lambda: cohort("sync", TIMES, max_age=-1), "max_age must be an integer >= 0"),
    "window": (lambda: cohort("fedfix", TIMES, max_age=1), "needs window="),
    "buffer": (
        lambda: cohort("fedbuff", TIMES, max_age=1, buffer_size=6),
        "buffer_size must not exceed the number of clients, 5, got 6",
    ),
    "room": (
        lambda: cohort("fedfix", TIMES, max_age=1, window=1.0, max_size=0),
        "max_size must be an integer >= 1",
    ),
    "times": (lambda: cohort("async", [0.0], max_age=1), "times must be positive and finite"),
}


@pytest.mark.parametrize(("make", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_refuses(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
