"""Aggregates that stream: in a chain, under every placement, and with their parts replaced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from tests.federated.placements import PLACEMENTS

everywhere = pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda p: p.name)


def sum_of_squares(axis_name="clients"):
    """Forgets ``active`` on purpose; counts its calls of ``finish`` in its state."""

    def partial(message, *, weight=1.0, **extras):
        del extras
        return weight, jax.tree.map(jnp.square, message)

    def finish(total, weight, state, params=None, **extras):
        del params, extras
        return {"total": total, "weight": weight}, state + 1

    return federated.SumAggregate(lambda params: jnp.zeros([]), partial, finish, axis_name)


@everywhere
def test_sums_over_the_axis_in_every_placement(placement):
    n = placement.size
    rows, weights = jnp.arange(1.0, n + 1), jnp.linspace(0.5, 2, n)
    active = jnp.arange(n) % 3 != 1
    tx = sum_of_squares(placement.axis_name)
    update = lambda row, weight, active: tx.update(row, tx.init(row), weight=weight, active=active)
    out, state = placement.run(update, rows, weights, active)
    present = np.asarray(weights) * np.asarray(active)
    np.testing.assert_allclose(out["total"], np.full(n, present @ np.asarray(rows) ** 2), rtol=1e-6)
    np.testing.assert_allclose(out["weight"], np.full(n, present.sum()), rtol=1e-6)
    np.testing.assert_array_equal(state, 1)


@everywhere
def test_is_a_member_of_a_chain(placement):
    n = placement.size
    rows = jnp.arange(2.0 * n).reshape(n, 2)
    tx = optax.chain(optax.scale(2.0), federated.average(placement.axis_name), optax.scale(-1.0))
    assert type(tx) is optax.GradientTransformationExtraArgs
    update = lambda row: tx.update(row, tx.init(row), row)[0]
    expected = np.broadcast_to(-2 * np.asarray(rows).mean(axis=0), (n, 2))
    np.testing.assert_allclose(placement.run(update, rows), expected, rtol=1e-6)


def test_what_the_absent_computed_does_not_count_even_if_it_is_nan():
    tx = sum_of_squares()
    update = lambda row, active: tx.update(row, tx.init(row), active=active)[0]
    rows, active = jnp.array([1.0, jnp.nan, 3.0, jnp.inf]), jnp.array([True, False, True, False])
    out = jax.vmap(update, axis_name="clients")(rows, active)
    assert out["total"].tolist() == [10.0] * 4
    assert out["weight"].tolist() == [2.0] * 4


def test_is_a_pair_that_optax_accepts():
    tx = sum_of_squares()
    init, update = tx
    assert init is tx.init
    assert update is tx.update
    assert optax.with_extra_args_support(tx) is tx


def test_replaces_parts_and_derives_update_again():
    doubled = sum_of_squares()._replace(
        partial=lambda message, **extras: (1.0, 2 * message), axis_name="nodes"
    )
    assert isinstance(doubled, federated.SumAggregate)
    assert doubled.axis_name == "nodes"
    update = lambda row: doubled.update(row, doubled.init(row))[0]["total"]
    assert jax.vmap(update, axis_name="nodes")(jnp.array([1.0, 2.0])).tolist() == [6.0, 6.0]


@pytest.mark.parametrize("name", ["update", "divisor"])
def test_refuses_to_replace_what_is_no_part(name):
    with pytest.raises(ValueError, match=rf"_replace: unknown fields \['{name}'\]"):
        sum_of_squares()._replace(**{name: None})


def test_refuses_an_axis_that_repeats_a_name():
    with pytest.raises(ValueError, match="must not repeat a name"):
        sum_of_squares(("clients", "clients"))


def test_an_unbound_axis_is_explained():
    tx = sum_of_squares()
    with pytest.raises(ValueError, match="axis_name 'clients' is not bound: call the update"):
        tx.update(jnp.zeros(2), tx.init(None))


def test_peers_have_no_server():
    algorithm = federated.peers(optax.sgd(0.1), "workers")
    assert algorithm.server is None
    assert algorithm.axis_name == "workers"
    assert algorithm.publishes == ()
