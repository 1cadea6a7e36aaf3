"""Where the leaves of a tree lie on a mesh: one rule for parameters and states."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradax import _validate

Tree = TypeVar("Tree")

_SMALL = 1024


def leaf_spec(shape: Sequence[int], size: int, axis: str) -> PartitionSpec:
    """Shards an array over a mesh axis along its largest dimension that divides.

    The rule looks at the shape only, so a moment lies where its parameter lies. Of several
    dimensions of the same length the first is taken. Arrays of fewer than 1024 numbers are not
    cut: to send their parts around costs more than it saves.

    Args:
      shape: of the array.
      size: number of devices along the axis.
      axis: name of the mesh axis.

    Returns:
      A spec with ``axis`` at one dimension; the empty one, which replicates, if the array
      is small or no dimension is a multiple of ``size``.

    Examples:
      >>> leaf_spec((30, 80), 4, "model")
      P(None, 'model')
      >>> leaf_spec((30, 81), 4, "model")
      P()
    """
    fitting = [length for length in shape if length % size == 0]
    if not fitting or math.prod(shape) < _SMALL:
        return PartitionSpec()
    return PartitionSpec(*(None,) * tuple(shape).index(max(fitting)), axis)


def shard(tree: Tree, mesh: Mesh, axis: str = "model") -> Tree:
    """Spreads every leaf of a tree over one axis of a mesh, to hold it once and not everywhere.

    A leaf is cut along its largest dimension that the devices of the axis divide; a leaf without
    such a dimension, or of fewer than 1024 numbers, is replicated. Only the shape counts, so an
    optimizer state made by ``tx.init`` from sharded parameters, or sharded by this function,
    lies where they lie.

    Args:
      tree: parameters, or a state; leaves are arrays.
      mesh: the devices.
      axis: name of the mesh axis.

    Returns:
      The same values on the devices of the mesh.

    Raises:
      ValueError: if the mesh has no such axis.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> mesh = jax.make_mesh((1, jax.device_count()), ("data", "model"))
      >>> params = {"w": jnp.ones((30, 80)), "b": jnp.zeros(())}
      >>> gradax.shard(params, mesh)["w"].sharding.spec
      P(None, 'model')
    """
    mesh = auto_mesh(check_mesh("shard", mesh, "axis", axis))
    size = mesh.shape[axis]
    spec = lambda leaf: leaf_spec(jnp.shape(leaf), size, axis)
    return jax.tree.map(lambda leaf: put(leaf, NamedSharding(mesh, spec(leaf))), tree)


def check_mesh(who: str, mesh: Any, argument: str, axis: Any) -> Mesh:
    """Raises unless there are a mesh and an axis of it.

    Args:
      who: public name of the caller.
      mesh: what was given as mesh.
      argument: the argument that names the axis.
      axis: what it names.

    Returns:
      The mesh.

    Raises:
      TypeError: if ``mesh`` is none.
      ValueError: if it has no such axis.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"{who}: mesh must be a jax.sharding.Mesh, got {mesh!r}.")
    _validate.one_of(who, argument, axis, mesh.axis_names)
    return mesh


def auto_mesh(mesh: Mesh) -> Mesh:
    """The same devices with axes of type ``Auto``, over which the compiler spreads the work."""
    return Mesh(mesh.devices, mesh.axis_names)


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """``jax.device_put``, also onto devices of other processes.

    Args:
      leaf: an array, in every process the same, or one that lies on all processes already.
      sharding: where to put it.

    Returns:
      The same values.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # device_put sends no keys to other processes.
        return jax.random.wrap_key_data(
            put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf)
        )
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)
