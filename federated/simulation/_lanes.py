"""Running one function for many participants: side by side, one by one, or under a named axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradax._wide import widen

from .. import axis


class Lanes(NamedTuple):
    """Who sits in the lanes of a chunk.

    Attributes:
      ids: ``int32[lanes]``, client numbers; the number of clients means nobody.
      extras: extras of each lane, leaves ``[lanes, ...]``.
      places: ``int32[lanes]``, where in the store each one's state stands.
    """

    ids: jax.Array
    extras: dict[str, Any]
    places: jax.Array


class Sum(NamedTuple):
    """A weight and weighted values: of one lane, of a chunk, or of the whole cohort."""

    weight: jax.Array
    values: Any


def split(lanes: Lanes, size: int, nobody: int) -> Lanes:
    """Cuts lanes into chunks of ``size``; the last one is filled up with nobody.

    Args:
      lanes: the lanes of a round.
      size: lanes of a chunk.
      nobody: the number that stands for nobody.

    Returns:
      Lanes whose leaves have two leading axes, chunks and lanes of a chunk.
    """
    missing = -lanes.ids.shape[0] % size
    ids = jnp.pad(lanes.ids, (0, missing), constant_values=nobody)
    beyond = jnp.iinfo(lanes.places.dtype).max
    places = jnp.pad(lanes.places, (0, missing), constant_values=beyond)
    fill = lambda x: jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    filled = Lanes(ids, jax.tree.map(fill, lanes.extras), places)
    return _cut(filled, ids.shape[0] // size)


def _cut(tree: Any, parts: int) -> Any:
    """Divides the leading axis into equal parts."""
    return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), tree)


def map_lanes(function: Callable, in_axes: tuple[Any, ...], *arguments: Any) -> Any:
    """``vmap`` over the lanes, or a plain call if there is only one.

    In a plain call a ``lax.cond`` stays a branch, where ``vmap`` would compute both sides.

    Args:
      function: of one lane.
      in_axes: for each argument 0, ``None`` or a tree of them, as for ``jax.vmap``.
      *arguments: what ``function`` takes; mapped leaves have a leading axis of lanes.

    Returns:
      What ``function`` returns, with a leading axis of lanes.
    """
    is_none = lambda node: node is None
    sizes = jax.tree.map(
        lambda axis, tree: None if axis is None else jax.tree.map(lambda x: x.shape[0], tree),
        in_axes,
        arguments,
        is_leaf=is_none,
    )
    if set(jax.tree.leaves(sizes)) != {1}:
        return jax.vmap(function, in_axes)(*arguments)
    first = lambda axis, tree: tree if axis is None else jax.tree.map(lambda x: x[0], tree)
    single = jax.tree.map(first, in_axes, arguments, is_leaf=is_none)
    return jax.tree.map(lambda x: x[None], function(*single))


def under_axis(
    function: Callable, axis_name: axis.AxisName, in_axes: tuple[Any, ...], out_axes: Any = 0
) -> Callable:
    """``vmap`` that binds a named axis; of nested names the outer ones get length one.

    Args:
      function: of one participant; may use collectives over ``axis_name``.
      axis_name: a name or a tuple, outermost first.
      in_axes: as for ``jax.vmap``.
      out_axes: as for ``jax.vmap``.

    Returns:
      The mapped function.
    """
    *outer, inner = axis.names(axis_name)
    mapped = jax.vmap(function, in_axes, out_axes, axis_name=inner)
    for name in reversed(outer):
        mapped = _alone(mapped, name)
    return mapped


def _alone(function: Callable, name: str) -> Callable:
    """Binds ``name`` to an axis of length one."""

    def call(*arguments):
        once = jax.vmap(lambda _: function(*arguments), axis_name=name)
        return jax.tree.map(lambda x: x[0], once(jnp.zeros(1)))

    return call


def add_up(lanes: Sum) -> Sum:
    """Adds the lanes of a chunk: a contraction, in float32 at least.

    Args:
      lanes: leaves ``[lanes, ...]``.

    Returns:
      ``sum_i w_i`` and ``sum_i w_i v_i``.
    """
    total = lambda x: axis.contract(lanes.weight.astype(widen(x).dtype), widen(x))
    return Sum(jnp.sum(lanes.weight), jax.tree.map(total, lanes.values))


def narrow(total: Sum, like: Sum) -> Sum:
    """Brings a sum back to the dtypes of the values that were added.

    Args:
      total: a sum.
      like: the lanes it came from, or their shapes.

    Returns:
      The sum.
    """
    cast = lambda x, values: x.astype(values.dtype)
    return Sum(total.weight, jax.tree.map(cast, total.values, like.values))


def scan_chunks(
    run: Callable[[Any, Lanes], tuple[Any, Any, Any]],
    store: Any,
    chunks: Lanes,
    parts: int = 1,
    spread: Callable[[Any], Any] = lambda sums: sums,
) -> tuple[Any, Any, Any]:
    """Scans over chunks: client states are updated in place, sums are carried along.

    On a mesh each device carries the sum of its own lanes; they are added after the scan, so that
    no chunk waits for the other devices.

    Args:
      run: ``run(store, lanes) -> (store, out, seen)``; ``out`` is a :class:`Sum` of lanes, of
        which only the total is kept, or any tree with a leading axis of lanes.
      store: states of all clients.
      chunks: from :func:`split`.
      parts: number of equal parts of a chunk's lanes whose sums are carried apart.
      spread: puts these sums, leaves ``[parts, ...]``, where their lanes are.

    Returns:
      The store, ``out`` (the total, or all lanes one after the other) and ``seen`` of all
      lanes, with those of the filling at the end.
    """
    first = jax.tree.map(lambda x: x[0], chunks)
    shape = jax.eval_shape(lambda: run(store, first)[1])
    streams = isinstance(shape, Sum)
    apart = lambda out: spread(jax.vmap(add_up)(_cut(out, parts)))
    add = apart if parts > 1 else add_up
    total: Any = jax.eval_shape(add, shape) if streams else ()
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), total)

    def one(carry, lanes):
        store, total = carry
        store, out, seen = run(store, lanes)
        if streams:
            total, out = jax.tree.map(jnp.add, total, add(out)), ()
        return (store, total), (out, seen)

    (store, total), stacked = lax.scan(one, (store, total), chunks)
    out, seen = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)
    if streams and parts > 1:
        total = jax.tree.map(lambda x: jnp.sum(x, axis=0), total)
    return store, narrow(total, shape) if streams else out, seen
