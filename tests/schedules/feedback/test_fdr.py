"""fdr_sgd, its observables and the monitor; trajectories are compared in tests/golden."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import schedules

CURVATURE = jnp.array([0.5, 1.0, 2.0])
SEEN = ("learning_rate", "num_drops", "num_restarts", "last_ratio")


def run(tx, params, noise, centre=1.0):
    """Noisy quadratic: last params and state, then params before and what came of each update."""

    def step(carry, draw):
        x, state = carry
        updates, state = tx.update(CURVATURE * (x - centre) + draw, state, x)
        seen = {name: getattr(state, name) for name in SEEN}
        return (optax.apply_updates(x, updates), state), seen | {"x": x, "updates": updates}

    return jax.lax.scan(step, (params, tx.init(params)), noise)


def noise(steps, seed=0):
    return jax.random.normal(jax.random.key(seed), (steps, 3))


# The update --------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_a_threshold_it_is_sgd_bit_for_bit(momentum, every):
    params = {"w": jnp.linspace(-2, 3, 6).reshape(2, 3), "h": jnp.ones(5, jnp.bfloat16)}
    ours = schedules.fdr_sgd(0.3, momentum=momentum, check_every=2, threshold=0.0, every=every)
    theirs = optax.sgd(0.3, momentum=momentum or None)

    @functools.partial(jax.jit, static_argnums=0)
    def step(tx, params, state):
        grads = jax.tree.map(lambda p: jnp.sin(3 * p) + p, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    ends = []
    for tx in (ours, theirs):
        end, state = params, tx.init(params)
        for _ in range(5):
            end, state = step(tx, end, state)
        ends.append(end)
    chex.assert_trees_all_equal(*ends)


def test_observables_are_those_of_the_worked_step():
    one = jnp.array([1.0])
    pair = schedules.fdr_observables(one, 0.5 * one, 0.5 * one, 0.1)
    np.testing.assert_allclose(pair, (0.5, 0.0125), rtol=1e-6)
    # (1 + mu) / (2 (1 - nu)); with nu = mu the factor of a running mean.
    _, right = schedules.fdr_observables(one, one, 2 * one, 0.1, momentum=0.5, dampening=0.5)
    np.testing.assert_allclose(right, 1.5 / (2 * 0.5) * 0.1 * 4, rtol=1e-6)
    left, _ = schedules.fdr_observables(3 * one, one, one, 0.1, reference=one)
    np.testing.assert_allclose(left, 2.0)


def test_observables_of_half_precision_are_single():
    large = {"h": jnp.full(100, 300.0, jnp.float16)}
    left, right = schedules.fdr_observables(large, large, large, 1.0)
    assert left.dtype == right.dtype == jnp.float32
    np.testing.assert_allclose((left, right), (9e6, 4.5e6), rtol=1e-6)


def test_means_agree_in_a_stationary_run():
    pairs = [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.9, 0.0)]

    def last_ratio(momentum, dampening):
        tx = schedules.fdr_sgd(
            0.05,
            momentum=momentum,
            dampening=dampening,
            check_every=20_000,
            threshold=0.0,
            max_checks=2,
        )
        return run(tx, jnp.ones(3), noise(40_000))[0][1].last_ratio

    ratios = jax.jit(jax.vmap(last_ratio))(*jnp.array(pairs).T)
    np.testing.assert_allclose(ratios, 1.0, atol=0.02)


# The rule ----------------------------------------------------------------------------------


def naive(path, grads, rates, check_every, every, threshold):
    """Steps and ratios of the checks, from lists; mu = nu = 0."""
    records, found, since = [], [], 0
    for number, (x, g, rate) in enumerate(zip(path, grads, rates, strict=True), start=1):
        if since % every == 0:
            records.append((x @ g, rate * (g @ g) / 2))
        since += 1
        if since % check_every == 0:
            left, right = np.mean(records[len(records) // 2 :], axis=0)
            found.append((number, left / right))
            if abs(left / right - 1) < threshold:
                records, since = [], 0
    return found


@pytest.mark.parametrize(("check_every", "every"), [(5, 1), (6, 2), (9, 3), (1, 1), (4, 4)])
def test_half_running_averages_are_those_of_lists(check_every, every):
    with jax.enable_x64(True):
        tx = schedules.fdr_sgd(0.3, check_every=check_every, every=every, threshold=0.4, decay=0.2)
        draws = jnp.asarray(noise(150), jnp.float64)
        _, seen = run(tx, jnp.ones(3, jnp.float64), draws)
        seen = jax.device_get(seen)
        grads = np.asarray(CURVATURE) * (seen["x"] - 1) + np.asarray(draws)
        rates = seen["learning_rate"]
        checks = naive(seen["x"], grads, rates, check_every, every, 0.4)
        fired = sum(abs(ratio - 1) < 0.4 for _, ratio in checks)
        assert fired == seen["num_drops"][-1] > 1
        for number, ratio in checks:
            np.testing.assert_allclose(seen["last_ratio"][number - 1], ratio, rtol=1e-9)


def test_the_rate_falls_in_steps_down_to_its_least():
    tx = schedules.fdr_sgd(0.4, check_every=10, threshold=0.3, decay=0.25, min_learning_rate=0.1)
    (_, state), seen = jax.jit(lambda: run(tx, jnp.ones(3), noise(3000)))()
    drops, rates = np.asarray(seen["num_drops"]), np.asarray(seen["learning_rate"])
    before = np.concatenate([[0], drops[:-1]])  # a cut is for the next update
    np.testing.assert_allclose(rates, np.maximum(0.4 * 0.75**before, 0.1), rtol=1e-5)
    assert state.num_drops > 5
    assert rates[-1] == np.float32(0.1)
    assert schedules.current_learning_rate(state) == rates[-1]


def test_waits_for_the_least_number_of_checks_and_keeps_the_velocity():
    waits = schedules.fdr_sgd(
        0.1, check_every=5, momentum=0.5, threshold=1e6, min_checks=3, max_checks=3
    )
    _, seen = run(waits, jnp.ones(3), noise(31))
    # The threshold lets every check fire that may.
    assert np.flatnonzero(np.diff(seen["num_drops"])).tolist() == [13, 28]
    assert np.all(seen["num_restarts"] == 0)
    never = schedules.fdr_sgd(0.1, check_every=5, momentum=0.5, threshold=0.0, max_checks=3)
    (_, state), kept = run(never, jnp.ones(3), noise(31))
    # The same velocity, at nine tenths of the rate after the cut.
    expected = kept["updates"][:16] * jnp.where(jnp.arange(16) < 15, 1, 0.9)[:, None]
    np.testing.assert_allclose(seen["updates"][:16], expected, rtol=1e-4, atol=1e-7)
    assert (state.num_restarts, state.num_drops, state.steps_since_reset) == (2, 0, 1)


def test_zero_gradients_are_no_sign_of_stationarity():
    tx = schedules.fdr_sgd(0.1, check_every=1, threshold=1e6)
    _, state = tx.update(jnp.zeros(3), tx.init(jnp.ones(3)), jnp.ones(3))
    assert state.num_drops == 0
    assert jnp.isnan(state.last_ratio)


def test_cuts_multiply_a_schedule():
    schedule = optax.linear_schedule(0.0, 0.4, 10)
    tx = schedules.fdr_sgd(schedule, check_every=10, threshold=1e6, decay=0.5)
    _, seen = run(tx, jnp.ones(3), noise(25))
    expected = np.array([schedule(t) * 0.5 ** (t // 10) for t in range(25)])
    np.testing.assert_allclose(seen["learning_rate"], expected, rtol=1e-5)


def test_a_reference_far_from_zero():
    params = jnp.full(3, 1e3)
    tx = schedules.fdr_sgd(0.1, check_every=1, threshold=0.0, reference="init")
    state = tx.init(params)
    grads = jnp.array([1.0, -2.0, 3.0])
    _, state = tx.update(grads, state, params + jnp.array([0.5, 0.0, 0.25]))
    np.testing.assert_allclose(state.last_ratio, 1.25 / (0.05 * 14), rtol=1e-4)
    chex.assert_trees_all_equal(state.reference, params)


def test_frozen_leaves_do_not_count():
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([30.0])}
    make = functools.partial(schedules.fdr_sgd, 0.1, check_every=1, threshold=0.0)
    masked = optax.masked(make(), {"a": True, "b": False})
    _, beside = masked.update(params, masked.init(params), params)
    _, alone = make().update(params["a"], make().init(params["a"]), params["a"])
    assert beside.inner_state.last_ratio == alone.last_ratio


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_donated_step_copies_no_leaf(momentum, every):
    tx = schedules.fdr_sgd(0.1, check_every=4, momentum=momentum, every=every)
    params = {"a": jnp.ones((64, 64)), "b": jnp.ones(64)}

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    hlo = step.lower(params, tx.init(params), params).compile().as_text()
    assert "fusion" in hlo
    assert not re.search(r"\[64(,64)?\](\{[^}]*\})? copy\(", hlo)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("threshold", -0.1, "in [0, inf)"),
        ("decay", 0.0, "in (0, 1)"),
        ("decay", 1.0, "in (0, 1)"),
        ("momentum", 1.0, "in [0, 1)"),
        ("dampening", 1.0, "in [0, 1)"),
        ("min_learning_rate", -1.0, "in [0, inf)"),
        ("check_every", 0, "an integer >= 1"),
        ("check_every", 2.0, "an integer >= 1"),
        ("check_every", 2**30, "check_every * max_checks must be at most"),
        ("every", 3, "check_every must be a multiple of every=3, got 4"),
        ("max_checks", 0, "an integer >= 1"),
        ("min_checks", 513, "must be at most max_checks=512, got 513"),
        ("reference", "start", "one of 'zero', 'init'"),
    ],
)
def test_rejects_a_bad_argument(name, value, allowed):
    arguments = {"check_every": 4, name: value}
    with pytest.raises(ValueError, match=r"^fdr_sgd: ") as caught:
        schedules.fdr_sgd(0.1, **arguments)
    assert allowed in str(caught.value)
    assert name in str(caught.value)


def test_asks_for_params():
    tx = schedules.fdr_sgd(0.1, check_every=1)
    with pytest.raises(ValueError, match="fdr_sgd needs params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    with pytest.raises(ValueError, match="fdr_observables: momentum must lie"):
        schedules.fdr_observables(jnp.ones(1), jnp.ones(1), jnp.ones(1), 0.1, momentum=1.0)


# The monitor -------------------------------------------------------------------------------


def watched(tx, monitor, steps, x=None):
    """Params before each update and after the last, updates, and the monitor's last state."""
    chain = optax.chain(tx, monitor)

    def step(carry, draw):
        x, state = carry
        updates, state = chain.update(CURVATURE * (x - 1) + draw, state, x)
        return (optax.apply_updates(x, updates), state), (x, updates, state[1].fdr_ratio)

    x = jnp.ones(3) if x is None else x
    (end, state), (path, updates, ratios) = jax.lax.scan(step, (x, chain.init(x)), noise(steps))
    return jnp.concatenate([path, end[None]]), updates, ratios, state


