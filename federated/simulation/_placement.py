"""Where a simulation lies on a mesh: rows of clients are spread, all else is replicated or cut."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradax import _sharding
from gradax._sharding import auto_mesh, check_mesh, leaf_spec

from ..data._layout import ClientData
from ..data._processes import default_mesh
from ..rounds._participants import is_key

#: From the shape of one copy of an array to how its dimensions are cut.
Rule: TypeAlias = Callable[[tuple[int, ...]], PartitionSpec]

#: Parts of a state that hold arrays shaped like params.
_LIKE_PARAMS = frozenset({"params", "clients", "aggregate", "server"})


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh whose devices share the client axis, or no mesh at all.

    Attributes:
      mesh: the devices. ``None``: one device.
      rule: how parameters, and all that is shaped like them, are cut; ``None``: not at all.
      param_axes: axes of the mesh that the rule uses; the clients lie over the others.
    """

    mesh: Mesh | None = None
    rule: Rule | None = None
    param_axes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        mesh: Mesh | None,
        shard_params: str | Rule | None,
        shapes: Iterable[tuple[int, ...]],
    ) -> "Placement":
        """Reads the arguments of a run.

        Several processes that are given no mesh share all their devices among the clients.

        Args:
          mesh: the devices, or ``None``.
          shard_params: an axis of the mesh, a rule, or ``None``.
          shapes: of the parameters of one participant.

        Returns:
          The placement.

        Raises:
          ValueError: if there is no such axis, or the rule does not fit.
        """
        mesh = default_mesh() if mesh is None else mesh
        if mesh is None:
            if shard_params is not None:
                raise ValueError("simulate: shard_params= needs mesh=.")
            return cls()
        mesh = auto_mesh(mesh)
        if shard_params is None:
            return cls(mesh)
        if isinstance(shard_params, str):
            check_mesh("simulate", mesh, "shard_params", shard_params)
            size = mesh.shape[shard_params]
            return cls(mesh, lambda shape: leaf_spec(shape, size, shard_params), (shard_params,))
        if not callable(shard_params):
            raise TypeError(
                "simulate: shard_params must be an axis of the mesh or a function of a shape, "
                f"got {shard_params!r}."
            )
        used = {name for shape in shapes for name in _names(shard_params(shape))}
        for name in sorted(used):
            check_mesh("simulate", mesh, "shard_params", name)
        names = tuple(name for name in mesh.axis_names if name in used)
        return cls(mesh, functools.partial(_checked, shard_params, mesh, names), names)

    @property
    def client_axes(self) -> tuple[str, ...]:
        """Axes of the mesh over which the clients lie."""
        names = () if self.mesh is None else self.mesh.axis_names
        return tuple(name for name in names if name not in self.param_axes)

    @property
    def ways(self) -> int:
        """Number of parts into which the clients are divided."""
        return math.prod(self.mesh.shape[name] for name in self.client_axes) if self.mesh else 1

    @property
    def across_processes(self) -> bool:
        """Whether this process sees only a part of the mesh's devices."""
        return self.mesh is not None and self.mesh.is_multi_process

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all of the run's."""
        return not self.across_processes or jax.process_index() == 0

    def check(self, num_clients: int) -> None:
        """Raises unless the clients divide evenly among the devices.

        Args:
          num_clients: number of clients or nodes.

        Raises:
          ValueError: if they do not.
        """
        if num_clients % self.ways:
            over = f" along {', '.join(self.client_axes)}" if self.param_axes else ""
            raise ValueError(
                "simulate: with mesh= the number of clients must be a multiple of the number of "
                f"devices{over}, {self.ways}, got {num_clients}."
            )

    # Shardings ---------------------------------------------------------------------------

    def rows(self) -> NamedSharding | None:
        """Sharding of an array with a leading axis of clients."""
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, PartitionSpec(self.client_axes))

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
        fields = {}
        for name, part in state._asdict().items():
            lead = (self.client_axes,) if name in row_fields else ()
            rule = self.rule if name in _LIKE_PARAMS else None
            fields[name] = jax.tree.map(functools.partial(self._of_leaf, lead, rule), part)
        return type(state)(**fields)

    def _of_leaf(self, lead: tuple, rule: Rule | None, leaf: Any) -> NamedSharding | None:
        if self.mesh is None:
            return None
        rest = rule(leaf.shape[len(lead) :]) if rule and not is_key(leaf) else ()
        return NamedSharding(self.mesh, PartitionSpec(*lead, *rest))

    def of_data(self, data: ClientData) -> Any:
        """Shardings of the data; flat arrays have no client axis and are replicated."""
        spread = self.rows() if data.offsets is None else self.replicated()
        return jax.tree.map(lambda _: spread, data)

    # From the host, and back -------------------------------------------------------------

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

    def put(self, data: ClientData) -> ClientData:
        """Lays the data out and puts them on the devices.

        Args:
          data: in any layout, on the host or not.

        Returns:
          The same examples, where the rounds read them.
        """
        data = self.lay_out(data)
        return jax.device_put(data) if self.mesh is None else _put(data, self.of_data(data))

    def put_aside(self, data: ClientData) -> ClientData:
        """Puts data on the devices that no round reads, of any number of clients.

        Args:
          data: in any layout.

        Returns:
          The same examples, spread if they divide evenly.
        """
        if self.mesh is None:
            return jax.device_put(data)
        everywhere = jax.tree.map(lambda _: self.replicated(), data)
        return _put(data, everywhere if data.num_clients % self.ways else self.of_data(data))

    def put_state(self, state: Any, row_fields: set[str]) -> Any:
        """Moves a state that lies elsewhere to where this run wants it.

        Args:
          state: of an earlier run.
          row_fields: names of fields with a leading axis of clients.

        Returns:
          The same values; without a mesh the state as it is.
        """
        return state if self.mesh is None else _put(state, self.of_state(state, row_fields))

    def fetch(self, tree: Any) -> Any:
        """Brings what a segment measured to the host.

        Args:
          tree: of arrays on the devices, the same on each (:meth:`everywhere`).

        Returns:
          The same tree of NumPy arrays.
        """
        return jax.device_get(tree)

    # Inside a jit ------------------------------------------------------------------------

    def spread(self, lanes: Any, count: int) -> Any:
        """Asks for the lanes of a chunk to be spread, if they divide evenly.

        Args:
          lanes: a tree with a leading axis of ``count`` lanes.
          count: number of lanes.

        Returns:
          The same values.
        """
        if self.mesh is None or count % self.ways:
            return lanes
        return lax.with_sharding_constraint(lanes, self.rows())

    def everywhere(self, tree: Any) -> Any:
        """Asks for a copy on every device, so that any process can read it.

        Args:
          tree: of arrays.

        Returns:
          The same values.
        """
        return tree if self.mesh is None else lax.with_sharding_constraint(tree, self.replicated())

    def gathered(self, messages: Any) -> Any:
        """Asks for the messages of all lanes on every device, unless they are cut.

        Args:
          messages: for an aggregate that needs them all at once.

        Returns:
          The same values.
        """
        return self.everywhere(messages) if self.rule is None else messages

    def result(self, params: Any) -> Any:
        """Asks for what a run returns to be readable by every process, unless it is cut.

        Args:
          params: the result.

        Returns:
          The same values.
        """
        whole = self.across_processes and self.rule is None
        return self.everywhere(params) if whole else params

    def hold(self, state: Any, row_fields: set[str]) -> Any:
        """Asks for a state to stay cut as it is, which a compiler need not find out alone.

        Args:
          state: after a round.
          row_fields: names of fields with a leading axis of clients.

        Returns:
          The same values.
        """
        if self.rule is None:
            return state
        return lax.with_sharding_constraint(state, self.of_state(state, row_fields))


def _put(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(_sharding.put, tree, shardings)


def _names(spec: Any) -> list[str]:
    """The axes that a specification uses."""
    if not isinstance(spec, PartitionSpec):
        raise TypeError(f"simulate: shard_params must return a PartitionSpec, got {spec!r}.")
    parts = [part if isinstance(part, tuple) else (part,) for part in spec]
    return [name for part in parts for name in part if name is not None]


def _checked(rule: Rule, mesh: Mesh, names: tuple[str, ...], shape: tuple[int, ...]):
    """What a rule of the user says about a shape, if it can be done."""
    spec = rule(shape)
    foreign = sorted(set(_names(spec)) - set(names))
    if foreign:
        raise ValueError(
            f"simulate: shard_params cuts an array of shape {shape} along {', '.join(foreign)}, "
            "where the clients lie; only axes that it uses for params are free of them."
        )
    try:
        NamedSharding(mesh, spec).shard_shape(shape)
    except ValueError as error:
        raise ValueError(
            f"simulate: shard_params cannot cut an array of shape {shape} by {spec}: {error}"
        ) from error
    return spec
