"""One algorithm, one result: side by side, in chunks, all at once, over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from gradax import federated
from gradax.federated.simulation._placement import Placement
from tests.federated.simulation.problems import (
    FLAT,
    NUM_CLIENTS,
    PADDED,
    assert_close,
    coordinate_median,
    simulate,
)

ALGORITHMS = {
    "fedavgm": lambda axis_name="clients": federated.fedavgm(0.1, axis_name=axis_name),
    "fedspeed": lambda axis_name="clients": federated.fedspeed(0.1, axis_name=axis_name),
    "median": lambda axis_name="clients": federated.fedavg(0.1, axis_name=axis_name)._replace(
        aggregate=coordinate_median(axis_name)
    ),
}


@functools.cache
def mesh(devices=4):
    return jax.make_mesh(
        (devices,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def stacked(algorithm):
    """A chain sees all messages at once, whatever its members could do."""
    return algorithm._replace(aggregate=optax.chain(algorithm.aggregate))


@functools.cache
def reference(name, cohort):
    """All clients side by side; six of them one way to draw."""
    result = simulate(ALGORITHMS[name](), cohort=cohort, chunk=NUM_CLIENTS)
    return result.params, result.state.clients, result.history.column("loss")


def check(name, cohort, algorithm=None, **options):
    algorithm = algorithm or ALGORITHMS[name]()
    result = simulate(algorithm, cohort=cohort, **options)
    params, clients, losses = reference(name, cohort)
    assert_close(result.params, params)
    assert_close(result.state.clients, clients)
    np.testing.assert_allclose(result.history.column("loss"), losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "cohort", "chunk"),
    [
        ("fedspeed", None, 1),
        ("fedspeed", None, 3),
        ("fedspeed", 5, 1),
        ("fedspeed", 5, 3),
        ("fedavgm", 5, 3),
        ("median", 5, 1),
        ("median", None, 3),
    ],
)
def test_in_chunks(name, cohort, chunk):
    check(name, cohort, chunk=chunk)


def test_the_default_on_this_machine():
    check("fedavgm", 5, chunk=None)


@pytest.mark.parametrize(("name", "cohort"), [("fedavgm", None), ("fedspeed", 5)])
def test_a_mean_of_stacked_messages_is_the_streamed_one(name, cohort):
    check(name, cohort, stacked(ALGORITHMS[name]()), chunk=2)


@pytest.mark.parametrize(
    ("name", "cohort", "chunk", "data"),
    [
        ("fedavgm", None, None, PADDED),
        ("fedspeed", 5, None, FLAT),
        ("fedspeed", None, 4, PADDED),
        ("median", None, None, FLAT),
    ],
    ids=["padded", "flat, cohort", "padded, chunks", "flat, stacked"],
)
def test_on_four_devices(name, cohort, chunk, data):
    check(name, cohort, data=data, mesh=mesh(), chunk=chunk)


@pytest.mark.parametrize("name", ["fedspeed", "median"])
def test_with_an_axis_of_two_names(name):
    algorithm = ALGORITHMS[name](("devices", "clients"))
    check(name, 5, algorithm, chunk=2)


def test_on_a_mesh_clients_are_spread_and_parameters_replicated():
    result = simulate(ALGORITHMS["fedspeed"](), mesh=mesh(), rounds=2)
    dual = result.state.clients.dual["w"]
    assert dual.sharding.spec == jax.P("devices")
    assert len(dual.addressable_shards) == 4
    assert dual.addressable_shards[0].data.shape == (NUM_CLIENTS // 4, 3)
    assert result.params["w"].sharding.is_fully_replicated


def test_a_run_may_move_between_one_device_and_many():
    algorithm = ALGORITHMS["fedspeed"]()
    there = simulate(algorithm, rounds=2, mesh=mesh())
    back = simulate(algorithm, rounds=4, state=there.state, chunk=3)
    assert_close(back.params, reference("fedspeed", None)[0])


SCALES = np.logspace(-6, 6, 37)


@pytest.mark.parametrize("way", [1, 5, "stacked"])
def test_sums_over_37_clients_and_12_decades_are_exact(way):
    """With rate one and start zero a client sends its target: the mean is known in NumPy."""
    signs = np.where(np.arange(37) % 3, 1.0, -1.0)
    targets, weights = signs * SCALES, 1.0 + np.arange(37) % 5
    with jax.enable_x64(True):
        algorithm = federated.fedavg(1.0)
        if way == "stacked":
            algorithm, way = stacked(algorithm), 37
        cohort = federated.scheduled_cohort(
            37, np.arange(37)[None, ::-1], {"weight": weights[None]}
        )
        result = federated.simulate(
            algorithm,
            lambda x, batch: jnp.mean((x - batch) ** 2) / 2,
            jnp.array(0.0),
            federated.data.padded(targets, list(np.arange(37)[:, None])),
            rounds=1,
            cohort=cohort,
            num_steps=1,
            batch_size=1,
            chunk=way,
        )
        weights = weights[::-1]
        assert result.params.dtype == jnp.float64
        error = abs(float(result.params) - np.average(targets, weights=weights))
        scale = np.average(np.abs(targets), weights=weights)
        assert error <= 2e-15 * scale
        # The smallest client would be missed: its share is above the tolerance.
        assert SCALES[0] / weights.sum() > 2e-15 * scale


def test_no_mesh_is_one_device():
    nowhere = Placement()
    assert nowhere.rows() is None
    assert nowhere.replicated() is None
    nowhere.check(7)
    tree = {"a": jnp.ones(3)}
    assert nowhere.spread(tree, 3) is tree


def test_lanes_that_do_not_divide_are_left_where_they_are():
    tree = {"a": jnp.ones(3)}
    assert Placement(mesh()).spread(tree, 3) is tree


def test_a_mesh_must_divide_the_clients():
    with pytest.raises(ValueError, match="must be a multiple of the number of devices, 3, got 8"):
        simulate(ALGORITHMS["fedavgm"](), mesh=mesh(3))
