"""The mean of coded gradients inside of a training step."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.placements import PLACEMENTS

coding = federated.coding


@functools.cache
def mean_of(n, s, on_failure="skip"):
    """A jitted function of the parts' gradients and of who is on time."""
    code = coding.cyclic_code(n, s)
    tx = federated.coded_mean(code, "workers", on_failure)

    def worker(parts, i, active):
        message = jnp.where(active, coding.encode(parts, code, i), jnp.nan)
        return tx.update(message, tx.init(message), active=active)

    workers = jax.vmap(worker, axis_name="workers")
    own = coding.support(code)
    return jax.jit(jax.vmap(lambda x, on_time: workers(x[own], jnp.arange(n), on_time), (None, 0)))


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_is_the_mean_of_all_parts_in_every_placement(placement):
    n = placement.size
    code = coding.cyclic_code(n, 2)
    tx = federated.coded_mean(code, placement.axis_name)
    parts = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)

    def worker(own, i, active):
        message = {"w": coding.encode(own, code, i)}
        return tx.update(message, tx.init(message), active=active)

    on_time = ~np.isin(np.arange(n), [1, 2])
    means, state = placement.run(worker, parts[coding.support(code)], np.arange(n), on_time)
    np.testing.assert_allclose(means["w"], [parts.mean(axis=0)] * n, rtol=1e-4, atol=1e-4)
    assert state.decoded.all()


@pytest.mark.parametrize(("n", "s"), [(4, 1), (6, 2), (10, 3)])
def test_every_set_of_stragglers_in_float32(n, s):
    sets = [list(late) for late in itertools.combinations(range(n), s)]
    on_time = np.stack([~np.isin(np.arange(n), late) for late in [[], *sets]])
    parts = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32)
    means, state = mean_of(n, s)(parts, on_time)
    assert state.decoded.all()
    expected = np.broadcast_to(parts.mean(axis=0), means.shape)
    np.testing.assert_allclose(means, expected, atol=2e-4)


@pytest.mark.parametrize(("on_failure", "value"), [("skip", 0.0), ("nan", np.nan)])
def test_too_many_stragglers_are_told(on_failure, value):
    on_time = np.array([[True, False, False, True], [False] * 4])
    means, state = mean_of(4, 1, on_failure)(np.ones((4, 2), np.float32), on_time)
    np.testing.assert_array_equal(means, np.full((2, 4, 2), value))
    assert not state.decoded.any()


def test_equals_uncoded_training_through_simulate():
    """Workers hold two parts each; two of six are absent in every round."""
    n, rounds = 6, 8
    code = coding.repetition_code(n, 2)
    goals = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)

    def coded_gradients():
        def update(updates, state, params=None, *, grad_fn, batches, client_id, **extra):
            per_part = jax.vmap(lambda batch: grad_fn(params, batch=batch))(batches)
            return optax.tree.scale(-1.0, coding.encode(per_part, code, client_id)), state

        return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)

    algorithm = federated.Algorithm(
        coded_gradients(), federated.coded_mean(code, "clients"), optax.sgd(0.5)
    )
    # Batches of one example in the order of the worker's row, which is that of the support.
    data = federated.data.padded(goals, list(coding.support(code)))
    rng = np.random.default_rng(1)
    ids = np.stack([np.sort(rng.choice(n, n - 2, replace=False)) for _ in range(rounds)])
    loss_fn = lambda x, batch: jnp.mean(jnp.sum((x - batch) ** 2, axis=-1)) / 2
    result = federated.simulate(
        algorithm,
        loss_fn,
        jnp.zeros(3),
        data,
        rounds,
        federated.scheduled_cohort(n, ids.astype(np.int32)),
        batch_size=1,
        num_steps=3,
    )
    assert result.state.aggregate.decoded
    expected = goals.mean(axis=0) * (1 - 0.5**rounds)
    np.testing.assert_allclose(result.params, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"code": np.ones(3)}, r"coded_mean: code must be a matrix"),
        ({"code": [[np.inf]]}, r"coded_mean: code must be a matrix"),
        ({"on_failure": "raise"}, r"on_failure must be one of 'skip', 'nan', got 'raise'"),
        ({"tolerance": 0.0}, r"tolerance must lie in \(0, inf\), got 0.0"),
        ({"axis_name": ()}, r"axis_name must be a string or a tuple of them"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        federated.coded_mean(**{"code": np.eye(2), "axis_name": "workers"} | arguments)


def test_the_axis_must_have_the_size_of_the_code():
    tx = federated.coded_mean(np.eye(3), "workers")
    update = lambda u: tx.update(u, tx.init(u))[0]
    with pytest.raises(ValueError, match="code is one of 3 workers, the axis has 2"):
        jax.vmap(update, axis_name="workers")(jnp.ones(2))
