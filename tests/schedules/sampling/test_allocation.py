"""Allocation of samples: optimal shares, whole numbers, and choice of items."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from gradax import schedules


def minimiser(objective, size, budget):
    """Numbers that minimise an objective of a budget, by a general-purpose solver."""
    found = optimize.minimize(
        objective,
        np.full(size, budget / size),
        bounds=[(1e-3, None)] * size,
        constraints={"type": "eq", "fun": lambda n: n.sum() - budget},
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert found.success
    return found.x


def test_equal_deviations_share_alike():
    np.testing.assert_allclose(schedules.neyman_allocation([2.0] * 4, 10), 2.5, rtol=1e-6)


def test_costs_are_paid_in_full_and_count_by_their_root():
    std, cost = np.array([1.0, 3.0, 0.0]), np.array([1.0, 4.0, 2.0])
    counts = schedules.neyman_allocation(std, 70, cost)
    np.testing.assert_allclose(counts, [10, 15, 0], rtol=1e-6)
    np.testing.assert_allclose(counts @ cost, 70, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(std=st.tuples(*[st.floats(0.015625, 64, width=32)] * 4))
def test_neyman_is_never_worse_than_uniform(std):
    std = np.array(std)
    counts = np.asarray(schedules.neyman_allocation(std, 100))
    np.testing.assert_allclose(counts.sum(), 100, rtol=1e-5)
    assert np.sum(std**2 / counts) <= np.sum(std**2 / 25) * (1 + 1e-5)


def test_gvm_worked_numbers():
    fractions = schedules.gvm_allocation([1, 2, 4], [1.0, 0.25, 0.0625], 1.0)
    np.testing.assert_allclose(fractions, [0.05194, 0.20621, 0.74185], atol=5e-6)


def test_gvm_is_the_numerical_minimiser():
    norm, rate, alpha, beta = np.array([1, 2, 0.5, 3]), np.array([0.9, 0.3, 0.1, 0.6]), 0.05, 2
    objective = lambda n: np.sum(norm**2 / (rate * n) / (1 + alpha / rate**beta))
    counts = schedules.gvm_allocation(norm, rate, 40, alpha=alpha, beta=beta)
    np.testing.assert_allclose(counts, [4.9748, 14.2375, 3.1391, 17.6486], atol=5e-5)
    np.testing.assert_allclose(counts, minimiser(objective, 4, 40), rtol=1e-3)


def test_gvm_without_alpha_is_a_norm_over_the_root_of_the_rate():
    counts = schedules.gvm_allocation([1.0, 2.0], [0.25, 1.0], 8, alpha=0.0)
    np.testing.assert_allclose(counts, [4, 4], rtol=1e-6)


def test_gvm_drops_the_hopeless_the_silent_and_what_filters_name():
    norm, rate = [1.0, 1.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 0.95, 0.001]
    plain = schedules.gvm_allocation(norm, rate, 10)
    np.testing.assert_array_equal(plain > 0, [False, True, False, True, True])
    easy_out = schedules.gvm_allocation(norm, rate, 10, filter_threshold=0.9)
    np.testing.assert_array_equal(easy_out > 0, [False, True, False, False, True])
    hard_out = schedules.gvm_allocation(norm, rate, 10, filter_insufficient=0.5)
    np.testing.assert_array_equal(hard_out > 0, [False, True, False, True, False])
    np.testing.assert_allclose([easy_out.sum(), hard_out.sum()], 10, rtol=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_policy_gradient_std_with_the_vector_gap_is_exact(seed):
    rng = np.random.default_rng(seed)
    gradients, correct = rng.normal(size=(6, 3)) + 1, np.array([1, 1, 0, 1, 0, 0])
    # The variance over the six samples, taken as the whole population.
    terms = (correct - correct.mean())[:, None] * gradients
    exact = np.sqrt(np.sum(terms.var(axis=0)))
    norms = np.linalg.norm(gradients, axis=1)
    gap = np.linalg.norm(gradients[correct == 1].mean(0) - gradients[correct == 0].mean(0))
    found = schedules.policy_gradient_std(norms, correct, gap)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    assert schedules.policy_gradient_std(norms, correct) >= found


def test_certain_items_have_no_deviation():
    found = schedules.policy_gradient_std(np.ones((2, 4)), [[1] * 4, [0] * 4])
    np.testing.assert_array_equal(found, 0)


def test_posterior_and_picking_worked_numbers():
    posterior = schedules.beta_posterior([0, 2, 4], 4)
    np.testing.assert_array_equal([posterior.a, posterior.b], [[1, 3, 5], [5, 3, 1]])
    np.testing.assert_allclose(posterior.mean, [1 / 6, 1 / 2, 5 / 6], rtol=1e-6)
    probs = schedules.variance_prompt_probs([0, 2, 4], 4)
    np.testing.assert_allclose(probs, [0.17946, 0.64108, 0.17946], atol=5e-6)


def test_the_authors_temperatures_are_almost_uniform():
    probs = schedules.variance_prompt_probs([0, 2, 4], [4, 4, 4], reference=True)
    np.testing.assert_allclose(probs, 1 / 3, atol=1e-3)
    assert len(np.unique(probs)) == 3


ROUND = jax.jit(schedules.round_to_budget, static_argnames="min_count")


@settings(deadline=None, max_examples=25)
@given(
    shares=st.tuples(*[st.integers(0, 1000)] * 5).filter(lambda shares: max(shares) > 0),
    budget=st.integers(10, 500),
)
def test_whole_numbers_add_up_and_stay_close(shares, budget):
    for least in (0, 2):
        counts = np.asarray(ROUND(jnp.array(shares, float), budget, min_count=least))
        assert counts.sum() == budget
        assert counts.min() >= least
        wanted = least + (budget - 5 * least) * np.array(shares) / np.sum(shares)
        assert np.abs(counts - wanted).max() <= 1 + 1e-3


def test_halves_go_to_the_even_number_and_ties_to_the_first():
    np.testing.assert_array_equal(schedules.round_to_budget([1, 1, 1, 1], 6), [1, 1, 2, 2])
    np.testing.assert_array_equal(schedules.round_to_budget([1, 1, 1, 1], 10), [3, 3, 2, 2])
    np.testing.assert_array_equal(schedules.round_to_budget([1, 1], 3), [1, 2])
    np.testing.assert_array_equal(schedules.round_to_budget([1, 3], 2), [0, 2])


def test_traced_shares_that_are_all_zero_are_shared_alike():
    np.testing.assert_array_equal(ROUND(jnp.zeros(4), 8), 2)
    traced = jax.jit(lambda std: schedules.neyman_allocation(std, 8))(jnp.zeros(4))
    np.testing.assert_array_equal(traced, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.neyman_allocation([0.0, 0.0], 4), "std must be positive for one item"),
        (lambda s: s.neyman_allocation([1.0], -1), r"budget must lie in \[0, inf\), got -1"),
        (lambda s: s.neyman_allocation([1.0, 2.0], 4, [1.0]), "cost must be a vector of 2"),
        (lambda s: s.neyman_allocation([1.0], 4, [0.0]), r"cost must lie in \(0, inf\), got 0"),
        (lambda s: s.gvm_allocation([1.0], [1.5], 4), r"accept_rate must lie in \[0, 1\], got 1.5"),
        (lambda s: s.gvm_allocation([1.0], [0.0], 4), "gvm_allocation: grad_norm . accept_rate"),
        (lambda s: s.gvm_allocation([1.0], [0.5], 4, alpha=-1), r"alpha must lie in \[0, inf\)"),
        (lambda s: s.policy_gradient_std([1.0], [1, 0]), "must have the same shape"),
        (lambda s: s.policy_gradient_std([], []), "must have the same shape .*samples"),
        (lambda s: s.policy_gradient_std([-1.0], [1]), r"grad_norms must lie in \[0, inf\)"),
        (lambda s: s.beta_posterior([3], [2]), "accepted must not exceed total"),
        (lambda s: s.beta_posterior([-1], [2]), r"accepted must lie in \[0, inf\), got -1"),
        (lambda s: s.variance_prompt_probs([1], [2], 0.0), r"temperature must lie in \(0, inf\]"),
        (lambda s: s.round_to_budget([0.0], 4), "shares must be positive for one item"),
        (lambda s: s.round_to_budget([1.0], -1), "budget must be an integer >= 0, got -1"),
        (lambda s: s.round_to_budget([1.0, 1.0], 3, min_count=2), "budget must be an integer >= 4"),
        (lambda s: s.round_to_budget([1.0], 2.5), "budget must be an integer >= 0, got"),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)
