"""Rules on stacked rows: golden values, invariances, faults, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import federated

rules = federated.rules
ROWS = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [10.0, 10.0]])
ROBUST = {"median": rules.median, "trimmed_mean": rules.trimmed_mean}
robust = pytest.mark.parametrize("rule", ROBUST.values(), ids=ROBUST)
every_rule = pytest.mark.parametrize("rule", [rules.mean, *ROBUST.values()], ids=["mean", *ROBUST])


def random_rows(n, d=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


def test_the_worked_example():
    np.testing.assert_allclose(rules.mean(ROWS), [3.25, 2.75])
    np.testing.assert_allclose(rules.median(ROWS, 1), [1.5, 0.5])
    np.testing.assert_allclose(rules.trimmed_mean(ROWS, 1), [1.5, 0.5])


@pytest.mark.parametrize("n", [1, 4, 7])
def test_equal_numpy(n):
    rows = random_rows(n)
    np.testing.assert_allclose(rules.median(rows), np.median(rows, axis=0), rtol=1e-6)
    np.testing.assert_allclose(rules.mean(rows), np.mean(rows, axis=0), rtol=1e-5, atol=1e-7)
    f = (n - 1) // 2
    middle = np.sort(rows, axis=0)[f : n - f].mean(axis=0)
    np.testing.assert_allclose(rules.trimmed_mean(rows, f), middle, rtol=1e-5, atol=1e-7)


def test_no_fault_to_bear_is_the_mean():
    rows = random_rows(6)
    np.testing.assert_allclose(rules.trimmed_mean(rows, 0), rules.mean(rows), rtol=1e-5, atol=1e-7)


@every_rule
def test_works_leaf_by_leaf_and_keeps_dtypes(rule):
    tree = {
        "scalar": jnp.arange(5.0),
        "half": jnp.ones((5, 2, 2), jnp.bfloat16),
        "empty": jnp.zeros((5, 0)),
        "masked": None,
    }
    out = rule(tree, 2)
    assert out["scalar"].shape == ()
    assert out["half"].dtype == jnp.bfloat16
    assert out["half"].shape == (2, 2)
    assert out["empty"].shape == (0,)
    assert out["masked"] is None
    assert float(out["scalar"]) == 2.0


@every_rule
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), shift=st.floats(-8, 8, width=32))
def test_order_does_not_matter_and_shifts_pass_through(rule, seed, shift):
    rows = random_rows(7, seed=seed)
    order = np.random.default_rng(seed).permutation(7)
    np.testing.assert_allclose(rule(rows[order], 2), rule(rows, 2), atol=1e-5)
    np.testing.assert_allclose(rule(rows + shift, 2), rule(rows, 2) + shift, atol=1e-4)


@robust
@pytest.mark.parametrize("fault", [jnp.nan, jnp.inf, -jnp.inf, 3e38, -3e38, 1e12])
@pytest.mark.parametrize("whole", [True, False], ids=["whole_row", "one_coordinate"])
def test_faults_leave_the_result_within_the_honest_range(rule, fault, whole):
    honest = np.asarray(random_rows(9))
    faulty = np.zeros((2, 3), np.float32)
    faulty[:, slice(None) if whole else 1] = fault
    for rows in (np.concatenate([honest, faulty]), np.concatenate([faulty, honest])):
        out = rule(jnp.asarray(rows), 2)
        assert (out >= honest.min(axis=0)).all()
        assert (out <= honest.max(axis=0)).all()


@pytest.mark.parametrize(("n", "f"), [(5, 1), (7, 2), (9, 3)])
def test_trimmed_mean_keeps_its_bound_under_attack(n, f):
    ratio = f / (n - 2 * f)
    for seed in range(20):
        rows = random_rows(n, seed=seed) * jnp.where(jnp.arange(n)[:, None] < f, 5.0, 1.0)
        honest = rows[f:]
        error = jnp.sum((rules.trimmed_mean(rows, f) - honest.mean(axis=0)) ** 2)
        variance = jnp.mean(jnp.sum((honest - honest.mean(axis=0)) ** 2, axis=1))
        assert error <= 6 * ratio * (1 + ratio) * variance


def test_squared_distances_equal_numpy_over_the_tree():
    tree = {"a": random_rows(6, 4).reshape(6, 2, 2), "b": random_rows(6, 1, seed=1)[:, 0]}
    flat = np.concatenate([np.asarray(tree["a"]).reshape(6, 4), np.asarray(tree["b"])[:, None]], 1)
    expected = ((flat[:, None] - flat[None]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(rules.squared_distances(tree), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("far", [1e4, 1e15, 3e38])
def test_squared_distances_stay_exact_beside_far_rows(far):
    offsets = np.linspace(0, 0.01, 5, dtype=np.float32)[:, None] * np.ones(100, np.float32)
    rows = np.concatenate([5 + offsets, np.full((4, 100), far, np.float32)]).astype(np.float32)
    exact = ((rows[:5, None].astype(np.float64) - rows[None, :5]) ** 2).sum(axis=-1)
    distances = rules.squared_distances(jnp.asarray(rows))
    np.testing.assert_allclose(distances[:5, :5], exact, rtol=1e-3, atol=1e-9)
    assert not jnp.isnan(distances).any()
    assert (distances[:5, 5:] > 1e6).all()


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


@robust
@pytest.mark.parametrize("f", [2, 5])
def test_half_of_the_rows_cannot_be_borne(rule, f):
    with pytest.raises(ValueError, match=rf"cannot tolerate 2f >= n, got f = {f} of n = 4"):
        rule(ROWS, f)


@robust
@pytest.mark.parametrize("f", [-1, 1.0, True])
def test_the_number_of_faults_is_a_natural_number(rule, f):
    with pytest.raises(ValueError, match=rf"f must be an integer >= 0, got {f}"):
        rule(ROWS, f)


@pytest.mark.parametrize(
    "rule",
    [*ROBUST.values(), rules.mean, lambda rows, f: rules.squared_distances(rows)],
    ids=[*ROBUST, "mean", "squared_distances"],
)
@pytest.mark.parametrize(
    "rows",
    [jnp.zeros((0, 2)), jnp.zeros(()), {}, {"a": jnp.zeros((3, 1)), "b": jnp.zeros((2, 1))}],
    ids=["nobody", "no_axis", "no_leaf", "different"],
)
def test_rows_must_have_one_leading_axis(rule, rows):
    with pytest.raises(ValueError, match="one common leading axis of at least one participant"):
        rule(rows, 0)


def test_compiles_once_for_all_values():
    rule = jax.jit(functools.partial(rules.trimmed_mean, f=1))
    np.testing.assert_allclose(rule(ROWS), rules.trimmed_mean(ROWS, 1))
