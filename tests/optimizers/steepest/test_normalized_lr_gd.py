"""Normalized LR+GD: convex combinations of examples, the perceptron's limit, its bound."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import optimizers

#: y a of the examples (1, -1) with y = 1 and (-1, -4) with y = -1.
ROWS = jnp.array([[1.0, -1.0], [1.0, 4.0]])


def _loss(w, rows):
    return -jnp.mean(jax.nn.log_sigmoid(rows @ w))


def _direction(w, rows, tx=None):
    tx = tx or optimizers.normalize_by_mean_sigmoid()
    return tx.update(jax.grad(_loss)(w, rows), tx.init(w), margins=rows @ w)[0]


def _separable(seed, size=20, dim=3):
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=dim)
    rows = rng.normal(size=(size, dim))
    rows *= np.sign(rows @ normal)[:, None]
    # Moved away from the plane, so that the margin is known to be 0.2 at least.
    rows += 0.2 * normal / np.linalg.norm(normal)
    return jnp.asarray(rows, jnp.float32)


@pytest.mark.parametrize(
    ("tx", "extras", "expected"),
    [
        (optimizers.normalized_lr_gd(1.0), True, [(1.0, 1.5), (2.0, 0.507307)]),
        (optax.sgd(1.0), False, [(0.5, 0.75), (0.795744, 0.527536)]),
    ],
    ids=["normalized", "plain"],
)
def test_two_steps_worked_out_by_hand(tx, extras, expected):
    w = jnp.zeros(2)
    for after in expected:
        margins = {"margins": ROWS @ w} if extras else {}
        updates, _ = tx.update(jax.grad(_loss)(w, ROWS), tx.init(w), w, **margins)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, after, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_direction_is_no_longer_than_the_longest_example(seed):
    rng = np.random.default_rng(seed)
    rows = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    radius = float(jnp.max(jnp.linalg.norm(rows, axis=1)))
    for scale in (0.0, 1.0, 30.0):
        w = jnp.asarray(scale * rng.normal(size=3), jnp.float32)
        assert float(jnp.linalg.norm(_direction(w, rows))) <= radius * (1 + 1e-6)
    first = _direction(jnp.zeros(3), rows)
    np.testing.assert_allclose(first, -jnp.mean(rows, axis=0), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.3, 100.0])
def test_separates_within_the_steps_of_its_bound(rate):
    rows = _separable(1)
    radius = float(jnp.max(jnp.linalg.norm(rows, axis=1)))
    margin, size = 0.2, len(rows)
    bound = radius**2 / margin**2 + 2 * np.log(2 * size - 1) / (rate * margin**2)
    tx = optimizers.normalized_lr_gd(rate)

    @jax.jit
    def steps_needed(w):
        def step(carry):
            w, count = carry
            updates, _ = tx.update(jax.grad(_loss)(w, rows), tx.init(w), w, margins=rows @ w)
            return optax.apply_updates(w, updates), count + 1

        unfinished = lambda carry: jnp.any(rows @ carry[0] <= 0) & (carry[1] < 10_000)
        return jax.lax.while_loop(unfinished, step, (w, 0))[1]

    assert 1 <= int(steps_needed(jnp.zeros(3))) <= bound


def test_huge_steps_are_those_of_the_batch_perceptron():
    rows, rate, mistakes = jnp.array([[0.5, -1.0]] + [[0.5, 1.0]] * 9), 1e5, []
    tx, w, perceptron = optimizers.normalized_lr_gd(rate), jnp.zeros(2), jnp.mean(rows, 0)
    for _ in range(3):
        updates, _ = tx.update(jax.grad(_loss)(w, rows), tx.init(w), w, margins=rows @ w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w / rate, perceptron, atol=1e-3)
        wrong = (rows @ perceptron <= 0)[:, None]
        mistakes.append(int(jnp.sum(wrong)))
        if not mistakes[-1]:
            break
        perceptron = perceptron + jnp.sum(wrong * rows, 0) / mistakes[-1]
    assert mistakes[0] > 0


def test_the_mean_reaches_over_an_axis():
    rows, w = _separable(3, size=8), jnp.array([0.5, -1.0, 2.0])
    tx = optimizers.normalized_lr_gd(1.0, axis_name="workers")

    def worker(part):
        grads = jax.lax.pmean(jax.grad(_loss)(w, part), "workers")
        return tx.update(grads, tx.init(w), w, margins=part @ w)[0]

    updates = jax.vmap(worker, axis_name="workers")(rows.reshape(2, 4, 3))
    np.testing.assert_allclose(updates, jnp.stack([-_direction(w, rows)] * 2), rtol=1e-5)


def test_stands_still_where_the_mean_underflows():
    g, tx = jnp.zeros(2), optimizers.normalize_by_mean_sigmoid()
    for size in (90.0, 1e4, np.inf):
        np.testing.assert_array_equal(tx.update(g, (), margins=jnp.full(3, size))[0], 0.0)
    g = jnp.ones(2)
    tx = optimizers.normalize_by_mean_sigmoid(eps=0.5)
    np.testing.assert_allclose(tx.update(g, (), margins=jnp.full(3, 1e4))[0], 2.0)
    np.testing.assert_allclose(tx.update(g, (), margins=jnp.zeros(3))[0], 1.0)


def test_the_value_normalises_to_the_gradient_of_the_logarithm():
    w, tx = jnp.array([0.5, -1.0]), optimizers.normalize_by_value(eps=0.1)
    value, grads = jax.value_and_grad(_loss)(w, ROWS)
    expected = jax.grad(lambda w: jnp.log(_loss(w, ROWS) + 0.1))(w)
    np.testing.assert_allclose(tx.update(grads, tx.init(w), value=value)[0], expected, rtol=1e-6)


def test_rejects_bad_arguments():
    with pytest.raises(ValueError, match=r"learning_rate must lie in \(0, inf\), got 0.0"):
        optimizers.normalized_lr_gd(0.0)
    for make in (
        lambda eps: optimizers.normalized_lr_gd(1.0, eps=eps),
        lambda eps: optimizers.normalize_by_mean_sigmoid(eps=eps),
        lambda eps: optimizers.normalize_by_value(eps=eps),
    ):
        with pytest.raises(ValueError, match=r"eps must lie in \[0, inf\), got -1.0"):
            make(-1.0)


def test_says_how_to_pass_margins():
    tx, w = optimizers.normalized_lr_gd(1.0), jnp.zeros(2)
    with pytest.raises(ValueError, match="normalize_by_mean_sigmoid needs margins="):
        tx.update(w, tx.init(w), w)
