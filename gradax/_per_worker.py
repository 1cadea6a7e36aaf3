"""Steps in which every worker has a gradient and a state of its own, and the axis is bound."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, PartitionSpec

from gradax._common_update import is_common
from gradax.federated import axis

#: Name of the axis of several workers on one device.
LANES = "lanes"


def make_worker_step(
    advance: Callable[..., tuple[Any, Any, dict[str, Any]]],
    mesh: Mesh,
    data_axis: str,
    workers: int,
    own_params: bool,
) -> Callable[..., tuple[Any, Any, dict[str, Any]]]:
    """Runs the step of one worker for all of them, by ``shard_map`` over an axis of the mesh.

    Args:
      advance: ``advance(params, opt_state, batch) -> (updates, opt_state, metrics)`` of a worker.
      mesh: its other axes are left to the compiler.
      data_axis: the axis of the workers.
      workers: how many there are, a multiple of the devices along the axis. If there are more
        of them, those of one device lie along a vmapped axis :data:`LANES`.
      own_params: whether each worker has parameters of its own, or all the same.

    Returns:
      ``step(params, opt_state, batch) -> (params, opt_state, metrics)``. States, and parameters
      that workers own, have a leading axis of workers, and so has ``metrics["aux"]``.
    """
    devices = mesh.shape[data_axis]
    lanes = workers // devices
    axes = {data_axis: devices} | ({LANES: lanes} if lanes > 1 else {})
    rows, whole = PartitionSpec(data_axis), PartitionSpec()
    of_params = rows if own_params else whole

    def step(params, opt_state, batch):
        one_of_each = params, _rows(opt_state), _parts(batch, workers)
        average = not own_params and not is_common(advance, axes, *one_of_each)
        worker = functools.partial(_step_of_worker, advance, tuple(axes), average)
        run = _alone if lanes == 1 else functools.partial(_side_by_side, lanes)
        params, opt_state, loss, aux = jax.shard_map(
            functools.partial(run, worker, own_params),
            mesh=mesh,
            in_specs=(of_params, rows, jax.tree.map(lambda x: rows if x.ndim else whole, batch)),
            out_specs=(of_params, rows, whole, rows),
            axis_names={data_axis},
            check_vma=False,
        )(params, opt_state, batch)
        return params, opt_state, {"loss": loss} | ({} if aux is None else {"aux": aux})

    return step


def _rows(tree):
    """Shapes of one row."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)


def _parts(batch, workers):
    """Shapes of a worker's part of the batch."""
    cut = lambda shape: (shape[0] // workers, *shape[1:]) if shape else shape
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(cut(x.shape), x.dtype), batch)


def _step_of_worker(advance, names, average, params, opt_state, batch):
    updates, opt_state, metrics = advance(params, opt_state, batch)
    if average:
        updates = axis.mean(updates, names)
    loss = axis.mean(metrics["loss"], names)
    return optax.apply_updates(params, updates), opt_state, loss, metrics.get("aux")


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def _alone(worker, own_params, params, opt_state, batch):
    """The only worker of a device; without ``vmap``, where a ``lax.cond`` stays a branch."""
    params = _first(params) if own_params else params
    params, opt_state, loss, aux = worker(params, _first(opt_state), batch)
    row = functools.partial(jax.tree.map, lambda x: x[None])
    return row(params) if own_params else params, row(opt_state), loss, row(aux)


def _side_by_side(lanes, worker, own_params, params, opt_state, batch):
    """All workers of a device."""
    batch = jax.tree.map(lambda x: x.reshape(lanes, -1, *x.shape[1:]) if x.ndim else x, batch)
    axes = 0 if own_params else None, 0, jax.tree.map(lambda x: 0 if x.ndim else None, batch)
    lane_map = jax.vmap(worker, axes, axis_name=LANES)
    params, opt_state, loss, aux = lane_map(params, opt_state, batch)
    return params if own_params else _first(params), opt_state, _first(loss), aux