def test_monitor_tells_how_far_the_length_of_params_has_moved():
    # Sums of 2 <x, u> + |u|^2 telescope, whatever the optimizer: here over steps 30 to 59.
    path, updates, ratios, state = watched(
        optax.adam(0.05), schedules.monitor_fdr(check_every=20), 60, 4 * jnp.ones(3)
    )
    moved = jnp.sum(path[60] ** 2) - jnp.sum(path[30] ** 2)
    expected = 1 - moved / jnp.sum(updates[30:] ** 2)
    np.testing.assert_allclose(state[1].fdr_ratio, expected, rtol=1e-3)
    np.testing.assert_allclose(state[1].fdr_right, jnp.sum(updates[30:] ** 2) / 60, rtol=1e-4)
    assert np.isnan(ratios[:19]).all()
    assert np.unique(ratios[19:39]).size == 1


def test_monitor_sees_what_fdr_sgd_sees():
    plain = {"check_every": 500, "threshold": 0.0}
    *_, state = watched(schedules.fdr_sgd(0.1, **plain), schedules.monitor_fdr(500), 1000)
    np.testing.assert_allclose(state[1].fdr_ratio, state[0].last_ratio, rtol=1e-4)
    with_momentum = schedules.fdr_sgd(0.02, momentum=0.9, dampening=0.5, **plain)
    *_, state = watched(
        with_momentum, schedules.monitor_fdr(500, momentum=0.9), 1000, 3 * jnp.ones(3)
    )
    # Up to what the velocity does at the ends, a hundredth here.
    np.testing.assert_allclose(state[1].fdr_ratio, state[0].last_ratio, atol=0.02)


