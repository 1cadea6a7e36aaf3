"""How the examples of many clients lie in memory: padded rectangles, or flat with offsets."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

#: One array of example indices per client.
Partitions = Sequence[np.ndarray]


class ClientData(NamedTuple):
    """Examples of all clients, in one of two layouts; a pytree of arrays.

    Padded, client ``i`` owns ``leaf[i, :counts[i]]``; what follows repeats its own examples, so
    that reading it is harmless. Flat, it owns ``leaf[offsets[i]:offsets[i] + counts[i]]``: less
    memory where sizes are skewed.

    Attributes:
      arrays: pytree; leaves ``[num_clients, max_examples, ...]`` if padded, ``[total, ...]`` if
        flat.
      counts: ``int32[num_clients]``, number of examples of each client.
      offsets: ``int32[num_clients]``, where each client begins; ``None`` means padded.
    """

    arrays: Any
    counts: jax.Array | np.ndarray
    offsets: jax.Array | np.ndarray | None = None

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return self.counts.shape[0]

    @property
    def max_examples(self) -> int | None:
        """Length of the padded rows; ``None`` if flat, where it is no static fact."""
        if self.offsets is not None:
            return None
        return jax.tree.leaves(self.arrays)[0].shape[1]


def to_padded(partitions: Partitions) -> tuple[np.ndarray, np.ndarray]:
    """Turns index lists of different lengths into a rectangle and a mask.

    Short rows are filled by repeating the client's own indices from the first on, never by an
    index that belongs to nobody: gathering with them is always safe.

    Args:
      partitions: one integer array of example indices per client.

    Returns:
      ``(indices, mask)``, ``int64`` and ``bool``, both ``[num_clients, max_examples]``; the mask
      is true where the entry is the client's and not a repetition.

    Raises:
      ValueError: if there is no client, a client is empty, or indices are not integers.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> indices, mask = data.to_padded([np.array([4, 2, 7]), np.array([1])])
      >>> indices.tolist(), mask.sum(axis=1).tolist()
      ([[4, 2, 7], [1, 1, 1]], [3, 1])
    """
    rows = checked_partitions("to_padded", partitions, size=None)
    width = max(len(row) for row in rows)
    indices = np.stack([np.resize(row, width) for row in rows])
    mask = np.arange(width) < np.array([[len(row)] for row in rows])
    return indices, mask


def padded(arrays: Any, partitions: Partitions) -> ClientData:
    """Lays examples out as one row per client, all rows as long as the longest.

    Args:
      arrays: pytree of arrays with a common leading axis of examples.
      partitions: one integer array of example indices per client.

    Returns:
      :class:`ClientData` of NumPy arrays, leaves ``[num_clients, max_examples, ...]``.

    Raises:
      ValueError: if leaves differ in length, a client is empty, or an index is out of range.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> clients = data.padded({"x": np.arange(5.0)}, [np.array([4, 2, 0]), np.array([1])])
      >>> clients.arrays["x"].tolist()
      [[4.0, 2.0, 0.0], [1.0, 1.0, 1.0]]
      >>> clients.num_clients, clients.max_examples, clients.counts.tolist()
      (2, 3, [3, 1])
    """
    arrays, size = _examples("padded", arrays)
    rows = checked_partitions("padded", partitions, size)
    indices, _ = to_padded(rows)
    counts = np.array([len(row) for row in rows], np.int32)
    return ClientData(jax.tree.map(lambda leaf: leaf[indices], arrays), counts)


def flat(arrays: Any, partitions: Partitions) -> ClientData:
    """Lays the examples of the clients one after the other, without padding.

    Args:
      arrays: pytree of arrays with a common leading axis of examples.
      partitions: one integer array of example indices per client.

    Returns:
      :class:`ClientData` of NumPy arrays, leaves ``[total, ...]`` with ``offsets``.

    Raises:
      ValueError: if leaves differ in length, a client is empty, or an index is out of range.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> clients = data.flat({"x": np.arange(5.0)}, [np.array([4, 2, 0]), np.array([1])])
      >>> clients.arrays["x"].tolist(), clients.offsets.tolist()
      ([4.0, 2.0, 0.0, 1.0], [0, 3])
    """
    arrays, size = _examples("flat", arrays)
    rows = checked_partitions("flat", partitions, size)
    counts = np.array([len(row) for row in rows], np.int32)
    offsets = (np.cumsum(counts) - counts).astype(np.int32)
    order = np.concatenate(rows)
    return ClientData(jax.tree.map(lambda leaf: leaf[order], arrays), counts, offsets)


def client_arrays(data: ClientData, client: int) -> Any:
    """Cuts out the examples of one client, on the host.

    Args:
      data: clients in either layout.
      client: number of the client.

    Returns:
      A pytree like ``data.arrays`` with leaves ``[counts[client], ...]``.

    Raises:
      ValueError: if there is no such client.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import data
      >>> clients = data.padded({"x": np.arange(5.0)}, [np.array([4, 2, 0]), np.array([1])])
      >>> data.client_arrays(clients, 1)["x"].tolist()
      [1.0]
    """
    if not 0 <= client < data.num_clients:
        raise ValueError(
            f"client_arrays: client must lie in [0, {data.num_clients}), got {client}."
        )
    count = int(data.counts[client])
    if data.offsets is None:
        return jax.tree.map(lambda leaf: leaf[client, :count], data.arrays)
    start = int(data.offsets[client])
    return jax.tree.map(lambda leaf: leaf[start : start + count], data.arrays)


def _examples(who: str, arrays: Any) -> tuple[Any, int]:
    """NumPy leaves and their common number of examples."""
    arrays = jax.tree.map(np.asarray, arrays)
    leaves = jax.tree.leaves(arrays)
    if not leaves or any(leaf.ndim == 0 for leaf in leaves):
        raise ValueError(f"{who}: arrays must hold arrays with a leading axis of examples.")
    lengths = sorted({leaf.shape[0] for leaf in leaves})
    if len(lengths) > 1:
        raise ValueError(f"{who}: arrays must have leaves of equal length, got lengths {lengths}.")
    return arrays, lengths[0]


def checked_partitions(who: str, partitions: Partitions, size: int | None) -> list[np.ndarray]:
    """The index lists as int64 arrays, or an error that names the client at fault."""
    rows = [np.asarray(part) for part in partitions]
    if not rows:
        raise ValueError(f"{who}: partitions must hold at least one client, got none.")
    empty = [client for client, row in enumerate(rows) if row.size == 0]
    if empty:
        raise ValueError(f"{who}: every client needs an example, got empty clients {empty}.")
    for client, row in enumerate(rows):
        if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
            raise ValueError(
                f"{who}: indices of client {client} must be a vector of integers, "
                f"got {row.dtype} of shape {row.shape}."
            )
        if row.min() < 0 or (size is not None and row.max() >= size):
            allowed = "must not be negative" if size is None else f"must lie in [0, {size})"
            outside = row.min() if row.min() < 0 else row.max()
            raise ValueError(f"{who}: indices of client {client} {allowed}, got {outside}.")
    return [row.astype(np.int64) for row in rows]
