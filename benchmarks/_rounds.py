"""Rounds of many algorithms on four devices, compiled but not run.

A round comes in two forms: as `simulate(..., mesh=)` plays it, and as a user's own loop under
`shard_map` does, through `as_transformation`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, PartitionSpec

from gradax import federated
from gradax.federated.simulation import _simulate

DEVICES, CLIENTS, STEPS, BATCH = 4, 8, 3, 4
#: Of the features, the hidden layer and the targets.
Widths = tuple[int, int, int]
Form = Callable[[Any], Any]


def _fedavg(axis_name):
    return federated.fedavg(0.1, axis_name=axis_name)


def _trimmed_mean(axis_name):
    return _fedavg(axis_name)._replace(aggregate=federated.trimmed_mean(axis_name, f=1))


def _econtrol(axis_name):
    uplink = federated.econtrol_uplink(federated.top_k(0.1), eta=0.1)
    return federated.compressed_sgd(0.1, uplink, axis_name=axis_name)


def _monna(axis_name):
    return federated.peers(federated.monna(0.1, 1, axis_name), axis_name)


def _ring(count: int) -> np.ndarray:
    return federated.topology.metropolis_weights(federated.topology.ring(count))


def _size(axis_name: str) -> int:
    """One node a device in a loop, two in a simulation: see `simulated` and `in_a_loop`."""
    return CLIENTS if axis_name == "clients" else DEVICES


def _gossip(axis_name):
    tx = optax.chain(optax.sgd(0.1), federated.gossip(_ring(_size(axis_name)), axis_name))
    return federated.peers(tx, axis_name)


def _gradient_tracking(axis_name):
    tx = federated.gradient_tracking(0.1, _ring(_size(axis_name)), axis_name)
    return federated.peers(tx, axis_name)


def _events(count: int) -> federated.DadaoEvents:
    pairs = federated.topology.edges(federated.topology.ring(count))
    return federated.dadao_events(0, pairs, 1.0, count, num_events=20)


def _dadao(axis_name):
    # The cohort of a simulation says which nodes meet; a loop goes through the list itself.
    events = None if axis_name == "clients" else _events(DEVICES)
    return federated.peers(federated.dadao(1.0, 8.0, events, 0.5, axis_name), axis_name)


#: Name -> the algorithm over an axis.
ALGORITHMS: dict[str, Form] = {
    "FedAvg": _fedavg,
    "FedAdam": lambda axis_name: federated.fedadam(0.1, 0.1, axis_name=axis_name),
    "FedSpeed": lambda axis_name: federated.fedspeed(0.1, axis_name=axis_name),
    "SCAFFOLD": lambda axis_name: federated.scaffold(0.1, axis_name=axis_name),
    "trimmed mean": _trimmed_mean,
    "EControl": _econtrol,
    "MoNNA": _monna,
    "gossip, ring": _gossip,
    "gradient tracking, ring": _gradient_tracking,
    "DADAO": _dadao,
}

#: Name -> further arguments that `simulate` needs for it.
OPTIONS: dict[str, dict[str, Any]] = {
    "DADAO": {"cohort": federated.dadao_cohort(_events(CLIENTS), CLIENTS)},
}


class Problem(NamedTuple):
    """A perceptron and clients with equally many examples."""

    params: Any
    data: Any

    @classmethod
    def of(cls, widths: Widths) -> "Problem":
        """Draws parameters and examples."""
        rng = np.random.default_rng(0)
        normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
        inputs, hidden, outputs = widths
        params = {
            "in": 0.1 * normal(inputs, hidden),
            "offset": np.zeros(hidden, np.float32),
            "out": 0.1 * normal(hidden, outputs),
        }
        rows = {"x": normal(CLIENTS * 2 * BATCH, inputs), "y": normal(CLIENTS * 2 * BATCH, outputs)}
        data = federated.data.padded(rows, np.arange(CLIENTS * 2 * BATCH).reshape(CLIENTS, -1))
        return cls(params, data)


def loss_fn(params: Any, batch: Any) -> jax.Array:
    """Mean squared error."""
    hidden = jax.nn.relu(batch["x"] @ params["in"] + params["offset"])
    return jnp.mean((hidden @ params["out"] - batch["y"]) ** 2)


def mesh() -> jax.sharding.Mesh:
    """Four devices in a row."""
    return jax.make_mesh(
        (DEVICES,), ("devices",), (AxisType.Auto,), devices=jax.devices()[:DEVICES]
    )


class _Traced(Exception):
    """Carries what `simulate` was about to run."""


def simulated(algorithm: Any, problem: Problem, **options: Any) -> jax.stages.Traced:
    """Traces the segment of one round that `simulate` would run, without running it.

    Args:
      algorithm: over the axis `"clients"`.
      problem: what is learnt.
      **options: further arguments of `simulate`.

    Returns:
      The traced segment; its arguments lie where the run would put them.
    """

    def stop(run, state, *_):
        raise _Traced(run._segment.trace(state, run._data, 1))

    settings = {"batch_size": BATCH, "num_steps": STEPS, **options}
    with mock.patch.object(_simulate._Run, "play", stop):
        try:
            federated.simulate(algorithm, loss_fn, *problem, 1, **settings)
        except _Traced as caught:
            return caught.args[0]
    raise AssertionError("simulate has come to an end without a segment")


def in_a_loop(algorithm: Any, problem: Problem) -> jax.stages.Traced:
    """Traces a round under `shard_map`, with one participant on each of the devices.

    Args:
      algorithm: over the axis `"devices"`.
      problem: what is learnt.

    Returns:
      The traced round, a function of parameters, states and batches of all participants.
    """
    tx, everybody = federated.as_transformation(algorithm), np.arange(DEVICES)
    batches = {
        name: rows[:DEVICES, : BATCH * 2].reshape(DEVICES, 2, BATCH, -1)
        for name, rows in problem.data.arrays.items()
    }
    stack = lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], DEVICES, axis=0)

    def block(*blocks):
        params, state, batches = jax.tree.map(lambda leaf: leaf[0], blocks)
        first = jax.tree.map(lambda leaf: leaf[0], batches)
        grad_fn = lambda x, *_, batch=first: jax.grad(loss_fn)(x, batch)
        extras = {"grad_fn": grad_fn, "batches": batches, "value": loss_fn(params, first)}
        updates, state = tx.update(grad_fn(params), state, params, **extras)
        after = optax.apply_updates(params, updates), state
        return jax.tree.map(lambda leaf: leaf[None], after)

    spec = PartitionSpec("devices")
    step = jax.shard_map(block, mesh=mesh(), in_specs=spec, out_specs=spec, check_vma=False)
    params = jax.tree.map(stack, problem.params)
    state = federated.init_participants(tx, problem.params, everybody)
    given = jax.device_put((params, state, batches), jax.NamedSharding(mesh(), spec))
    return jax.jit(step, donate_argnums=(0, 1)).trace(*given)
