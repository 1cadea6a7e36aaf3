"""Random-matrix rules of the batch size: limits, the spiked Wigner matrix, refused numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import schedules

SPIKE = {"spike": 3.0, "noise_std": 0.05, "num_params": 1500, "batch_size": 4}


@pytest.mark.parametrize("rule", ["linear", "sqrt"])
def test_the_same_batch_size_changes_nothing(rule):
    assert schedules.batch_scaled_learning_rate(0.3, 48, 48, rule) == 0.3
    traced = jax.jit(lambda b: schedules.batch_scaled_learning_rate(0.3, b, b, rule))(48)
    np.testing.assert_allclose(traced, 0.3, rtol=1e-7)


@pytest.mark.parametrize(("rule", "factor"), [("linear", 16.0), ("sqrt", 4.0)])
def test_rules_are_multiplicative(rule, factor):
    scale = schedules.batch_scaled_learning_rate
    assert scale(0.5, 32, 512, rule) == 0.5 * factor
    assert scale(scale(0.5, 32, 128, rule), 128, 512, rule) == 0.5 * factor


def test_a_schedule_follows_the_batch_size():
    rate = optax.linear_schedule(1.0, 0.0, 4)
    sizes = optax.piecewise_constant_schedule(8, {2: 4})
    counts = jnp.arange(5)
    for rule, factor in (("linear", 4.0), ("sqrt", 2.0)):
        scaled = schedules.batch_scaled_schedule(rate, 8, sizes, rule)
        expected = np.array([1, 0.75, 0.5 * factor, 0.25 * factor, 0])
        np.testing.assert_allclose(scaled(counts), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("spike", "noise_std", "batch_size", "measured", "formula"),
    [
        (3.0, 0.05, 1, 4.225, 4.250),
        (3.0, 0.05, 4, 3.293, 3.3125),
        (1.5, 0.05, 1, 3.833, 3.873),
        (1.0, 0.02, 1, 1.597, 1.600),
    ],
)
def test_spiked_wigner_matrices(spike, noise_std, batch_size, measured, formula):
    top = schedules.rmt_top_eigenvalue(spike, noise_std, 1500, batch_size)
    np.testing.assert_allclose(top, formula, atol=6e-4)
    np.testing.assert_allclose(top, measured, rtol=0.011)


def test_both_branches_meet_in_twice_the_spike():
    for nudge in (1 - 1e-5, 1.0, 1 + 1e-5):
        top = schedules.rmt_top_eigenvalue(nudge * 0.1 * np.sqrt(400 / 4), 0.1, 400, 4)
        np.testing.assert_allclose(top, 2.0, rtol=1e-4)


def test_the_whole_data_set_has_no_noise():
    top = lambda b: float(schedules.rmt_top_eigenvalue(0.5, 10.0, 1000, b, dataset_size=600))
    assert top(600) == 0.5
    assert top(599) > 0.5
    assert top(1) < float(schedules.rmt_top_eigenvalue(0.5, 10.0, 1000, 1))
    assert np.isfinite(top(600))


def test_the_largest_rate_grows_linearly_then_saturates_or_with_the_root():
    rate = lambda b, **more: float(
        schedules.rmt_max_learning_rate(**SPIKE | more | {"batch_size": b})
    )
    noisy = {"num_params": 15_000}  # the batch of one sits at lambda_b = 15.5, five times the spike
    assert rate(1e7) == pytest.approx(2 / 3, rel=1e-4)
    hidden = {"spike": 1e-3}
    assert rate(64, **hidden) / rate(16, **hidden) == pytest.approx(2.0, rel=1e-5)
    growth = rate(8, **noisy) / rate(4, **noisy)
    assert 1.2 < growth < 2.0
    assert rate(4, momentum=0.9) == pytest.approx(1.9 * rate(4), rel=1e-6)


def test_numbers_may_be_traced_and_many():
    sizes = jnp.array([1, 4, 16])
    rates = jax.jit(lambda b: schedules.rmt_max_learning_rate(3.0, 0.05, 10**11, b))(sizes)
    assert rates.shape == (3,)
    assert np.all(np.diff(rates) > 0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 0, r"batch_size must lie in \[1, inf\), got 0"),
        ("batch_size", 601, r"batch_size must lie in \[1, 600\], got 601"),
        ("noise_std", -0.1, r"noise_std must lie in \[0, inf\)"),
        ("spike", 0.0, r"spike must lie in \(0, inf\), got 0.0"),
        ("num_params", 0, r"num_params must lie in \[1, inf\)"),
    ],
)
def test_refuses_what_no_matrix_has(name, value, message):
    arguments = SPIKE | {"dataset_size": 600, name: value}
    for rule in (schedules.rmt_top_eigenvalue, schedules.rmt_max_learning_rate):
        with pytest.raises(ValueError, match=f"{rule.__name__}: {message}"):
            rule(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: s.batch_scaled_learning_rate(0.1, 0, 8),
            r"base_batch_size must lie in \[1, inf",
        ),
        (lambda s: s.batch_scaled_learning_rate(0.1, 8, 0.5), r"batch_size must lie in \[1, inf"),
        (lambda s: s.batch_scaled_learning_rate(-0.1, 8, 8), "learning_rate must lie in"),
        (lambda s: s.batch_scaled_learning_rate(0.1, 8, 8, "cube"), "rule must be one of 'linear'"),
        (lambda s: s.batch_scaled_schedule(0.1, 8, lambda c: 8), "schedule must be a function"),
        (lambda s: s.batch_scaled_schedule(lambda c: 1, 8, 8), "batch_size_schedule must be a fun"),
        (
            lambda s: s.rmt_max_learning_rate(**SPIKE, momentum=1.0),
            r"momentum must lie in \[0, 1\)",
        ),
    ],
    ids=["base", "size", "rate", "rule", "schedule", "sizes", "momentum"],
)
def test_refuses_what_no_rule_takes(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)
