"""Tasks in turn: who comes next, and a transformation for each."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import schedules


def tasks_of(sampler, steps, seed=0):
    draw = lambda state, _: sampler.sample(state)[::-1]
    return np.asarray(jax.lax.scan(draw, sampler.init(seed), length=steps)[1])


def test_round_robin_takes_turns():
    sampler = schedules.alternating_tasks(3, mode="round_robin")
    np.testing.assert_array_equal(tasks_of(sampler, 7), [0, 1, 2, 0, 1, 2, 0])


def test_shuffled_cycles_hold_every_task_once_in_changing_orders():
    cycles = tasks_of(schedules.alternating_tasks(4, mode="shuffled_cycles"), 40).reshape(10, 4)
    np.testing.assert_array_equal(np.sort(cycles), np.tile(np.arange(4), (10, 1)))
    assert len(np.unique(cycles, axis=0)) > 3


@pytest.mark.parametrize("probs", [None, (0.5, 0.2, 0.3)])
def test_random_tasks_come_with_their_probabilities(probs):
    shares = np.bincount(tasks_of(schedules.alternating_tasks(3, probs), 5000)) / 5000
    np.testing.assert_allclose(shares, probs or [1 / 3] * 3, atol=4 * np.sqrt(0.25 / 5000))


@pytest.mark.parametrize("mode", ["random", "shuffled_cycles"])
def test_the_seed_decides(mode):
    sampler = schedules.alternating_tasks(5, mode=mode)
    np.testing.assert_array_equal(tasks_of(sampler, 20, 1), tasks_of(sampler, 20, 1))
    assert np.any(tasks_of(sampler, 20, 1) != tasks_of(sampler, 20, 2))


def test_one_task_is_always_the_task():
    assert not tasks_of(schedules.alternating_tasks(1), 5).any()


def test_importance_makes_the_mean_gradient_a_weighted_sum():
    weights, probs = np.array([2.0, 1.0, 0.5]), np.array([0.2, 0.5, 0.3])
    gradients = np.array([1.0, -4.0, 3.0])
    scaled = weights / probs * gradients
    np.testing.assert_allclose(probs @ scaled, weights @ gradients)
    tasks = tasks_of(schedules.alternating_tasks(3, probs), 20_000)
    spread = np.sqrt(probs @ scaled**2 - (weights @ gradients) ** 2)
    np.testing.assert_allclose(
        scaled[tasks].mean(), weights @ gradients, atol=4 * spread / np.sqrt(20_000)
    )


CURVATURES = jnp.array([[1.0, 0.1], [0.2, 2.0], [0.5, 0.4]])
CENTERS = jnp.array([[1.0, -1.0], [0.0, 2.0], [-2.0, 0.0]])


def gradient(x, task):
    return CURVATURES[task] * (x - CENTERS[task])


def test_a_cycle_is_a_joint_step_up_to_the_square_of_the_rate():
    start, gaps = jnp.array([3.0, -2.0]), []
    for rate in (1e-2, 5e-3):
        x = start
        for task in range(3):
            x = x - rate * gradient(x, task)
        mean = sum(gradient(start, task) for task in range(3)) / 3
        gaps.append(float(jnp.linalg.norm(x - (start - 3 * rate * mean))))
    assert gaps[0] < 1e-3
    np.testing.assert_allclose(gaps[0] / gaps[1], 4, rtol=0.05)


def run(tx, tasks, static=False):
    x = jnp.array([3.0, -2.0])
    state, update = tx.init(x), tx.update if static else jax.jit(tx.update)
    for task in tasks:
        updates, state = update(gradient(x, task), state, x, task=task)
        x = optax.apply_updates(x, updates)
    return x, state


def test_one_transformation_is_the_transformation_itself():
    x, state = run(schedules.alternate([optax.adam(0.1)]), [0] * 4)
    expected, inner = run(optax.with_extra_args_support(optax.adam(0.1)), [0] * 4)
    chex.assert_trees_all_close(x, expected, rtol=1e-6)
    chex.assert_trees_all_close(state.inner_states[0], inner, rtol=1e-6)


@pytest.mark.parametrize("static", [False, True])
def test_only_the_state_of_the_task_moves(static):
    tx = schedules.alternate([optax.adam(0.1), optax.sgd(0.1, 0.9), optax.adam(0.2)])
    _, before = run(tx, [0, 1, 2, 0], static)
    _, after = run(tx, [0, 1, 2, 0, 1], static)
    chex.assert_trees_all_equal(before.inner_states[::2], after.inner_states[::2])
    assert np.any(before.inner_states[1][0].trace != after.inner_states[1][0].trace)
    assert int(after.inner_states[0][0].count) == 2
    assert int(after.count) == 5


def test_a_traced_task_out_of_range_updates_nothing():
    tx, x = schedules.alternate([optax.adam(0.1), optax.sgd(0.1, 0.9)]), jnp.ones(2)
    updates, state = jax.jit(tx.update)(x, tx.init(x), task=jnp.int32(2))
    chex.assert_trees_all_equal((updates, state.inner_states), (0 * x, tx.init(x).inner_states))


def test_a_traced_task_copies_no_state():
    tx = schedules.alternate([optax.adam(0.1), optax.sgd(0.1, 0.9), optax.adam(0.2)])

    def step(x, state, task):
        updates, state = tx.update(2 * x, state, x, task=task)
        return optax.apply_updates(x, updates), state

    x = jnp.ones((8, 8))
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(x, tx.init(x), jnp.int32(1)).compile()
    copies = [line for line in compiled.as_text().splitlines() if " copy(f32[8,8]" in line]
    assert not copies


def test_cycles_are_tasks_in_turn():
    members = [optax.adam(0.1), optax.sgd(0.1, 0.9)]
    told, _ = run(schedules.alternate(members), [0, 1, 0, 1, 0])
    taken, _ = run(schedules.alternate(members, cycle=True), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(taken, told)


def test_alternating_minimisation_solves_a_bilinear_fit():
    target = np.outer([1.0, 2.0], [3.0, -1.0, 0.5])
    loss = lambda p, target: jnp.sum((jnp.outer(p["u"], p["v"]) - target) ** 2) / 2
    params = {"u": jnp.ones(2), "v": jnp.ones(3)}
    only = lambda name: optax.partition(
        {"free": optax.sgd(0.05), "fixed": optax.set_to_zero()},
        {key: "free" if key == name else "fixed" for key in params},
    )
    tx = schedules.alternate([only("u"), only("v")], cycle=True)
    step, state = gradax.make_step(loss, tx), tx.init(params)
    before = params
    params, state, _ = step(params, state, target)
    np.testing.assert_array_equal(params["v"], before["v"])
    assert np.any(params["u"] != before["u"])
    for _ in range(150):
        params, state, metrics = step(params, state, target)
    assert metrics["loss"] < 1e-4


def test_one_step_for_each_task_shares_one_state():
    """Losses and batches of different shapes; each step is traced once."""
    traced = []
    params = {"body": jnp.ones((2, 2)), "head": jnp.ones(2)}

    def classify(params, batch):
        traced.append(0)
        return jnp.mean((jnp.tanh(batch @ params["body"]) @ params["head"]) ** 2), {"task": 0}

    def reconstruct(params, batch):
        traced.append(1)
        return jnp.mean((batch @ params["body"] @ params["body"].T - batch) ** 2), {"task": 1}

    tx = schedules.alternate([optax.adam(0.1), optax.sgd(0.1)])
    steps = [gradax.make_step(loss, tx) for loss in (classify, reconstruct)]
    batches = [jnp.ones((3, 2)), jnp.ones((5, 4, 2))]
    state = tx.init(params)
    for task in (0, 1, 1, 0):
        params, state, metrics = steps[task](params, state, batches[task])
        assert int(metrics["aux"]["task"]) == task
    assert traced == sorted(traced), "the first step was traced again after the second"
    times = [traced.count(task) for task in (0, 1)]
    assert times[0] == times[1], "the second step was traced again"
    assert int(state.inner_states[0][0].count) == 2


def test_a_task_that_is_known_compiles_nothing_of_the_others():
    tx = schedules.alternate([optax.scale(-1.0), optax.contrib.muon(0.1)])
    grads = jnp.ones((4, 4))
    lower = lambda task: jax.jit(lambda s: tx.update(grads, s, grads, task=task)[0])
    assert "dot_general" not in lower(0).lower(tx.init(grads)).as_text()
    assert "dot_general" in lower(1).lower(tx.init(grads)).as_text()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.alternating_tasks(0), "num_tasks must be an integer >= 1, got 0"),
        (lambda s: s.alternating_tasks(2, mode="often"), "mode must be one of 'random'"),
        (lambda s: s.alternating_tasks(2, [0.5, 0.6]), "probs must add up to 1, got"),
        (lambda s: s.alternating_tasks(2, [1.0]), "probs must be a vector of 2 numbers"),
        (lambda s: s.alternating_tasks(2, [1.5, -0.5]), r"probs must lie in \[0, 1\], got -0.5"),
        (lambda s: s.alternating_tasks(1, [1.0], "round_robin"), "probs must be None unless"),
        (lambda s: s.alternate([]), "transforms must hold at least one, got none"),
        (
            lambda s: run(s.alternate([optax.sgd(0.1)]), [1], static=True),
            r"task must lie in \[0, 0\], got 1",
        ),
    ],
)
def test_refuses_what_cannot_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(schedules)


def test_a_member_must_be_a_transformation():
    with pytest.raises(TypeError, match="must be gradient transformations"):
        schedules.alternate([optax.sgd])


def test_a_missing_task_is_named():
    tx = schedules.alternate([optax.sgd(0.1)])
    with pytest.raises(gradax.MissingExtraError, match="alternate needs task="):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
