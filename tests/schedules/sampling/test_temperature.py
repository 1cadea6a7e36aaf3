"""Temperature sampling, its twin by weights, Cooldown, and the sampler of domains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import schedules

SIZES = (900, 100)


def test_worked_numbers():
    probs, weights = schedules.temperature_probs, schedules.scalarization_weights
    np.testing.assert_allclose(probs(SIZES, 1.0), [0.9, 0.1], rtol=1e-6)
    np.testing.assert_allclose(probs(SIZES, 2.0), [0.75, 0.25], rtol=1e-6)
    np.testing.assert_allclose(probs(SIZES, 5.0), [0.6081, 0.3919], atol=5e-5)
    np.testing.assert_allclose(probs(SIZES, np.inf), [0.5, 0.5], rtol=1e-7)
    np.testing.assert_allclose(weights(SIZES, 2.0), [0.8333, 2.5], atol=5e-5)
    np.testing.assert_allclose(weights(SIZES, 1.0), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("tau", "ratio"), [(1.0, 1.0), (2.0, 1.25), (5.0, 1.947)])
def test_sampling_is_less_noisy_than_weighing_by_this_factor(tau, ratio):
    p, w = schedules.temperature_probs(SIZES, tau), schedules.scalarization_weights(SIZES, tau)
    np.testing.assert_allclose(p @ w, ratio, atol=5e-4)


def test_weighing_can_win_if_the_large_domain_is_the_noisy_one():
    p, w = schedules.temperature_probs(SIZES, 5.0), schedules.scalarization_weights(SIZES, 5.0)
    moments = jnp.array([100.0, 1.0])
    assert (p * w) @ moments < p @ moments


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.tuples(*[st.integers(1, 10**6)] * 3),
    tau=st.floats(0.125, 128, width=32),
    moment=st.floats(0.5, 100, width=32),
)
def test_identities_of_probabilities_and_weights(sizes, tau, moment):
    p, w = schedules.temperature_probs(sizes, tau), schedules.scalarization_weights(sizes, tau)
    q = np.array(sizes) / sum(sizes)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(q @ w, 1, rtol=1e-4)
    gradients = np.array([moment, -1.0, 3.0])
    np.testing.assert_allclose((q * w) @ gradients, p @ gradients, rtol=1e-4, atol=1e-4)
    assert p @ w >= 1 - 1e-4
    smallest = int(np.argmin(sizes))
    assert schedules.temperature_probs(sizes, 2 * tau)[smallest] >= p[smallest] - 1e-6


def test_cooldown_jumps_or_slides_and_holds():
    jump = schedules.cooldown_schedule(switch_step=3)
    np.testing.assert_array_equal(jump(jnp.arange(6)), [5, 5, 5, 1, 1, 1])
    slide = schedules.cooldown_schedule(4.0, 2.0, switch_step=1, transition_steps=2)
    np.testing.assert_allclose(slide(jnp.arange(6)), [4, 4, 3, 2, 2, 2], rtol=1e-6)


def frequencies(sampler, draws):
    domains, _ = jax.lax.scan(
        lambda state, _: sampler.sample(state)[::-1], sampler.init(1), length=draws
    )[::-1]
    return np.bincount(np.ravel(domains), minlength=2) / np.size(domains), domains


def test_domains_come_with_their_probabilities():
    sampler = schedules.domain_sampler(SIZES, 2.0, batch_size=100)
    shares, domains = frequencies(sampler, 100)
    np.testing.assert_allclose(shares, [0.75, 0.25], atol=4 * np.sqrt(0.1875 / 10_000))
    assert domains.shape == (100, 100)
    assert domains.dtype == jnp.int32


def test_the_temperature_is_read_at_the_number_of_the_draw():
    schedule = lambda count: jnp.where(count < 2, 1e-3, jnp.inf)
    _, domains = frequencies(schedules.domain_sampler((2, 1), schedule, batch_size=64), 4)
    assert not domains[:2].any()
    assert all(0 < row.sum() < 64 for row in domains[2:])


def test_a_single_domain_is_a_scalar():
    domain, state = schedules.domain_sampler(SIZES).sample(schedules.domain_sampler(SIZES).init(0))
    assert domain.shape == ()
    assert int(state.count) == 1


def test_sampled_and_weighed_gradients_agree_on_average():
    gradients = jnp.array([1.0, -3.0])
    draw = lambda tau: schedules.domain_sampler(SIZES, tau, batch_size=20_000)
    mean = lambda tau, values: values[draw(tau).sample(draw(tau).init(0))[0]].mean()
    weighed = mean(1.0, schedules.scalarization_weights(SIZES, 2.0) * gradients)
    # Standard deviations of one sample are 1.7 and 2.3.
    np.testing.assert_allclose(mean(2.0, gradients), 0.0, atol=0.06)
    np.testing.assert_allclose(weighed, 0.0, atol=0.08)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.temperature_probs([]), "sizes must be a vector of one number at least"),
        (lambda s: s.temperature_probs([1, 0]), r"sizes must lie in \(0, inf\), got 0.0"),
        (lambda s: s.temperature_probs([1, np.nan]), r"sizes must lie in \(0, inf\), got nan"),
        (lambda s: s.temperature_probs([1], 0.0), r"temperature must lie in \(0, inf\], got 0.0"),
        (lambda s: s.scalarization_weights([1], -1), "scalarization_weights: temperature must"),
        (lambda s: s.cooldown_schedule(0.0, switch_step=1), "cooldown_schedule: high must lie"),
        (lambda s: s.cooldown_schedule(switch_step=-1), "switch_step must be an integer >= 0"),
        (
            lambda s: s.cooldown_schedule(np.inf, switch_step=1, transition_steps=2),
            r"high must lie in \(0, inf\), got inf",
        ),
        (lambda s: s.domain_sampler([[1]]), r"domain_sampler: sizes must be a vector"),
        (lambda s: s.domain_sampler([1], 0.0), "temperature_schedule must lie in"),
        (lambda s: s.domain_sampler([1], batch_size=0), "batch_size must be an integer >= 1"),
        (lambda s: s.domain_sampler([1]).init(None), "domain_sampler: key must be a JAX key"),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)


def test_a_traced_temperature_works_as_a_hyperparameter():
    tau = jax.jit(lambda tau: schedules.temperature_probs(SIZES, tau))(2.0)
    np.testing.assert_allclose(tau, [0.75, 0.25], rtol=1e-6)
