"""Composite mirror descent: its special cases, proximal operators, and the last iterate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers, schedules


def _draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _path(tx, gradient, x, steps):
    """All iterates of a run on a function."""

    @jax.jit
    def run(x):
        def step(carry, _):
            x, state = carry
            updates, state = tx.update(gradient(x), state, x)
            x = optax.apply_updates(x, updates)
            return (x, state), x

        return jax.lax.scan(step, (x, tx.init(x)), length=steps)[1]

    return np.asarray(run(x))


def test_four_steps_worked_out_by_hand():
    schedule = schedules.last_iterate_linear_schedule(1.0, num_steps=4)
    tx = optimizers.composite_mirror_descent(schedule, prox=optimizers.prox_l1(0.1))
    path = _path(tx, lambda x: jnp.sign(x - 1), jnp.array(3.0), 4)
    np.testing.assert_allclose(path, [2.45, 2.0375, 1.7625, 1.625], rtol=1e-6)


def test_alone_it_is_sgd():
    schedule = schedules.last_iterate_inv_sqrt_schedule(0.3, smoothness=1.0)
    gradient, x = lambda x: jnp.sin(3 * x), _draw(1, 5)
    ours = _path(optimizers.composite_mirror_descent(schedule), gradient, x, 6)
    np.testing.assert_allclose(ours, _path(optax.sgd(schedule), gradient, x, 6), atol=1e-6)


def test_the_prox_sees_the_step_of_the_gradient():
    x, g, seen = {"a": _draw(1, 3)}, {"a": _draw(2, 3)}, []

    def prox(tree, step):
        seen.append(step)
        return jax.tree.map(lambda leaf: leaf / (1 + step), tree)

    tx = optimizers.composite_mirror_descent(lambda count: 0.5 / (count + 1), prox=prox)
    state = tx.init(x)
    for _ in range(2):
        updates, state = tx.update(g, state, x)
    np.testing.assert_allclose(seen, [0.5, 0.25])
    expected = (x["a"] - 0.25 * g["a"]) / 1.25
    np.testing.assert_allclose(x["a"] + updates["a"], expected, rtol=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_proximal_operators_minimise_what_they_should(seed):
    x, step, weight = np.asarray(_draw(seed, 4)), 0.4, 1.5
    grid = np.linspace(-3, 3, 6001)
    for prox, penalty in (
        (optimizers.prox_l1(weight), np.abs(grid)),
        (optimizers.prox_l2(weight), grid**2 / 2),
    ):
        objective = weight * penalty[:, None] + (grid[:, None] - x) ** 2 / (2 * step)
        expected = grid[np.argmin(objective, axis=0)]
        np.testing.assert_allclose(prox({"x": jnp.asarray(x)}, step)["x"], expected, atol=1e-3)


def test_the_l1_prox_shortens_complex_numbers():
    shrunk = optimizers.prox_l1(2.0)(jnp.array([3 + 4j, 0.1j, 0.0]), 0.5)
    np.testing.assert_allclose(shrunk, [2.4 + 3.2j, 0.0, 0.0], atol=1e-6)


def test_sparse_solutions_are_exactly_sparse():
    goal = jnp.array([2.0, 0.05, -0.08, -1.0])
    tx = optimizers.composite_mirror_descent(0.2, prox=optimizers.prox_l1(0.1))
    end = _path(tx, lambda x: x - goal, jnp.ones(4), 100)[-1]
    np.testing.assert_array_equal(end[1:3], 0.0)
    np.testing.assert_allclose(end[[0, 3]], [1.9, -0.9], rtol=1e-5)


def test_a_projection_serves_as_prox():
    ball = lambda tree, step: optax.projections.projection_l2_ball(tree)
    tx = optimizers.composite_mirror_descent(0.5, prox=ball)
    end = _path(tx, lambda x: x - jnp.array([3.0, 4.0]), jnp.zeros(2), 30)[-1]
    np.testing.assert_allclose(end, [0.6, 0.8], rtol=1e-4)


def test_the_entropic_mirror_finds_the_best_vertex():
    tx = optimizers.composite_mirror_descent(0.5, mirror="entropic")
    costs = jnp.array([[0.3, 0.1, 0.2], [0.0, 1.0, 2.0]])
    path = _path(tx, lambda x: costs, jnp.full((2, 3), 1 / 3), 300)
    np.testing.assert_allclose(path.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(path[-1], [[0, 1, 0], [1, 0, 0]], atol=1e-5)


@pytest.mark.parametrize("num_steps", [30, 1000])
def test_the_last_iterate_keeps_its_sharp_bound(num_steps):
    goal = _draw(1, 40)
    radius = float(jnp.linalg.norm(goal))

    def subgradient(x):
        largest = jnp.argmax(jnp.abs(x - goal))
        return jnp.zeros(40).at[largest].set(jnp.sign(x - goal)[largest])

    schedule = schedules.last_iterate_schedule(1.0, radius, num_steps)
    tx = optimizers.composite_mirror_descent(schedule)
    end = _path(tx, subgradient, jnp.zeros(40), num_steps)[-1]
    assert np.max(np.abs(end - np.asarray(goal))) <= radius / np.sqrt(num_steps + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f(0.0), r"learning_rate must lie in \(0, inf\), got 0.0"),
        (lambda f: f(0.1, mirror="l1"), "mirror must be one of 'euclidean', 'entropic', got 'l1'"),
        (
            lambda f: f(0.1, mirror="entropic", prox=optimizers.prox_l1(0.1)),
            "prox must be None with mirror='entropic'",
        ),
        (
            lambda f: f(0.1, mirror="entropic").init({"p": jnp.ones(2)}),
            r"params\['p'\] must be non-negative and sum to 1",
        ),
    ],
)
def test_rejects_bad_arguments(make, message):
    with pytest.raises(ValueError, match=f"composite_mirror_descent: {message}"):
        make(optimizers.composite_mirror_descent)


@pytest.mark.parametrize("name", ["prox_l1", "prox_l2"])
def test_weights_of_penalties_are_not_negative(name):
    with pytest.raises(ValueError, match=rf"{name}: weight must lie in \[0, inf\), got -1.0"):
        getattr(optimizers, name)(-1.0)
