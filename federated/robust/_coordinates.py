"""Rules that look at one coordinate at a time."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._rows import Count, check_faulty, count_rows, mean_of_leaf, unless_too_few
from ._sorting import mean_of_ranks, reduce_ordered


def mean(rows: Any, f: int = 0, *, active: jax.Array | None = None) -> Any:
    """Averages the rows; bears no faulty one.

    Args:
      rows: pytree with a leading axis of participants.
      f: ignored, so that the mean stands where a robust rule could.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row, in the rows' dtypes; sums are made in float32 at least.

    Raises:
      ValueError: if there are no rows or their numbers differ.
    """
    del f
    count_rows("mean", rows)
    return jax.tree.map(lambda leaf: mean_of_leaf(leaf, active), rows)


def median(rows: Any, f: int = 0, *, active: jax.Array | None = None) -> Any:
    """Takes the median of every coordinate, the middle of the two for an even number of rows.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them; the result does not depend on it.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, or ``2 f >= n``.

    References:
      Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
      <https://arxiv.org/abs/1803.01498>`_, 2018.
    """
    n = count_rows("median", rows)
    check_faulty("median", f, n)
    m = Count.of(n, active)
    return unless_too_few(_trim(rows, (m.number - 1) // 2, m), f, m)


def trimmed_mean(rows: Any, f: int, *, active: jax.Array | None = None) -> Any:
    """Drops the ``f`` smallest and ``f`` largest values of every coordinate, averages the rest.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, or ``2 f >= n``.

    References:
      Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
      <https://arxiv.org/abs/1803.01498>`_, 2018.
    """
    n = count_rows("trimmed_mean", rows)
    check_faulty("trimmed_mean", f, n)
    m = Count.of(n, active)
    return unless_too_few(_trim(rows, f, m), f, m)


def meamed(rows: Any, f: int, *, active: jax.Array | None = None) -> Any:
    """Averages, in every coordinate, the ``n - f`` values that lie nearest to the median.

    Of two values equally far from the median, one on either side, the lower one is taken.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, or ``2 f >= n``.

    References:
      Xie et al., `Generalized Byzantine-tolerant SGD <https://arxiv.org/abs/1802.10116>`_, 2018.
    """
    n = count_rows("meamed", rows)
    check_faulty("meamed", f, n)
    m = Count.of(n, active)
    middle, width = _between((m.number - 1) // 2, m), m.number - f
    rank = jnp.arange(n)[:, None]

    def reduce(ordered):
        # What lies nearest to the median is a window of ranks: the one that reaches least far.
        centre = mean_of_ranks(ordered, middle)
        ends = lax.dynamic_slice_in_dim(ordered, width - 1, f + 1)
        first = jnp.argmin(jnp.maximum(centre - ordered[: f + 1], ends - centre), axis=0)
        inside = (rank >= first) & (rank < first + width)
        return jnp.sum(jnp.where(inside, ordered, 0), axis=0) / width

    of_leaf = lambda leaf: reduce_ordered(m.clear(leaf), reduce, as_array=True)
    return unless_too_few(jax.tree.map(of_leaf, rows), f, m)


def _trim(rows, cut, m):
    """Averages each coordinate's values without ``cut`` at either end."""
    ranks = None if m.active is not None else range(cut, m.number - cut)
    reduce = lambda ordered: mean_of_ranks(ordered, _between(cut, m))
    return jax.tree.map(lambda leaf: reduce_ordered(m.clear(leaf), reduce, ranks), rows)


def _between(cut, m):
    """Which ranks are left when ``cut`` are dropped at either end."""
    if m.active is None:
        return [cut <= rank < m.number - cut for rank in range(m.number)]
    rank = jnp.arange(len(m.active))
    return (rank >= cut) & (rank < m.number - cut)
