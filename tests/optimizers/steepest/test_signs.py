"""The sign methods and the normalised gradient are optax's: what is promised about them."""

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import catalogue, optimizers

NAMES = ["sign_sgd", "signum", "scale_by_sign", "normalize_by_update_norm"]


@pytest.mark.parametrize("name", NAMES)
def test_is_the_original(name):
    assert getattr(optimizers, name) is getattr(optax, name)
    assert catalogue.get(name).reexport_of == f"optax.{name}"


def test_signum_takes_the_sign_of_the_momentum():
    w, tx = jnp.array([1.0, 1.0]), optimizers.signum(0.1, beta=0.9)
    state = tx.init(w)
    for gradient, after in (([1.0, -1.0], [0.9, 1.1]), ([-1.0, 0.0], [1.0, 1.2])):
        updates, state = tx.update(jnp.array(gradient), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, after, rtol=1e-6)


def test_the_normalised_gradient_is_a_little_short():
    g = jnp.array([3.0, 4.0])
    tx = optax.chain(optimizers.normalize_by_update_norm(), optax.scale(-0.1))
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates, [-0.05999999, -0.07999998], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (optimizers.scale_by_sign, 0.0),
        (lambda: optimizers.signum(1.0), 0.0),
        (optimizers.normalize_by_update_norm, 1e-6),
    ],
)
def test_the_size_of_the_gradient_does_not_matter(make, tolerance):
    g, tx = jnp.array([3.0, -4.0, 0.0]), make()
    step = lambda g: tx.update(g, tx.init(g))[0]
    chex.assert_trees_all_close(step(8 * g), step(g), rtol=tolerance)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_they_are_steepest_in_their_norms(seed):
    rng = np.random.default_rng(seed)
    g, others = jnp.asarray(rng.normal(size=4)), rng.normal(size=(200, 4))
    step = lambda tx: np.asarray(tx.update(g, tx.init(g))[0])
    for tx, order in (
        (optimizers.scale_by_sign(), np.inf),
        (optimizers.normalize_by_update_norm(), 2),
    ):
        unit = others / np.linalg.norm(others, order, axis=1, keepdims=True)
        assert np.max(unit @ np.asarray(g)) <= step(tx) @ np.asarray(g) + 1e-5
