"""What all monitors share: nothing changes, records come on a cadence, nothing else is computed."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import catalogue, optimizers

MONITORS = [
    entry
    for entry in catalogue.entries("optimizers", frozenset({"diagnostic"}))
    if entry.room == "monitors"
]


class SeenState(NamedTuple):
    count: jax.Array
    seen: jax.Array
    tree: optax.Params


def _blank(params):
    return {"tree": jax.tree.map(jnp.zeros_like, params)}


def _seen(updates, state, params, **extra_args):
    return {"seen": optax.tree.sum(updates), "tree": updates}


def _monitor(every=1, measure=_seen):
    return optimizers.make_monitor("monitor_seen", SeenState, measure, _blank, every=every)


def _extras(grads, number):
    return {
        "grad": jax.tree.map(jnp.ones_like, grads),
        "margins": 1.0 + number * jnp.arange(1.0, 3.0),
        "grad_fn": lambda params: jax.tree.map(jnp.sin, params),
        "per_example_grads": jax.tree.map(lambda g: jnp.stack([g, g - 1 - number**2]), grads),
    }


@pytest.mark.parametrize("entry", MONITORS, ids=lambda entry: entry.name)
def test_hands_on_the_very_updates_and_records_on_its_cadence(entry):
    tx = entry.make(every=3)
    weights = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    handed_on = []

    def step(state, number):
        grads = jax.tree.map(lambda w: (1 + number) * w**2, weights)
        updates, state = tx.update(grads, state, weights, **_extras(grads, number))
        handed_on.append(all(map(operator.is_, jax.tree.leaves(updates), jax.tree.leaves(grads))))
        return state, state._replace(count=None)

    start = tx.init(weights)
    assert all(np.all(np.isnan(value)) for value in jax.tree.leaves(start[1:]))
    end, records = jax.lax.scan(step, start, jnp.arange(7.0))
    assert handed_on == [True]
    assert end.count == 7
    rows = np.concatenate([np.reshape(leaf, (7, -1)) for leaf in jax.tree.leaves(records)], axis=1)
    assert not np.any(np.isnan(rows))
    changes = np.any(rows[1:] != rows[:-1], axis=1)
    np.testing.assert_array_equal(changes, [False, False, True, False, False, True])


def test_records_the_first_update_and_every_third_after_it():
    tx = _monitor(every=3)
    steps = jnp.arange(1.0, 9.0)
    body = lambda state, u: (tx.update(u, state)[1],) * 2
    start = tx.init(jnp.zeros([]))
    assert np.isnan(start.seen)
    last, states = jax.lax.scan(body, start, steps)
    np.testing.assert_array_equal(states.seen, [1, 1, 1, 4, 4, 4, 7, 7])
    np.testing.assert_array_equal(states.tree, [1, 1, 1, 4, 4, 4, 7, 7])
    assert last.count == 8


def test_values_that_are_not_measured_stay():
    tx = _monitor(measure=lambda updates, state, params, **extra_args: {"seen": jnp.ones([])})
    _, state = tx.update(jnp.array(3.0), tx.init(jnp.zeros([])))
    assert (state.seen, state.tree) == (1, 0)


def test_branches_only_where_it_skips_updates():
    jaxpr = lambda every: str(jax.make_jaxpr(_monitor(every).update)(1.0, _monitor().init(1.0)))
    assert "cond[" not in jaxpr(1)
    assert jaxpr(2).count("cond[") == 1


@pytest.mark.parametrize(
    ("low", "wide"), [("bfloat16", "float32"), ("float64", "float64"), ("complex128", "float64")]
)
def test_records_in_the_widest_real_dtype(low, wide):
    with jax.enable_x64(True):
        tx = _monitor(measure=lambda updates, state, params: {"seen": 1})
        params = {"a": jnp.zeros(2, low), "b": jnp.zeros(2, "float32"), "k": jnp.zeros(2, "int32")}
        _, state = tx.update(params, tx.init(params))
        assert state.seen.dtype == wide
        assert not jnp.asarray(state.seen).weak_type


def test_the_shape_of_a_value_is_fixed():
    tx = _monitor(measure=lambda updates, state, params: {"seen": updates})
    with pytest.raises(
        ValueError, match=r"monitor_seen: seen must have the shape \(\).*got \(2,\)"
    ):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.parametrize("entry", MONITORS, ids=lambda entry: entry.name)
@pytest.mark.parametrize("every", [0, -1, 2.0, True])
def test_rejects_a_cadence_that_is_no_positive_integer(entry, every):
    with pytest.raises(ValueError, match=rf"{entry.name}: every must be an integer >= 1, got"):
        entry.make(every=every)


def test_an_extra_that_is_missing_on_a_cadence_is_taken_from_the_aux_of_the_loss():
    def measure(updates, state, params, *, margins=None, **extra_args):
        if margins is None:
            raise gradax.MissingExtraError("monitor_seen", "margins")
        return {"seen": jnp.min(margins)}

    def loss_fn(w, batch):
        margins = batch @ w
        return jnp.mean(jax.nn.softplus(-margins)), {"margins": margins}

    tx = optax.chain(optax.sgd(0.1), _monitor(every=2, measure=measure))
    w = jnp.array([1.0, 2.0])
    _, state, _ = gradax.make_step(loss_fn, tx)(w, tx.init(w), jnp.array([[3.0, 0.0], [0.0, 1.0]]))
    assert optax.tree.get(state, "seen") == 2
    with pytest.raises(gradax.MissingExtraError, match="margins"):
        tx.update(w, tx.init(w), w)


# The calls of the loss are counted while the compiled program runs -------------------------


def _calls(tx, num_steps=10):
    """Evaluations of the loss of a batch of two examples; each step makes one for its gradient."""
    calls = []

    def loss_fn(w, batch):
        jax.debug.callback(lambda rows: calls.append(len(rows)), batch)
        return jnp.mean((batch @ w) ** 2)

    step, w = gradax.make_step(loss_fn, tx), jnp.ones(2)
    body = lambda carry, _: (step(*carry, jnp.eye(2))[:2], None)
    jax.block_until_ready(jax.lax.scan(body, (w, tx.init(w)), length=num_steps))
    jax.effects_barrier()
    return sum(calls) / 2


@pytest.mark.parametrize(
    ("monitor", "calls"),
    [
        (optimizers.monitor_update_ratio(), 10),
        (optimizers.monitor_effective_learning_rate(), 10),
        (optimizers.monitor_gradient_direction(decay=0.9), 10),
        (optimizers.monitor_directional_sharpness(), 20),
        (optimizers.monitor_directional_sharpness(every=5), 12),
        (optimizers.monitor_gradient_direction(), 20),
        (optimizers.monitor_gradient_direction(every=5), 12),
    ],
)
def test_extra_gradients_are_computed_on_records_only(monitor, calls):
    assert _calls(optax.chain(optax.sgd(0.1), monitor)) == calls
