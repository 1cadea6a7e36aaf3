"""Rounds with a limit: who is late, what becomes of it, and how long a round lasts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from tests.federated.asynchronous.test_async_cohort import play
from tests.federated.simulation.problems import NUM_CLIENTS, assert_close, simulate

TIMES = np.array([1.0, 2.0, 3.0, 4.0])
EVERYBODY = federated.cyclic_cohort(4, 4)


def late(*arguments, **options):
    return federated.with_timeout(EVERYBODY, *arguments, **options)


def test_who_is_late_is_dropped():
    ids, _, times, cut, _ = play(late(TIMES, 2.5), 3)
    assert ids.tolist() == [[0, 1, 4, 4]] * 3
    assert times.tolist() == [2.5, 5.0, 7.5]
    assert cut.tolist() == [2, 2, 2]


def test_a_round_ends_when_all_are_there():
    ids, _, times, cut, _ = play(late(TIMES, 9.0), 2)
    assert ids.tolist() == [[0, 1, 2, 3]] * 2
    assert times.tolist() == [4, 8]
    assert not cut.any()


def test_more_are_invited_than_one_waits_for():
    ids, _, times, cut, _ = play(late(TIMES, wait_for=3), 2)
    assert ids.tolist() == [[0, 1, 2, 4]] * 2
    assert times.tolist() == [3, 6]
    assert cut.tolist() == [1, 1]
    ids, _, times, _, _ = play(late(TIMES, 1.5, wait_for=3), 1)
    assert (ids.tolist(), times.tolist()) == ([[0, 4, 4, 4]], [1.5])


def test_late_ones_return_with_the_model_of_their_round():
    ids, versions, times, cut, _ = play(late(TIMES, 1.5, late="return"), 3)
    sets = [
        {(int(i), int(v)) for i, v in zip(row, begun, strict=True) if i < 4}
        for row, begun in zip(ids, versions, strict=True)
    ]
    # Client 1 needs two rounds, 2 two, 3 three; nobody is invited while still at work.
    assert sets == [{(0, 0)}, {(0, 1), (1, 0), (2, 0)}, {(0, 2), (3, 0)}]
    assert times.tolist() == [1.5, 3.0, 4.5]
    assert not cut.any()


def test_late_ones_are_given_up_in_the_end():
    options = {"late": "return", "max_age": 1}
    ids, versions, _, cut, _ = play(late([1.0, 1.0, 1.0, 5.0], 1.5, **options), 4)
    assert not (ids == 3).any()
    assert cut.tolist() == [0, 1, 0, 1]
    assert (np.arange(4)[:, None] - versions).max() <= 1
    _, _, _, cut, state = play(late(TIMES, 1.5, late="return", max_late=1), 1)
    assert (cut.tolist(), state.pending.ids.tolist()) == ([2], [1])


@pytest.mark.parametrize("wait_for", [None, 2])
def test_nobody_is_lost_or_comes_twice(wait_for):
    clock = federated.client_clock("lognormal", np.linspace(0.5, 4.0, 20), spread=0.7)
    cohort = federated.with_timeout(
        federated.uniform_cohort(20, 6), clock, 2.0, wait_for=wait_for, late="return", max_age=3
    )
    ids, versions, times, cut, state = play(cohort, 300)
    open_jobs, invited = set(), 0
    for round, (row, begun) in enumerate(zip(ids, versions, strict=True)):
        here = row < 20
        assert len(set(row[here])) == here.sum()
        assert ((round - begun[here] >= 0) & (round - begun[here] <= 3)).all()
        assert (begun[~here] == round).all()
        open_jobs |= {(int(i), int(v)) for i, v in zip(row[here], begun[here], strict=True)}
        invited += here.sum()
    assert len(open_jobs) == invited  # no contribution twice
    assert (cut > 0).any()
    assert ((np.arange(300)[:, None] - versions) > 0).any()
    lengths = np.diff(times, prepend=0.0)
    assert ((lengths > 0) & (lengths <= 2.0 + 1e-4)).all()
    assert state.pending.ids.shape == (6,)


def test_an_empty_round_lasts_as_long_as_it_may():
    nobody = federated.availability_cohort(np.zeros((4, 1), bool), 2)
    for timeout, end in ((2.0, 2.0), (np.inf, 0.0)):
        ids, _, times, _, _ = play(federated.with_timeout(nobody, TIMES, timeout), 1)
        assert (ids.tolist(), times.tolist()) == ([[4, 4]], [end])


def test_extras_of_the_cohort_are_kept():
    inner = federated.scheduled_cohort(
        4, [[0, 3]], {"weight": np.ones((1, 2))}, {"kind": np.array([7])}
    )
    cohort = federated.with_timeout(inner, TIMES, 2.0)
    draw, _ = jax.jit(cohort.draw)(cohort.init(), jax.random.key(0), 0)
    assert draw.ids.tolist() == [0, 4]
    assert sorted(draw.lane) == ["version", "weight"]
    assert (sorted(draw.shared), int(draw.shared["kind"])) == (["kind", "time"], 7)
    returning = federated.with_timeout(inner, TIMES, 2.0, late="return")
    with pytest.raises(ValueError, match=r"cannot keep extras of lanes, got \['weight'\]"):
        returning.draw(returning.init(), jax.random.key(0), 0)


def test_in_a_simulation_late_ones_count_by_the_model_that_they_had():
    """Two of eight need twice as long: their displacement is of the model before."""
    times = np.array([1.0] * 6 + [1.5] * 2)
    everybody = federated.cyclic_cohort(NUM_CLIENTS, NUM_CLIENTS)
    cohort = federated.with_timeout(everybody, times, 1.0, late="return", max_age=2, max_late=2)
    result = simulate(
        federated.async_server(1 / 8, 0.1, num_versions=3), rounds=4, cohort=cohort, batch_size=None
    )
    starts = np.full((4, 8), -1)
    starts[:, :6], starts[1::2, 6:] = np.arange(4)[:, None], np.array([[0], [2]])
    schedule = federated.AsyncSchedule.of_matrix(starts)
    same = simulate(
        federated.async_server(1 / 8, 0.1, num_versions=3),
        rounds=4,
        cohort=schedule.cohort(),
        batch_size=None,
    )
    assert_close(result.params, same.params)
    assert result.history.column("num_active") == [6, 8, 6, 8]
    assert result.history.column("time") == [1, 2, 3, 4]


def test_losses_reach_the_rule_that_invites():
    pacing = lambda count: 2
    easy = federated.client_curriculum(pacing, num_clients=4, size=2)
    cohort = federated.with_timeout(federated.with_dropout(easy, 0.0), TIMES, 9.0)
    assert cohort.uses_losses
    losses_fn = lambda: jnp.array([0.9, 0.1, 0.5, 0.2])
    draw, _ = cohort.draw(cohort.init(), jax.random.key(0), 0, losses_fn=losses_fn)
    assert (sorted(draw.ids.tolist()), int(draw.num_scored)) == ([1, 3], 4)


MISTAKES = {
    "cohort": (
        lambda: federated.with_timeout(3, TIMES, 1.0),
        "with_timeout: cohort must be a Cohort, got 3",
    ),
    "clients": (lambda: late([1.0, 2.0], 1.0), "times must be those of 4 clients, got 2"),
    "timeout": (lambda: late(TIMES, 0.0), r"timeout must lie in \(0, inf\], got 0.0"),
    "late": (lambda: late(TIMES, 1.0, late="wait"), "late must be one of 'drop', 'return'"),
    "age": (lambda: late(TIMES, 1.0, max_age=0), "max_age must be an integer >= 1"),
    "places": (lambda: late(TIMES, 1.0, late="return", max_late=0), "max_late must be an integer"),
    "wait": (lambda: late(TIMES, wait_for=5), "must not exceed the number invited, 4, got 5"),
    "wait none": (lambda: late(TIMES, wait_for=0), "wait_for must be an integer >= 1"),
}


@pytest.mark.parametrize(("make", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_refuses(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
