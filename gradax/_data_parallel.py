"""Steps on a mesh: the batch is spread over its devices, and states stay where they lie."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradax._sharding import auto_mesh, put

REPLICATED = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Kept:
    """An argument that a step takes and returns, such as the parameters.

    Attributes:
      name: of the argument, for errors.
      spec: where leaves go that do not yet lie on the mesh.
      rows: length that the leading axis of every leaf must have; ``None`` for any shape.
    """

    name: str
    spec: PartitionSpec = REPLICATED
    rows: int | None = None


class MeshStep:
    """A compiled step that puts its arguments on a mesh and returns states where they were.

    The first arguments are kept: they lie on the mesh after the first step at the latest, and
    stay in whatever sharding they arrive with. All others are batches. There is one compilation
    for each set of shardings and shapes.
    """

    def __init__(
        self,
        who: str,
        step: Callable[..., tuple[Any, ...]],
        mesh: Mesh,
        kept: tuple[Kept, ...],
        batch_spec: PartitionSpec,
        donate: bool,
        parts: int | None = None,
    ):
        """Prepares the step.

        Args:
          who: public name of the factory, for errors.
          step: ``step(*kept, *batches) -> (*kept, metrics)``.
          mesh: its axes are of type ``Auto``.
          kept: the first arguments.
          batch_spec: how batches are spread; its last entry is the name of an axis, which cuts
            the dimension of examples. Leaves with fewer dimensions are replicated.
          donate: whether the buffers of the kept arguments are handed to the step.
          parts: what the number of examples must be a multiple of; by default, the number of
            devices along the axis.
        """
        self._who, self._step, self._mesh, self._kept = who, step, mesh, kept
        self._batch_spec, self._donate = batch_spec, donate
        self._parts = parts or mesh.shape[batch_spec[-1]]
        self._compiled = functools.cache(self._compile)

    def __call__(self, *arguments: Any) -> Any:
        """Takes a step."""
        function, arguments = self._prepare(arguments)
        return function(*arguments)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """Lowers the step for these arguments, as the method of a jitted function does."""
        function, arguments = self._prepare(arguments)
        return function.lower(*arguments)

    def _prepare(self, arguments):
        """The compiled function for the shardings of the arguments, and these in their places."""
        number = len(self._kept)
        kept = tuple(
            jax.tree.map(functools.partial(self._place, what), argument)
            for what, argument in zip(self._kept, arguments, strict=False)
        )
        batches = jax.tree.map(self._spread, arguments[number:])
        leaves, structure = jax.tree.flatten(kept)
        shardings = tuple(None if _is_traced(leaf) else leaf.sharding for leaf in leaves)
        return self._compiled(structure, shardings), (*kept, *batches)

    def _compile(self, structure, shardings):
        where = structure.unflatten(shardings)
        donated = tuple(range(len(self._kept))) if self._donate else ()
        return jax.jit(self._step, out_shardings=(*where, None), donate_argnums=donated)

    def _place(self, what, leaf):
        """Puts a leaf of a kept argument on the mesh, unless it lies there."""
        if what.rows is not None and jnp.shape(leaf)[:1] != (what.rows,):
            raise ValueError(
                f"{self._who}: every leaf of {what.name} must have a leading axis of "
                f"{what.rows} workers, got shape {jnp.shape(leaf)}; see "
                "gradax.federated.init_participants."
            )
        if _is_traced(leaf):
            return leaf
        sharding, spec = getattr(leaf, "sharding", None), what.spec
        if isinstance(sharding, NamedSharding):
            mesh = sharding.mesh
            if mesh == self._mesh:
                return leaf
            if isinstance(mesh, Mesh) and auto_mesh(mesh) == self._mesh:  # its axes are explicit
                spec = sharding.spec
        return put(leaf, NamedSharding(self._mesh, spec))

    def _spread(self, leaf):
        """Puts a leaf of a batch on the mesh, unless it lies there in this way."""
        shape, dimension = jnp.shape(leaf), len(self._batch_spec) - 1
        whole = len(shape) <= dimension
        if not whole and shape[dimension] % self._parts:
            raise ValueError(
                f"{self._who}: the number of examples must be a multiple of the {self._parts} "
                f"parts along {self._batch_spec[-1]!r}, got a batch with a leaf of shape {shape}."
            )
        if not isinstance(leaf, jax.Array) and not shape:
            return leaf  # jit takes a number as it is
        wanted = NamedSharding(self._mesh, REPLICATED if whole else self._batch_spec)
        return leaf if getattr(leaf, "sharding", None) == wanted else put(leaf, wanted)


def _is_traced(leaf):
    return isinstance(leaf, jax.core.Tracer)
