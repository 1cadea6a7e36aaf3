"""AdaGrad-Norm: its relation to AdaGrad, and steps worked out by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers


def test_one_scalar_parameter_is_adagrad():
    w = {"ours": jnp.float32(2.0), "optax": jnp.float32(2.0)}
    txs = {
        "ours": optimizers.adagrad_norm(0.5, initial_accumulator_value=0.01),
        "optax": optax.adagrad(0.5, initial_accumulator_value=0.01, eps=1e-10),
    }
    states = {name: tx.init(w[name]) for name, tx in txs.items()}
    for target in (0.0, 1.0, -3.0, 0.2):
        for name, tx in txs.items():
            updates, states[name] = tx.update(w[name] - target, states[name])
            w[name] = optax.apply_updates(w[name], updates)
        np.testing.assert_allclose(w["ours"], w["optax"], rtol=1e-5)


def test_two_steps_worked_out_by_hand():
    tx = optimizers.adagrad_norm(1.0, initial_accumulator_value=11.0)
    grads = {"w": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    state = tx.init(grads)
    first, state = tx.update(grads, state)
    second, state = tx.update({"w": jnp.array([0.0, 8.0]), "b": jnp.array(0.0)}, state)
    # The sums of squares are 11, 11 + 25 = 36 and 36 + 64 = 100, over both leaves.
    np.testing.assert_allclose(first["w"], [-0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(first["b"], -4 / 6, rtol=1e-6)
    np.testing.assert_allclose(second["w"], [0.0, -0.8], rtol=1e-6)
    np.testing.assert_allclose(state[0].sum_of_squares, 100.0)


def test_eps_stands_outside_of_the_root():
    tx = optimizers.scale_by_adagrad_norm(initial_accumulator_value=0.0, eps=1.0)
    step, _ = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    np.testing.assert_allclose(step, 4 / (4 + 1))


def test_a_turned_gradient_gives_the_turned_step():
    tx = optimizers.scale_by_adagrad_norm()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0].astype(np.float32)
    g = jnp.array([1.0, -2.0, 0.5, 3.0])
    step, _ = tx.update(g, tx.init(g))
    turned, _ = tx.update(turn @ g, tx.init(g))
    np.testing.assert_allclose(turned, turn @ step, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_accumulator_value": -1.0}, r"initial_accumulator_value must lie in \[0, inf\)"),
        ({"eps": 0.0}, r"eps must lie in \(0, inf\), got 0.0"),
    ],
)
def test_refuses_what_cannot_work(options, message):
    with pytest.raises(ValueError, match=f"^scale_by_adagrad_norm: {message}"):
        optimizers.scale_by_adagrad_norm(**options)
    with pytest.raises(ValueError, match=f"^adagrad_norm: {message}"):
        optimizers.adagrad_norm(0.1, **options)
