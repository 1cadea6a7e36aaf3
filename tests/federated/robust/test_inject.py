"""Injected attacks: the last participants lie, the others are left alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.nodes import apply_to_all
from tests.federated.placements import PLACEMENTS

attacks = federated.attacks


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
@pytest.mark.parametrize("on", ["updates", "models"])
def test_equals_numpy_in_every_placement(placement, on):
    n, rng = placement.size, np.random.default_rng(0)
    tx = federated.inject_attack(attacks.a_little_is_enough, 1, placement.axis_name, on=on)
    draw = lambda: {"w": rng.normal(size=(n, 2)).astype(np.float32), "b": rng.normal(size=n)}
    params, updates = draw(), draw()
    params["b"], updates["b"] = (x["b"].astype(np.float32) for x in (params, updates))
    sent = placement.run(lambda x, u: tx.update(u, tx.init(x), x)[0], params, updates)
    for name, x in params.items():
        base = x if on == "models" else 0 * x
        message = (base + updates[name])[:-1]
        lie = message.mean(axis=0) + 1.5 * message.std(axis=0, ddof=1) - base[-1]
        expected = np.concatenate([updates[name][:-1], lie[None]])
        np.testing.assert_allclose(sent[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_all_attackers_send_the_same_draw_and_then_another(placement):
    n = placement.size
    tx = federated.inject_attack(attacks.gaussian, 2, placement.axis_name, key=5)

    def twice(update):
        state = tx.init(update)
        first, state = tx.update(update, state)
        return first, tx.update(update, state)[0]

    first, second = placement.run(twice, jnp.ones((n, 3)))
    for sent in (first, second):
        np.testing.assert_array_equal(sent[:-2], 1.0)
        np.testing.assert_array_equal(sent[-2], sent[-1])
    assert (first[-1] != second[-1]).all()


remember = attacks.StatefulAttack(
    init=lambda message: optax.tree.zeros_like(message),
    update=lambda honest, last: (last, jax.tree.map(lambda rows: rows.mean(axis=0), honest)),
)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
def test_what_an_attack_remembers_is_common(placement):
    """It sends the mean of the step before; nodes with a hook of their own hear the same."""
    n = placement.size
    injected = federated.inject_attack(remember, 1, placement.axis_name, on="models")
    mix = federated.nearest_neighbor_average(1, placement.axis_name)
    hooked = federated.nearest_neighbor_average(1, placement.axis_name, attack=remember)

    def twice(update, active):
        found = []
        for tx in (injected, optax.chain(injected, mix), hooked):
            x, state = jnp.ones_like(update), tx.init(update)
            # Who was absent does not remember, and must be told by those who do.
            _, new = tx.update(update, state, x)
            state = jax.tree.map(lambda new, old: jnp.where(active, new, old), new, state)
            found.append(tx.update(2 * update, state, x, active=active)[0])
        return found

    updates = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    sent, chained, hooked_too = placement.run(twice, updates, np.arange(n) != 0)
    np.testing.assert_array_equal(sent[:-1], 2 * updates[:-1])
    np.testing.assert_allclose(sent[-1], updates[:-1].mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(chained[1:-1], hooked_too[1:-1], rtol=1e-4, atol=1e-6)


def test_under_vmap_the_noise_is_drawn_once():
    tx = federated.inject_attack(attacks.gaussian, 1, "nodes", key=0)
    updates = jnp.zeros((4, 1000))
    state = jax.vmap(tx.init)(updates)
    program = str(jax.make_jaxpr(jax.vmap(tx.update, axis_name="nodes"))(updates, state))
    assert "u32[1000]" in program
    assert "u32[4,1000]" not in program


def test_under_vmap_a_factor_is_searched_once():
    search = attacks.optimized(attacks.inner_product, federated.rules.median, 1, evals=3)
    tx = federated.inject_attack(search, 1, "nodes")
    updates = jnp.zeros((4, 1000))
    state = jax.vmap(tx.init)(updates)
    program = str(jax.make_jaxpr(jax.vmap(tx.update, axis_name="nodes"))(updates, state))
    assert "cond[" in program  # not computed in vain between two searches
    assert "f32[4,4,1000]" not in program


def test_nobody_lies():
    tx = federated.inject_attack(attacks.sign_flip, 0, "nodes")
    updates = jnp.arange(3.0)
    sent, _ = apply_to_all(tx, updates, jax.vmap(tx.init)(updates), None)
    np.testing.assert_array_equal(sent, updates)


def test_attackers_do_not_see_each_other():
    attack = lambda honest: honest.sum(axis=0)
    tx = federated.inject_attack(attack, 2, "nodes")
    updates = jnp.array([1.0, 2.0, jnp.nan, 100.0])
    sent, _ = apply_to_all(tx, updates, jax.vmap(tx.init)(updates), None)
    assert sent.tolist() == [1.0, 2.0, 3.0, 3.0]


def test_keeps_dtypes_and_structure():
    tx = federated.inject_attack(attacks.sign_flip, 1, "nodes", on="models")
    params = {"h": jnp.ones((3, 2), jnp.bfloat16), "none": None, "empty": jnp.zeros((3, 0))}
    sent, _ = apply_to_all(tx, params, jax.vmap(tx.init)(params), params)
    assert sent["h"].dtype == jnp.bfloat16
    assert sent["none"] is None
    np.testing.assert_allclose(sent["h"][-1].astype(jnp.float32), -3.0)


def test_stands_before_an_average():
    tx = optax.chain(
        federated.inject_attack(attacks.inner_product, 1, "nodes"),
        federated.nearest_neighbor_average(1, "nodes"),
    )
    x = jnp.array([1.0, 1.0, 1.0, 1.0])
    moved, _ = apply_to_all(tx, jnp.ones(4), jax.vmap(tx.init)(x), x)
    np.testing.assert_allclose(moved[:3], 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attack": "flip"}, r"attack must be callable or a StatefulAttack, got 'flip'"),
        ({"f": -1}, r"inject_attack: f must be an integer >= 0, got -1"),
        ({"f": 0.5}, r"inject_attack: f must be an integer >= 0, got 0.5"),
        ({"on": "grads"}, r"on must be one of 'updates', 'models', got 'grads'"),
        ({"axis_name": 3}, r"axis_name must be a string or a tuple of them, got 3"),
        ({"attack": attacks.gaussian}, r"inject_attack: key must be a JAX key or an integer"),
        (
            {"attack": functools.partial(attacks.gaussian, sigma=0.1)},
            r"inject_attack: key must be a JAX key or an integer",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    good = {"attack": attacks.sign_flip, "f": 1, "axis_name": "nodes"}
    with pytest.raises(ValueError, match=message):
        federated.inject_attack(**good | arguments)


@pytest.mark.parametrize("f", [3, 7])
def test_somebody_must_be_honest(f):
    tx, x = federated.inject_attack(attacks.sign_flip, f, "nodes"), jnp.zeros(3)
    with pytest.raises(ValueError, match=rf"f must be below the 3 participants, got {f}"):
        apply_to_all(tx, x, jax.vmap(tx.init)(x), x)


def test_models_need_params_and_the_axis():
    tx = federated.inject_attack(attacks.sign_flip, 1, "nodes", on="models")
    x = jnp.zeros(())
    with pytest.raises(ValueError, match="inject_attack needs params"):
        tx.update(x, tx.init(x))
    with pytest.raises(ValueError, match="axis_name 'nodes' is not bound"):
        tx.update(x, tx.init(x), x)
