"""Signs of min-max problems, on trees and on functions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import optimizers

MinMax, operator = optimizers.MinMax, optimizers.minmax_operator


def test_turns_the_maximizing_player_and_no_integers():
    grads = MinMax({"x": np.float32(1)}, {"y": np.float32(2), "steps": np.int32(3)})
    assert operator(grads) == MinMax({"x": 1}, {"y": -2, "steps": 3})


@pytest.mark.parametrize(
    "is_max",
    [
        {"a": False, "b": {"c": True, "d": True}},
        {"a": False, "b": True},
        lambda tree: {name: name == "b" for name in tree},
    ],
    ids=["tree", "upper part", "function"],
)
def test_a_mask_says_who_maximizes(is_max):
    grads = {"a": np.float32(1), "b": {"c": np.float32(2), "d": np.float32(3)}}
    assert operator(grads, is_max) == {"a": 1, "b": {"c": -2, "d": -3}}
    assert operator(lambda tree: tree, is_max)(grads) == operator(grads, is_max)


def test_a_function_keeps_its_arguments():
    field = operator(lambda z, factor, *, batch: MinMax(factor * batch, z))
    assert field(np.float32(1), 2, batch=3) == MinMax(6, -1)


@pytest.mark.parametrize(
    ("is_max", "message"),
    [
        (None, "is_max must say which leaves are maximized.*got None and dict"),
        ({"a": 1}, "is_max must consist of Python booleans, got 1"),
    ],
)
def test_refuses_what_says_nothing(is_max, message):
    with pytest.raises(ValueError, match=message):
        operator({"a": np.float32(1)}, is_max)


def seen_by_inner(**extras):
    """What reaches the inner transformation."""
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra, updates=updates)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    optimizers.minmax(inner).update(MinMax(1.0, 1.0), (), MinMax(0.0, 0.0), **extras)
    return seen


def test_gradients_among_the_extras_are_turned_too():
    grads = MinMax(np.float32(1), np.float32(2))
    turned = MinMax(1, -2)
    seen = seen_by_inner(
        grad=grads,
        per_example_grads=grads,
        grad_fn=lambda z: grads,
        full_grad_fn=None,
        value=np.float32(3),
    )
    assert seen["grad"] == seen["per_example_grads"] == seen["grad_fn"](None) == turned
    assert seen["updates"] == MinMax(1, -1)
    assert seen["full_grad_fn"] is None
    assert seen["value"] == 3


def test_an_ordinary_step_plays_a_game():
    loss_fn = lambda z, batch: batch * z.min * z.max
    tx = optimizers.minmax(optimizers.extragradient(optax.sgd(0.5)))
    z = MinMax(jnp.float32(1), jnp.float32(0))
    moved, _, _ = gradax.make_step(loss_fn, tx)(z, tx.init(z), jnp.float32(1))
    # F = (y, -x): half a step leads to (1, 0.5), where F = (0.5, -1).
    np.testing.assert_allclose(jax.device_get(moved), (0.75, 0.5), rtol=1e-6)
