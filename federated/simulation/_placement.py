"""Where a simulation lies on a mesh: rows of clients are spread, all else is replicated."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from ..data._layout import ClientData


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh whose devices share the client axis, or no mesh at all.

    Attributes:
      mesh: the devices; the client axis is spread over all its axes. ``None``: one device.
    """

    mesh: jax.sharding.Mesh | None = None

    def check(self, num_clients: int) -> None:
        """Raises unless the clients divide evenly among the devices.

        Args:
          num_clients: number of clients or nodes.

        Raises:
          ValueError: if they do not.
        """
        if self.mesh is not None and num_clients % self.mesh.size:
            raise ValueError(
                "simulate: with mesh= the number of clients must be a multiple of the number of "
                f"devices, {self.mesh.size}, got {num_clients}."
            )

    def rows(self) -> NamedSharding | None:
        """Sharding of an array with a leading axis of clients."""
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    def replicated(self) -> NamedSharding | None:
        """Sharding of an array that every device holds."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def of_state(self, state: Any, row_fields: set[str]) -> Any:
        """Shardings of a named tuple, some of whose fields have a leading axis of clients.

        Args:
          state: the state or its shapes.
          row_fields: names of these fields.

        Returns:
          A tree of shardings like ``state``.
        """
        spread, everywhere = self.rows(), self.replicated()
        fields = {}
        for name, part in state._asdict().items():
            where = spread if name in row_fields else everywhere
            fields[name] = jax.tree.map(lambda _, where=where: where, part)
        return type(state)(**fields)

    def lay_out(self, data: ClientData) -> ClientData:
        """Chooses the layout in which lanes read the data.

        One device reads examples where they lie, which saves a copy of every cohort's rows; on
        a mesh the rows of a client move as a whole.

        Args:
          data: in any layout.

        Returns:
          The same examples, flat unless there is a mesh.
        """
        if self.mesh is not None or data.max_examples is None:
            return data
        starts = np.arange(data.num_clients, dtype=np.int32) * data.max_examples
        end_to_end = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])
        return ClientData(jax.tree.map(end_to_end, data.arrays), data.counts, starts)

    def of_data(self, data: ClientData) -> Any:
        """Shardings of the data; flat arrays have no client axis and are replicated."""
        spread = self.rows() if data.offsets is None else self.replicated()
        return jax.tree.map(lambda _: spread, data)

    def put(self, data: ClientData) -> ClientData:
        """Lays the data out and puts them on the devices.

        Args:
          data: in any layout, on the host or not.

        Returns:
          The same examples, where the rounds read them.
        """
        data = self.lay_out(data)
        return jax.device_put(data, self.of_data(data))

    def fetch(self, tree: Any) -> Any:
        """Brings what a segment measured to the host.

        Args:
          tree: of arrays on the devices.

        Returns:
          The same tree of NumPy arrays.
        """
        return jax.device_get(tree)

    def spread(self, lanes: Any, count: int) -> Any:
        """Asks for the lanes of a chunk to be spread, if they divide evenly.

        Args:
          lanes: a tree with a leading axis of ``count`` lanes.
          count: number of lanes.

        Returns:
          The same values.
        """
        if self.mesh is None or count % self.mesh.size:
            return lanes
        return lax.with_sharding_constraint(lanes, self.rows())
