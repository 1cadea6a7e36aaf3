"""A participant's batches: how they are drawn, and what is computed on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from gradax import federated
from gradax.federated.simulation._local import Batching, Local, Objective, take_rows
from tests.federated.simulation.problems import (
    EXAMPLES,
    FLAT,
    NUM_CLIENTS,
    PADDED,
    PARAMS,
    PARTS,
    SIZES,
    assert_close,
    assert_same_bits,
    loss_fn,
    simulate,
)

WIDTH = max(SIZES)


def plan(data=PADDED, batch_size=2, num_steps=None, num_epochs=None, replace=False):
    return Batching.plan(data, batch_size, num_steps, num_epochs, replace)


def draw(batching, count, seed=0):
    return np.asarray(batching.draw(jax.random.key(seed), jnp.array(count)))


# Drawing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_deals_out_the_own_examples_in_turn(count):
    handles = draw(plan(num_steps=6), count)
    assert handles.shape == (6, 2)
    dealt = handles.ravel()
    for start in range(0, 12 - count, count):  # every pass is the same permutation
        assert sorted(dealt[start : start + count]) == list(range(count))
        np.testing.assert_array_equal(dealt[start : start + count], dealt[:count])


def test_the_order_changes_with_the_key_and_is_uniform():
    batching = plan(num_steps=2)
    orders = jax.vmap(lambda key: batching.draw(key, jnp.array(3)))(
        jax.random.split(jax.random.key(0), 3000)
    )
    first_three = np.asarray(orders).reshape(3000, 4)[:, :3]
    kinds, counts = np.unique(first_three @ [9, 3, 1], return_counts=True)
    assert len(kinds) == 6
    np.testing.assert_allclose(counts / 3000, 1 / 6, atol=0.03)


def test_with_replacement_draws_are_independent():
    handles = draw(plan(num_steps=500, replace=True), 3).ravel()
    np.testing.assert_allclose(np.bincount(handles) / 1000, 1 / 3, atol=0.06)
    repeats = np.mean(handles[0::2] == handles[1::2])
    np.testing.assert_allclose(repeats, 1 / 3, atol=0.08)


@pytest.mark.parametrize(
    ("arguments", "steps", "of_each"),
    [
        ({"num_epochs": 1}, 2, [2, 1, 2, 2, 1, 2, 1, 2]),
        ({"num_epochs": 3}, 6, [6, 3, 5, 6, 2, 6, 3, 6]),
        ({"num_epochs": 1, "batch_size": 32}, 1, [1] * NUM_CLIENTS),
        ({"num_epochs": 2, "batch_size": 1}, 8, [2 * size for size in SIZES]),
        ({}, 2, [2, 1, 2, 2, 1, 2, 1, 2]),
        ({"num_steps": 5}, 5, None),
        ({"num_epochs": 4, "batch_size": None}, 4, None),
    ],
)
def test_the_number_of_steps(arguments, steps, of_each):
    batching = plan(**arguments)
    assert batching.num_steps == steps
    found = batching.steps_of(jnp.array(SIZES))
    assert (None if found is None else found.tolist()) == of_each


def test_even_clients_need_no_mask():
    even = federated.data.padded(np.arange(6.0), np.split(np.arange(6), 3))
    batching = plan(even, num_epochs=2)
    assert batching.even
    assert batching.steps_of(jnp.array(2)) is None


# Loss and gradient -----------------------------------------------------------------------


def local_of(client, data=PADDED, grad_fn=None, loss=loss_fn, **arguments):
    rows, _ = take_rows(data, None)
    pick = lambda x: x if data.offsets is not None else x[client]
    arrays = jax.tree.map(lambda x: jnp.asarray(pick(x)), rows.arrays)
    mine = rows._replace(arrays=arrays, start=rows.start[client], count=rows.count[client])
    objective = Objective.of(loss, grad_fn)
    return Local(objective, plan(data, **arguments), mine, jax.random.key(0))


def examples_of(client):
    return jax.tree.map(lambda leaf: leaf[PARTS[client]], EXAMPLES)


@pytest.mark.parametrize("data", [PADDED, FLAT], ids=["padded", "flat"])
@pytest.mark.parametrize("client", [0, 2, 4, NUM_CLIENTS - 1])
def test_without_batches_the_padding_does_not_count(client, data):
    local = local_of(client, data, batch_size=None, num_steps=1)
    value, gradient = jax.value_and_grad(loss_fn)(PARAMS, examples_of(client))
    np.testing.assert_allclose(local.value_fn(PARAMS), value, rtol=1e-6)
    assert_close(local.grad_fn(PARAMS), gradient)
    assert_close(local.grad_fn(PARAMS, batch=local.batches[0]), gradient)
    assert_close(local.full_grad_fn(PARAMS), gradient)


@pytest.mark.parametrize("data", [PADDED, FLAT], ids=["padded", "flat"])
def test_a_handle_is_a_batch(data):
    local = local_of(2, data, num_steps=3)
    for batch in local.batches:
        chosen = jax.tree.map(lambda leaf, at=batch: leaf[np.asarray(at)], examples_of(2))
        np.testing.assert_allclose(
            local.value_fn(PARAMS, None, batch=batch), loss_fn(PARAMS, chosen), rtol=1e-6
        )
    assert_close(local.grad_fn(PARAMS), local.grad_fn(PARAMS, batch=local.batches[0]), rtol=0)
    assert_close(local.full_grad_fn(PARAMS), jax.grad(loss_fn)(PARAMS, examples_of(2)))


def test_a_loss_may_have_more_to_say():
    with_aux = lambda params, batch: (loss_fn(params, batch), {"rows": batch["x"]})
    plain, aux = local_of(0, num_steps=1), local_of(0, loss=with_aux, num_steps=1)
    assert aux.value_fn(PARAMS) == plain.value_fn(PARAMS)
    assert_close(aux.grad_fn(PARAMS), plain.grad_fn(PARAMS), rtol=0)


def test_a_gradient_may_be_given():
    own = lambda params, batch: jax.tree.map(jnp.ones_like, params)
    local = local_of(0, grad_fn=own, num_steps=1)
    assert_close(local.grad_fn(PARAMS), jax.tree.map(np.ones_like, PARAMS), rtol=0)
    alone = local_of(0, loss=None, grad_fn=own, num_steps=1)
    assert "value_fn" not in alone.extras()
    with pytest.raises(ValueError, match="simulate without loss_fn needs value_fn="):
        alone.value_fn(PARAMS)


# In a simulation -------------------------------------------------------------------------


def test_the_layout_changes_no_bit():
    padded, flat = (
        simulate(federated.fedavg(0.1), data, num_steps=None, num_epochs=2, cohort=5)
        for data in (PADDED, FLAT)
    )
    assert_same_bits(padded.params, flat.params)
    assert padded.history.column("loss") == flat.history.column("loss")


def test_epochs_and_weights_are_each_clients_own():
    """Full batches of each client's own size, by hand."""
    result = simulate(
        federated.fedavg(0.1),
        rounds=1,
        batch_size=1,
        num_steps=None,
        num_epochs=1,
        replace=False,
        loss_fn=lambda params, batch: jnp.sum(params["w"]) + 0 * jnp.mean(batch["y"]),
    )
    # Every step moves each weight by -0.1: a client with n examples makes n steps.
    expected = -0.1 * np.average(SIZES, weights=SIZES)
    np.testing.assert_allclose(result.params["w"] - PARAMS["w"], expected, rtol=1e-5)


