"""Turns, chances of one's own, hours of the day, dropouts: laws, repetition, bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gradax import federated

DRAWS = 3000


def draw_many(cohort, rounds=DRAWS):
    """``int[rounds, size]`` and the numbers cut, in the order of rounds."""

    def one(round):
        key = jax.random.fold_in(jax.random.key(1), round)
        drawn, _ = cohort.draw(cohort.init(), key, round)
        return drawn.ids, jnp.int32(drawn.num_cut)

    ids, cut = jax.jit(jax.vmap(one))(jnp.arange(rounds, dtype=jnp.int32))
    assert ids.dtype == jnp.int32
    assert ids.shape == (rounds, cohort.size)
    for row in np.asarray(ids):
        present = row[row < cohort.num_clients]
        assert len(set(present.tolist())) == len(present)
        assert (row <= cohort.num_clients).all()
    return np.asarray(ids), np.asarray(cut)


def present(ids, num_clients):
    """``bool[rounds, clients]``."""
    return (ids[:, :, None] == np.arange(num_clients)).any(axis=1)


def assert_shares(found, expected, count=DRAWS):
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / count))


def test_everybody_has_a_turn_before_anybody_has_a_second_one():
    ids, _ = draw_many(federated.cyclic_cohort(10, 3), 8)
    here = present(ids, 10)
    assert (here[:4].sum(axis=0) == 1).all()
    np.testing.assert_array_equal(here[4:], here[:4])
    assert here.sum(axis=1).tolist() == [3, 3, 3, 1] * 2


def test_of_the_group_whose_turn_it_is_members_are_drawn_uniformly():
    groups = np.array([0, 1, 2, 0, 1, 0, 0, 0])
    ids, _ = draw_many(federated.cyclic_cohort(8, 2, groups))
    here = present(ids, 8)
    for turn in range(3):
        assert not here[turn::3][:, groups != turn].any()
    assert_shares(here[::3][:, groups == 0].mean(axis=0), 2 / 5, DRAWS // 3)
    pairs = [tuple(row) for row in ids[::3].tolist()]
    observed = [pairs.count(pair) for pair in itertools.combinations([0, 3, 5, 6, 7], 2)]
    assert stats.chisquare(observed).pvalue > 1e-4
    assert here[2::3].sum(axis=1).tolist() == [1] * (DRAWS // 3)  # a group of one


def test_every_client_has_its_own_chance_whatever_the_others_do():
    rates = np.array([0.0, 1.0, 0.2, 0.7, 0.5, 0.05])
    ids, cut = draw_many(federated.bernoulli_cohort(6, rates))
    here = present(ids, 6)
    assert_shares(here.mean(axis=0), rates)
    assert here[:, 1].all()
    assert not here[:, 0].any()
    assert_shares((here[:, 3] & here[:, 4]).mean(), 0.35)
    assert not cut.any()


def test_a_draw_of_nobody_is_not_repeated():
    ids, _ = draw_many(federated.bernoulli_cohort(2, [0.3, 0.4]))
    assert_shares((ids == 2).all(axis=1).mean(), 0.7 * 0.6)


def test_equal_chances_are_the_poisson_draw():
    mine, theirs = (
        federated.bernoulli_cohort(40, np.full(40, 0.2)),
        federated.poisson_cohort(40, 0.2),
    )
    assert mine.size == theirs.size
    np.testing.assert_array_equal(draw_many(mine, 20)[0], draw_many(theirs, 20)[0])


def test_unequal_chances_need_no_more_room_than_equal_ones():
    """The exact law of the number of participants, by convolution."""
    rates = np.linspace(0, 0.4, 30)
    law = np.ones(1)
    for rate in rates:
        law = np.convolve(law, [1 - rate, rate])
    size = federated.bernoulli_cohort(30, rates).size
    assert size < 30
    assert law[size + 1 :].sum() < 1e-12


def test_who_finds_no_room_is_counted():
    ids, cut = draw_many(federated.bernoulli_cohort(4, np.ones(4), max_size=3), 5)
    assert (ids == [0, 1, 2]).all()
    assert (cut == 1).all()


def test_only_those_who_can_be_reached_are_drawn():
    trace = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0, 1]], bool)
    ids, cut = draw_many(federated.availability_cohort(trace, 2))
    here = present(ids, 6)
    assert not here[::2][:, ~trace[:, 0]].any()
    assert not here[1::2][:, ~trace[:, 1]].any()
    assert_shares(here[::2][:, :3].mean(axis=0), 2 / 3, DRAWS // 2)
    assert_shares(here[1::2][:, 2:].mean(axis=0), 1 / 2, DRAWS // 2)
    assert not cut.any()


def test_chances_of_a_day_come_back_every_day():
    day = federated.diurnal_availability(50, 6, low=0.1, high=0.9, zones=1)
    ids, _ = draw_many(federated.availability_cohort(day, 50), 1200)
    by_hour = present(ids, 50).reshape(-1, 6, 50).mean(axis=(0, 2))
    np.testing.assert_allclose(by_hour, day[0], atol=0.03)
    np.testing.assert_allclose(day[0], 0.5 + 0.4 * np.cos(np.pi / 3 * np.arange(6)))


def test_zones_shift_the_day():
    day = federated.diurnal_availability(400, 8, seed=3)
    assert day.shape == (400, 8)
    assert ((day >= 0.05) & (day <= 0.95)).all()
    np.testing.assert_allclose(day.max(axis=1), 0.95)
    hours, counts = np.unique(day.argmax(axis=1), return_counts=True)
    assert len(hours) == 8
    assert stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(day, federated.diurnal_availability(400, 8, seed=3))


def test_dropouts_are_independent_and_counted():
    inner = federated.cyclic_cohort(4, 4)
    rates = np.array([0.0, 0.25, 0.5, 1.0])
    ids, cut = draw_many(federated.with_dropout(inner, rates))
    here = present(ids, 4)
    assert_shares(here.mean(axis=0), 1 - rates)
    assert_shares((here[:, 1] & here[:, 2]).mean(), 0.375)
    np.testing.assert_array_equal(cut, 4 - here.sum(axis=1))


def test_dropouts_leave_the_draw_itself_alone():
    """Nobody fails: the same clients as if the rule were drawn with the first half of the key."""
    inner, crowded = federated.uniform_cohort(9, 3), federated.poisson_cohort(9, 0.9, 2)

    @jax.jit
    def draws(key):
        drawn, _ = federated.with_dropout(inner, 0.0).draw((), key, 0)
        expected, _ = inner.draw((), jax.random.split(key)[0], 0)
        cut, _ = federated.with_dropout(crowded, 0.0).draw((), key, 0)
        return drawn.ids, expected.ids, cut.num_cut

    ids, expected, cut = draws(jax.random.key(5))
    np.testing.assert_array_equal(ids, expected)
    assert int(cut) > 0  # what the rule itself cut is not forgotten


cyclic, bernoulli = federated.cyclic_cohort, federated.bernoulli_cohort
available, day = federated.availability_cohort, federated.diurnal_availability
dropout = federated.with_dropout
MISTAKES = {
    "cyclic size": (lambda: cyclic(3, 4), "cyclic_cohort: size must not exceed .* 3, got 4"),
    "groups short": (lambda: cyclic(3, 1, [0, 1]), r"groups must be 3 integers, got int64\(2,\)"),
    "groups float": (lambda: cyclic(2, 1, [0.0, 1.0]), "groups must be 2 integers"),
    "groups gap": (lambda: cyclic(2, 1, [0, 2]), r"numbered from 0 without a gap, got \[0 2\]"),
    "groups below": (lambda: cyclic(3, 1, [-1, 0, 1]), "numbered from 0 without a gap"),
    "rates short": (lambda: bernoulli(3, [0.5]), "rates must be 3 numbers in"),
    "rates high": (lambda: bernoulli(1, [1.5]), "rates must be 1 numbers in"),
    "rates NaN": (lambda: bernoulli(1, [np.nan]), "rates must be 1 numbers in"),
    "rates zero": (lambda: bernoulli(2, [0.0, 0.0]), "not all zero"),
    "room": (lambda: bernoulli(2, [0.5, 0.5], 3), "size must not exceed"),
    "trace flat": (lambda: available([1.0, 0.0], 1), r"axes \[clients, rounds\], got \(2,\)"),
    "trace empty": (lambda: available(np.zeros((2, 0)), 1), r"axes \[clients, rounds\], got"),
    "trace NaN": (lambda: available([[np.nan]], 1), r"availability must lie in \[0, 1\]"),
    "trace size": (lambda: available([[1.0]], 2), "size must not exceed the number of clients, 1"),
    "period": (lambda: day(3, 0), "period must be an integer >= 1"),
    "low": (lambda: day(3, low=-0.1), r"low must lie in \[0, 1\], got -0.1"),
    "high": (lambda: day(3, low=0.5, high=0.4), r"high must lie in \[0.5, 1\], got 0.4"),
    "zones": (lambda: day(3, zones=0), "zones must be an integer >= 1"),
    "no cohort": (lambda: dropout(4, 0.1), "with_dropout: cohort must be a Cohort, got 4"),
    "dropout": (lambda: dropout(cyclic(3, 1), 1.5), r"one number in \[0, 1\] or 3 of them, got 1"),
    "dropouts": (lambda: dropout(cyclic(3, 1), [0.1, 0.2]), r"or 3 of them, got \[0.1, 0.2\]"),
}


@pytest.mark.parametrize(("make", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_refuses(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
