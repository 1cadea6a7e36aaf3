"""L4: worked steps, the progress that it promises, and what it does not depend on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

CURVATURE = jnp.array([1.0, 3.0, 10.0])


def _quadratic(x):
    return 0.5 * jnp.sum(CURVATURE * x**2) + 0.3


def _run(tx, loss=_quadratic, x=(1.0, -2.0, 0.5), steps=3):
    """Points, states after each step."""

    @jax.jit
    def step(x, state):
        value, grads = jax.value_and_grad(loss)(x)
        updates, state = tx.update(grads, state, x, value=value)
        return optax.apply_updates(x, updates), state

    x = jnp.array(x)
    state = tx.init(x)
    for _ in range(steps):
        x, state = step(x, state)
        yield x, state


@pytest.mark.parametrize(
    ("factory", "step_sizes", "first"),
    [
        ("l4_momentum", [0.006329637, 0.005597566, 0.004951137], [0.99367, -1.962022, 0.468352]),
        ("l4_adam", [0.03270394], [0.967299, -1.967297, 0.467297]),
    ],
)
def test_steps_worked_out_by_hand(factory, step_sizes, first):
    run = list(_run(getattr(optimizers, factory)(), steps=len(step_sizes)))
    np.testing.assert_allclose([state.step_size for _, state in run], step_sizes, rtol=1e-5)
    np.testing.assert_allclose(run[0][0], first, atol=2e-6)
    np.testing.assert_allclose(run[0][1].lmin, 0.75 * 8.05, rtol=1e-6)


@pytest.mark.parametrize("direction", [optax.scale_by_adam(), optax.scale_by_sign()])
def test_the_linearised_loss_goes_the_promised_share_of_the_way(direction):
    tx, mean = optimizers.l4(direction, alpha=0.2, gamma=0.8), optax.ema(0.9)
    x = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    loss = lambda x: jnp.sum(x["a"] ** 4) + jnp.abs(x["b"]) + 0.1
    state, estimates = tx.init(x), mean.init(x)
    for _ in range(4):
        value, grads = jax.value_and_grad(loss)(x)
        updates, state = tx.update(grads, state, x, value=value)
        e, estimates = mean.update(grads, estimates)
        promised = 0.8 * value + 0.2 * 0.8 * state.lmin
        np.testing.assert_allclose(value + optax.tree.vdot(updates, e), promised, rtol=1e-5)
        x = optax.apply_updates(x, updates)


def test_first_step_of_momentum_in_closed_form():
    g, tx = jnp.array([3.0, -4.0]), optimizers.l4_momentum()
    updates, state = tx.update(g, tx.init(g), value=7.0)
    np.testing.assert_allclose(state.step_size, 0.04875 * 7.0 / 25, rtol=1e-6)
    np.testing.assert_allclose(updates, -state.step_size * g, rtol=1e-6)


def test_the_least_loss_is_forgotten_slowly_and_never_above_the_present_one():
    tx, g = optimizers.l4_momentum(tau=10.0), jnp.ones(2)
    state, found = tx.init(g), []
    for value in (4.0, 8.0, 2.0, 5.0, 5.0):
        _, state = tx.update(g, state, value=value)
        found.append(float(state.lmin))
    np.testing.assert_allclose(found, [3.0, 3.3, 2.0, 2.2, 2.42], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 50.0])
@pytest.mark.parametrize("tx", [optimizers.l4_momentum(), optimizers.l4_adam(adam_eps=1e-12)])
def test_the_scale_of_the_loss_does_not_matter(tx, scale):
    plain = [x for x, _ in _run(tx)]
    scaled = [x for x, _ in _run(tx, lambda x: scale * _quadratic(x))]
    chex.assert_trees_all_close(plain, scaled, rtol=1e-5)


def test_the_length_of_the_direction_does_not_matter():
    short, long = (
        [x for x, _ in _run(optimizers.l4(optax.chain(optax.scale_by_adam(), optax.scale(by))))]
        for by in (1.0, 300.0)
    )
    chex.assert_trees_all_close(short, long, rtol=1e-5)


def test_goes_uphill_where_averages_disagree_unless_told_not_to():
    steps = {}
    for nonneg in (False, True):
        tx = optimizers.l4(optax.identity(), nonneg=nonneg)
        state = tx.init(jnp.zeros(1))
        for gradient in (1.0, -0.5):
            updates, state = tx.update(jnp.array([gradient]), state, value=1.0)
        steps[nonneg] = float(state.step_size), float(updates[0])
    assert steps[False][0] < 0
    assert steps[True] == (0.0, 0.0)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_makes_no_step_and_leaves_no_trace(wrong):
    tx, g = optimizers.l4_momentum(), jnp.ones(2)
    updates, state = tx.update(g, tx.init(g), value=wrong)
    chex.assert_trees_all_equal(updates, jnp.zeros(2))
    _, state = tx.update(g, state, value=4.0)
    np.testing.assert_allclose(state.lmin, 3.0)
    updates, after = tx.update(g, state, value=wrong)
    chex.assert_trees_all_equal(updates, jnp.zeros(2))
    assert after.lmin == state.lmin
    assert after.step_size == 0


def test_a_loss_of_zero_makes_no_step():
    tx, g = optimizers.l4_adam(), jnp.ones(2)
    updates, _ = tx.update(g, tx.init(g), value=0.0)
    chex.assert_trees_all_equal(updates, jnp.zeros(2))


def test_hands_params_and_extra_arguments_on():
    direction = optax.chain(optax.add_decayed_weights(0.5), optax.polyak_sgd(scaling=-1.0))
    x = jnp.array([1.0, 2.0])
    tx = optimizers.l4(direction)
    updates, _ = tx.update(x, tx.init(x), x, value=3.0)
    assert jnp.all(jnp.isfinite(updates))
    with pytest.raises(ValueError, match="l4 needs value="):
        tx.update(x, tx.init(x), x)


def test_complex_leaves_count_as_pairs_of_real_ones():
    as_reals = lambda z: jnp.stack([z.real, z.imag])
    tx, gradients = (
        optimizers.l4_momentum(),
        jnp.array([[1.0 + 2.0j, -0.5j], [0.3 + 0j, 1.0 - 1.0j]]),
    )
    states = [tx.init(gradients[0]), tx.init(as_reals(gradients[0]))]
    for g in gradients:
        u, states[0] = tx.update(g, states[0], value=2.0)
        w, states[1] = tx.update(as_reals(g), states[1], value=2.0)
        chex.assert_trees_all_close(as_reals(u), w, rtol=1e-5)


@pytest.mark.parametrize(("factory", "arrays"), [("l4_adam", 3), ("l4_momentum", 2)])
def test_a_donated_step_makes_nothing_but_params_and_moments(factory, arrays):
    tx, params = getattr(optimizers, factory)(), jnp.ones((256, 512))

    def step(params, state, grads, value):
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    arguments = (params, tx.init(params), params, jnp.ones([]))
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    entry = compiled.as_text().partition("ENTRY")[2].splitlines()
    made = [line for line in entry if " = f32[256,512]" in line and " parameter(" not in line]
    assert len(made) == arrays
    assert not [line for line in made if " copy(" in line]


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0.0), ("gamma", 1.0), ("gamma0", -0.1), ("tau", 0.0), ("eps", 0.0)],
)
@pytest.mark.parametrize("factory", ["l4", "l4_adam", "l4_momentum"])
def test_rejects_bad_constants(factory, name, value):
    direction = {"direction": optax.identity()} if factory == "l4" else {}
    with pytest.raises(ValueError, match=f"{factory}: {name} must lie in .*got {value}"):
        getattr(optimizers, factory)(**direction, **{name: value})


@pytest.mark.parametrize(
    ("factory", "name", "value"),
    [
        ("l4_adam", "b1", 1.0),
        ("l4_adam", "b2", -0.1),
        ("l4_adam", "adam_eps", 0.0),
        ("l4_momentum", "decay", 1.0),
    ],
)
def test_rejects_bad_constants_of_the_direction(factory, name, value):
    with pytest.raises(ValueError, match=f"{factory}: {name} must lie in .*got {value}"):
        getattr(optimizers, factory)(**{name: value})
