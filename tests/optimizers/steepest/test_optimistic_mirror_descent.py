"""Optimistic mirror descent: worked numbers, its relation to optax's, its regret bound."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers, testing

SMOOTH = ([1.0, -1.0], [0.5, -1.0], [0.0, 1.0])


def _draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _run(tx, x, gradients):
    """Played points after each gradient, and the states."""
    update, state = jax.jit(tx.update), tx.init(x)
    for g in gradients:
        updates, state = update(jax.tree.map(jnp.asarray, g), state, x)
        x = optax.apply_updates(x, updates)
        yield x, state


def test_three_convex_steps_worked_out_by_hand():
    tx = optimizers.optimistic_mirror_descent(optimizers.sea_convex(2.0, 1.0))
    rows = list(_run(tx, jnp.array([1.0, 0.0]), map(jnp.array, SMOOTH)))
    played = [(-0.650356, 1.650356), (-0.643782, 2.393137), (-0.272392, 0.317807)]
    hats = [(0.105573, 0.894427), (-0.272392, 1.650356)]
    np.testing.assert_allclose([x for x, _ in rows], played, atol=2e-6)
    np.testing.assert_allclose([state.hat for _, state in rows[:2]], hats, atol=2e-6)
    np.testing.assert_allclose([state.variation for _, state in rows], [2.0, 2.25, 6.5])


def test_one_entropic_step_worked_out_by_hand():
    tx = optimizers.optimistic_mirror_descent(0.5, mirror="entropic")
    ((x, state),) = _run(tx, jnp.full(3, 1 / 3), [jnp.array([1.0, 0.0, 0.0])])
    np.testing.assert_allclose(state.hat, [0.232697, 0.383652, 0.383652], atol=1e-6)
    np.testing.assert_allclose(x, [0.155362, 0.422319, 0.422319], atol=1e-6)


def test_the_strongly_convex_rule_begins_with_two_and_one_over_lambda():
    tx = optimizers.optimistic_mirror_descent(optimizers.sea_strongly_convex(4.0))
    ((x, state),) = _run(tx, jnp.zeros(2), [jnp.array([1.0, -1.0])])
    np.testing.assert_allclose(state.hat, [-0.5, 0.5])
    np.testing.assert_allclose(x, [-0.75, 0.75])


def test_with_a_constant_step_only_the_first_one_differs_from_optax():
    gradients, rate = _draw(1, 6, 3), 0.1
    ours = _run(optimizers.optimistic_mirror_descent(rate), jnp.zeros(3), gradients)
    theirs, x = optax.optimistic_gradient_descent(rate), jnp.zeros(3)
    state = theirs.init(x)
    for (played, _), g in zip(ours, gradients, strict=True):
        updates, state = theirs.update(jnp.asarray(g), state, x)
        x = optax.apply_updates(x, updates)
        np.testing.assert_allclose(played - x, -rate * gradients[0], atol=1e-6)


def test_the_convex_rule_keeps_its_regret_bound():
    steps, diameter, bound = 200, 2.0, 1.0
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(steps, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    drifting = np.stack([np.cos(np.arange(steps) / 30 + k) for k in range(3)], 1) / np.sqrt(3)
    tx = optimizers.optimistic_mirror_descent(
        optimizers.sea_convex(diameter, bound),
        projection=optax.projections.projection_l2_ball,
    )

    @jax.jit
    def play(gradients):
        def step(carry, g):
            x, state = carry
            updates, state = tx.update(g, state, x)
            return (optax.apply_updates(x, updates), state), jnp.vdot(g, x)

        x = jnp.zeros(3)
        (_, state), losses = jax.lax.scan(step, (x, tx.init(x)), gradients)
        return jnp.sum(losses) + jnp.linalg.norm(jnp.sum(gradients, 0)), state.variation

    constant = np.tile(directions[:1], (steps, 1))
    alternating = constant * (-1.0) ** np.arange(steps)[:, None]
    for gradients in (directions, drifting, constant, alternating):
        regret, variation = play(jnp.asarray(gradients, jnp.float32))
        assert regret <= 2.5 * diameter * np.sqrt(1 + 4 * bound**2 + variation)
        if gradients is constant:
            np.testing.assert_allclose(variation, 1.0, rtol=1e-5)


def test_variation_is_summed_over_the_whole_tree():
    tx = optimizers.optimistic_mirror_descent(optimizers.sea_convex(2.0, 1.0))
    gradients = _draw(2, 4, 5)
    split = [{"a": g[:2], "b": g[2:]} for g in gradients]
    *_, (whole, _) = _run(tx, jnp.zeros(5), gradients)
    *_, (parts, _) = _run(tx, {"a": jnp.zeros(2), "b": jnp.zeros(3)}, split)
    np.testing.assert_allclose(jnp.concatenate([parts["a"], parts["b"]]), whole, atol=1e-5)


def test_a_projection_is_of_the_whole_tree():
    projection = lambda tree: optax.projections.projection_l2_ball(tree, 0.5)
    tx = optimizers.optimistic_mirror_descent(0.3, projection=projection)
    x = {"a": jnp.array([0.1]), "b": jnp.array([0.2, 0.0])}
    gradients = [jax.tree.map(jnp.ones_like, x)] * 3
    for played, state in _run(tx, x, gradients):
        for tree in (played, state.hat):
            assert float(optax.tree.norm(tree)) <= 0.5 + 1e-6
    np.testing.assert_allclose(float(optax.tree.norm(played)), 0.5, rtol=1e-5)


def test_the_simplex_is_that_of_each_row_and_blind_to_constants():
    tx = optimizers.optimistic_mirror_descent(0.7, mirror="entropic")
    x = jax.nn.softmax(jnp.asarray(_draw(1, 2, 3)))
    gradients = 50 * _draw(2, 5, 2, 3)
    shifted = gradients + np.array([[1.0], [-20.0]], np.float32)
    for (played, _), (other, _) in zip(_run(tx, x, gradients), _run(tx, x, shifted), strict=True):
        np.testing.assert_allclose(jnp.sum(played, -1), 1.0, atol=1e-6)
        assert float(jnp.min(played)) >= 0
        np.testing.assert_allclose(played, other, atol=1e-4)
    first = [gradient[0] for gradient in gradients]
    *_, (alone, _) = _run(tx, x[0], first)
    np.testing.assert_allclose(played[0], alone, atol=1e-6)


def test_remembers_a_gradient_only_where_its_variation_counts():
    x = jnp.zeros(2)
    assert optimizers.optimistic_mirror_descent(0.1).init(x).prev_grad is None
    rate = optimizers.sea_convex(2.0, 1.0)
    assert optimizers.optimistic_mirror_descent(rate).init(x).prev_grad.shape == (2,)


def test_a_donated_step_copies_no_leaf():
    tx = optimizers.optimistic_mirror_descent(optimizers.sea_convex(2.0, 1.0))
    params = {"w": jnp.ones((64, 64)), "b": jnp.ones(64)}
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    copies = [line for line in compiled.as_text().splitlines() if " copy(f32[64" in line]
    assert not copies
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 64 * 4


# The battery starts away from the simplex; what it only traces can be asked all the same.
TRACED = (
    *("update_dtype", "float64_kept", "mixed_float32_float64", "no_float64_leak"),
    *("complex_kept", "state_stable", "abstract_init", "map_params"),
)


def test_the_entropic_mirror_keeps_the_contract():
    for rate in (0.1, optimizers.sea_convex(1.0, 1.0)):
        tx = optimizers.optimistic_mirror_descent(rate, mirror="entropic")
        assert testing.check_transformation(lambda tx=tx: tx, checks=TRACED) == TRACED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate must lie in \(0, inf\), got 0.0"),
        ({"mirror": "hyperbolic"}, "mirror must be one of 'euclidean', 'entropic'"),
        ({"mirror": "entropic", "projection": abs}, "projection must be None with mirror='entro"),
    ],
)
def test_rejects_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"optimistic_mirror_descent: {message}"):
        optimizers.optimistic_mirror_descent(**{"learning_rate": 0.1, **options})


@pytest.mark.parametrize("name", ["diameter", "lipschitz", "delta"])
def test_the_convex_rule_rejects_constants_that_are_not_positive(name):
    with pytest.raises(ValueError, match=rf"sea_convex: {name} must lie in \(0, inf\), got 0.0"):
        optimizers.sea_convex(**{"diameter": 1.0, "lipschitz": 1.0, name: 0.0})
    with pytest.raises(ValueError, match="strong_convexity must lie in"):
        optimizers.sea_strongly_convex(0.0)


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.5, -0.5], [[0.5, 0.5], [0.5, 0.4]]])
def test_the_entropic_mirror_starts_from_distributions(bad):
    tx = optimizers.optimistic_mirror_descent(0.1, mirror="entropic")
    with pytest.raises(ValueError, match=r"params\['p'\] must be non-negative and sum to 1"):
        tx.init({"p": jnp.array(bad)})
    tx.init({"p": jnp.array([0.5, 0.5]), "one": jnp.array(1.0), "none": jnp.zeros(0)})
    with pytest.raises(ValueError, match="complex"):
        tx.init(jnp.ones(1, jnp.complex64))


def test_works_on_scalars_and_empty_leaves_of_the_simplex():
    tx = optimizers.optimistic_mirror_descent(0.1, mirror="entropic")
    x = {"one": jnp.array(1.0), "none": jnp.zeros((2, 0)), "zero": jnp.array([0.0, 1.0])}
    ((played, _),) = _run(tx, x, [jax.tree.map(jnp.ones_like, x)])
    np.testing.assert_array_equal(played["one"], 1.0)
    np.testing.assert_array_equal(played["zero"], [0.0, 1.0])
