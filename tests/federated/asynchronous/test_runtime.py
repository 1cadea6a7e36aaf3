"""Straggler models, times of workers, and how long a scheme takes."""

import numpy as np
import pytest

from gradax.federated import coding


def test_markov_stays_and_leaves_as_often_as_told():
    slow = coding.straggler_model("markov", 200, 500, enter=0.1, leave=0.4, seed=1)
    before, after = slow[:, :-1], slow[:, 1:]
    assert after[~before].mean() == pytest.approx(0.1, abs=0.01)
    assert after[before].mean() == pytest.approx(0.6, abs=0.02)
    # It begins as it is in the long run.
    assert slow[:, 0].mean() == pytest.approx(0.2, abs=0.1)
    again = coding.straggler_model("markov", 200, 500, enter=0.1, leave=0.4, seed=1)
    np.testing.assert_array_equal(again, slow)


def test_iid_forgets():
    slow = coding.straggler_model("iid", 200, 500, probability=0.3)
    assert slow.shape == (200, 500)
    assert slow.mean() == pytest.approx(0.3, abs=0.01)
    assert slow[:, 1:][slow[:, :-1]].mean() == pytest.approx(0.3, abs=0.02)


def test_traces_are_played_from_anywhere_and_round_again():
    trace = np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    played = coding.straggler_model("trace", 40, 7, trace=trace)
    assert set(played[:, 0]) == set(trace.ravel())
    steps = np.diff(played % 10)
    assert set(steps.ravel()) == {1.0, -2.0}


def test_times_grow_with_the_load_and_for_the_slow():
    times = coding.worker_times(np.array([[False, True]] * 500), 0.25, jitter=0.5, factor=3.0)
    assert times[:, 0].min() >= 2.7
    assert times[:, 0].max() <= 2.7 * 1.5
    np.testing.assert_allclose(times.mean(axis=0), [2.7 * 1.25, 2.7 * 3.75], rtol=0.02)


DELAYS = np.array([[1.0, 1.0, 1.0], [1.2, 4.0, 1.0], [1.0, 3.0, 2.0]])


@pytest.mark.parametrize(
    ("s", "wait", "durations", "waited"),
    [
        (0, "all", [1.2, 4.0, 2.0], [False, True, True]),
        (1, "all", [1.2, 4.0, 1.5], [False, True, False]),
        (1, "enough", [1.2, 3.0, 1.5], [False, True, False]),
        (2, "all", [1.2, 1.5, 1.5], [False, False, False]),
    ],
)
def test_the_master_waits_as_long_as_it_must(s, wait, durations, waited):
    run = coding.simulate_rounds(coding.GC(3, s), DELAYS, mu=0.5, wait=wait)
    np.testing.assert_allclose(run.durations, durations)
    np.testing.assert_array_equal(run.waited, waited)
    np.testing.assert_array_equal(run.stragglers, np.greater(DELAYS, durations))
    np.testing.assert_allclose(run.finished, np.cumsum(durations))
    assert run.total == pytest.approx(sum(durations))


def test_jobs_of_a_sequential_code_end_later():
    run = coding.simulate_rounds(coding.MSGC(3, 1, 2, 1), np.ones((3, 5)))
    np.testing.assert_array_equal(run.finished, [2.0, 3.0, 4.0, 5.0])


@pytest.mark.parametrize("seed", range(3))
def test_what_was_given_up_keeps_to_the_model(seed):
    scheme = coding.MSGC(8, 2, 3, 3)
    slow = coding.straggler_model("markov", 8, 60, enter=0.15, leave=0.6, seed=seed)
    run = coding.simulate_rounds(scheme, coding.worker_times(slow, scheme.load, seed=seed))
    assert run.stragglers.any()
    assert coding.conforms(run.stragglers, 2, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coding.straggler_model("pareto", 2, 3), r"kind must be one of 'markov', 'iid',"),
        (lambda: coding.straggler_model("iid", 0, 3), r"n must be an integer >= 1, got 0"),
        (lambda: coding.straggler_model("iid", 2, 0), r"num_rounds must be an integer >= 1"),
        (lambda: coding.straggler_model("iid", 2, 3, probability=1.5), r"probability must lie in"),
        (lambda: coding.straggler_model("markov", 2, 3, leave=0.0), r"leave must lie in \(0, 1\]"),
        (lambda: coding.straggler_model("markov", 2, 3, enter=-0.1), r"enter must lie in \[0, 1\]"),
        (lambda: coding.straggler_model("trace", 2, 3), r"trace must have the axes"),
        (lambda: coding.worker_times([[True]], -0.1), r"load must lie in \[0, inf\), got -0.1"),
        (lambda: coding.worker_times([[True]], 0.1, factor=0.5), r"factor must lie in \[1, inf\)"),
        (lambda: coding.simulate_rounds(coding.GC(2, 0), np.ones((3, 4))), r"shape \[2, rounds\]"),
        (
            lambda: coding.simulate_rounds(coding.MSGC(2, 1, 2, 1), np.ones((2, 1))),
            r"more than 1 rounds, got \(2, 1\)",
        ),
        (lambda: coding.simulate_rounds(coding.GC(2, 0), np.ones((2, 4)), -1.0), r"mu must lie"),
        (
            lambda: coding.simulate_rounds(coding.GC(2, 0), np.ones((2, 4)), wait="none"),
            r"wait must be one of 'all', 'enough', got 'none'",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
