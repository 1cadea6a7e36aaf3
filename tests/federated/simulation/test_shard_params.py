"""Parameters that are cut over a second axis of the mesh, with all that is shaped like them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from gradax import federated
from gradax.federated.simulation._placement import Placement
from tests.federated.simulation.problems import NUM_CLIENTS, assert_close

_RNG = np.random.default_rng(0)
IN, OUT = 48, 30
PARAMS = {
    "w": (0.1 * _RNG.normal(size=(IN, OUT))).astype(np.float32),
    "b": np.zeros(OUT, np.float32),
}
DATA = federated.data.padded(
    {
        "x": _RNG.normal(size=(4 * NUM_CLIENTS, IN)).astype(np.float32),
        "y": _RNG.normal(size=(4 * NUM_CLIENTS, OUT)).astype(np.float32),
    },
    np.split(np.arange(4 * NUM_CLIENTS), NUM_CLIENTS),
)
ALGORITHMS = {
    "fedavgm": lambda: federated.fedavgm(0.1),
    "fedspeed": lambda: federated.fedspeed(0.1),
    "scaffold": lambda: federated.scaffold(0.1),
    "monna": lambda: federated.monna(0.1, 2, "nodes"),
}


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


@functools.cache
def mesh(kind=AxisType.Auto):
    return jax.make_mesh((2, 2), ("clients", "model"), axis_types=(kind, kind))


@functools.cache
def run(name, **options):
    peers = name == "monna"
    settings = {"num_steps": 1 if peers else 2, "batch_size": 2, "segment": 3}
    settings |= {"cohort": None if peers else 4} | options
    return federated.simulate(ALGORITHMS[name](), loss_fn, PARAMS, DATA, 3, **settings)


def parts(tree):
    """Shapes of the parts that the first device holds of matrices."""
    leaves = [x for x in jax.tree.leaves(tree) if x.shape[-2:] == (IN, OUT)]
    return {leaf.addressable_shards[0].data.shape for leaf in leaves}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_results_are_those_of_one_device(name):
    found, expected = run(name, mesh=mesh(), shard_params="model"), run(name)
    assert_close(found.params, expected.params)
    assert_close(found.state.clients, expected.state.clients)
    losses = [result.history.column("loss") for result in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_device_holds_a_quarter_of_the_rows_and_a_half_of_the_parameters(name):
    state = run(name, mesh=mesh(), shard_params="model").state
    whole, row = (IN // 2, OUT), (NUM_CLIENTS // 2, IN // 2, OUT)
    assert parts(state.params) == ({row} if name == "monna" else {whole})
    own = state.aggregate if name == "monna" else state.clients
    assert parts(own) == (set() if name == "fedavgm" else {row})
    assert parts(state.server) == (set() if name == "monna" else {whole})


def test_a_function_of_the_shape_decides_and_axes_may_be_explicit():
    def columns(shape):
        return PartitionSpec(None, "model") if len(shape) == 2 else PartitionSpec("model")

    found = run("fedspeed", mesh=mesh(AxisType.Explicit), shard_params=columns)
    assert_close(found.params, run("fedspeed").params)
    assert parts(found.params) == {(IN, OUT // 2)}
    assert found.params["b"].addressable_shards[0].data.shape == (OUT // 2,)


def test_clients_must_divide_along_their_own_axes_only():
    Placement.of(mesh(), "model", [(IN, OUT)]).check(6)
    with pytest.raises(ValueError, match="number of devices along clients, 2, got 7"):
        Placement.of(mesh(), "model", [(IN, OUT)]).check(7)


def test_a_state_moves_to_where_the_run_wants_it():
    there = run("fedspeed", mesh=mesh(), shard_params="model").state
    placement = Placement.of(mesh(), None, [(IN, OUT)])
    moved = placement.put_state(there, {"clients"})
    assert parts(moved.params) == {(IN, OUT)}
    assert parts(moved.clients) == {(NUM_CLIENTS // 4, IN, OUT)}


REFUSED = {
    "no mesh": (ValueError, None, "model", "shard_params= needs mesh="),
    "no such axis": (ValueError, mesh, "modle", "shard_params must be one of 'clients', 'model'"),
    "no such axis in a rule": (ValueError, mesh, lambda _: PartitionSpec("x"), "got 'x'"),
    "no rule": (TypeError, mesh, 2, "an axis of the mesh or a function of a shape, got 2"),
    "no specification": (TypeError, mesh, lambda _: "model", "must return a PartitionSpec"),
    "does not divide": (
        ValueError,
        mesh,
        lambda shape: PartitionSpec("model"),
        r"cannot cut an array of shape \(3,\)",
    ),
    "the clients' axis": (
        ValueError,
        mesh,
        lambda shape: PartitionSpec("model" if shape == (IN, OUT) else "clients"),
        "along clients, where the clients lie",
    ),
}


@pytest.mark.parametrize(("kind", "devices", "rule", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_cut_is_refused(kind, devices, rule, sentence):
    cut = lambda: Placement.of(devices and devices(), rule, [(IN, OUT)]).rule((3,))
    with pytest.raises(kind, match=sentence):
        cut()
