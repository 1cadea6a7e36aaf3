"""EG+-: the mass of the parts, the groups, and starts that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers


def _draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _parts(state):
    return [optax.tree.get(state, name) for name in ("w_pos", "w_neg")]


def _run(tx, w, gradients):
    update, state = jax.jit(tx.update), tx.init(w)
    for g in gradients:
        updates, state = update(jnp.asarray(g), state, w)
        w = optax.apply_updates(w, updates)
    return w, state


def test_one_step_worked_out_by_hand():
    w, state = _run(optimizers.eg_plus_minus(0.1), jnp.zeros(2), [[1.0, -2.0]])
    pos, neg = _parts(state)
    np.testing.assert_allclose(pos, [0.223409, 0.301570], atol=1e-6)
    np.testing.assert_allclose(neg, [0.272872, 0.202149], atol=1e-6)
    np.testing.assert_allclose(w, [-0.049463, 0.099422], atol=1e-6)


@pytest.mark.parametrize("group", ["leaf", "row"])
def test_the_mass_of_a_group_stays(group):
    w = jnp.asarray(0.1 * _draw(1, 3, 2))
    w, state = _run(optimizers.eg_plus_minus(0.1, 3.0, group=group), w, _draw(2, 20, 3, 2))
    pos, neg = _parts(state)
    axes = (0, 1) if group == "leaf" else 0
    np.testing.assert_allclose(jnp.sum(pos + neg, axes), 3.0, rtol=1e-5)
    np.testing.assert_allclose(w, pos - neg, atol=1e-6)
    assert float(jnp.max(jnp.sum(jnp.abs(w), axes))) < 3.0
    assert float(jnp.min(jnp.stack([pos, neg]))) > 0


@pytest.mark.parametrize("channel_axis", [-1, 0])
def test_a_row_is_all_that_leads_into_one_output(channel_axis):
    w, gradients = jnp.asarray(0.1 * _draw(1, 3, 2)), _draw(2, 4, 3, 2)
    whole, _ = _run(
        optimizers.eg_plus_minus(0.2, 2.0, group="row", channel_axis=channel_axis), w, gradients
    )
    pick = lambda x: x[..., 1] if channel_axis == -1 else x[..., 1, :]
    alone, _ = _run(optimizers.eg_plus_minus(0.2, 2.0), pick(w), pick(gradients))
    np.testing.assert_allclose(pick(whole), alone, atol=1e-6)


def test_without_normalisation_it_is_hypentropy():
    with jax.enable_x64(True):
        w, gradients = jnp.zeros(4, jnp.float64), _draw(2, 6, 4).astype(np.float64)
        signed, _ = _run(optimizers.eg_plus_minus(0.2, 2.0, normalize=False), w, gradients)
        # Parts of a quarter each: beta squared is four times their product.
        smooth, _ = _run(optimizers.hypentropy(0.2, beta=0.5), w, gradients)
        np.testing.assert_allclose(signed, smooth, rtol=1e-8)


def test_the_mass_is_a_unit_of_the_weights():
    w, gradients = jnp.asarray(0.1 * _draw(1, 4)), _draw(2, 4, 4)
    whole, _ = _run(optimizers.eg_plus_minus(0.1, 3.0), 3 * w, gradients)
    unit, _ = _run(optimizers.eg_plus_minus(0.3, 1.0), w, gradients)
    np.testing.assert_allclose(whole, 3 * unit, atol=1e-6)


def test_a_weight_recovers_from_a_gradient_that_was_far_too_large():
    tx = optimizers.eg_plus_minus(0.5, 2.0)
    w, state = _run(tx, jnp.zeros(2), [[1e6, 0.0]])
    pos, neg = _parts(state)
    assert float(jnp.min(jnp.stack([pos, neg]))) > 0
    np.testing.assert_allclose(w, [-2.0, 0.0], atol=1e-6)
    w, _ = _run(tx, jnp.zeros(2), [[1e6, 0.0], *[[-100.0, 0.0]] * 3])
    np.testing.assert_allclose(w, [2.0, 0.0], atol=1e-6)


def test_rejects_a_start_that_does_not_fit():
    tx = optimizers.eg_plus_minus(0.1, total=2.0)
    with pytest.raises(
        ValueError, match=r"do not fit in total mass: .* got 0\.75 in params\['w'\]"
    ):
        tx.init({"w": jnp.array([0.1, 0.75, 0.0])})
    with pytest.raises(ValueError, match="do not fit"):
        tx.init(jnp.array([1.0, 0.0]))
    tx.init({"w": jnp.array([0.1, 0.65, 0.0])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total": 0.0}, r"total must lie in \(0, inf\), got 0.0"),
        ({"group": "column"}, "group must be one of 'leaf', 'row', got 'column'"),
        ({"group": "row", "channel_axis": 2}, r"channel_axis must lie in \[-2, 2\) .* got 2"),
    ],
)
def test_rejects_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"eg_plus_minus: {message}"):
        optimizers.eg_plus_minus(0.1, **options).init(jnp.zeros((2, 2)))
