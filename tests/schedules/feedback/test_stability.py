"""The stability cap against linear stability, computed from spectral radii."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import MissingExtraError, schedules

CURVATURE = jnp.array([0.1, 1.0, 5.0])
grad_fn = lambda w: CURVATURE * w


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(tx, steps, params):
    """Where gradient descent on the quadratic ends, with all updates."""

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(grad_fn(w), state, w, grad_fn=grad_fn)
        return (optax.apply_updates(w, updates), state), updates

    (w, state), updates = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return w, state, updates


def spectral_radius(kind, rate, mu):
    """Of one update on the quadratic of curvature one, as a map of (params, momentum)."""
    tx = {
        "gd": optax.sgd(rate),
        "heavy_ball": optax.sgd(rate, momentum=mu),
        "nesterov": optax.sgd(rate, momentum=mu, nesterov=True),
        "ema": optax.chain(optax.ema(mu, debias=False), optax.scale(-rate)),
    }[kind]

    def image(w, m):
        state = jax.tree.map(
            lambda leaf: m if leaf.dtype == jnp.float32 else leaf, tx.init(jnp.zeros([]))
        )
        updates, state = tx.update(w, state)
        after = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32]
        return [float(w + updates), float(after[0]) if after else 0.0]

    columns = [image(jnp.array(a), jnp.array(b)) for a, b in ((1.0, 0.0), (0.0, 1.0))]
    return max(abs(np.linalg.eigvals(np.array(columns).T)))


@pytest.mark.parametrize(
    ("kind", "mu", "limit"),
    [
        ("gd", 0.0, 2.0),
        ("heavy_ball", 0.5, 3.0),
        ("heavy_ball", 0.9, 3.8),
        ("nesterov", 0.5, 1.5),
        ("nesterov", 0.9, 1.3571),
        ("ema", 0.5, 6.0),
        ("ema", 0.9, 38.0),
    ],
)
def test_the_stable_rate_is_where_the_spectral_radius_is_one(kind, mu, limit):
    rate = float(schedules.stable_learning_rate(1.0, kind, mu))
    assert rate == pytest.approx(limit, rel=1e-4)
    assert spectral_radius(kind, 0.99 * rate, mu) < 1 < spectral_radius(kind, 1.01 * rate, mu)


def test_flat_and_hollow_places_have_no_limit():
    rates = schedules.stable_learning_rate(jnp.array([4.0, 0.0, -3.0]))
    np.testing.assert_array_equal(rates, [0.5, np.inf, np.inf])


def test_what_diverges_converges_under_the_cap():
    rate, start = 1.0, jnp.ones(3)  # the limit is 0.4
    w, _, _ = train(optax.sgd(rate), 100, start)
    assert not jnp.all(jnp.abs(w) < 1e3)
    capped = optax.chain(optax.sgd(rate), schedules.cap_by_stability(rate))
    w, state, _ = train(capped, 200, start)
    assert jnp.all(jnp.abs(w) < 0.05)
    np.testing.assert_allclose(state[1].sharpness, 5.0, rtol=1e-4)
    np.testing.assert_allclose(state[1].scale, 0.9 * 0.4, rtol=1e-4)


def test_with_momentum_it_allows_what_momentum_allows():
    rate = 1.0
    cap = schedules.cap_by_stability(rate, kind="heavy_ball", momentum=0.5, margin=1.0)
    _, state, _ = train(optax.chain(optax.sgd(rate, momentum=0.5), cap), 3, jnp.ones(3))
    np.testing.assert_allclose(state[1].scale, 3.0 / 5.0, rtol=1e-4)


def test_below_the_limit_updates_pass_bit_for_bit():
    cap, w = schedules.cap_by_stability(0.35), jnp.ones(3)  # 0.9 times the limit is 0.36
    updates = {"w": -0.35 * grad_fn(w), "h": jnp.array([0.1, jnp.inf], jnp.bfloat16)}
    params = jax.tree.map(jnp.ones_like, updates)
    of_w = lambda p: {"w": grad_fn(p["w"]), "h": p["h"]}
    passed, state = jax.jit(functools.partial(cap.update, grad_fn=of_w))(
        updates, cap.init(params), params
    )
    assert state.scale == 1
    jax.tree.map(np.testing.assert_array_equal, passed, updates)


def test_negative_curvature_is_no_reason_to_slow_down():
    cap = schedules.cap_by_stability(1e3)
    w = jnp.ones(2)
    updates, state = cap.update(w, cap.init(w), w, grad_fn=lambda w: -jnp.array([9.0, -2.0]) * w)
    np.testing.assert_allclose(state.sharpness, -9.0, rtol=1e-5)
    np.testing.assert_array_equal(updates, w)


def test_measures_on_its_cadence_and_from_where_it_stood():
    cap, w = schedules.cap_by_stability(1.0, every=3, num_iters=1), jnp.ones(3)
    update = jax.jit(
        lambda state, tilt: cap.update(w, state, w, grad_fn=lambda w: CURVATURE * w + tilt * w)[1]
    )
    state, seen = cap.init(w), []
    for number in range(7):
        state = update(state, float(number))
        seen.append(float(state.sharpness))
    # Every eigenvalue rises by the number of the update, and eigenvectors stay.
    np.testing.assert_allclose(seen, [5.0] * 3 + [8.0] * 3 + [11.0], rtol=1e-3)


def test_a_schedule_counts_between_measurements_too():
    schedule = optax.linear_schedule(0.0, 1.0, 4)
    cap, w = schedules.cap_by_stability(schedule, every=100, margin=1.0), jnp.ones(3)
    state, scales = cap.init(w), []
    for _ in range(5):
        _, state = cap.update(w, state, w, grad_fn=grad_fn)
        scales.append(float(state.scale))
    np.testing.assert_allclose(scales, [1.0, 1.0, 0.4 / 0.5, 0.4 / 0.75, 0.4], rtol=1e-4)


def test_ignores_a_sharpness_that_is_not_finite():
    cap, w = schedules.cap_by_stability(1.0, every=1), jnp.ones(3)
    _, good = cap.update(w, cap.init(w), w, grad_fn=grad_fn)
    for bad in (jnp.nan, jnp.inf):
        _, state = cap.update(w, good, w, grad_fn=lambda w, bad=bad: bad * w)
        np.testing.assert_array_equal(state.sharpness, good.sharpness)
        np.testing.assert_array_equal(state.vector, good.vector)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"learning_rate": -1.0}, "learning_rate must lie in"),
        ({"margin": 0.0}, r"margin must lie in \(0, 1\]"),
        ({"margin": 1.1}, r"margin must lie in \(0, 1\]"),
        ({"momentum": 1.0, "kind": "ema"}, r"momentum must lie in \[0, 1\)"),
        ({"momentum": 0.9}, "momentum must be 0 with kind='gd', got 0.9"),
        ({"kind": "adam"}, "kind must be one of 'gd', 'heavy_ball', 'nesterov', 'ema'"),
        ({"every": 0}, "every must be an integer >= 1"),
        ({"num_iters": 0}, "num_iters must be an integer >= 1"),
        ({"key": None}, "key must be a JAX key or an integer"),
    ],
)
def test_rejects_a_bad_argument(arguments, says):
    with pytest.raises(ValueError, match=f"cap_by_stability: {says}"):
        schedules.cap_by_stability(**{"learning_rate": 0.1, **arguments}).init(jnp.ones(1))


def test_asks_for_what_it_needs():
    cap, w = schedules.cap_by_stability(0.1), jnp.ones(2)
    with pytest.raises(MissingExtraError, match="cap_by_stability needs grad_fn"):
        cap.update(w, cap.init(w), w)
    with pytest.raises(ValueError, match="cap_by_stability needs params"):
        cap.update(w, cap.init(w), grad_fn=grad_fn)
    with pytest.raises(ValueError, match="stable_learning_rate: kind must be one of"):
        schedules.stable_learning_rate(1.0, "adam")
