"""Rules on stacked rows: identities, invariances, bounds, absent rows, refusals."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradax import federated

rules = federated.rules
partial = functools.partial
ROWS = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [10.0, 10.0]])

#: ``rule(rows, f)``, all of them.
RULES = {
    "mean": rules.mean,
    "median": rules.median,
    "trimmed_mean": rules.trimmed_mean,
    "meamed": rules.meamed,
    "krum": rules.krum,
    "krum_original": partial(rules.krum, neighbors="original"),
    "multi_krum": rules.multi_krum,
    "geometric_median": rules.geometric_median,
    "weiszfeld": rules.weiszfeld,
    "weiszfeld_from_median": partial(rules.weiszfeld, init="median", iters=20),
    "mda": rules.mda,
    "nearest_neighbor_average": rules.nearest_neighbor_average,
    "centered_clipping": partial(rules.centered_clipping, tau=2.0),
    "centered_clipping_thrice": partial(rules.centered_clipping, tau=2.0, iters=3),
    "smea": rules.smea,
    "caf": rules.caf,
}
PRE = {
    "nnm": rules.nnm,
    "bucketing": partial(rules.bucketing, s=2, perm=tuple(range(9))),
    "clip_rows": partial(rules.clip_rows, max_norm=1.0),
    "arc": rules.arc,
}
#: They give the mean when there is nothing to bear.
MEANS = ("trimmed_mean", "meamed", "multi_krum", "mda", "nearest_neighbor_average", "smea")
#: They are not moved along with the rows: they begin at zero, or at a centre.
ANCHORED = ("weiszfeld", "centered_clipping", "centered_clipping_thrice")

N, F = 9, 2


@functools.cache
def compiled(name, f=F):
    """A rule over a batch of stacks, compiled once for all tests of a shape."""
    rule = (RULES | PRE)[name]
    return jax.jit(jax.vmap(lambda rows: rule(rows, f)))


@functools.cache
def compiled_active(name, f=F):
    rule = (RULES | PRE)[name]
    return jax.jit(jax.vmap(lambda rows, active: rule(rows, f, active=active)))


every_rule = pytest.mark.parametrize("name", RULES)


def random_rows(n=N, d=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


STACKS = jnp.stack([random_rows(seed=seed) for seed in range(8)])


def test_the_worked_example():
    expected = {
        "mean": [3.25, 2.75],
        "median": [1.5, 0.5],
        "trimmed_mean": [1.5, 0.5],
        "krum": [1.0, 0.0],
        "multi_krum": [1.0, 1 / 3],
        "weiszfeld": [0.869939, 0.303846],
        "mda": [1.0, 1 / 3],
        "meamed": [1.0, 1 / 3],
        "nearest_neighbor_average": [1.0, 1 / 3],
        "centered_clipping": [1.050767, 0.577160],
    }
    run = jax.jit(lambda rows: {name: RULES[name](rows, 1) for name in expected})
    for name, row in run(ROWS).items():
        np.testing.assert_allclose(row, expected[name], rtol=2e-6, err_msg=name)
    last = jax.jit(lambda rows: rules.nearest_neighbor_average(rows, 1, 3))(ROWS)
    np.testing.assert_allclose(last, [13 / 3, 11 / 3], rtol=1e-6)
    clipped = jax.jit(lambda rows: rules.arc(rows, 1))(ROWS)
    np.testing.assert_array_equal(clipped[:3], ROWS[:3])
    np.testing.assert_allclose(clipped[3], [1.581139, 1.581139], rtol=1e-6)


# Identities ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEANS)
def test_no_fault_to_bear_is_the_mean(name):
    means = STACKS.mean(axis=1)
    np.testing.assert_allclose(compiled(name, 0)(STACKS), means, rtol=1e-4, atol=1e-6)


def test_no_fault_to_bear_gives_copies_of_the_mean_or_the_row_nearest_to_it():
    stacks = np.asarray(STACKS)
    means = stacks.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(compiled("nnm", 0)(STACKS), 0 * stacks + means, atol=1e-6)
    nearest = ((stacks - means) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(compiled("krum", 0)(STACKS), stacks[range(8), nearest])


@pytest.mark.parametrize("n", [1, 4, 40])
def test_coordinates_equal_numpy(n):
    """One row, few rows (a list of vectors), many rows (an array)."""
    rows, f = random_rows(n, d=70), (n - 1) // 3
    names = ("median", "trimmed_mean", "meamed")
    found = jax.jit(lambda rows: {name: RULES[name](rows, f) for name in names})(rows)
    np.testing.assert_allclose(found["median"], np.median(rows, axis=0), rtol=1e-6)
    middle = np.sort(rows, axis=0)[f : n - f].mean(axis=0)
    np.testing.assert_allclose(found["trimmed_mean"], middle, rtol=1e-5, atol=1e-6)
    order = np.argsort(np.abs(rows - np.median(rows, axis=0)), axis=0)[: n - f]
    near = np.take_along_axis(np.asarray(rows), order, axis=0).mean(axis=0)
    np.testing.assert_allclose(found["meamed"], near, rtol=1e-5, atol=1e-6)


def test_blocks_that_overlap_give_what_one_block_gives():
    rows = random_rows(40, d=2 * 2**16 // 40 + 17)
    np.testing.assert_allclose(jax.jit(rules.median)(rows), np.median(rows, axis=0), rtol=1e-6)


def test_the_geometric_median_is_where_the_pulls_cancel():
    rows = np.asarray(STACKS, np.float64)
    with jax.enable_x64(True):
        exact = functools.partial(rules.geometric_median, tol=1e-12, max_iters=2000)
        points = np.asarray(jax.jit(jax.vmap(exact))(rows))
    away = points[:, None] - rows
    pulls = away / np.linalg.norm(away, axis=2, keepdims=True)
    assert (np.linalg.norm(pulls.sum(axis=1), axis=1) < 1e-6).all()


def test_the_geometric_median_may_be_a_row_and_has_no_use_for_the_others_distance():
    cross = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.1, 0.1]]
    double = [[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]
    far = [np.asarray(ROWS.at[3].set(jnp.array([0.0, by]))) for by in (1e4, 1e12)]
    found = jax.jit(jax.vmap(rules.geometric_median))(jnp.array([cross, double, *far]))
    np.testing.assert_array_equal(found[0], jnp.array(cross[3]))
    np.testing.assert_array_equal(found[1], [0.0, 0.0])
    np.testing.assert_allclose(found[2], found[3], atol=5e-3)


def test_mda_and_smea_equal_a_search_through_all_subsets():
    rows = np.asarray(STACKS[1], np.float64)
    subsets = [list(kept) for kept in itertools.combinations(range(N), N - F)]
    diameter = lambda kept: max(np.linalg.norm(a - b) for a in rows[kept] for b in rows[kept])
    spread = lambda kept: np.linalg.eigvalsh(np.cov(rows[kept].T))[-1]
    for name, measure in (("mda", diameter), ("smea", spread)):
        best = rows[min(subsets, key=measure)].mean(axis=0)
        np.testing.assert_allclose(compiled(name)(STACKS)[1], best, rtol=1e-4, atol=1e-6)


def test_the_first_of_equals_is_taken():
    square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    run = jax.jit(lambda rows: (rules.krum(rows, 1), rules.mda(rows, 1), rules.meamed(rows, 1)))
    np.testing.assert_array_equal(run(square)[0], square[0])
    np.testing.assert_allclose(run(square)[1], square[:3].mean(axis=0), rtol=1e-6)
    line = jnp.tile(jnp.array([[0.0], [1.0], [2.0], [3.0]]), 2)
    assert run(line)[2].tolist() == [1.0, 1.0]


def test_centered_clipping_moves_no_further_than_tau_and_stays_where_it_is_pulled_evenly():
    center = jnp.array([1.0, 2.0, 3.0])
    clip = jax.jit(lambda rows, tau: rules.centered_clipping(rows, tau=tau, center=center))
    moved = clip(100 * STACKS[0], 0.5)
    assert float(jnp.linalg.norm(moved - center)) <= 0.5 + 1e-6
    everything = clip(STACKS[0], 1e6)
    np.testing.assert_allclose(everything, STACKS[0].mean(axis=0), rtol=1e-4, atol=1e-6)
    same = clip(jnp.tile(center, (N, 1)), 0.0)
    np.testing.assert_allclose(same, center, rtol=1e-6)


def test_caf_ends_when_a_dropped_row_dwarfs_the_others():
    rows = STACKS[0].at[0].set(1e6).at[1].set(1e3)
    row = jax.jit(partial(rules.caf, f=2))(rows)
    assert float(jnp.linalg.norm(row - STACKS[0][2:].mean(axis=0))) < 1.0


def test_bucketing_averages_consecutive_groups_of_a_random_order():
    rows, key = np.asarray(random_rows(5)), jax.random.key(1)
    by_order = jax.jit(lambda rows, perm: rules.bucketing(rows, s=2, perm=perm))
    expected = [rows[[3, 1]].mean(axis=0), rows[[4, 0]].mean(axis=0), rows[2]]
    buckets = by_order(rows, jnp.array([3, 1, 4, 0, 2]))
    np.testing.assert_allclose(buckets, np.stack(expected), rtol=1e-5)
    drawn = jax.jit(lambda rows, key: rules.bucketing(rows, s=2, key=key))(rows, key)
    np.testing.assert_allclose(drawn, by_order(rows, jax.random.permutation(key, 5)), rtol=1e-5)


def test_clipping_keeps_short_rows_and_directions():
    rows = {"a": jnp.array([[3.0], [0.3], [0.0]]), "b": jnp.array([4.0, 0.4, 0.0])}
    clipped = jax.jit(lambda rows: rules.clip_rows(rows, max_norm=1.0))(rows)
    np.testing.assert_allclose(clipped["a"][:, 0], [0.6, 0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [0.8, 0.4, 0.0], rtol=1e-6)


# Invariances -----------------------------------------------------------------------------


@every_rule
def test_order_does_not_matter_and_shifts_pass_through(name):
    run, order = compiled(name), np.random.default_rng(0).permutation(N)
    base = run(STACKS)
    if name not in ("nearest_neighbor_average", "mda"):  # these know who stands where
        np.testing.assert_allclose(run(STACKS[:, order]), base, rtol=1e-4, atol=1e-4)
    if name not in ANCHORED:
        np.testing.assert_allclose(run(STACKS + 3.0), base + 3.0, rtol=1e-4, atol=1e-4)


def test_pre_aggregators_turn_with_the_order():
    order = np.random.default_rng(0).permutation(N)
    for name in ("nnm", "clip_rows", "arc"):
        run = compiled(name)
        turned = run(STACKS[:, order])
        np.testing.assert_allclose(turned, run(STACKS)[:, order], rtol=1e-4, atol=1e-5)


@every_rule
def test_equal_rows_give_that_row(name):
    row = jnp.array([1.5, -0.5, 0.25])  # shorter than the radius of clipping
    equal = jnp.broadcast_to(row, STACKS.shape)
    np.testing.assert_allclose(compiled(name)(equal)[0], row, rtol=1e-6)


@pytest.mark.parametrize("name", [*RULES, *PRE])
def test_works_leaf_by_leaf_and_keeps_dtypes(name):
    rows = STACKS[0].at[:, 2].set(STACKS[0, :, 2].astype(jnp.bfloat16).astype(jnp.float32))
    tree = {
        "complex": lax.complex(rows[:, 0], rows[:, 1]),
        "half": rows[:, 2].reshape(N, 1, 1).astype(jnp.bfloat16),
        "empty": jnp.zeros((N, 0)),
        "masked": None,
    }
    rule = (RULES | PRE)[name]
    out = jax.jit(lambda rows: rule(rows, F))(tree)
    whole = np.asarray(compiled(name)(jnp.broadcast_to(rows, STACKS.shape))[0])
    assert out["masked"] is None
    for leaf, shape in (("complex", ()), ("half", (1, 1)), ("empty", (0,))):
        assert out[leaf].shape == (*whole.shape[:-1], *shape)
        assert out[leaf].dtype == tree[leaf].dtype
    np.testing.assert_allclose(out["complex"].real, whole[..., 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out["complex"].imag, whole[..., 1], rtol=1e-4, atol=1e-5)
    half = np.asarray(out["half"][..., 0, 0], np.float32)
    np.testing.assert_allclose(half, whole[..., 2], rtol=1e-2, atol=1e-2)


# Bounds ----------------------------------------------------------------------------------


def _bound(name, n, f):
    ratio = f / (n - 2 * f)
    return {
        "trimmed_mean": 6 * ratio * (1 + ratio),
        "krum": 6 * (1 + ratio),
        "median": 4 * (1 + ratio) ** 2,
        "geometric_median": 4 * (1 + ratio) ** 2,
    }[name]


@pytest.mark.parametrize("name", ["trimmed_mean", "krum", "median", "geometric_median"])
@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "behind_nnm"])
def test_the_bound_on_the_error_holds_for_every_subset(name, mixed):
    n, f = 7, 2
    rng = np.random.default_rng(0)
    stacks = rng.normal(size=(60, n, 2)) * np.where(rng.uniform(size=(60, n, 1)) < 0.3, 8.0, 1.0)
    kappa, rule = _bound(name, n, f), RULES[name]
    if mixed:
        kappa = 8 * f / (n - f) * (kappa + 1)
    found = jax.jit(jax.vmap(lambda x: rule(rules.nnm(x, f) if mixed else x, f)))(stacks)
    for kept in itertools.combinations(range(n), n - f):
        honest = stacks[:, kept]
        centre = honest.mean(axis=1)
        variance = ((honest - centre[:, None]) ** 2).sum(axis=2).mean(axis=1)
        assert (((found - centre) ** 2).sum(axis=1) <= kappa * variance + 1e-5).all()


# Absent rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RULES, "nnm", "arc", "clip_rows", "bucketing"])
def test_absent_rows_do_not_count(name):
    """What they hold does not matter: the others give what they would give alone."""
    there = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0], bool)
    if name == "nearest_neighbor_average":
        there = np.array([1, 1, 1, 1, 0, 1, 1, 0, 0], bool)
    rule = (RULES | PRE)[name]
    if name == "bucketing":
        alone = rules.bucketing(STACKS[0][there], s=2, perm=tuple(range(6)))
    else:
        alone = jax.jit(lambda rows: rule(rows, F))(STACKS[0][there])
    garbage = jnp.where(jnp.arange(N)[:, None] % 2 == 0, jnp.nan, 0.0)
    rows = jnp.where(there[:, None], STACKS[0], garbage)[None]
    found = compiled_active(name)(rows, jnp.asarray(there)[None])
    if name in PRE:
        found, still = found[0][0], found[1][0]
        found = found[still]
    else:
        found = found[0]
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)


@every_rule
def test_too_few_who_are_there_give_zero(name):
    present = jnp.arange(N)[None] < jnp.array([[0], [4]])
    found = compiled_active(name)(STACKS[:2], present)
    assert (found[0] == 0).all()
    if name != "mean":
        assert (found[1] == 0).all()


# Distances -------------------------------------------------------------------------------


def test_squared_distances_equal_numpy_over_the_tree():
    tree = {"a": random_rows(6, 4).reshape(6, 2, 2), "b": random_rows(6, 1, seed=1)[:, 0]}
    flat = np.concatenate([np.asarray(tree["a"]).reshape(6, 4), np.asarray(tree["b"])[:, None]], 1)
    expected = ((flat[:, None] - flat[None]) ** 2).sum(axis=-1)
    measure = jax.jit(rules.squared_distances)
    np.testing.assert_allclose(measure(tree), expected, rtol=1e-4, atol=1e-5)
    wide = random_rows(6, 2 * 2**17 // 6 + 5)
    exact = ((np.asarray(wide)[:, None] - np.asarray(wide)[None]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(measure(wide), exact, rtol=1e-4, atol=0.1)


def test_squared_distances_stay_exact_beside_far_rows():
    offsets = np.linspace(0, 0.01, 5)[:, None] * np.ones(100)
    far = [np.full((4, 100), value) for value in (1e4, 1e15, 3e38)]
    rows = np.stack([np.concatenate([5 + offsets, attack]) for attack in far]).astype(np.float32)
    near = rows[0, :5].astype(np.float64)
    exact = ((near[:, None] - near[None]) ** 2).sum(axis=-1)
    for distances in np.asarray(jax.jit(jax.vmap(rules.squared_distances))(rows)):
        np.testing.assert_allclose(distances[:5, :5], exact, rtol=1e-3, atol=1e-9)
        assert not np.isnan(distances).any()
        assert (distances[:5, 5:] > 1e6).all()


@pytest.mark.parametrize(
    "name",
    ["krum", "multi_krum", "geometric_median", "mda", "smea", "caf", "nearest_neighbor_average"],
)
def test_a_large_common_offset_changes_nothing(name):
    steps = jnp.round(STACKS * 64) / 64  # so that adding the offset rounds nothing away
    run = compiled(name)
    shifted = run(steps + 2.0**14) - 2.0**14
    np.testing.assert_allclose(shifted, run(steps), atol=5e-3)


def test_rows_that_are_not_finite_are_found_and_masked():
    rows = {"x": jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [3.0, 4.0]]), "y": jnp.array([1, 2, 3])}
    rows["z"] = jnp.array([0.0, 0.0, -jnp.inf])
    finite = rules.finite_rows(rows)
    assert finite.tolist() == [True, False, False]
    masked = rules.mask_rows(rows, finite)
    assert masked["x"].tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    assert masked["z"].tolist() == [0.0, 0.0, 0.0]


def test_integers_take_no_part_in_distances():
    assert rules.squared_distances({"steps": jnp.arange(3)}).tolist() == np.zeros((3, 3)).tolist()


# Refusals --------------------------------------------------------------------------------

COUNTING = [name for name in RULES if name != "mean"] + ["nnm", "arc"]


@pytest.mark.parametrize("name", COUNTING)
def test_the_number_of_faults_is_a_natural_number_below_half(name):
    rule = (RULES | PRE)[name]
    for f in (2, 5):
        with pytest.raises(ValueError, match=rf"cannot tolerate 2f >= n, got f = {f} of n = 4"):
            rule(ROWS, f)
    for f in (-1, 1.0, True):
        with pytest.raises(ValueError, match=rf"f must be an integer >= 0, got {f}"):
            rule(ROWS, f)


BAD_ROWS = [jnp.zeros((0, 2)), jnp.zeros(()), {}, {"a": jnp.zeros((3, 1)), "b": jnp.zeros((2, 1))}]


@pytest.mark.parametrize("name", [*RULES, *PRE, "squared_distances", "finite_rows"])
def test_rows_must_have_one_leading_axis(name):
    rule = (RULES | PRE).get(name) or (lambda rows, f: getattr(rules, name)(rows))
    for rows in BAD_ROWS:
        with pytest.raises(ValueError, match="one common leading axis of at least one participant"):
            rule(rows, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rules.krum(ROWS, 1, neighbors="all"), "neighbors must be one of"),
        (lambda: rules.krum(ROWS[:3], 1, neighbors="original"), "needs n > f . 2"),
        (lambda: rules.multi_krum(ROWS, 1, m=4), "m must be at most n - f = 3, got 4"),
        (lambda: rules.multi_krum(ROWS, 1, m=0), "m must be an integer >= 1"),
        (lambda: rules.nearest_neighbor_average(ROWS, 1, 4), r"idx must lie in \[0, 4\), got 4"),
        (lambda: rules.nearest_neighbor_average(ROWS, 1, -1), "idx must be an integer >= 0"),
        (lambda: rules.geometric_median(ROWS, tol=0.0), r"tol must lie in \(0, inf\)"),
        (lambda: rules.geometric_median(ROWS, max_iters=0), "max_iters must be an integer >= 1"),
        (lambda: rules.weiszfeld(ROWS, nu=0.0), r"nu must lie in \(0, inf\)"),
        (lambda: rules.weiszfeld(ROWS, init="one"), "init must be one of"),
        (lambda: rules.weiszfeld(ROWS, iters=0), "iters must be an integer >= 1"),
        (lambda: rules.centered_clipping(ROWS, tau=-1.0), r"tau must lie in \[0, inf\)"),
        (lambda: rules.centered_clipping(ROWS, tau=1.0, iters=0), "iters must be an integer >= 1"),
        (lambda: rules.bucketing(ROWS, s=0, perm=[0, 1, 2, 3]), "s must be an integer >= 1"),
        (lambda: rules.bucketing(ROWS, s=2), "give either key"),
        (lambda: rules.clip_rows(ROWS, max_norm=-1.0), r"max_norm must lie in \[0, inf\)"),
        (lambda: rules.mda(jnp.zeros((40, 1)), 10), "at most 50,000 subsets"),
        (lambda: rules.smea(jnp.zeros((40, 1)), 10), "take another rule"),
    ],
)
def test_arguments_that_cannot_work_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_rule_is_tested_here():
    names = {name for name, value in vars(rules).items() if inspect.isfunction(value)}
    tested = {getattr(rule, "func", rule).__name__ for rule in (RULES | PRE).values()}
    assert names - tested == {"squared_distances", "finite_rows", "mask_rows"}
