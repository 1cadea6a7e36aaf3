"""The temperature of SGD: what leaves it alone, and decays turned into growth."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import schedules


@settings(deadline=None, max_examples=25)
@given(rate=st.floats(1e-6, 10), size=st.integers(1, 10**6), momentum=st.floats(0, 0.99))
def test_rate_and_batch_grow_together_at_one_temperature(rate, size, momentum):
    temperature = schedules.sgd_temperature(rate, size, momentum)
    assert schedules.sgd_temperature(2 * rate, 2 * size, momentum) == pytest.approx(temperature)
    plain = schedules.sgd_temperature(rate, size)
    assert plain * size == pytest.approx(rate)
    assert temperature * (1 - momentum) == pytest.approx(plain)


def test_a_constant_temperature_is_one():
    sizes = optax.piecewise_constant_schedule(4, {2: 8})
    rate, counts = schedules.constant_temperature_schedule(sizes, 0.125), jnp.arange(5)
    temperatures = schedules.sgd_temperature(rate(counts), sizes(counts))
    np.testing.assert_allclose(temperatures, 0.125, rtol=1e-6)
    np.testing.assert_allclose(rate(counts)[-1], 4.0)


def test_growth_has_the_temperature_of_the_decay():
    decay, counts = optax.cosine_decay_schedule(0.4, 50), jnp.arange(45)
    sizes = schedules.decay_by_batch_size(decay, 64, 0.4)(counts)
    assert sizes.dtype == jnp.int32
    np.testing.assert_allclose(
        schedules.sgd_temperature(0.4, sizes),
        schedules.sgd_temperature(decay(counts), 64),
        rtol=0.5 / 64,  # sizes are rounded to integers
    )


def test_growth_ends_at_the_largest_batch():
    gone = optax.constant_schedule(0.0)
    assert int(schedules.decay_by_batch_size(gone, 64, 0.4, max_batch_size=500)(3)) == 500
    assert int(schedules.decay_by_batch_size(gone, 64, 0.4)(3)) == 2**31 - 128
    warm = optax.constant_schedule(1000.0)
    assert int(schedules.decay_by_batch_size(warm, 64, 0.4)(3)) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.sgd_temperature(0.1, 0), r"batch_size must lie in \(0, inf\), got 0"),
        (lambda s: s.sgd_temperature(-0.1, 8), "learning_rate must lie in"),
        (lambda s: s.sgd_temperature(0.1, 8, 1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda s: s.constant_temperature_schedule(8, 0.1), "batch_size_schedule must be a func"),
        (lambda s: s.constant_temperature_schedule(lambda c: 8, 0), "temperature must lie in"),
        (lambda s: s.decay_by_batch_size(0.1, 8, 0.1), "schedule must be a function of the count"),
        (lambda s: s.decay_by_batch_size(lambda c: 1, -8, 0.1), "base_batch_size must lie in"),
        (lambda s: s.decay_by_batch_size(lambda c: 1, 8, 0), "base_learning_rate must lie in"),
        (
            lambda s: s.decay_by_batch_size(lambda c: 1, 8, 0.1, max_batch_size=0),
            "max_batch_size must be an integer >= 1",
        ),
    ],
)
def test_refuses_what_has_no_temperature(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)
