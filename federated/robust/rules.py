"""Rules that combine the stacked messages of participants, some of which may lie.

A rule takes ``rows``, a pytree whose leaves have a leading axis of participants, and ``f``,
the number of faulty ones it must bear, and returns one tree without that axis. Rules are pure
functions; non-finite rows count as faulty and do no harm as long as there are at most ``f``.

>>> import jax.numpy as jnp
>>> from gradax.federated import rules
>>> rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [jnp.nan, 10.0]])
>>> rules.trimmed_mean(rows, f=1).tolist()
[1.5, 0.5]
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradax._wide import widen

from ._rows import check_faulty, count_rows, inexact_leaves, mean_of_leaf


def mean(rows: Any, f: int = 0) -> Any:
    """Averages the rows; bears no faulty one.

    Args:
      rows: pytree with a leading axis of participants.
      f: ignored, so that the mean stands where a robust rule could.

    Returns:
      A tree like one row, in the rows' dtypes; sums are made in float32 at least.

    Raises:
      ValueError: if there are no rows or their numbers differ.
    """
    del f
    count_rows("mean", rows)
    return jax.tree.map(mean_of_leaf, rows)


def median(rows: Any, f: int = 0) -> Any:
    """Takes the median of every coordinate, the middle of the two for an even number of rows.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them; the result does not depend on it.

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
    return jax.tree.map(lambda leaf: _middle(leaf, (n - 1) // 2), rows)


def trimmed_mean(rows: Any, f: int) -> Any:
    """Drops the ``f`` smallest and ``f`` largest values of every coordinate, averages the rest.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, or ``2 f >= n``.

    References:
      Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
      <https://arxiv.org/abs/1803.01498>`_, 2018.
    """
    check_faulty("trimmed_mean", f, count_rows("trimmed_mean", rows))
    return jax.tree.map(lambda leaf: _middle(leaf, f), rows)


def squared_distances(rows: Any) -> jax.Array:
    r"""Computes :math:`\|x_i - x_j\|^2` over whole trees, from matrix products.

    The distances of float32 rows that lie close together would drown in rounding if they
    were taken from products of the rows themselves. So the rows are first shifted by one of
    them, the one with the smallest median distance to the others, which lies among the honest
    ones wherever the far rows are.

    Args:
      rows: pytree with a leading axis of ``n`` participants; integer leaves are left out.

    Returns:
      ``[n, n]``, float32 at least, not negative, zero on the diagonal; infinite where a
      distance overflows or a row is not finite.

    Raises:
      ValueError: if there are no rows or their numbers differ.
    """
    n = count_rows("squared_distances", rows)
    leaves = [widen(leaf) for leaf in inexact_leaves(rows)]
    if not leaves:
        return jnp.zeros((n, n))
    rough = _distances_from_products(leaves)
    centre = jnp.argmin(jnp.sort(rough, axis=1)[:, n // 2])
    return _distances_from_products([leaf - leaf[centre] for leaf in leaves])


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


def mask_rows(rows: Any, keep: jax.Array) -> Any:
    """Sets rows to zero, so that a weight of zero removes them even if they were not finite.

    Args:
      rows: pytree with a leading axis of ``n`` participants.
      keep: ``bool[n]``.

    Returns:
      A tree like ``rows``.
    """

    def of_leaf(leaf):
        return jnp.where(keep.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(of_leaf, rows)


def _middle(leaf, cut):
    """Averages each coordinate's sorted values without ``cut`` at either end; NaN sorts last."""
    ordered = jnp.sort(jnp.asarray(leaf), axis=0)
    return mean_of_leaf(ordered[cut : len(ordered) - cut])


def _distances_from_products(leaves):
    gram = sum(_gram(leaf) for leaf in leaves)
    norms = jnp.diagonal(gram)
    distances = jnp.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0)
    distances = jnp.where(jnp.isnan(distances), jnp.inf, distances)
    return jnp.fill_diagonal(distances, 0.0, inplace=False)


def _gram(leaf):
    inner = tuple(range(1, leaf.ndim))
    product = jnp.tensordot(leaf, leaf.conj(), axes=(inner, inner), precision=lax.Precision.HIGHEST)
    return product.real