def test_monitor_passes_updates_and_keeps_its_cadence():
    monitor = schedules.monitor_fdr(check_every=4, every=2, max_checks=2)
    x = jnp.array([2.0, 0.0])
    state, seen = monitor.init(x), []
    for number in range(10):
        updates = -(1.0 + number) * jnp.ones(2)
        passed, state = monitor.update(updates, state, x)
        assert passed is updates
        seen.append((float(state.fdr_left), float(state.fdr_right), int(state.num_records)))
    # Records are taken at updates 0, 2, 4, 6 and 8; means are over the later half of them. After
    # two checks the memory is full, and 8 begins anew.
    assert np.isnan(seen[1][0])
    assert seen[2] == (2 * 3.0, 3.0**2, 2)
    assert seen[6] == (2 * (5.0 + 7.0) / 2, (5.0**2 + 7.0**2) / 2, 0)
    assert seen[8][2] == 1


def test_monitor_rejects_bad_arguments():
    for arguments, says in (
        ({"check_every": 0}, "check_every must be an integer >= 1"),
        ({"check_every": 5, "every": 2}, "check_every must be a multiple of every=2, got 5"),
        ({"check_every": 5, "momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=f"monitor_fdr: {says}"):
            schedules.monitor_fdr(**arguments)
    monitor = schedules.monitor_fdr(1)
    with pytest.raises(ValueError, match="monitor_fdr needs params"):
        monitor.update(jnp.ones(1), monitor.init(jnp.ones(1)))
