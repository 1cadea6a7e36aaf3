"""Clients of several processes: who belongs where, and one data set out of all parts."""

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradax._sharding import auto_mesh

from ._layout import ClientData


def process_clients(
    num_clients: int,
    mesh: Mesh | None = None,
    client_axes: Sequence[str] | None = None,
) -> np.ndarray:
    """Lists the clients whose examples this process must load.

    Args:
      num_clients: number of all clients.
      mesh: devices of the run; by default those of all processes, as in ``simulate``.
      client_axes: axes of the mesh over which the clients lie: all, but for the axis that is
        given as ``shard_params=``.

    Returns:
      ``int64[own]``, numbers of clients in ascending order; all of them in a single process.

    Raises:
      ValueError: if the clients do not divide evenly among the devices.

    Examples:
      >>> from gradax.federated import data
      >>> data.process_clients(6).tolist()
      [0, 1, 2, 3, 4, 5]
    """
    mesh = _mesh(mesh)
    if mesh is None:
        return np.arange(num_clients)
    rows = _rows(mesh, client_axes)
    try:
        parts = rows.addressable_devices_indices_map((num_clients,)).values()
    except ValueError as error:
        raise ValueError(
            f"process_clients: num_clients must be a multiple of the number of devices that share "
            f"them, got {num_clients}: {error}"
        ) from error
    return np.unique(np.concatenate([np.arange(num_clients)[part] for part in parts]))


def from_processes(
    mine: ClientData,
    num_clients: int,
    mesh: Mesh | None = None,
    client_axes: Sequence[str] | None = None,
) -> ClientData:
    """Makes one data set of all clients, of which each process gives its own.

    All processes must call it. No process holds examples of another; only numbers of examples
    travel.

    Args:
      mine: the clients :func:`process_clients` lists, in that order, in either layout.
      num_clients: number of all clients.
      mesh: as in :func:`process_clients`.
      client_axes: as in :func:`process_clients`.

    Returns:
      :class:`ClientData` for ``simulate``, padded, spread over the devices; in a single process
      without a mesh ``mine`` as it is.

    Raises:
      ValueError: on every process, if one of them gives another number of clients, a client
        without examples, or arrays of other types or shapes.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> numbers, ids = np.arange(12.0), data.process_clients(6)
      >>> mine = data.padded(numbers, [np.array([2 * i, 2 * i + 1]) for i in ids])
      >>> data.from_processes(mine, 6).num_clients
      6
    """
    expected = len(process_clients(num_clients, mesh, client_axes))
    problem = _problem(mine, expected)
    mesh = _mesh(mesh)
    if mesh is None:
        if problem:
            raise ValueError(problem)
        return mine
    width = 0 if problem else int(np.max(mine.counts))
    shapes = 0 if problem else zlib.crc32(_kinds(mine).encode())
    status = np.array([bool(problem), width, shapes], np.uint32)
    everyone = multihost_utils.process_allgather(status).reshape(-1, 3)
    _refuse(problem, everyone)
    rows = _rows(mesh, client_axes)
    put = lambda leaf: jax.make_array_from_process_local_data(
        rows, leaf, (num_clients, *leaf.shape[1:])
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    counts = put(np.asarray(mine.counts, np.int32))
    counts = np.asarray(jax.jit(lambda x: x, out_shardings=everywhere)(counts))
    widened = _widened(mine, int(everyone[:, 1].max()))
    return ClientData(jax.tree.map(put, widened), counts)


def default_mesh() -> Mesh | None:
    """All devices of several processes; ``None`` if there is only one process."""
    return Mesh(np.array(jax.devices()), ("clients",)) if jax.process_count() > 1 else None


def _mesh(mesh: Mesh | None) -> Mesh | None:
    return default_mesh() if mesh is None else auto_mesh(mesh)


def _rows(mesh: Mesh, client_axes: Sequence[str] | None) -> NamedSharding:
    names = mesh.axis_names if client_axes is None else tuple(client_axes)
    unknown = [name for name in names if name not in mesh.axis_names]
    if unknown:
        raise ValueError(
            f"process_clients: client_axes must name axes of the mesh, {mesh.axis_names}, got "
            f"{unknown}."
        )
    return NamedSharding(mesh, PartitionSpec(names))


def _problem(mine: Any, expected: int) -> str | None:
    """What is wrong with this process's data."""
    if not isinstance(mine, ClientData):
        return f"from_processes: mine must be ClientData, got {type(mine).__name__}."
    if mine.num_clients != expected:
        return (
            f"from_processes: {expected} clients belong to this process, got {mine.num_clients}; "
            "process_clients lists them."
        )
    empty = np.flatnonzero(np.asarray(mine.counts) < 1).tolist()
    return f"from_processes: every client needs an example, got empty {empty}." if empty else None


def _refuse(problem: str | None, everyone: np.ndarray) -> None:
    """Raises on all processes if one has a problem, or arrays of another kind."""
    if problem:
        raise ValueError(problem)
    failed = np.flatnonzero(everyone[:, 0]).tolist()
    if failed:
        raise ValueError(f"from_processes: the data of processes {failed} were refused there.")
    if len(set(everyone[:, 2].tolist())) > 1:
        raise ValueError(
            "from_processes: arrays must have the same names, types and shapes of an example on "
            "all processes."
        )


def _kinds(data: ClientData) -> str:
    """Structure of the data, and what a single example looks like."""
    lead = 2 if data.offsets is None else 1
    leaves, structure = jax.tree.flatten(data.arrays)
    return repr((str(structure), [(str(x.dtype), x.shape[lead:]) for x in leaves]))


def _widened(data: ClientData, width: int) -> Any:
    """Rows of one width, filled up with a client's own examples."""
    counts, starts = np.asarray(data.counts)[:, None], data.offsets
    index = np.arange(width) % counts
    if starts is not None:
        index = index + np.asarray(starts)[:, None]
        return jax.tree.map(lambda leaf: np.asarray(leaf)[index], data.arrays)
    take = functools.partial(np.take_along_axis, axis=1)
    spread = lambda leaf: index.reshape(*index.shape, *[1] * (leaf.ndim - 2))
    return jax.tree.map(lambda leaf: take(np.asarray(leaf), spread(leaf)), data.arrays)
