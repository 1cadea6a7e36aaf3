"""Partitioners: a partition is a partition, limits of the rules, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import federated

data = federated.data
LABELS = np.random.default_rng(0).integers(0, 5, size=300)

#: Rules on LABELS for 6 clients: name -> (partition of a seed, whether it covers everything).
RULES = {
    "dirichlet": (lambda seed: data.partition_dirichlet(LABELS, 6, 0.5, 5, seed=seed), True),
    "balanced": (
        lambda seed: data.partition_dirichlet(LABELS, 6, 0.1, 5, balance=True, seed=seed),
        True,
    ),
    "client_dirichlet": (
        lambda seed: data.partition_client_dirichlet(LABELS, [50] * 6, 0.3, seed),
        True,
    ),
    "client_dirichlet_part": (
        lambda seed: data.partition_client_dirichlet(LABELS, [5, 80, 1, 40, 40, 9], 0.3, seed),
        False,
    ),
    "random": (lambda seed: data.partition_pathological(LABELS, 6, 4, "random", seed=seed), True),
    "deterministic": (
        lambda seed: data.partition_pathological(LABELS, 6, 2, "deterministic", seed=seed),
        True,
    ),
    "first_deterministic": (
        lambda seed: data.partition_pathological(LABELS, 6, 2, "first_deterministic", seed=seed),
        True,
    ),
    "shards": (lambda seed: data.partition_shards(LABELS[:295], 6, 2, seed=seed), False),
    "shards_all": (lambda seed: data.partition_shards(LABELS, 6, 7, True, seed=seed), True),
    "linear": (lambda seed: data.partition_sizes(300, 6, "linear", seed), True),
    "square": (lambda seed: data.partition_sizes(300, 6, "square", seed), True),
    "exponential": (lambda seed: data.partition_sizes(300, 6, "exponential", seed), True),
    "sizes_dirichlet": (lambda seed: data.partition_sizes(300, 6, "dirichlet", seed), True),
    "lognormal": (lambda seed: data.partition_sizes(300, 6, "lognormal", seed), True),
    "iid": (lambda seed: data.partition_iid(300, 6, seed), True),
}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("split", "covers"), RULES.values(), ids=RULES)
def test_is_a_partition_and_a_function_of_the_seed(split, covers, seed):
    parts = split(seed)
    together = np.concatenate(parts)
    assert len(parts) == 6
    assert all(part.dtype == np.int64 and part.size > 0 for part in parts)
    assert len(set(together.tolist())) == len(together)
    assert set(together.tolist()) <= set(range(300))
    if covers:
        assert len(together) == 300
    for again, part in zip(split(seed), parts, strict=True):
        np.testing.assert_array_equal(again, part)
    assert any(not np.array_equal(other, part) for other, part in zip(split(9), parts, strict=True))


def test_large_alpha_gives_everybody_the_global_proportions():
    overall = np.bincount(LABELS) / LABELS.size
    even = data.partition_dirichlet(LABELS, 6, 1e6)
    given_sizes = data.partition_client_dirichlet(np.repeat(np.arange(5), 600), [100] * 6, 1e6)
    for part in even:
        np.testing.assert_allclose(np.bincount(LABELS[part]) / len(part), overall, atol=0.04)
    for part in given_sizes:
        np.testing.assert_allclose(np.bincount(part // 600, minlength=5) / 100, 0.2, atol=0.15)


def test_small_alpha_gives_every_class_to_one_client():
    parts = data.partition_dirichlet(np.repeat(np.arange(40), 25), 4, 1e-4, min_size=1)
    owners = np.array([np.bincount(part // 25, minlength=40) > 0 for part in parts])
    assert (owners.sum(axis=0) == 1).all()


def test_small_alpha_gives_every_client_one_class_while_stocks_last():
    labels = np.repeat(np.arange(4), 1000)
    parts = data.partition_client_dirichlet(labels, [100] * 6, 1e-4, seed=2)
    assert all(len(set(labels[part].tolist())) == 1 for part in parts)


def test_exhausted_classes_are_left_out_and_sizes_are_kept():
    labels = np.repeat([0, 1], [5, 95])
    sizes = [30, 30, 40]
    parts = data.partition_client_dirichlet(labels, sizes, 1e-3, seed=1)
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))


@pytest.mark.parametrize("min_size", [1, 10, 30])
def test_min_size_is_honoured(min_size):
    parts = data.partition_dirichlet(LABELS, 6, 0.5, min_size, seed=3)
    assert min(len(part) for part in parts) >= min_size


def test_balance_evens_out_sizes():
    labels = np.random.default_rng(1).integers(0, 10, size=2000)
    spread = lambda balance: np.std(
        [len(p) for p in data.partition_dirichlet(labels, 10, 0.2, 1, balance, seed=4)]
    )
    assert spread(True) < 0.8 * spread(False)


def test_balance_survives_shares_that_all_lie_on_full_clients():
    parts = data.partition_dirichlet(LABELS, 3, 1e-6, 1, balance=True, seed=1)
    assert sum(len(part) for part in parts) == 300


def test_classes_per_client():
    for mode in ("random", "deterministic", "first_deterministic"):
        parts = data.partition_pathological(LABELS, 10, 3, mode, seed=5)
        assert [len(set(LABELS[part].tolist())) for part in parts] == [3] * 10
        if mode != "random":
            assert all(j % 5 in LABELS[part] for j, part in enumerate(parts))


def test_holders_share_a_class_equally():
    labels = np.repeat([0, 1], 10)
    parts = data.partition_pathological(labels, 4, 2, shuffle=False)
    assert [np.bincount(labels[part]).tolist() for part in parts] == [
        [3, 3],
        [3, 3],
        [2, 2],
        [2, 2],
    ]


def test_a_class_without_holders_is_left_out():
    labels = np.repeat(np.arange(4), 5)
    parts = data.partition_pathological(labels, 2, 1, "deterministic")
    assert sorted(np.concatenate(parts).tolist()) == list(range(10))


def test_two_shards_are_at_most_three_classes():
    parts = data.partition_shards(np.repeat(np.arange(10), 60), 20, 2, seed=1)
    assert {len(part) for part in parts} == {30}
    assert max(len(set((part // 60).tolist())) for part in parts) <= 3


def test_shards_keep_or_drop_the_remainder():
    sizes = lambda keep: sum(len(p) for p in data.partition_shards(LABELS[:100], 6, 3, keep))
    assert (sizes(False), sizes(True)) == (90, 100)


def test_chance_decides_which_shards_are_left_over():
    # 504 examples in 27 shards of 18 leave one shard over.
    left = set()
    for seed in range(5):
        dealt = np.concatenate(data.partition_shards([0] * 504, 9, 3, seed=seed))
        (shard,) = set(np.setdiff1d(np.arange(504), dealt) // 18)
        left.add(shard)
    assert len(left) > 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [10, 20, 30, 40]), ("square", [3, 13, 30, 54]), ("exponential", [3, 8, 23, 66])],
)
def test_sizes_by_rule(kind, expected):
    assert [len(part) for part in data.partition_sizes(100, 4, kind)] == expected


def test_spread_of_drawn_sizes_follows_its_parameter():
    sizes = lambda **kwargs: [len(p) for p in data.partition_sizes(10_000, 5, **kwargs)]
    assert sizes(kind="lognormal", sigma=0.0) == [2000] * 5
    assert np.std(sizes(kind="dirichlet", alpha=1e6)) < 20
    assert np.std(sizes(kind="dirichlet", alpha=1.0)) > 500


def test_unshuffled_parts_are_contiguous():
    for parts in (
        data.partition_sizes(100, 4, "linear", shuffle=False),
        data.partition_iid(100, 4, shuffle=False),
    ):
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(100))


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 200), data_=st.data())
def test_iid_parts_differ_by_one_at_most(n, data_):
    num_clients = data_.draw(st.integers(1, n))
    sizes = [len(part) for part in data.partition_iid(n, num_clients)]
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) <= 1


NAMED = [
    lambda labels, **kw: data.partition_dirichlet(labels, 2, 1.0, 1, **kw),
    lambda labels, **kw: data.partition_client_dirichlet(labels, [1, 1], 1.0, **kw),
    lambda labels, **kw: data.partition_pathological(labels, 2, 1, **kw),
    lambda labels, **kw: data.partition_shards(labels, 2, 1, **kw),
]


@pytest.mark.parametrize("split", NAMED, ids=["dirichlet", "client", "pathological", "shards"])
def test_refuses_labels_outside_the_classes(split):
    with pytest.raises(ValueError, match="labels must not be negative, got -1 at index 1"):
        split([0, -1, 1, 0])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 2 at index 2"):
        split([0, 1, 2, 0], num_classes=2)
    with pytest.raises(ValueError, match="vector of integers, got float64"):
        split([0.0, 1.0, 2.0, 0.0])
    with pytest.raises(ValueError, match="non-empty vector of integers"):
        split(np.zeros(0, int))
    with pytest.raises(ValueError, match=r"of shape \(2, 2\)"):
        split([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="num_classes must be an integer >= 1, got 0"):
        split([0, 1, 1, 0], num_classes=0)
    assert len(split([0, 1, 1, 0], num_classes=2)) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: data.partition_dirichlet(LABELS, 6, 0.0),
            r"alpha must lie in \(0, inf\), got 0.0",
        ),
        (lambda: data.partition_dirichlet(LABELS, 0, 1.0), "num_clients must be an integer >= 1"),
        (lambda: data.partition_dirichlet(LABELS, 6, 1.0, 0), "min_size must be an integer >= 1"),
        (
            lambda: data.partition_dirichlet(LABELS, 6, 1.0, 51),
            "min_size must be at most 50 for 300",
        ),
        (
            lambda: data.partition_dirichlet(LABELS, 6, 0.01, 40, max_tries=3),
            "min_size = 40 was not reached in 3 draws with alpha = 0.01",
        ),
        (lambda: data.partition_client_dirichlet(LABELS, [10, 0], 1.0), "sizes must be a vector"),
        (
            lambda: data.partition_client_dirichlet(LABELS, [0.5, 0.5], 1.0),
            "sizes must be a vector",
        ),
        (lambda: data.partition_client_dirichlet(LABELS, [200, 101], 1.0), "sum to at most 300"),
        (lambda: data.partition_client_dirichlet(LABELS, [10], -1.0), "alpha must lie in"),
        (lambda: data.partition_pathological(LABELS, 6, 6), "classes_per_client must be at most 5"),
        (
            lambda: data.partition_pathological(LABELS, 6, 0),
            "classes_per_client must be an integer",
        ),
        (lambda: data.partition_pathological(LABELS, 6, 1, "any"), "mode must be one of 'random'"),
        (
            lambda: data.partition_pathological([0, 0, 1, 1], 6, 1, "deterministic"),
            r"clients \[4, 5\] would get no example",
        ),
        (lambda: data.partition_shards(LABELS, 200, 2), "must be at most 300, the number of ex"),
        (lambda: data.partition_shards(LABELS, 6, 0), "shards_per_client must be an integer >= 1"),
        (lambda: data.partition_sizes(100, 4, "cubic"), "kind must be one of 'linear', 'square'"),
        (lambda: data.partition_sizes(100, 40, "exponential"), "would get no example; use fewer"),
        (lambda: data.partition_sizes(100, 2000, "exponential"), "would get no example"),
        (lambda: data.partition_sizes(100, 4, "dirichlet", alpha=0.0), "alpha must lie in"),
        (lambda: data.partition_sizes(100, 4, "lognormal", sigma=-1.0), "sigma must lie in"),
        (lambda: data.partition_sizes(0, 4), "n must be an integer >= 1, got 0"),
        (lambda: data.partition_iid(3, 4), r"clients \[3\] would get no example; num_clients must"),
    ],
)
def test_rejects_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
