"""Steepest descent in a norm: the methods that are instances of it, invariances, bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from gradax import optimizers

norms = optimizers.norms
SHAPES = {"v": (4, 3), "w": (3, 5), "b": (5,)}
MATRICES = {"v": (4, 3), "w": (3, 5)}


def _draw(seed, shapes=SHAPES, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def _follow(tx, shapes=SHAPES, scale=1.0, dtype=jnp.float32):
    """Updates for four random gradients."""
    params, update, found = _draw(0, shapes, dtype), jax.jit(tx.update), []
    state = tx.init(params)
    for seed in (1, 2, 3, 4):
        grads = jax.tree.map(lambda g: (scale * g).astype(dtype), _draw(seed, shapes))
        updates, state = update(grads, state, params)
        found.append(updates)
    return found


def _agree(one, other, shapes=SHAPES, **tolerance):
    chex.assert_trees_all_close(_follow(one, shapes), _follow(other, shapes), **tolerance)


def _partition(matrix, other):
    labels = {"v": "matrix", "w": "matrix", "b": "other"}
    return optax.partition({"matrix": matrix, "other": other}, labels)


def _muon(beta, orthogonalizer, scale="none", ns_steps=5, rate=0.02):
    direction = optimizers.scale_by_orthogonalized_momentum(
        beta,
        nesterov=False,
        orthogonalizer=orthogonalizer,
        ns_steps=ns_steps,
        scale=scale,
    )
    return optax.chain(direction, optax.scale(-rate))


# Instances -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_signum_is_the_largest_magnitude_bit_for_bit(dtype):
    ours = _follow(optimizers.steepest_descent(0.01, "linf", 0.9), dtype=dtype)
    chex.assert_trees_all_equal(ours, _follow(optax.signum(0.01, beta=0.9), dtype=dtype))


def test_sign_descent_is_signum_without_memory_bit_for_bit():
    ours = _follow(optimizers.steepest_descent(0.01, "linf", beta=0.0))
    chex.assert_trees_all_equal(ours, _follow(optax.sign_sgd(0.01)))


def test_normalized_gradient_descent_is_the_norm_of_all_entries():
    theirs = optax.chain(
        optax.ema(0.9, debias=False), optax.normalize_by_update_norm(), optax.scale(-0.1)
    )
    _agree(optimizers.steepest_descent(0.1, "global_l2"), theirs, rtol=1e-5)
    _agree(optimizers.steepest_descent(0.1, "l2", combine="global_l2"), theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("norm", "orthogonalizer", "scale"),
    [
        ("spectral", "svd", "none"),
        ("rms_to_rms", "svd", "mup"),
        (norms.spectral_with("ns5", ns_steps=2), "ns5", "none"),
    ],
)
def test_muon_is_the_spectral_norm(norm, orthogonalizer, scale):
    muon = _muon(0.95, orthogonalizer, scale, ns_steps=2)
    _agree(optimizers.steepest_descent(0.02, norm, 0.95), muon, MATRICES, atol=1e-6)


@pytest.mark.parametrize(("orthogonalizer", "ns_steps"), [("svd", 1), ("polar_express", 2)])
def test_muon_signum_is_muon_and_signum(orthogonalizer, ns_steps):
    apart = _partition(_muon(0.9, orthogonalizer, ns_steps=ns_steps), optax.signum(0.02, beta=0.9))
    exact = {"orthogonalizer": orthogonalizer, "ns_steps": ns_steps}
    _agree(optimizers.muon_signum(0.02, 0.9, **exact), apart, atol=1e-6)
    norm = {"v": "spectral", "w": "spectral", "b": "linf"}
    if orthogonalizer == "svd":
        _agree(optimizers.steepest_descent(0.02, norm, 0.9), apart, atol=1e-6)


def test_muon_adam_is_muon_and_adam():
    ours = optimizers.muon_adam(0.02, 0.003, 0.9, adam_b1=0.8, adam_b2=0.95, orthogonalizer="svd")
    adam = optax.adam(0.003, b1=0.8, b2=0.95, eps=1e-20)
    _agree(ours, _partition(_muon(0.9, "svd"), adam), atol=1e-6)
    same = optimizers.muon_adam(0.02, orthogonalizer="svd")
    _agree(same, optimizers.muon_adam(0.02, 0.02, orthogonalizer="svd"), atol=0.0)


def test_muon_adam_without_memory_is_steepest_descent_in_its_norm():
    ours = optimizers.muon_adam(0.02, 0.005, 0.0, adam_b1=0.0, adam_b2=0.0, orthogonalizer="svd")
    spectral = norms.scaled(0.005 / 0.02, "spectral")
    norm = {"v": spectral, "w": spectral, "b": "linf"}
    _agree(ours, optimizers.steepest_descent(0.005, norm, 0.0), atol=1e-6)


def test_muon_adam_has_no_stability_constant_and_does_not_divide_by_zero():
    tx, g = optimizers.muon_adam(0.02, orthogonalizer="svd"), _draw(1)
    step = lambda scale: tx.update(jax.tree.map(lambda x: scale * x, g), tx.init(g), g)[0]
    chex.assert_trees_all_close(step(1e-12), step(1.0), rtol=1e-4)
    chex.assert_trees_all_equal(step(0.0), jax.tree.map(jnp.zeros_like, g))


def test_gradient_descent_is_the_euclidean_norm_not_normalized():
    for combine in ("l2", "global_l2"):
        ours = optimizers.steepest_descent(0.1, "l2", 0.9, combine=combine, normalized=False)
        _agree(ours, optax.chain(optax.ema(0.9, debias=False), optax.sgd(0.1)), rtol=1e-5)


# What has to hold ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "combine"), [("l1", "max"), ("spectral", "l2"), ("nuclear", "sum"), ("rms", "max")]
)
def test_the_size_of_the_loss_matters_only_if_not_normalized(norm, combine):
    def follow(scale, normalized):
        tx = optimizers.steepest_descent(0.1, norm, combine=combine, normalized=normalized)
        return _follow(tx, MATRICES, scale)

    chex.assert_trees_all_close(follow(8.0, True), follow(1.0, True), atol=1e-6)
    eightfold = jax.tree.map(lambda u: 8 * u, follow(1.0, False))
    chex.assert_trees_all_close(follow(8.0, False), eightfold, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("combine", ["max", "l2", "sum"])
def test_the_step_without_normalization_is_the_dual_norm_longer(combine):
    norm, g = {"v": "l1", "w": "spectral", "b": "linf"}, _draw(1)
    whole = norms.product(norm, combine)
    for normalized, length in ((True, 1.0), (False, whole.dual(g))):
        tx = optimizers.scale_by_steepest_descent(norm, combine, normalized)
        updates, state = tx.update(g, tx.init(g))
        assert state == optax.EmptyState()
        np.testing.assert_allclose(whole.norm(updates), length, rtol=1e-5)


def test_groups_of_leaves_can_be_labelled():
    labels = {"v": "joint", "w": "matrix", "b": "joint"}
    tx = optimizers.steepest_descent(
        0.1, {"joint": "global_l2", "matrix": "spectral"}, 0.0, param_labels=labels
    )
    first, g = _follow(tx)[0], _draw(1)
    root = np.sqrt(np.sum(g["v"] ** 2) + np.sum(g["b"] ** 2))
    np.testing.assert_allclose(first["b"], -0.1 * g["b"] / root, rtol=1e-5)
    np.testing.assert_allclose(norms.spectral.norm(first["w"]), 0.1, rtol=1e-5)


def test_convolutions_can_be_matrices():
    shapes = {"kernel": (2, 2, 3, 5), "table": (4, 3), "b": (5,)}
    dims = {"kernel": MuonDimensionNumbers((0, 1, 2), 3), "table": None, "b": None}
    first = {
        name: _follow(make(0.1, dimension_numbers=dims, orthogonalizer="svd"), shapes)[0]
        for name, make in (("signum", optimizers.muon_signum), ("adam", optimizers.muon_adam))
    }
    g = _draw(1, shapes)
    kernel = -0.1 * norms.spectral.lmo(g["kernel"].reshape(12, 5)).reshape(2, 2, 3, 5)
    for found in first.values():
        np.testing.assert_allclose(found["kernel"], kernel, atol=1e-6)
        np.testing.assert_allclose(found["table"], -0.1 * np.sign(g["table"]), rtol=1e-5)
    by_name = optimizers.muon_signum(0.1, dimension_numbers=lambda params: dims)
    assert by_name.init(_draw(0, shapes))


def test_masked_leaves_need_no_norm():
    norm = {"v": "spectral", "w": "nuclear", "b": "linf"}
    tx = optax.masked(optimizers.steepest_descent(0.1, norm, 0.0), {"v": 1, "w": 0, "b": 1})
    g = _draw(1)
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(updates["w"], g["w"])
    np.testing.assert_allclose(updates["b"], -0.1 * np.sign(g["b"]), rtol=1e-6)


# Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ("spectral", r"norm must not be spectral for the leaf params\['b'\] of shape \(5,\)"),
        ({"v": "l2", "w": "l2"}, "norm must be a prefix of params"),
        (lambda params: "l3", "norm must be one of 'l2'"),
    ],
)
def test_a_norm_that_does_not_fit_is_refused_by_init(norm, message):
    for factory in (
        optimizers.scale_by_steepest_descent,
        lambda n: optimizers.steepest_descent(1, n),
    ):
        with pytest.raises(ValueError, match=message):
            factory(norm).init(_draw(0))


@pytest.mark.parametrize(
    ("factory", "arguments", "name", "value"),
    [
        (optimizers.steepest_descent, {"norm": "l2"}, "learning_rate", -1.0),
        (optimizers.steepest_descent, {"norm": "l2"}, "beta", 1.0),
        (optimizers.steepest_descent, {"norm": "l2"}, "combine", "mean"),
        (optimizers.steepest_descent, {}, "norm", "l3"),
        (optimizers.muon_signum, {}, "beta", -0.1),
        (optimizers.muon_signum, {}, "orthogonalizer", "qr"),
        (optimizers.muon_adam, {}, "adam_learning_rate", -1.0),
        (optimizers.muon_adam, {}, "adam_b1", 1.0),
        (optimizers.muon_adam, {}, "adam_b2", 1.0),
        (optimizers.muon_adam, {}, "adam_eps", 0.0),
        (optimizers.muon_adam, {}, "ns_steps", 0),
    ],
)
def test_rejects_bad_arguments(factory, arguments, name, value):
    with pytest.raises(ValueError, match=rf": {name} must .*got {value!r}"):
        factory(**({"learning_rate": 0.1} | arguments | {name: value}))
