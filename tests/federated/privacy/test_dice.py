"""DiceSGD: the identities of error feedback. Recorded trajectories: tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import federated

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=12) * 5


def walk(tx, steps=30):
    """Parameters, mean gradients and state after some steps of least squares, in float64."""
    with jax.enable_x64(True):
        x, rows = jnp.ones(3), jnp.asarray(X)

        def step(carry, _):
            x, state = carry
            grads = (rows @ x - jnp.asarray(Y))[:, None] * rows
            mean = jnp.mean(grads, axis=0)
            updates, state = tx.update(mean, state, x, per_example_grads=grads)
            x = optax.apply_updates(x, updates)
            return (x, state), (x, mean)

        (_, state), (path, means) = jax.lax.scan(step, (x, tx.init(x)), length=steps)
        error = optax.tree_utils.tree_get(state, "error")
        return tuple(None if a is None else np.asarray(a) for a in (path, means, error))


def test_without_clipping_and_noise_it_is_sgd():
    path, _, error = walk(federated.dice_sgd(0.05, np.inf, np.inf, 0.0, key=0))
    expected, _, _ = walk(optax.with_extra_args_support(optax.sgd(0.05)))
    np.testing.assert_allclose(path, expected, rtol=1e-12)
    np.testing.assert_allclose(error, 0.0, atol=1e-13)


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_what_was_clipped_away_is_in_the_error(ratio):
    path, means, error = walk(federated.dice_sgd(0.05, 0.5, 0.5 * ratio, 0.0, key=0))
    np.testing.assert_allclose(path[-1], 1.0 - 0.05 * (means.sum(axis=0) - error), rtol=1e-12)
    assert np.linalg.norm(error) > 0.1


def test_reaches_the_optimum_that_clipping_misses():
    optimum = np.linalg.lstsq(X, Y, rcond=None)[0]
    gap = lambda tx: np.linalg.norm(walk(tx, 3000)[0][-1] - optimum)
    clipped = optax.chain(federated.private_gradient(1.0, 0.0, key=0), optax.sgd(0.05))
    assert gap(clipped) > 0.1
    assert gap(federated.dice_sgd(0.05, 1.0, 1.0, 0.0, key=0)) < 1e-4


def test_noise_stays_out_of_the_error():
    _, _, noisy = walk(federated.dice_sgd(0.05, 0.5, 0.5, 3.0, key=0), steps=1)
    _, _, quiet = walk(federated.dice_sgd(0.05, 0.5, 0.5, 0.0, key=0), steps=1)
    np.testing.assert_array_equal(noisy, quiet)


def test_stands_in_a_training_step_and_in_local_steps():
    rows = {"x": X.astype(np.float32), "y": Y.astype(np.float32)}
    loss_fn = lambda p, batch: jnp.mean((batch["x"] @ p - batch["y"]) ** 2) / 2
    tx, x = federated.dice_sgd(0.05, 0.5, 1.0, 0.1, key=0), jnp.ones(3)
    params, _, _ = gradax.make_step(loss_fn, tx)(x, tx.init(x), rows)
    clients = federated.data.padded(rows, [np.arange(12)])
    result = federated.simulate(
        federated.fedavg(client=tx), loss_fn, x, clients, 1, batch_size=None, num_steps=1
    )
    # The same but for the draw of noise, which belongs to the round.
    assert np.linalg.norm(np.asarray(result.params) - np.asarray(params)) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.5, 0.0, 0), "clip_error must be at least clip_gradient=1.0, got 0.5"),
        ((0.0, 0.5, 0.0, 0), "clip_gradient must lie"),
        ((1.0, 1.0, -1.0, 0), "noise_std must lie"),
        ((1.0, 1.0, 1.0, None), "key must be"),
    ],
)
def test_refuses(arguments, message):
    for make in (federated.dice_aggregate, lambda *a: federated.dice_sgd(0.1, *a)):
        with pytest.raises(ValueError, match=message):
            make(*arguments)


def test_the_noise_of_the_authors_code():
    # sqrt(3) times DP-SGD's where both norms are equal.
    assert federated.dice_noise_std(2.0, 0.5, 0.5, 10) == pytest.approx(2 * 0.5 * 3**0.5 / 10)
    assert federated.dice_noise_std(2.0, 0.5, 2.0, 10) == pytest.approx(2 * 0.5 * 3 / 10)
    with pytest.raises(ValueError, match="batch_size must lie"):
        federated.dice_noise_std(1.0, 1.0, 1.0, 0)
