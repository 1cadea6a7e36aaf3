"""A bandit as hyper-parameter: windows, order, extras, dtypes, and the trap of a plain rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import optimizers, schedules

GRID = (0.01, 0.1, 1.0)


def bandit(**arguments):
    return schedules.tsallis_inf(GRID, cost_offset=0.0, **arguments)


def test_acts_once_in_a_window_on_the_mean_and_from_the_next_update_on():
    rule, every, values = bandit(), 3, np.random.default_rng(0).random(12).astype(np.float32)
    tx = optax.inject_hyperparams(optax.sgd)(schedules.bandit_hyperparam(rule, every, key=5))
    params = jnp.ones(2)
    state, update, used = tx.init(params), jax.jit(tx.update), []
    for value in values:
        updates, state = update(params, state, params, value=value)
        used.append(-float(updates[0]))
    expected, inner = [], rule.init(5)
    for window in values.reshape(-1, every):
        expected += [float(rule.value(inner))] * every
        inner = rule.update(inner, window.mean())
    np.testing.assert_allclose(used, expected, rtol=1e-6)
    assert len(set(expected)) > 1


def test_a_contextual_bandit_reads_the_context_at_the_end_of_a_window():
    rule = schedules.cheb_cb(GRID, 2, 0.0, 1.0, cost_offset=0.0)
    schedule = schedules.bandit_hyperparam(rule, every=2)
    update, state = jax.jit(schedule.update), schedule.init()
    for context in (0.1, 0.2, 0.3, 0.4):
        state = update(state, value=1.5, context=context)
    inner = rule.update(rule.update(rule.init(0), 1.5, 0.2), 1.5, 0.4)
    np.testing.assert_allclose(state.bandit.context, 0.4)
    np.testing.assert_allclose(state.bandit.gram, inner.gram, rtol=1e-6)
    np.testing.assert_allclose(state.bandit.probs, inner.probs, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_updates_keep_the_dtype_of_params(dtype):
    tx = optax.inject_hyperparams(optax.adam)(schedules.bandit_hyperparam(bandit()))
    params = jnp.ones(2, dtype)
    for wide in (False, True):
        with jax.enable_x64(wide):
            state = tx.init(params)
            updates, new = tx.update(params, state, params, value=jnp.ones([], dtype))
            assert updates.dtype == dtype
            assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)
            rate = schedules.current_learning_rate(new)
            assert float(rate) in np.asarray(GRID, dtype)


def test_make_step_supplies_the_value_and_a_restart_that_diverges_is_survived():
    # On the parabola 1.0 oscillates and 3.0 grows without bound; every fourth step starts anew.
    rule = schedules.tsallis_inf((0.01, 0.3, 30.0), cost_offset=0.0)
    tx = optax.inject_hyperparams(optax.sgd)(schedules.bandit_hyperparam(rule, every=20))
    step = gradax.make_step(lambda x, batch: jnp.sum(x**2) + batch, tx)
    start, batch = np.ones(2, np.float32), np.float32(0)
    state, seen = tx.init(start), []
    for _ in range(60):
        x = start
        for _ in range(20):
            x, state, metrics = step(x, state, batch)
            seen.append(float(metrics["loss"]))
    assert not np.isfinite(seen).all()
    inner = state.hyperparams_states["learning_rate"].bandit
    assert np.isfinite(np.asarray(inner.costs)).all()
    assert inner.probs[1] == inner.probs.max()
    assert inner.probs[2] == inner.probs.min()


def test_keys_decide_and_begin_fresh_states():
    first, second = (schedules.bandit_hyperparam(bandit(), key=key) for key in (1, 2))
    keys = [jax.random.key_data(s.init().bandit.key) for s in (first, first, second)]
    np.testing.assert_array_equal(keys[0], keys[1])
    assert (keys[0] != keys[2]).any()
    typed = schedules.bandit_hyperparam(bandit(), key=jax.random.key(1))
    np.testing.assert_array_equal(jax.random.key_data(typed.init().bandit.key), keys[0])


def test_as_a_plain_learning_rate_it_says_what_to_do():
    schedule = schedules.bandit_hyperparam(bandit())
    assert isinstance(schedule, optax.schedules.StatefulSchedule)
    tx = optax.sgd(schedule)
    with pytest.raises(TypeError, match=r"bandit_hyperparam is a stateful schedule; pass it throu"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"pass it through optax.inject_hyperparams"):
        optimizers.diffgrad(schedule)


def test_names_the_extra_that_is_missing():
    schedule = schedules.bandit_hyperparam(bandit())
    with pytest.raises(gradax.MissingExtraError, match="bandit_hyperparam needs value="):
        schedule.update(schedule.init())
    schedule = schedules.bandit_hyperparam(schedules.cheb_cb(GRID, 2, 0.0, 1.0))
    with pytest.raises(gradax.MissingExtraError, match="bandit_hyperparam needs context="):
        schedule.update(schedule.init(), value=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bandit": 0.1}, r"bandit_hyperparam: bandit must be a Bandit, got 0.1"),
        ({"every": 0}, "bandit_hyperparam: every must be an integer >= 1, got 0"),
        ({"key": None}, "bandit_hyperparam: key must be a JAX key or an integer"),
    ],
)
def test_refuses_what_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedules.bandit_hyperparam(**{"bandit": bandit(), **arguments})
