"""monitor_update_ratio: of leaves, of labels, of everything; and the labels' forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

W = {
    "head": jnp.array([0.0, 2.0]),
    "body": [{"b": jnp.array(-1.0), "w": jnp.full((2, 2), 2.0)}, {"w": jnp.array([[3.0]])}],
}
U = jax.tree.map(lambda w: 0.1 * jnp.ones_like(w), W)
# Squared norms over leaves, in the order b, w, w, head.
U2, W2 = 0.01 * np.array([1.0, 4.0, 1.0, 2.0]), np.array([1.0, 16.0, 9.0, 4.0])


def _record(u=U, w=W, **options):
    monitor = optimizers.monitor_update_ratio(**options)
    return monitor.update(u, monitor.init(w), w)[1]


def test_is_that_of_each_leaf_and_of_all():
    state = _record()
    np.testing.assert_allclose(state.update_ratios, np.sqrt(U2 / W2), rtol=1e-6)
    np.testing.assert_allclose(state.update_ratio, np.sqrt(U2.sum() / W2.sum()), rtol=1e-6)
    by_leaf = jax.tree.unflatten(jax.tree.structure(W), state.update_ratios)
    np.testing.assert_allclose(by_leaf["head"], np.sqrt(0.02 / 4), rtol=1e-6)


@pytest.mark.parametrize(
    "labels",
    [
        {"head": "fast", "body": [{"b": "slow", "w": "fast"}, {"w": "slow"}]},
        lambda params: jax.tree.map(lambda w: "fast" if w.size in (2, 4) else "slow", params),
    ],
    ids=["tree", "function"],
)
def test_leaves_with_one_label_are_measured_together(labels):
    state = _record(param_labels=labels)
    fast, slow = ([1, 3], [0, 2])
    ratios = [np.sqrt(U2[group].sum() / W2[group].sum()) for group in (fast, slow)]
    np.testing.assert_allclose(state.update_ratios, ratios, rtol=1e-6)
    np.testing.assert_allclose(state.update_ratio, np.sqrt(U2.sum() / W2.sum()), rtol=1e-6)


def test_a_prefix_labels_all_leaves_below_it():
    state = _record(param_labels={"head": "out", "body": "in"})
    np.testing.assert_allclose(state.update_ratios[0], np.sqrt(0.06 / 26), rtol=1e-6)


def test_masked_leaves_are_in_no_group():
    mask = {"head": False, "body": True}
    tx = optax.masked(optimizers.monitor_update_ratio(param_labels={"head": 1, "body": 2}), mask)
    updates, state = jax.jit(tx.update)(U, tx.init(W), W)
    assert jax.tree.structure(updates) == jax.tree.structure(U)
    ratios = optax.tree.get(state, "update_ratios")
    np.testing.assert_allclose(ratios, [np.nan, np.sqrt(0.06 / 26)], rtol=1e-6)


def test_keeps_the_digits_of_long_vectors_in_low_precision():
    w = jnp.ones(5000, jnp.bfloat16)
    state = _record(3 * w / 256, w)
    np.testing.assert_allclose(state.update_ratio, 3 / 256, rtol=1e-6)


def test_weights_of_zero_make_it_infinite():
    state = _record({"a": jnp.ones(2), "b": jnp.zeros(1)}, {"a": jnp.zeros(2), "b": jnp.zeros(1)})
    np.testing.assert_array_equal(state.update_ratios, [np.inf, np.nan])


def test_labels_must_fit_params():
    with pytest.raises(ValueError, match="monitor_update_ratio: param_labels must be a tree like"):
        _record(param_labels={"head": "a"})


def test_its_state_can_be_mapped_like_params_though_labels_are_a_function():
    label = lambda params: jax.tree.map(lambda _: "all", params)
    for options in ({}, {"param_labels": "all"}, {"param_labels": label}):
        tx = optimizers.monitor_update_ratio(**options)
        state = jax.eval_shape(tx.init, W)
        # Records are no params: partition specs of these are not asked for.
        assert optax.tree.map_params(tx, lambda leaf: None, state) == state
