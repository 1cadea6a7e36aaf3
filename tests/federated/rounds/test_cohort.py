"""Who takes part: sizes, repetitions, distributions, and lists made beforehand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gradax import federated

DRAWS = 4000


def draw_many(cohort, count=DRAWS):
    """``int[count, size]`` and the numbers cut."""
    keys = jax.random.split(jax.random.key(1), count)
    draws = jax.vmap(lambda key: cohort.draw(cohort.init(), key, jnp.array(0))[0])(keys)
    assert draws.ids.dtype == jnp.int32
    assert draws.ids.shape == (count, cohort.size)
    return np.asarray(draws.ids), np.broadcast_to(draws.num_cut, count)


def frequencies(ids, num_clients):
    return np.bincount(ids.ravel(), minlength=num_clients + 1) / len(ids)


def test_uniform_draws_different_clients_equally_often():
    ids, cut = draw_many(federated.uniform_cohort(6, 4))
    assert all(len(set(row)) == 4 for row in ids.tolist())
    assert not cut.any()
    shares = frequencies(ids, 6)
    np.testing.assert_allclose(shares[:6], 4 / 6, atol=4 * np.sqrt(2 / 9 / DRAWS))
    assert shares[6] == 0


def test_uniform_draws_every_pair_equally_often():
    ids, _ = draw_many(federated.uniform_cohort(5, 2))
    pairs = np.sort(ids, axis=1) @ [5, 1]
    observed = np.unique(pairs, return_counts=True)[1]
    assert len(observed) == 10
    assert stats.chisquare(observed).pvalue > 1e-4


def test_a_few_of_many_are_drawn_uniformly_too():
    """300 of 1,200: in every draw some thirty are drawn again."""
    n, size, count = 1200, 300, 1500
    ids, cut = draw_many(federated.uniform_cohort(n, size), count)
    assert not cut.any()
    assert (np.diff(np.sort(ids, axis=1)) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < n
    # The variance of a count in draws without replacement: binomial over rounds.
    rate = size / n
    counts = np.bincount(ids.ravel(), minlength=n)
    score = np.sum((counts - count * rate) ** 2) / (count * rate * (1 - rate)) * (n - 1) / n
    assert stats.chi2.sf(score, n - 1) > 1e-4
    assert stats.chi2.cdf(score, n - 1) > 1e-4
    # Every place of the draw is uniform by itself, also the last ones.
    for place in (0, size - 1):
        assert stats.kstest((ids[:, place] + 0.5) / n, "uniform").pvalue > 1e-4
    # Whoever was drawn again may be anybody, no neighbour rather than another.
    present = np.zeros((count, n), bool)
    present[np.arange(count)[:, None], ids] = True
    neighbours = np.mean(np.sum(present & np.roll(present, 1, axis=1), axis=1))
    expected = size * (size - 1) / (n - 1)
    np.testing.assert_allclose(neighbours, expected, atol=4 * np.sqrt(expected / count))


def test_weighted_draws_in_proportion_and_without_repetition():
    weights = np.array([1.0, 2.0, 0.0, 5.0])
    first, _ = draw_many(federated.weighted_cohort(4, 1, weights))
    shares = frequencies(first, 4)[:4]
    np.testing.assert_allclose(shares, weights / 8, atol=4 * np.sqrt(0.25 / DRAWS))
    assert shares[2] == 0
    # Two in turn: P(0 or 1 stays out) by the law of successive draws.
    two, _ = draw_many(federated.weighted_cohort(4, 2, weights))
    assert all(len(set(row)) == 2 for row in two.tolist())
    p = weights / 8
    without_last = sum(p[i] * p[j] / (1 - p[i]) for i in (0, 1) for j in (0, 1) if i != j)
    missed = np.mean(~(two == 3).any(axis=1))
    np.testing.assert_allclose(missed, without_last, atol=4 * np.sqrt(0.25 / DRAWS))


def test_poisson_takes_everybody_independently():
    n, rate = 12, 0.3
    cohort = federated.poisson_cohort(n, rate)
    ids, cut = draw_many(cohort)
    assert not cut.any()
    present = ids < n
    sizes = present.sum(axis=1)
    assert all(len(set(row[here])) == here.sum() for row, here in zip(ids, present, strict=True))
    np.testing.assert_allclose(
        frequencies(ids, n)[:n], rate, atol=5 * np.sqrt(rate * (1 - rate) / DRAWS)
    )
    expected = DRAWS * stats.binom.pmf(np.arange(9), n, rate)
    observed = np.bincount(sizes, minlength=9)[:9]
    scaled = expected * observed.sum() / expected.sum()
    assert (
        stats.chisquare(observed[:8], scaled[:8] * observed[:8].sum() / scaled[:8].sum())[1] > 1e-4
    )
    # Pairs are independent, which a draw of fixed size is not.
    both = np.mean((ids == 0).any(axis=1) & (ids == 1).any(axis=1))
    np.testing.assert_allclose(both, rate**2, atol=5 * np.sqrt(0.09 / DRAWS))


def test_poisson_cuts_what_has_no_room_and_says_so():
    n, room = 10, 3
    ids, cut = draw_many(federated.poisson_cohort(n, 0.5, max_size=room), 500)
    free, _ = draw_many(federated.poisson_cohort(n, 0.5, max_size=n), 500)
    sizes = (free < n).sum(axis=1)
    np.testing.assert_array_equal(cut, np.maximum(sizes - room, 0))
    np.testing.assert_array_equal((ids < n).sum(axis=1), np.minimum(sizes, room))
    np.testing.assert_array_equal(ids, free[:, :room])
    assert cut.max() > 0


@pytest.mark.parametrize(("n", "rate"), [(100, 0.1), (1000, 0.01), (7, 1.0)])
def test_poisson_has_room_for_all_but_the_rarest_draws(n, rate):
    cohort = federated.poisson_cohort(n, rate)
    assert cohort.size <= n
    assert stats.binom.sf(cohort.size, n, rate) <= 1e-12
    assert cohort.size in (n, stats.binom.isf(1e-12, n, rate) + 1)


def test_scheduled_plays_a_list_back_and_starts_it_again():
    ids = np.array([[0, 1], [2, 3], [3, 3 + 1]])
    cohort = federated.scheduled_cohort(
        4, ids, lane={"weight": ids * 10.0}, shared={"time": np.array([0.5, 1.5, 2.5])}
    )
    draw = jax.jit(lambda round: cohort.draw(cohort.init(), jax.random.key(0), round)[0])
    for round in (0, 1, 2, 4):
        out = draw(jnp.array(round))
        np.testing.assert_array_equal(out.ids, ids[round % 3])
        np.testing.assert_array_equal(out.lane["weight"], ids[round % 3] * 10)
        assert out.shared["time"] == round % 3 + 0.5
        assert out.num_cut == 0


def test_draws_are_decided_by_the_key_alone():
    for cohort in (federated.uniform_cohort(9, 3), federated.poisson_cohort(9, 0.4)):
        once, again, other = (
            cohort.draw(cohort.init(), jax.random.key(seed), 0)[0].ids for seed in (0, 0, 3)
        )
        np.testing.assert_array_equal(once, again)
        assert (once != other).any()


WEIGHTS = np.ones(4)
MISTAKES = {
    "uniform too large": (
        lambda: federated.uniform_cohort(4, 5),
        "uniform_cohort: size must not exceed the number of clients, 4, got 5",
    ),
    "uniform nobody": (lambda: federated.uniform_cohort(4, 0), "size must be an integer >= 1"),
    "no clients": (lambda: federated.uniform_cohort(0, 1), "num_clients must be an integer >= 1"),
    "fraction": (lambda: federated.uniform_cohort(4, 0.5), "size must be an integer >= 1, got 0.5"),
    "weighted too large": (lambda: federated.weighted_cohort(4, 5, WEIGHTS), "must not exceed"),
    "weights short": (
        lambda: federated.weighted_cohort(4, 2, WEIGHTS[:3]),
        r"weights must have shape \(4,\), got \(3,\)",
    ),
    "weights negative": (
        lambda: federated.weighted_cohort(4, 2, WEIGHTS - [2, 0, 0, 0]),
        "must be finite and not negative",
    ),
    "weights NaN": (lambda: federated.weighted_cohort(4, 2, WEIGHTS * np.nan), "must be finite"),
    "weights zero": (
        lambda: federated.weighted_cohort(4, 3, np.array([1.0, 1, 0, 0])),
        "at least size=3 of them positive",
    ),
    "rate zero": (lambda: federated.poisson_cohort(4, 0.0), r"rate must lie in \(0, 1\], got 0.0"),
    "rate above one": (lambda: federated.poisson_cohort(4, 1.5), "rate must lie"),
    "room beyond clients": (lambda: federated.poisson_cohort(4, 0.5, 5), "must not exceed"),
    "ids flat": (
        lambda: federated.scheduled_cohort(4, np.array([0, 1])),
        r"ids must be integers \[rounds, size\]",
    ),
    "ids float": (lambda: federated.scheduled_cohort(4, np.array([[0.0]])), "ids must be integers"),
    "no ids": (lambda: federated.scheduled_cohort(4, np.zeros((0, 2), int)), "ids must be"),
    "ids negative": (
        lambda: federated.scheduled_cohort(4, np.array([[-1, 0]])),
        r"ids must lie in \[0, 4\] \(4 means nobody\), got -1 to 0",
    ),
    "ids too large": (lambda: federated.scheduled_cohort(4, np.array([[5]])), "got 5 to 5"),
    "twice": (
        lambda: federated.scheduled_cohort(4, np.array([[0, 1], [2, 2]])),
        r"a client occurs twice in the round \[2 2\]",
    ),
    "extras short": (
        lambda: federated.scheduled_cohort(4, np.array([[0], [1]]), {"weight": np.ones((3, 1))}),
        "weight must have 2 rounds, got 3",
    ),
    "shared short": (
        lambda: federated.scheduled_cohort(4, np.array([[0], [1]]), shared={"time": np.ones(1)}),
        "time must have 2 rounds, got 1",
    ),
    "lanes short": (
        lambda: federated.scheduled_cohort(4, np.array([[0, 1]]), {"weight": np.ones((1, 1))}),
        r"weight must have shape \[1, 2, ...\], got \(1, 1\)",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_refuses(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_nobody_may_occur_twice():
    cohort = federated.scheduled_cohort(4, np.array([[4, 4, 0]]))
    assert cohort.size == 3
