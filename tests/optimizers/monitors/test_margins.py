"""Normalized margins, alignment with a KKT point, and the monitor: worked facts, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import optimizers

W = {"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0, -1.0])}
HYBRID = {"w": "spectral", "b": "linf"}


def test_the_margin_of_two_classes():
    logits = jnp.array([3.0, -2.0, 1.5])
    for labels in ([1, 0, 1], [1, -1, 1], [True, False, True]):
        margin = optimizers.normalized_margin(logits, jnp.array(labels), W, HYBRID, degree=2)
        np.testing.assert_allclose(margin, 1.5 / 9, rtol=1e-6)
    wrong = optimizers.normalized_margin(logits, jnp.array([1, 1, 1]), W, "global_l2", degree=3)
    np.testing.assert_allclose(wrong, -2 / 15**1.5, rtol=1e-6)


def test_the_margin_of_more_classes_is_over_the_best_wrong_one():
    logits = jnp.array([[5.0, 1.0, 2.0], [0.0, 4.0, 2.5]])
    margin = optimizers.normalized_margin(logits, jnp.array([0, 1]), W, "linf", degree=1)
    np.testing.assert_allclose(margin, 1.5 / 3, rtol=1e-6)
    wrong = optimizers.normalized_margin(logits, jnp.array([2, 1]), W, "linf", degree=1)
    np.testing.assert_allclose(wrong, -3 / 3, rtol=1e-6)


def _homogeneous(params, x):
    """Degree 3: one hidden layer with squared relu, no biases."""
    return jax.nn.relu(x @ params["a"]) ** 2 @ params["b"]


def _network():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"a": draw(3, 12), "b": draw(12)}, draw(8, 3)


@pytest.mark.parametrize("norm", ["global_l2", "linf", {"a": "spectral", "b": "linf"}])
def test_longer_parameters_have_the_same_normalized_margin(norm):
    params, x = _network()
    labels = _homogeneous(params, x) > 0

    def margin(scale):
        longer = jax.tree.map(lambda leaf: scale * leaf, params)
        return optimizers.normalized_margin(_homogeneous(longer, x), labels, longer, norm, 3)

    assert margin(1.0) > 0
    np.testing.assert_allclose(margin(5.0), margin(1.0), rtol=1e-4)


# Alignment -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "along"),
    [("global_l2", [3.0, 4.0]), ("linf", [1.0, 1.0]), ("l1", [0.0, 1.0])],
)
def test_alignment_is_one_along_the_direction_of_the_norm_and_less_elsewhere(norm, along):
    h = jnp.array([3.0, 4.0])
    align = lambda w: optimizers.kkt_alignment(-1e-12 * h, jnp.asarray(w), norm)
    np.testing.assert_allclose(align(along), 1.0, rtol=1e-6)
    np.testing.assert_allclose(align(-5 * jnp.array(along)), -1.0, rtol=1e-6)
    others = [float(align(w)) for w in np.random.default_rng(0).normal(size=(20, 2))]
    assert all(-1 < other < 1 for other in others)


def test_each_norm_maximizes_its_own_margin_and_is_aligned_then():
    # Linear, degree 1: the largest margin is the least dual norm of the points' convex hull.
    x, best = jnp.array([[3.0, 1.0], [2.0, 1.5]]), {"global_l2": 2.5, "linf": 3.5, "l1": 2.0}
    loss = lambda w: jnp.sum(jnp.exp(-(x @ w)))

    def train(name):
        tx = optimizers.steepest_descent(lambda count: (count + 1.0) ** -0.8, name, 0.5)

        def step(_, carry):
            w, state = carry
            updates, state = tx.update(jax.grad(loss)(w), state)
            return w + updates, state

        start = jnp.array([0.0, 0.01])
        return jax.lax.fori_loop(0, 3000, step, (start, tx.init(start)))[0]

    @jax.jit
    def table():
        ends = {name: train(name) for name in best}
        margin = lambda w, name: optimizers.normalized_margin(x @ w, jnp.ones(2), w, name, 1)
        margins = jnp.array([[margin(w, name) for name in best] for w in ends.values()])
        aligned = [optimizers.kkt_alignment(jax.grad(loss)(w), w, n) for n, w in ends.items()]
        return margins, jnp.array(aligned)

    margins, aligned = table()
    assert list(margins.argmax(axis=0)) == [0, 1, 2]
    np.testing.assert_allclose(margins.diagonal(), list(best.values()), rtol=0.01)
    np.testing.assert_allclose(aligned, 1.0, atol=0.003)


# The monitor -----------------------------------------------------------------------------


def test_it_records_on_its_cadence_and_keeps_the_last_record_in_between():
    tx = optimizers.monitor_margins({"hybrid": HYBRID, "all": "global_l2"}, degree=2, every=3)
    state, seen = tx.init(W), []
    assert np.isnan(optax.tree.get(state, "hybrid"))
    assert np.isnan(optax.tree.get(state, "margin"))
    update = jax.jit(lambda state, margins: tx.update(W, state, W, margins=margins))
    for step in range(5):
        updates, state = update(state, jnp.array([9.0, 4.0 + step]))
        seen.append([float(optax.tree.get(state, name)) for name in ("margin", "hybrid", "all")])
        assert jax.tree.all(jax.tree.map(np.array_equal, updates, W))
    first, second = [4, 4 / 9, 4 / 15], [7, 7 / 9, 7 / 15]
    np.testing.assert_allclose(seen, [first] * 3 + [second] * 2, rtol=1e-6)
    assert state.count == 5


def test_make_step_takes_margins_from_the_loss():
    params, x = _network()
    labels = _homogeneous(params, x) > 0
    sign = jnp.where(labels, 1, -1)

    def loss_fn(params, batch):
        margins = sign * _homogeneous(params, batch)
        return jnp.mean(jax.nn.softplus(-margins)), {"margins": margins}

    monitor = optimizers.monitor_margins({"l2": "global_l2", "linf": "linf"}, degree=3)
    tx = optax.chain(monitor, optimizers.steepest_descent(0.1, "linf"))
    _, state, _ = gradax.make_step(loss_fn, tx)(params, tx.init(params), x)
    for name, norm in (("l2", "global_l2"), ("linf", "linf")):
        expected = optimizers.normalized_margin(_homogeneous(params, x), labels, params, norm, 3)
        np.testing.assert_allclose(optax.tree.get(state, name), expected, rtol=1e-5)


# Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "labels"), [((3,), (2,)), ((3, 1), (3,)), ((), ()), ((2, 2, 2), (2,))]
)
def test_shapes_have_to_fit(logits, labels):
    with pytest.raises(ValueError, match=r"normalized_margin: logits must have shape \[examples\]"):
        optimizers.normalized_margin(jnp.ones(logits), jnp.ones(labels), W, "l2", 1)


def test_the_degree_has_to_be_positive():
    for make in (
        lambda: optimizers.normalized_margin(jnp.ones(2), jnp.ones(2), W, "l2", 0),
        lambda: optimizers.monitor_margins({"l2": "l2"}, 0),
    ):
        with pytest.raises(ValueError, match=r"margins?: degree must lie in \(0, inf\), got 0"):
            make()


@pytest.mark.parametrize("norms", [{}, "l2", ["l2"]])
def test_norms_have_to_have_names(norms):
    with pytest.raises(ValueError, match="monitor_margins: norms must map names to norms, got "):
        optimizers.monitor_margins(norms, 1)


def test_a_norm_that_does_not_fit_is_refused_by_init():
    tx = optimizers.monitor_margins({"spectral": "spectral"}, 1)
    with pytest.raises(ValueError, match=r"the leaf params\['b'\]"):
        tx.init(W)
    with pytest.raises(ValueError, match="every must be an integer >= 1, got 0"):
        optimizers.monitor_margins({"l2": "l2"}, 1, every=0)
    with pytest.raises(ValueError, match="norm must be one of"):
        optimizers.monitor_margins({"l2": "l3"}, 1)


def test_it_says_what_is_missing():
    tx = optimizers.monitor_margins({"l2": "l2"}, 1)
    with pytest.raises(ValueError, match="monitor_margins needs margins="):
        tx.update(W, tx.init(W), W)
    with pytest.raises(ValueError, match="monitor_margins needs params"):
        tx.update(W, tx.init(W), margins=jnp.ones(2))
