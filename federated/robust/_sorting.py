"""Sorting the rows coordinate by coordinate, with a network of minima and maxima.

A general sort over a short leading axis is slow on CPU. A fixed network of comparators
(Batcher's merge exchange) is elementwise work, which XLA fuses into one loop over the
coordinates.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from gradax._wide import widen

from .. import axis

#: Up to so many rows a coordinate is sorted in vector registers; more would spill out of them.
REGISTERS = 32
#: Elements that are sorted together when they do not fit, so that they stay in the cache.
BLOCK = 2**16

#: The rows in ascending order, an array ``[n, columns]`` or a list of ``n`` vectors.
Ordered: TypeAlias = Sequence[jax.Array] | jax.Array


def reduce_ordered(
    leaf: jax.Array,
    reduce: Callable[[Ordered], jax.Array],
    ranks: range | None = None,
    as_array: bool = False,
) -> jax.Array:
    """Sorts every coordinate over the leading axis and reduces what comes out.

    Args:
      leaf: ``[n, ...]``; NaN counts as plus infinity.
      reduce: turns the ordered rows ``[n, columns]`` into one ``[columns]``, elementwise over
        columns.
      ranks: the ranks that ``reduce`` reads; the others may be out of order. ``None`` is all.
      as_array: whether ``reduce`` needs an array rather than a list.

    Returns:
      A row in the dtype of the leaf, floating if that is an integer. Real and imaginary parts
      of complex numbers are coordinates of their own.
    """
    if jnp.iscomplexobj(leaf):
        parts = (reduce_ordered(part, reduce, ranks, as_array) for part in (leaf.real, leaf.imag))
        return lax.complex(*parts)
    n, dtype = len(leaf), leaf.dtype
    flat = leaf.reshape(n, leaf[0].size)
    few = n <= REGISTERS

    def of_block(block):
        block = widen(block)
        block = jnp.where(jnp.isnan(block), jnp.inf, block)
        ordered = _exchange(list(block), ranks or range(n)) if few else _merge(block)
        return reduce(jnp.stack(ordered) if few and as_array else ordered)

    # A list needs no blocks: its network is fused into one loop over the columns.
    width = flat.shape[1] if few and not as_array else max(BLOCK // n, 1)
    row = _in_blocks(of_block, flat, width).reshape(leaf.shape[1:])
    return row.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else row


def mean_of_ranks(ordered: Ordered, take: Sequence[bool] | jax.Array) -> jax.Array:
    """Averages the rows of some ranks; what stands at the others does not matter.

    Args:
      ordered: the rows in ascending order.
      take: for each rank whether it counts, Python booleans or ``bool[n]``.

    Returns:
      ``[columns]``; zero if no rank counts.
    """
    if not isinstance(take, jax.Array):
        chosen = [row for row, counts in zip(ordered, take, strict=True) if counts]
        return _add(chosen) / len(chosen)
    count = jnp.maximum(jnp.sum(take), 1).astype(ordered[0].dtype)
    if isinstance(ordered, jax.Array):
        kept = jnp.where(take[:, None], ordered, 0)
        return axis.contract(jnp.ones(len(kept), kept.dtype), kept) / count
    return _add([jnp.where(counts, row, 0) for row, counts in zip(ordered, take, strict=True)]) / (
        count
    )


def _add(rows):
    return functools.reduce(jnp.add, rows)


def _in_blocks(of_block, flat, width):
    """Applies a function of columns block by block; the last block overlaps the one before."""
    n, columns = flat.shape
    if columns <= width:
        return of_block(flat)
    start_of = lambda number: jnp.minimum(number * width, columns - width)

    def step(number, out):
        start = start_of(number)
        row = of_block(lax.dynamic_slice(flat, (0, start), (n, width)))
        return lax.dynamic_update_slice(out, row, (start,))

    shape = jax.eval_shape(of_block, flat)
    return lax.fori_loop(0, -(-columns // width), step, jnp.zeros(shape.shape, shape.dtype))


# Networks --------------------------------------------------------------------------------


@functools.cache
def comparators(n: int, ranks: range) -> tuple[tuple[int, int], ...]:
    """Lists the comparators of Batcher's merge exchange that bear on some ranks.

    Args:
      n: number of rows.
      ranks: ranks that have to be right at the end.

    Returns:
      Pairs ``(i, j)``, ``i < j``, in order: the smaller of both goes to ``i``.
    """
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for start in range(k % p, n - k, 2 * k):
                for low in range(start, min(start + k, n - k)):
                    if low // (2 * p) == (low + k) // (2 * p):
                        pairs.append((low, low + k))
            k //= 2
        p *= 2
    needed, kept = set(ranks), []
    for pair in reversed(pairs):
        if needed & set(pair):
            needed |= set(pair)
            kept.append(pair)
    return tuple(reversed(kept))


def _exchange(rows, ranks):
    """Sorts a list of vectors, comparator by comparator: one fused loop."""
    for low, high in comparators(len(rows), ranks):
        a, b = rows[low], rows[high]
        rows[low], rows[high] = jnp.minimum(a, b), jnp.maximum(a, b)
    return rows


def _merge(block):
    """Sorts an array's leading axis by bitonic merges: few operations for many rows."""
    n, columns = block.shape
    size = 1 << (n - 1).bit_length()
    filling = jnp.full((size - n, columns), jnp.inf, block.dtype)
    block = jnp.concatenate([block, filling])
    run = 1
    while run < size:
        block = _compare_halves(block, run, mirrored=True)
        distance = run // 2
        while distance >= 1:
            block = _compare_halves(block, distance, mirrored=False)
            distance //= 2
        run *= 2
    return block[:n]


def _compare_halves(block, half, mirrored):
    """Compares the halves of every group of ``2 half`` rows, the second one upside down or not."""
    turn = lambda rows: rows[:, ::-1] if mirrored else rows
    halves = block.reshape(-1, 2, half, block.shape[1])
    a, b = halves[:, 0], turn(halves[:, 1])
    return jnp.stack([jnp.minimum(a, b), turn(jnp.maximum(a, b))], axis=1).reshape(block.shape)