def test_a_loss_that_has_no_gradient_is_fine_if_one_is_given():
    def with_loop(params, batch):
        halve = lambda v: v / 2
        return lax.while_loop(lambda v: v > 1, halve, jnp.sum(params["w"] ** 2)) + 0 * batch["y"][0]

    towards_zero = lambda params, batch: params
    result = simulate(federated.fedavg(0.5), rounds=1, loss_fn=with_loop, grad_fn=towards_zero)
    assert_close(result.params, jax.tree.map(lambda x: x / 4, PARAMS))
    assert 0 < result.history.last("loss") <= 1
    alone = simulate(federated.fedavg(0.5), rounds=1, loss_fn=None, grad_fn=towards_zero)
    assert_close(alone.params, result.params, rtol=0)
    assert "loss" not in alone.history.columns


def test_one_full_step_with_everybody_is_gradient_descent():
    result = simulate(optax_sgd(), rounds=3, batch_size=None, num_steps=1)
    params = PARAMS
    for _ in range(3):
        gradient = jax.grad(loss_fn)(params, EXAMPLES)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    assert_close(result.params, params)


def optax_sgd():
    """The gradient itself is the message: no local training at all."""
    return federated.Algorithm(optax.scale(-1.0), federated.average(), optax.sgd(0.1))
