"""Stacks of matrices, and which device works on which of them."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradax.federated import axis


def oriented(matrices: jax.Array) -> jax.Array:
    """Transposes tall matrices, so that they have at most as many rows as columns."""
    rows, columns = matrices.shape[-2:]
    return jnp.matrix_transpose(matrices) if rows > columns else matrices


def whole(leaf: jax.Array) -> jax.Array:
    """Gathers a leaf that is split along explicit axes of a mesh; others stay as they are."""
    sharding = jax.typeof(leaf).sharding
    if any(part is not None for part in sharding.spec):
        return jax.sharding.reshard(leaf, NamedSharding(sharding.mesh, PartitionSpec()))
    return leaf


def split_like(leaf: jax.Array, original: jax.Array) -> jax.Array:
    """Undoes :func:`whole`."""
    sharding = jax.typeof(original).sharding
    if any(part is not None for part in sharding.spec):
        return jax.sharding.reshard(leaf, sharding)
    return leaf


def check_stack_sharding(who: str, sharding: Any, axis_name: Any) -> None:
    """Raises unless a sharding splits the first axis of a stack and nothing else.

    Args:
      who: public name of the factory.
      sharding: what its argument ``stack_sharding`` says.
      axis_name: what its argument ``axis_name`` says.

    Raises:
      ValueError: if it does not, or if both arguments are given.
    """
    if sharding is None:
        return
    if axis_name is not None:
        raise ValueError(
            f"{who}: stack_sharding must be left out with axis_name, got {sharding!r}."
        )
    spec = tuple(sharding.spec) if isinstance(sharding, NamedSharding) else ()
    if not spec or spec[0] is None or any(part is not None for part in spec[1:]):
        raise ValueError(
            f"{who}: stack_sharding must be a jax.sharding.NamedSharding that splits the first "
            f"axis alone, such as NamedSharding(mesh, P('data')), got {sharding!r}."
        )


def _padded(stack: jax.Array, count: int) -> jax.Array:
    """Appends matrices until they can be dealt out to ``count`` devices."""
    # Zeros are safe: a matrix of zeros stays one.
    return jnp.pad(stack, ((0, -len(stack) % count), (0, 0), (0, 0)))


def _among_participants(stack, function, axis_name):
    """Each participant does an equal part of the stack; one gather brings all parts together."""
    padded = _padded(stack, axis.size(axis_name))
    share = len(padded) // axis.size(axis_name)
    first = share * axis.index(axis_name)
    part = function(jax.lax.dynamic_slice_in_dim(padded, first, share))
    return axis.all_gather(part, axis_name).reshape(padded.shape)[: len(stack)]


def _split_over(sharding: NamedSharding) -> tuple[str, ...]:
    """Axes of the mesh over which a stack is dealt out."""
    names = sharding.spec[0]
    return names if isinstance(names, tuple) else (names,)


def _is_explicit(sharding: NamedSharding) -> bool:
    kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
    return any(kinds[name] == AxisType.Explicit for name in _split_over(sharding))


def lying_like(leaf: jax.Array, other: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """Keeps the layout of a stack to come from spreading to what it is made of.

    Args:
      leaf: what will be stacked.
      other: an array of its shape that lies where it shall lie.
      sharding: that of the stack, or ``None`` for no stack.

    Returns:
      ``leaf``. Without this the compiler would compute the momentum of a leaf that is a stack by
      itself in shares, and gather it a second time.
    """
    if sharding is None or _is_explicit(sharding):
        return leaf
    return shard_alike(leaf, other)[0]


def _on_mesh(stack, function, sharding):
    """Each device of a mesh does its part of the stack; one gather brings all parts together."""
    mesh, spec = sharding.mesh, PartitionSpec(sharding.spec[0])
    place = jax.sharding.reshard if _is_explicit(sharding) else jax.lax.with_sharding_constraint
    padded = _padded(stack, math.prod(mesh.shape[name] for name in _split_over(sharding)))
    # A constraint alone would leave it to the compiler where it puts collectives.
    shares = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    done = shares(place(padded, NamedSharding(mesh, spec)))
    return place(done, NamedSharding(mesh, PartitionSpec()))[: len(stack)]


def in_stacks(
    matrices: Sequence[jax.Array],
    function: Callable[[jax.Array], jax.Array],
    axis_name: axis.AxisName | None = None,
    sharding: NamedSharding | None = None,
) -> list[jax.Array]:
    """Applies a function once to all matrices of the same shape, turned alike, and dtype.

    Args:
      matrices: arrays ``[*batch, rows, columns]``.
      function: maps a batch ``[k, m, n]`` with ``m <= n`` to another one, row by row.
      axis_name: participants with equal matrices that share the work.
      sharding: how devices of a mesh share the work, under ``jit``.

    Returns:
      Arrays of the shapes of ``matrices``.
    """
    wide = [oriented(x) for x in matrices]
    groups: dict[Any, list[int]] = {}
    for position, x in enumerate(wide):
        if x.size:
            groups.setdefault((x.shape[-2:], x.dtype), []).append(position)
    done = list(wide)
    for (shape, _), members in groups.items():
        flat = [wide[position].reshape(-1, *shape) for position in members]
        stack = jnp.concatenate(flat)
        if axis_name is not None:
            stack = _among_participants(stack, function, axis_name)
        elif sharding is not None:
            stack = _on_mesh(stack, function, sharding)
        else:
            stack = function(stack)
        ends = list(itertools.accumulate(len(x) for x in flat))[:-1]
        for position, part in zip(members, jnp.split(stack, ends), strict=True):
            done[position] = part.reshape(wide[position].shape)
    return [
        jnp.matrix_transpose(x) if x.shape != matrix.shape else x
        for x, matrix in zip(done, matrices, strict=True)
    ]
