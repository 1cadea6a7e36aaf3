"""Nearest-neighbour averaging: placements, selection, faults, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from tests.federated.nodes import apply_to_all
from tests.federated.placements import PLACEMENTS

attacks = federated.attacks


def mix(rows, f, **arguments):
    """What every node has after averaging; ``rows`` is a stacked tree of models."""
    tx = federated.nearest_neighbor_average(f, "nodes", **arguments)
    zeros = jax.tree.map(jnp.zeros_like, rows)
    updates, _ = apply_to_all(tx, zeros, jax.vmap(tx.init)(rows), rows)
    return jax.tree.map(jnp.add, rows, updates)


def reference(flat, count):
    """The mean of the ``count`` rows nearest to each row, NumPy, float64."""
    distances = ((flat[:, None] - flat[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distances, -1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return flat[order].mean(axis=1)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)
@pytest.mark.parametrize("attack", [None, attacks.a_little_is_enough], ids=["honest", "alie"])
def test_equals_numpy_in_every_placement(placement, attack):
    n, rng = placement.size, np.random.default_rng(0)
    tx = federated.nearest_neighbor_average(1, placement.axis_name, attack=attack)
    params, updates = (
        {
            "w": rng.normal(size=(n, 2, 2)).astype(np.float32),
            "b": rng.normal(size=n).astype(np.float32),
            "none": np.zeros((n, 0), np.float32),
            "steps": np.arange(n, dtype=np.int32),
        }
        for _ in range(2)
    )
    moved = placement.run(lambda x, u: tx.update(u, tx.init(x), x)[0], params, updates)
    half = np.concatenate([(params[k] + updates[k]).reshape(n, -1) for k in ("w", "b")], axis=1)
    if attack is not None:
        half[-1] = half[:-1].mean(axis=0) + 1.5 * half[:-1].std(axis=0, ddof=1)
    expected = reference(half, n - 1)
    honest = n if attack is None else n - 1
    actual = np.concatenate([(params[k] + moved[k]).reshape(n, -1) for k in ("w", "b")], axis=1)
    np.testing.assert_allclose(actual[:honest], expected[:honest], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moved["steps"], updates["steps"])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_selects_the_nearest_over_the_whole_tree(seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        flat = jnp.asarray(rng.normal(size=(9, 7)))
        tree = {"a": flat[:, :4].reshape(9, 2, 2), "b": (flat[:, 4:6], flat[:, 6])}
        mixed = mix(tree, 2)
        actual = np.concatenate([leaf.reshape(9, -1) for leaf in jax.tree.leaves(mixed)], axis=1)
        np.testing.assert_allclose(actual, reference(np.asarray(flat), 7), rtol=1e-12)


def test_the_worked_example():
    mixed = mix(jnp.array([0.0, 1.0, 2.0, 10.0]), 1)
    np.testing.assert_allclose(mixed[:3], 1.0)
    np.testing.assert_allclose(mixed[3], 13 / 3, rtol=1e-6)
    rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [10.0, 10.0]])
    np.testing.assert_allclose(mix(rows, 1)[0], [1.0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(mix(rows, 1)[3], [13 / 3, 11 / 3], rtol=1e-6)


def test_without_faults_it_is_the_mean():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    expected = jnp.broadcast_to(rows.mean(axis=0), rows.shape)
    np.testing.assert_allclose(mix(rows, 0), expected, rtol=1e-5, atol=1e-7)


def test_equal_models_stay_and_a_node_keeps_itself():
    np.testing.assert_allclose(mix(jnp.full((5, 2), 0.3), 2), 0.3, rtol=1e-6)
    # Only the node itself is averaged: n - f responses, of which f are dropped again.
    rows = jnp.array([0.0, 5.0, 5.0])
    np.testing.assert_allclose(mix(rows, 1, num_responses=2, key=0), rows)


def test_ties_go_to_the_node_itself_and_then_to_the_lower_number():
    rows = jnp.array([-1.0, 1.0, 0.0])
    np.testing.assert_allclose(mix(rows, 1)[2], -0.5)


def test_permuting_the_nodes_permutes_the_result():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)
    order = np.random.default_rng(1).permutation(7)
    np.testing.assert_allclose(mix(rows[order], 2), mix(rows, 2)[order], rtol=1e-5, atol=1e-6)


FAULTS = {
    "nan": jnp.nan,
    "inf": jnp.inf,
    "minus_inf": -jnp.inf,
    "largest": 3e38,
    "huge": 1e12,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("whole", [True, False], ids=["whole_model", "one_coordinate"])
def test_faulty_models_are_never_averaged(fault, whole):
    rows = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    honest = rows[:9].copy()
    rows[9:, slice(None) if whole else 1] = fault
    mixed = mix(jnp.asarray(rows), 2)[:9]
    np.testing.assert_allclose(mixed, jnp.broadcast_to(honest.mean(axis=0), (9, 3)), atol=1e-5)


def test_faulty_models_are_never_averaged_on_devices_either():
    rows = jnp.array([1.0, 2.0, 3.0, jnp.nan])
    tx = federated.nearest_neighbor_average(1, "nodes")
    node = lambda x: tx.update(jnp.zeros_like(x), tx.init(x), x)[0]
    np.testing.assert_allclose(rows[:3] + jax.pmap(node, axis_name="nodes")(rows)[:3], 2.0)


def test_with_more_faults_than_allowed_the_finite_models_are_averaged():
    rows = jnp.array([1.0, 3.0, jnp.nan, jnp.nan, jnp.inf])
    np.testing.assert_allclose(mix(rows, 1)[:2], 2.0)


def test_a_node_that_is_not_finite_keeps_its_model():
    assert jnp.isnan(mix(jnp.array([1.0, 2.0, 3.0, jnp.nan]), 1)[3])


@pytest.mark.parametrize("far", [-1e4, 1e15], ids=["far", "farther"])
def test_close_models_far_from_zero_are_told_apart(far):
    # Products of the models themselves would lose these distances to rounding.
    offsets = np.array([0.0, 1.0, 2.1, 3.3, 4.6, 6.0, 7.5], np.float32) * 1e-4
    near = jnp.float32(10.0) + jnp.asarray(offsets)[:, None] * jnp.ones(64, jnp.float32)
    rows = jnp.concatenate([near, jnp.full((2, 64), far, jnp.float32)])
    expected = reference(np.asarray(rows, np.float64), 6)
    np.testing.assert_allclose(mix(rows, 3)[:7], expected[:7], rtol=2e-7)


def test_nodes_hear_the_number_of_responses_asked_for():
    n, heard = 8, 5
    rows = jnp.eye(n)  # all at the same distance: any who is heard may be averaged
    mixed = mix(rows, 1, num_responses=heard, key=3)
    np.testing.assert_allclose(mixed.sum(axis=1), 1.0, rtol=1e-6)
    assert ((mixed > 0).sum(axis=1) == heard - 1).all()
    np.testing.assert_allclose(jnp.diagonal(mixed), 1 / (heard - 1), rtol=1e-6)


def test_each_update_hears_others():
    tx = federated.nearest_neighbor_average(0, "nodes", num_responses=2, key=0)
    rows = jnp.eye(8)
    state, seen = jax.vmap(tx.init)(rows), set()
    for _ in range(5):
        updates, state = apply_to_all(tx, jnp.zeros_like(rows), state, rows)
        seen.add(int(jnp.argmax(rows[0] * -1 + updates[0])))
    assert len(seen) > 1


def test_all_responses_are_no_draw_but_the_same_numbers():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)
    np.testing.assert_allclose(mix(rows, 1), mix(rows, 1, num_responses=6, key=1), rtol=1e-6)


def test_an_attack_that_draws_lies_to_every_receiver_differently():
    tx = federated.nearest_neighbor_average(
        1, "nodes", attack=functools.partial(attacks.gaussian, sigma=1e-3), key=0
    )
    rows = jnp.zeros((4, 3))
    state = jax.vmap(tx.init)(rows)
    keys = jax.vmap(jax.random.fold_in)(state.key, jnp.arange(4))
    updates, new = apply_to_all(tx, rows, state._replace(key=keys), rows.at[:3].set(1.0))
    assert jnp.isfinite(updates).all()
    assert (jax.random.key_data(new.key) != jax.random.key_data(keys)).any()


def test_a_seed_and_its_key_are_the_same_and_the_callers_key_survives():
    rows, key = jnp.eye(6), jax.random.key(7)
    by_seed, by_key = (mix(rows, 1, num_responses=3, key=k) for k in (7, key))
    np.testing.assert_array_equal(by_seed, by_key)
    tx = federated.nearest_neighbor_average(1, "nodes", num_responses=3, key=key)
    advance = jax.jit(lambda s: s._replace(key=jax.random.split(s.key)[0]), donate_argnums=0)
    advance(tx.init(jnp.zeros(3)))
    assert jax.random.key_data(key).shape == (2,)
    tx.init(jnp.zeros(3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_keeps_the_dtype_and_measures_in_float32(dtype):
    rows = jnp.array([256, 257, 258, 1000]).astype(dtype)
    tx = federated.nearest_neighbor_average(1, "nodes")
    updates, _ = apply_to_all(tx, jnp.zeros_like(rows), jax.vmap(tx.init)(rows), rows)
    assert updates.dtype == dtype
    assert abs(complex(rows[0] + updates[0]) - complex(rows[:3].astype(jnp.complex64).mean())) < 1.1


def test_an_empty_tree_is_nothing_to_do():
    tx = federated.nearest_neighbor_average(1, "nodes")
    run = lambda _: tx.update({}, tx.init({}), {})[0]
    assert jax.vmap(run, axis_name="nodes")(jnp.zeros(4)) == {}


@pytest.mark.parametrize("attack", [None, attacks.sign_flip], ids=["honest", "sign_flip"])
def test_several_steps_average_again_and_are_attacked_again(attack):
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    expected = rows.astype(np.float64)
    for _ in range(3):
        if attack is not None:
            expected[6] = np.asarray(attack(jnp.asarray(expected[:6], jnp.float32)))
        expected = reference(expected, 6)
    found = mix(jnp.asarray(rows), 1, attack=attack, steps=3)
    honest = 7 if attack is None else 6
    np.testing.assert_allclose(found[:honest], expected[:honest], rtol=1e-4, atol=1e-6)


def test_several_steps_hear_others_each_time_and_count_what_is_sent():
    rows = jnp.eye(8)
    tx = federated.nearest_neighbor_average(0, "nodes", num_responses=2, key=0, steps=3)
    state = jax.vmap(tx.init)(rows)
    keys = jax.vmap(jax.random.fold_in)(state.key, jnp.arange(8))
    updates, new = apply_to_all(tx, jnp.zeros_like(rows), state._replace(key=keys), rows)
    # Two models a step, so at most eight; as many as two only if all steps heard the same.
    assert ((rows + updates > 0).sum(axis=1) > 2).all()
    assert (new.wire_copies == 3).all()


def test_the_bound_on_f_is_checked_at_once_if_the_number_of_nodes_is_known():
    make = functools.partial(federated.nearest_neighbor_average, axis_name="nodes", num_nodes=10)
    make(1)
    with pytest.warns(UserWarning, match=r"f = 2 of 10 nodes is a fifth or more"):
        make(2)
    with pytest.raises(ValueError, match=r"cannot tolerate 2f >= n, got f = 5 of n = 10"):
        make(5)
    with pytest.raises(ValueError, match=r"num_responses must be at most n = 10, got 11"):
        make(1, num_responses=11, key=0)
    with pytest.raises(ValueError, match=r"num_nodes = 10, but there are 4 nodes"):
        mix(jnp.zeros(4), 1, num_nodes=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"steps must be an integer >= 1, got 0"),
        ({"num_nodes": 0}, r"num_nodes must be an integer >= 1, got 0"),
        ({"f": -1}, r"f must be an integer >= 0, got -1"),
        ({"f": 1.0}, r"f must be an integer >= 0, got 1.0"),
        ({"num_responses": 1, "key": 0}, r"num_responses must be an integer >= 2, got 1"),
        ({"num_responses": 3}, r"key must be a JAX key or an integer"),
        ({"attack": attacks.gaussian}, r"key must be a JAX key or an integer"),
        ({"axis_name": ()}, r"axis_name must be a string or a tuple"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        federated.nearest_neighbor_average(**{"f": 1, "axis_name": "nodes"} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"f": 2}, r"cannot tolerate 2f >= n, got f = 2 of n = 4 participants"),
        ({"f": 1, "num_responses": 5, "key": 0}, r"num_responses must be at most n = 4, got 5"),
    ],
)
def test_what_the_axis_cannot_bear_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mix(jnp.zeros(4), **arguments)


def test_params_and_the_axis_are_required():
    tx = federated.nearest_neighbor_average(1, "nodes")
    x = jnp.zeros(())
    with pytest.raises(ValueError, match="nearest_neighbor_average needs params"):
        tx.update(x, tx.init(x))
    with pytest.raises(ValueError, match="axis_name 'nodes' is not bound"):
        tx.update(x, tx.init(x), x)


def test_who_is_absent_is_not_heard():
    tx, x = federated.nearest_neighbor_average(0, "nodes"), jnp.array([0.0, 1.0, 2.0, 9.0])
    active = jnp.array([True, True, True, False])
    mix = lambda x, active: tx.update(jnp.zeros_like(x), tx.init(x), x, active=active)[0] + x
    mixed = jax.vmap(mix, axis_name="nodes")(x, active)
    np.testing.assert_allclose(mixed[:3], 1.0)
    np.testing.assert_allclose(mixed[3], 9.0)
