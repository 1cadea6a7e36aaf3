"""Distances between whole rows, and combinations of rows, from matrix products."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradax._wide import widen

from .. import axis
from ._rows import Count, count_rows, inexact_leaves, mask_rows

#: Columns of a product at a time times the number of rows: what fits into the cache.
_BLOCK = 2**17
#: Elements up to which a copy of the rows costs less than the question whether it is needed.
_SMALL = 2**14
#: How many times further from zero than from each other rows may lie before they are shifted.
_NEAR = 64.0


def squared_distances(rows: Any, *, active: jax.Array | None = None) -> jax.Array:
    r"""Computes :math:`\|x_i - x_j\|^2` over whole trees, from matrix products.

    The distances of float32 rows that lie close together would drown in rounding if they
    were taken from products of the rows themselves. Where rows lie far from zero, they are
    first shifted by one of them, the one with the smallest median distance to the others,
    which lies among the honest ones wherever the far rows are.

    Args:
      rows: pytree with a leading axis of ``n`` participants; integer leaves are left out.
      active: ``bool[n]``, which rows are there; ``None`` means all. Distances to the others
        are infinite.

    Returns:
      ``[n, n]``, float32 at least, not negative, zero on the diagonal; infinite where a
      distance overflows or a row is not finite.

    Raises:
      ValueError: if there are no rows or their numbers differ.
    """
    n = count_rows("squared_distances", rows)
    return _measure(rows, Count.of(n, active))[1]


def finite_rows(rows: Any) -> jax.Array:
    """Tells which rows are finite in every coordinate.

    Args:
      rows: pytree with a leading axis of ``n`` participants.

    Returns:
      ``bool[n]``.

    Raises:
      ValueError: if there are no rows or their numbers differ.
    """
    finite = jnp.ones(count_rows("finite_rows", rows), bool)
    for leaf in inexact_leaves(rows):
        finite = finite & jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
    return finite


def distances_to(rows: Any, point: Any) -> jax.Array:
    """Squared distances of the rows to one point.

    Args:
      rows: pytree with a leading axis of ``n`` participants.
      point: a tree like one row, or ``None`` for zero.

    Returns:
      ``[n]``, float32 at least; infinite where a distance overflows or a row is not finite.
    """
    stacks = inexact_leaves(rows)
    centres = [None] * len(stacks) if point is None else inexact_leaves(point)
    total = jnp.zeros(count_rows("distances_to", rows))
    for stack, centre in zip(stacks, centres, strict=True):
        difference = widen(stack) if centre is None else widen(stack) - widen(centre)
        squares = jnp.square(jnp.abs(difference))
        total = total + jnp.sum(squares, axis=tuple(range(1, stack.ndim)))
    return jnp.where(jnp.isnan(total), jnp.inf, total)


class Geometry(NamedTuple):
    """All that a rule has to know of the rows in order to weigh them.

    Attributes:
      distances: ``[n, n]``, squared; infinite from and to rows that are not usable.
      gram: ``[n, n]``, inner products of the rows less a point near the honest ones; zero for
        rows that are not usable.
      usable: ``bool[n]``: there, finite, and at a finite distance from more than half of the
        others.
      count: how many rows there are, usable or not.
    """

    distances: jax.Array
    gram: jax.Array
    usable: jax.Array
    count: Count  # type: ignore[assignment]  # hides tuple.count

    @classmethod
    def of(cls, rows: Any, active: jax.Array | None) -> "Geometry":
        """Measures rows."""
        count = Count.of(count_rows("rules", rows), active)
        gram, distances = _measure(rows, count)
        usable = 2 * jnp.sum(jnp.isfinite(distances), axis=1) > count.number
        both = usable[:, None] & usable[None, :]
        return cls(jnp.where(both, distances, jnp.inf), jnp.where(both, gram, 0), usable, count)

    def share(self, chosen: jax.Array) -> jax.Array:
        """Equal weights ``[..., n]`` for the usable ones of the chosen rows, of sum one."""
        chosen = (chosen & self.usable).astype(self.distances.dtype)
        return chosen / jnp.maximum(jnp.sum(chosen, axis=-1, keepdims=True), 1)


def nearest(distances: jax.Array, own: jax.Array, count: Any) -> jax.Array:
    """Marks the ``count`` smallest distances, a row's own first, ties by number.

    Args:
      distances: ``[..., n]``.
      own: ``bool[..., n]``, where the row itself stands.
      count: how many to mark; may be traced.

    Returns:
      ``bool[..., n]``.
    """
    order = jnp.argsort(jnp.where(own, -1, distances), axis=-1, stable=True)
    return jnp.argsort(order, axis=-1) < count


def combine(weights: jax.Array, rows: Any, usable: jax.Array) -> Any:
    """Multiplies weights with the rows.

    Args:
      weights: ``[n]``, or ``[k, n]`` for ``k`` combinations; zero where not usable.
      rows: pytree with a leading axis of ``n`` participants.
      usable: ``bool[n]``; the other rows may hold anything.

    Returns:
      A tree of combinations in the rows' dtypes; integers become float.
    """

    def of_leaf(leaf):
        wide = widen(leaf)
        mixed = axis.contract(weights.astype(jnp.finfo(wide.dtype).dtype), wide)
        return mixed.astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else mixed

    mix = lambda rows: jax.tree.map(of_leaf, rows)
    rows = jax.tree.map(jnp.asarray, rows)
    clean = lambda rows: mix(mask_rows(rows, usable))  # 0 * NaN is NaN
    if sum(leaf.size for leaf in jax.tree.leaves(rows)) < _SMALL:
        return clean(rows)
    # The copy without such rows is only made when there are some.
    return lax.cond(jnp.all(usable), mix, clean, rows)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A small product at the highest precision."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def to_combination(gram: jax.Array, weights: jax.Array) -> jax.Array:
    """Squared distances ``[n]`` of rows to a combination of them, from inner products.

    Not from distances: beside a far row with a small weight those of the others would drown.
    """
    towards = dot(gram, weights)
    return jnp.maximum(jnp.diagonal(gram) - 2 * towards + dot(weights, towards), 0)


def gram_about(rows: Any, point: Any) -> jax.Array:
    """Inner products ``[n, n]`` of the rows less a point, a tree like one row or ``None``."""
    leaves = inexact_leaves(rows)
    points = [None] * len(leaves) if point is None else inexact_leaves(point)
    return sum(
        (_gram(leaf, own) for leaf, own in zip(leaves, points, strict=True)),
        jnp.zeros((count_rows("gram_about", rows),) * 2),
    )


def _measure(rows, count):
    """Inner products of the rows less a point near the honest ones, and squared distances."""
    leaves = inexact_leaves(rows)
    rough = gram_about(rows, None)
    middle = jnp.sort(_distances_from(rough, count), axis=1)[:, count.number // 2]
    centre = jnp.argmin(middle)
    if not leaves:
        return rough, _distances_from(rough, count)
    shifted = lambda leaves: gram_about(leaves, [leaf[centre] for leaf in leaves])
    close_to_zero = jnp.diagonal(rough)[centre] <= _NEAR * middle[centre]
    gram = lax.cond(close_to_zero, lambda _: rough, shifted, leaves)
    return gram, _distances_from(gram, count)


def _distances_from(gram, count):
    norms = jnp.diagonal(gram)
    distances = jnp.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0)
    distances = jnp.where(jnp.isnan(distances), jnp.inf, distances)
    distances = jnp.where(jnp.eye(len(norms), dtype=bool), 0, distances)
    if count.active is None:
        return distances
    return jnp.where(count.active[:, None] & count.active[None, :], distances, jnp.inf)


def _gram(leaf, point):
    """Inner products of the rows of a leaf, less a point if there is one, block by block."""
    n = len(leaf)
    flat = leaf.reshape(n, leaf[0].size)
    columns, width = flat.shape[1], max(_BLOCK // n, 256)
    origin = None if point is None else widen(point).reshape(columns)

    def product(start, size):
        block = widen(lax.dynamic_slice(flat, (0, start), (n, size)))
        if origin is not None:
            block = block - lax.dynamic_slice(origin, (start,), (size,))
        across = (((1,), (1,)), ((), ()))
        return lax.dot_general(block, block.conj(), across, precision=lax.Precision.HIGHEST).real

    whole = columns // width
    if whole < 2:
        return product(0, columns)
    rest = product(whole * width, columns - whole * width)
    step = lambda number, total: total + product(number * width, width)
    return lax.fori_loop(0, whole, step, rest)
