"""Local training: what it computes, what it keeps, and what reaches the inner chain."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradax
from gradax import federated

X = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
TARGETS = jnp.arange(10.0).reshape(5, 2) / 4


def value_fn(params, *_, batch):
    return jnp.sum((params["w"] - batch) ** 2) / 2 + params["b"] ** 2


def grad_fn(params, *_, batch):
    return jax.grad(lambda p: value_fn(p, batch=batch))(params)


def run(tx, batches=TARGETS, state=None, params=X, **extras):
    """One round of local training, jitted."""
    state = tx.init(params) if state is None else state
    closures = {"grad_fn": grad_fn, **extras.pop("closures", {})}
    update = jax.jit(
        lambda s, b, extras: tx.update(None, s, params, batches=b, **closures, **extras)
    )
    return update(state, batches, extras)


def assert_close(found, expected, rtol=1e-5):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("inner", [optax.sgd(0.1), optax.adam(0.1), optax.sgd(0.1, momentum=0.9)])
def test_is_a_loop_over_batches(inner):
    params, state = X, inner.init(X)
    for batch in TARGETS:
        updates, state = inner.update(grad_fn(params, batch=batch), state, params)
        params = optax.apply_updates(params, updates)
    delta, kept = run(federated.local_steps(inner))
    assert_close(delta, jax.tree.map(jnp.subtract, params, X))
    assert kept == optax.EmptyState()


def test_ignores_the_incoming_updates():
    tx = federated.local_steps(optax.sgd(0.1))
    extras = {"grad_fn": grad_fn, "batches": TARGETS}
    ours, theirs = (
        tx.update(u, tx.init(X), X, **extras)[0] for u in (None, jax.tree.map(jnp.ones_like, X))
    )
    assert_close(ours, theirs, rtol=0)


def test_a_kept_state_goes_on_where_it_stopped_and_a_fresh_one_does_not():
    inner = optax.sgd(0.1, momentum=0.9)
    kept, fresh = federated.local_steps(inner, reset=False), federated.local_steps(inner)
    first, state = run(kept, TARGETS[:1])
    assert isinstance(state, federated.LocalStepsState)
    here = optax.apply_updates(X, first)
    second, _ = run(kept, TARGETS[1:2], state, here)
    whole, _ = run(fresh, TARGETS[:2])
    assert_close(jax.tree.map(jnp.add, first, second), whole)
    restarted, _ = run(fresh, TARGETS[1:2], params=here)
    assert not np.allclose(second["w"], restarted["w"])


class Counted(NamedTuple):
    steps: jax.Array
    total: optax.Updates


def counting():
    """Adds up the gradients it sees."""

    def update(updates, state, params=None):
        del params
        return updates, Counted(state.steps + 1, jax.tree.map(jnp.add, state.total, updates))

    init = lambda params: Counted(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))
    return optax.GradientTransformation(init, update)


def test_emits_fields_of_the_last_inner_state():
    inner = optax.chain(counting(), optax.sgd(0.1))
    result, state = run(federated.local_steps(inner, emit=("steps", "total")))
    assert isinstance(result, federated.LocalResult)
    assert result.fields["steps"] == 5
    assert_close(jax.tree.map(lambda x: -0.1 * x, result.fields["total"]), result.displacement)
    assert state == optax.EmptyState()


def test_a_field_that_is_not_there_cannot_be_emitted():
    tx = federated.local_steps(optax.sgd(0.1), emit=("trace",))
    with pytest.raises(ValueError, match=r"emit names fields that no inner state has: \['trace'\]"):
        run(tx)


def test_steps_beyond_num_steps_change_nothing():
    inner = optax.chain(counting(), optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.adam(0.1))
    tx = federated.local_steps(inner, emit=("steps", "total"))
    for steps in (0, 2, 5):
        found, _ = run(tx, num_steps=jnp.array(steps), key=jax.random.key(1))
        assert found.fields["steps"] == steps
        if steps:
            expected, _ = run(tx, TARGETS[:steps], key=jax.random.key(1))
            assert_close(found.displacement, expected.displacement)
        else:
            assert not found.displacement["w"].any()


def test_the_transformation_may_depend_on_the_round():
    schedule = lambda round: 0.1 * 0.5**round
    tx = federated.local_steps(lambda round: optax.sgd(schedule(round)))
    for round in (0, 3):
        found, _ = run(tx, round=jnp.array(round))
        expected, _ = run(federated.local_steps(optax.sgd(schedule(round))))
        assert_close(found, expected)
    momentum = lambda round: optax.sgd(schedule(round), momentum=0.5)
    found, state = run(federated.local_steps(momentum, reset=False), round=jnp.array(2))
    assert_close(found, run(federated.local_steps(momentum(2)))[0])
    assert_close(
        state.inner[0].trace, run(federated.local_steps(momentum(2), reset=False))[1].inner[0].trace
    )


class Seen(NamedTuple):
    seen: dict


def spy(names):
    """Keeps the last value of the extras it is asked for, and acts as SGD."""

    def look(params, extras):
        values = {name: extras[name] for name in names if name not in ("value_fn", "grad_fn")}
        if "value_fn" in names:
            values["value_fn"] = extras["value_fn"](params)
        if "grad_fn" in names:
            values["grad_fn"] = extras["grad_fn"](params, None)  # as optax's SAM calls it
        return values

    def init(params):
        zeros = optax.tree.zeros_like(params)
        scalars = {"local_step": jnp.zeros([], jnp.int32), "value": jnp.zeros([])}
        scalars |= {"value_fn": jnp.zeros([]), "round": jnp.zeros([], jnp.int32)}
        trees = dict.fromkeys(("anchor", "grad", "grad_fn", "correction", "told"), zeros)
        return Seen({name: {**scalars, **trees}[name] for name in names})

    def update(updates, state, params=None, **extras):
        del state
        step = jax.tree.map(lambda u: -0.1 * u, updates)
        return step, Seen(look(params, extras))

    return optax.GradientTransformationExtraArgs(init, update)


def test_what_reaches_the_inner_chain():
    names = ("anchor", "local_step", "grad", "grad_fn", "value", "value_fn", "round", "told")
    tx = federated.local_steps(spy(names), emit=("seen",))
    extras = {"round": jnp.array(7), "told": jax.tree.map(jnp.ones_like, X)}
    result, _ = run(tx, closures={"value_fn": value_fn}, **extras)
    seen = result.fields["seen"]
    before, _ = run(federated.local_steps(optax.sgd(0.1)), TARGETS[:4])
    here = optax.apply_updates(X, before)
    assert_close(seen["anchor"], X, rtol=0)
    assert seen["local_step"] == 4
    assert seen["round"] == 7
    assert_close(seen["told"], extras["told"], rtol=0)
    assert_close(seen["grad"], grad_fn(here, batch=TARGETS[4]))
    assert_close(seen["grad_fn"], seen["grad"], rtol=0)
    np.testing.assert_allclose(seen["value"], value_fn(here, batch=TARGETS[4]), rtol=1e-5)
    assert seen["value_fn"] == seen["value"]


def test_batches_may_be_a_tree():
    batches = {"half": TARGETS / 2, "rest": TARGETS / 2}
    whole = lambda params, *_, batch: grad_fn(params, batch=batch["half"] + batch["rest"])
    found, _ = run(federated.local_steps(optax.sgd(0.1)), batches, closures={"grad_fn": whole})
    assert_close(found, run(federated.local_steps(optax.sgd(0.1)))[0])


def test_unrolling_changes_nothing():
    rolled, _ = run(federated.local_steps(optax.adam(0.1)))
    unrolled, _ = run(federated.local_steps(optax.adam(0.1), unroll=True))
    assert_close(unrolled, rolled)


def noisy(key_field):
    """Noise whose key lives in a field of a given name."""
    State = NamedTuple("State", [(key_field, jax.Array)])

    def update(updates, state, params=None):
        del params
        new, use = jax.random.split(state[0])
        noise = jax.tree.map(lambda u: u + jax.random.normal(use, u.shape, u.dtype), updates)
        return noise, State(new)

    return optax.GradientTransformation(lambda params: State(jax.random.key(0)), update)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("field", ["key", "shared_key"])
def test_own_noise_differs_between_rounds_and_clients_and_common_noise_only_between_rounds(
    field, reset
):
    tx = federated.local_steps(optax.chain(noisy(field), optax.sgd(0.1)), reset=reset)
    ids = jnp.arange(3)

    @jax.jit
    def round(states, number):
        key = lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(5), number), i)
        step = lambda i, state: tx.update(
            None, state, X, batches=TARGETS, grad_fn=grad_fn, key=key(i), round=number
        )
        return jax.vmap(step)(ids, states)

    states, drawn = federated.init_participants(tx, X, ids), []
    for number in range(2):
        delta, states = round(states, jnp.array(number))
        drawn.append(np.asarray(delta["w"][:, 0]))
    clients = [len(np.unique(of_round)) for of_round in drawn]
    assert clients == ([1, 1] if field == "shared_key" else [3, 3])
    assert not np.isin(drawn[0], drawn[1]).any()


def test_correction_and_proximal_act_on_the_direction():
    correction = jax.tree.map(lambda x: 0.3 * jnp.ones_like(x), X)
    inner = optax.chain(federated.add_proximal(0.5), federated.add_correction(), optax.sgd(0.1))
    delta, _ = run(federated.local_steps(inner), correction=correction)
    y = X
    for batch in TARGETS:
        direction = jax.tree.map(
            lambda g, y, x, c: g + 0.5 * (y - x) + c, grad_fn(y, batch=batch), y, X, correction
        )
        y = jax.tree.map(lambda y, d: y - 0.1 * d, y, direction)
    assert_close(delta, jax.tree.map(jnp.subtract, y, X))


def test_the_first_step_does_not_feel_the_anchor():
    alone, pulled = (
        federated.local_steps(optax.chain(*members, optax.sgd(0.1)))
        for members in ((), (federated.add_proximal(9.0),))
    )
    assert_close(run(alone, TARGETS[:1])[0], run(pulled, TARGETS[:1])[0], rtol=0)


def test_terms_have_the_dtype_of_the_updates():
    x = jnp.ones(2, jnp.bfloat16)
    pulled, _ = federated.add_proximal(0.1).update(x, optax.EmptyState(), x, anchor=0 * x)
    corrected, _ = federated.add_correction().update(
        x, optax.EmptyState(), correction=jnp.ones(2, jnp.float32)
    )
    assert pulled.dtype == corrected.dtype == jnp.bfloat16


MISSING = {
    "batches": (lambda tx: tx.update(None, tx.init(X), X, grad_fn=grad_fn), "batches"),
    "grad_fn": (lambda tx: tx.update(None, tx.init(X), X, batches=TARGETS), "grad_fn"),
}


@pytest.mark.parametrize(("call", "extra"), MISSING.values(), ids=MISSING)
def test_local_steps_names_what_it_misses(call, extra):
    with pytest.raises(gradax.MissingExtraError, match=f"local_steps needs {extra}="):
        call(federated.local_steps(optax.sgd(0.1)))


def test_local_steps_needs_params_and_a_step():
    tx = federated.local_steps(optax.sgd(0.1))
    extras = {"grad_fn": grad_fn, "batches": TARGETS}
    with pytest.raises(ValueError, match="local_steps needs params"):
        tx.update(None, tx.init(X), **extras)
    for batches in (TARGETS[:0], jnp.array(1.0), {}):
        with pytest.raises(ValueError, match="batches must hold at least one local step, got none"):
            tx.update(None, tx.init(X), X, **{**extras, "batches": batches})


def test_members_name_what_they_miss():
    with pytest.raises(gradax.MissingExtraError, match="add_proximal needs anchor="):
        federated.add_proximal(0.1).update(X, optax.EmptyState(), X)
    with pytest.raises(ValueError, match="add_proximal needs params"):
        federated.add_proximal(0.1).update(X, optax.EmptyState(), anchor=X)
    with pytest.raises(gradax.MissingExtraError, match="add_correction needs correction="):
        federated.add_correction().update(X, optax.EmptyState())
    with pytest.raises(ValueError, match=r"add_proximal: prox_weight must lie in \[0, inf\)"):
        federated.add_proximal(-0.1)
