"""Annealed gradient noise is optax's: what the catalogue promises about it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import catalogue, optimizers


@pytest.mark.parametrize("name", ["add_noise", "noisy_sgd"])
def test_is_the_original(name):
    assert getattr(optimizers, name) is getattr(optax, name)
    assert catalogue.get(name).reexport_of == f"optax.{name}"


def test_without_variance_it_is_the_identity():
    g, tx = jnp.array([1.0, -2.0]), optimizers.add_noise(0.0, 0.55, key=1)
    updates, _ = tx.update(g, tx.init(g))
    chex.assert_trees_all_equal(updates, g)


def test_variance_falls_from_eta_with_the_power_of_the_step():
    zero, tx = jnp.zeros(200_000), optimizers.add_noise(0.3, 0.55, key=1)
    state, variances = tx.init(zero), []
    for _ in range(4):
        noise, state = tx.update(zero, state)
        variances.append(float(jnp.var(noise)))
    np.testing.assert_allclose(variances, [0.3, 0.2049, 0.1639, 0.1400], rtol=2e-2)


def test_one_key_gives_one_sequence_and_every_leaf_its_own():
    params = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    runs = []
    for key in (7, 7, 8):
        tx = optimizers.add_noise(1.0, 0.55, key=key)
        first, state = tx.update(params, tx.init(params))
        second, _ = tx.update(params, state)
        runs.append([first, second])
    chex.assert_trees_all_equal(runs[0], runs[1])
    draws = [run[step][leaf] for run in (runs[0], runs[2]) for step in (0, 1) for leaf in "ab"]
    assert len({float(draw[0]) for draw in draws}) == len(draws)


def test_members_of_an_axis_with_one_key_draw_alike():
    tx = optimizers.add_noise(1.0, 0.55, key=1)
    draw = lambda g: tx.update(g, tx.init(g))[0]
    noise = jax.vmap(draw, axis_name="clients")(jnp.zeros((3, 2)))
    chex.assert_trees_all_equal(noise[0], noise[1], noise[2])


def test_noise_after_clipping_is_not_clipped():
    g = jnp.full(1000, 5.0)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optimizers.add_noise(1.0, 0.55, key=1))
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(optax.tree.norm(updates), np.sqrt(1001), rtol=5e-2)
