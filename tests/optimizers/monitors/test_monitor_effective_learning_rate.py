"""monitor_effective_learning_rate: SGD's own rate, and weights whose length means nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers


def _states(tx, loss, w, num_steps):
    """Weights and records after each step."""
    tx = optax.chain(tx, optimizers.monitor_effective_learning_rate())

    def step(carry, _):
        w, state = carry
        grads = jax.grad(loss)(w)
        updates, state = tx.update(grads, state, w, grad=grads)
        w = optax.apply_updates(w, updates)
        return (w, state), (w, state[-1])

    return jax.lax.scan(step, (w, tx.init(w)), length=num_steps)[1]


def _bowl(w):
    return 0.5 * (jnp.sum(w["a"] ** 2) + 3 * jnp.sum(w["b"] ** 2))


START = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}


def test_is_the_learning_rate_of_sgd():
    weights, records = _states(optax.sgd(0.1), _bowl, START, 4)
    np.testing.assert_allclose(records.effective_learning_rate, 0.1, rtol=1e-5)
    np.testing.assert_allclose(records.effective_learning_rates, np.full((4, 2), 0.1), rtol=1e-5)
    squares = np.sum(np.square(weights["a"]), axis=1)[:-1]
    found = records.scale_invariant_learning_rates[1:, 0]
    np.testing.assert_allclose(found, 0.1 / squares, rtol=1e-5)


def test_momentum_multiplies_it_where_the_gradient_stands_still():
    _, records = _states(optax.sgd(0.1, momentum=0.9), lambda w: jnp.sum(w), jnp.zeros(3), 100)
    np.testing.assert_allclose(records.effective_learning_rate[0], 0.1, rtol=1e-5)
    np.testing.assert_allclose(records.effective_learning_rate[-1], 1.0, rtol=1e-4)


def test_one_scale_invariant_rate_is_one_path_of_directions():
    target = jnp.array([[0.2, 0.4], [-0.8, 0.4]])
    loss = lambda w: jnp.sum((w / jnp.linalg.norm(w) - target) ** 2)
    start, factor = jnp.array([[1.0, 0.0], [0.0, -1.0]]), 5.0
    one, records = _states(optax.sgd(0.3), loss, start, 8)
    other, others = _states(optax.sgd(0.3 * factor**2), loss, factor * start, 8)
    direction = lambda w: w / np.linalg.norm(w, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(direction(other), direction(one), atol=1e-5)
    rates = records.scale_invariant_learning_rates
    np.testing.assert_allclose(others.scale_invariant_learning_rates, rates, rtol=1e-4)
    np.testing.assert_allclose(rates[0], 0.3 / 2, rtol=1e-5)
    # Plain steps are orthogonal to such weights and make them longer, so that the rate falls.
    assert np.all(np.diff(np.ravel(rates)) < 0)


def test_leaves_with_one_label_are_one_weight():
    monitor = optimizers.monitor_effective_learning_rate(param_labels={"a": "all", "b": "all"})
    grads = jax.grad(_bowl)(START)
    updates = jax.tree.map(lambda g: -0.1 * g, grads)
    _, state = monitor.update(updates, monitor.init(START), START, grad=grads)
    np.testing.assert_allclose(state.effective_learning_rates, [0.1], rtol=1e-6)
    np.testing.assert_allclose(state.scale_invariant_learning_rates, [0.1 / 5.25], rtol=1e-6)


@pytest.mark.parametrize(("update", "rate"), [(1.0, np.inf), (0.0, np.nan)])
def test_a_zero_gradient_has_no_rate(update, rate):
    monitor, w = optimizers.monitor_effective_learning_rate(), jnp.ones(2)
    _, state = monitor.update(update * w, monitor.init(w), w, grad=jnp.zeros(2))
    np.testing.assert_array_equal(state.effective_learning_rate, rate)
