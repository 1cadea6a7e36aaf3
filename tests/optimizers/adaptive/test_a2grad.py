"""A2Grad: worked steps, what makes its variants coincide, and the guarantee of the average."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

VARIANTS = ("uni", "inc", "exp")


def _run(tx, gradients, y):
    """Points and states after each of the gradients."""
    update, state = jax.jit(tx.update), tx.init(y)
    for gradient in gradients:
        updates, state = update(gradient, state)
        y = optax.apply_updates(y, updates)
        yield y, state


def _gradients(seed, steps=6, size=4):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, size)), jnp.float32)


@pytest.mark.parametrize(
    ("options", "second", "third"),
    [
        ({"variant": "uni"}, -0.75, (-0.85, 0.58)),
        ({"variant": "inc"}, -0.75, (-0.85, 0.475)),
        ({"variant": "exp", "rho": 0.5}, -0.75, (-0.85, 0.629906)),
        ({"variant": "uni", "per_leaf_norm": True}, -0.535534, (-0.618377, 0.731833)),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_three_steps_worked_out_by_hand(options, second, third):
    gradients = jnp.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    tx = optimizers.a2grad(**options, smoothness=1.0, beta=1.0)
    points = [y for y, _ in _run(tx, gradients, jnp.array([1.0, 2.0]))]
    np.testing.assert_allclose(points, [(0.5, 1.0), (second, 1.0), third], atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("per_leaf_norm", [False, True])
def test_first_update_is_the_gradient_over_twice_the_smoothness(variant, per_leaf_norm):
    g, tx = jnp.array([3.0, -0.5]), optimizers.a2grad(variant, 4.0, per_leaf_norm=per_leaf_norm)
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates, -g / 8, rtol=1e-6)


def _accelerated(gradient, y, smoothness, steps):
    """The three sequences of the method with steps (k + 1) / 2L; yields y and the average."""
    x, average = y, y
    for k in range(steps):
        a, ahead = 2 / (k + 2), 2 / (k + 3)
        move = (k + 1) / (2 * smoothness) * gradient(y)
        x, average = x - move, y - a * move
        y = (1 - ahead) * average + ahead * x
        yield y, average


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_noise_it_is_accelerated_gradient_descent_whatever_beta(variant):
    start, gradient = np.array([1.0, -2.0, 0.5, 3.0]), _gradients(1)[0]
    expected = _accelerated(lambda y: np.asarray(gradient), start, 2.0, 6)
    tx = optimizers.a2grad(variant, smoothness=2.0, beta=30.0)
    found = _run(tx, jnp.tile(gradient, (6, 1)), jnp.asarray(start, jnp.float32))
    for (y, _), (other, _) in zip(found, expected, strict=True):
        np.testing.assert_allclose(y, other, rtol=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_beta_the_variants_coincide(seed):
    gradients, y = _gradients(seed), jnp.ones(4)
    runs = [_run(optimizers.a2grad(v, beta=0.0), gradients, y) for v in VARIANTS]
    for (y, _), *others in zip(*runs, strict=True):
        for other, _ in others:
            chex.assert_trees_all_close(y, other, rtol=1e-6)


def test_the_average_keeps_the_bound_that_is_proved_for_it():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(50, 50))
    hessian = root @ root.T
    smoothness, start = np.linalg.norm(hessian, 2), rng.normal(size=50)
    hessian, start = hessian / smoothness, start  # now 1-smooth, with its minimum 0 at 0
    expected = _accelerated(lambda y: hessian @ y, start, 1.0, 200)
    with jax.enable_x64(True):
        tx = optimizers.a2grad("uni", smoothness=1.0, beta=0.0)

        @jax.jit
        def step(y, state):
            updates, state = tx.update(jnp.asarray(hessian) @ y, state)
            y = optax.apply_updates(y, updates)
            return y, state, optimizers.a2grad_averaged_params(state, y)

        y = jnp.asarray(start)
        state = tx.init(y)
        for k, (other, other_average) in enumerate(expected, start=1):
            y, state, average = step(y, state)
            np.testing.assert_allclose(y, other, atol=1e-10)
            np.testing.assert_allclose(average, other_average, atol=1e-10)
            value = average @ hessian @ average / 2
            assert value <= 2 * start @ start / (k * (k + 1))


def test_the_average_of_noisy_steps_follows_its_own_recursion():
    """The average is the point before it, moved along with x: y_k - a_k c_k g_k."""
    gradients, tx = _gradients(2), optimizers.a2grad("inc", smoothness=1.0, beta=2.0)
    y = average = jnp.zeros(4)
    chex.assert_trees_all_equal(optimizers.a2grad_averaged_params(tx.init(y), y), y)
    x = y
    for k, (after, state) in enumerate(_run(tx, gradients, y)):
        a = 2 / (k + 2)
        new_x = after + state.lead
        average = y + a * (new_x - x)
        found = optimizers.a2grad_averaged_params(state, after)
        np.testing.assert_allclose(found, average, atol=1e-5)
        x, y = new_x, after


def test_the_average_is_found_inside_of_a_chain_and_nowhere_else():
    y, tx = jnp.array([1.0, -2.0]), optimizers.a2grad("uni")
    chain = optax.chain(optax.clip_by_global_norm(1e3), optax.chain(tx))
    (_, bare), (_, state) = tx.update(y, tx.init(y)), chain.update(y, chain.init(y))
    found = optimizers.a2grad_averaged_params(state, y)
    chex.assert_trees_all_close(found, optimizers.a2grad_averaged_params(bare, y))
    for wrong, count in (((), 0), ((bare, bare), 2)):
        with pytest.raises(ValueError, match=rf"state must contain one A2GradState, got {count}"):
            optimizers.a2grad_averaged_params(wrong, y)


def test_complex_leaves_share_the_step_of_their_parts():
    gradients = _gradients(3).reshape(6, 2, 2)
    tx = optimizers.a2grad("exp", smoothness=1.0, beta=1.0, per_leaf_norm=True)
    *_, (real, _) = _run(tx, gradients, jnp.zeros((2, 2)))
    *_, (pairs, state) = _run(
        tx, jax.lax.complex(*jnp.unstack(gradients, axis=1)), jnp.zeros(2) + 0j
    )
    chex.assert_trees_all_close(jnp.stack([pairs.real, pairs.imag]), real, rtol=1e-5)
    assert state.v.dtype == jnp.float32


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_donated_step_copies_no_leaf_and_keeps_none(variant):
    params, tx = jnp.ones((64, 64)), optimizers.a2grad(variant)
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    copies = [line for line in compiled.as_text().splitlines() if " copy(f32[64" in line]
    assert not copies
    assert compiled.memory_analysis().temp_size_in_bytes < params.nbytes


def test_holds_as_few_arrays_as_the_method_allows():
    params = {"w": jnp.ones((4, 5)), "b": jnp.ones(5)}
    sizes = {
        options: sum(
            leaf.size for leaf in jax.tree.leaves(optimizers.a2grad(*options).init(params))
        )
        for options in (("uni",), ("exp",), ("uni", 10.0, 10.0, 0.5, True))
    }
    # The count, copies of the 25 parameters, and with one scalar a leaf two of these.
    assert list(sizes.values()) == [1 + 3 * 25, 1 + 4 * 25, 1 + 2 * 25 + 2]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("variant", "adam", "must be one of 'uni', 'inc', 'exp', got 'adam'"),
        ("smoothness", 0.0, r"must lie in \(0, inf\), got 0.0"),
        ("beta", -1.0, r"must lie in \[0, inf\), got -1.0"),
        ("rho", 1.0, r"must lie in \[0, 1\), got 1.0"),
    ],
)
def test_rejects_bad_arguments(name, value, rule):
    with pytest.raises(ValueError, match=f"a2grad: {name} {rule}"):
        optimizers.a2grad(**{"variant": "exp", name: value})
