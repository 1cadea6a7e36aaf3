"""Rules that prefer rows with near neighbours: Krum, and averages of the nearest."""

from typing import Any

import jax
import jax.numpy as jnp

from gradax import _validate

from ._distances import Geometry, combine, nearest
from ._rows import check_faulty, count_rows, unless_too_few


def krum(rows: Any, f: int, *, neighbors: str = "byzfl", active: jax.Array | None = None) -> Any:
    r"""Returns the row whose nearest neighbours are nearest.

    The score of a row is the sum of the squared distances to its :math:`n - f - 1` nearest
    other rows; the row of the smallest score is returned, of equal ones the first.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      neighbors: ``"byzfl"`` counts :math:`n - f - 1` neighbours, as the library of this name
        does, ``"original"`` :math:`n - f - 2`, as the paper does.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``2 f >= n``, or ``neighbors`` is
        unknown or leaves none.

    References:
      Blanchard et al., `Byzantine-Tolerant Machine Learning
      <https://arxiv.org/abs/1703.02757>`_, 2017.
    """
    scores, geometry = _scores("krum", rows, f, neighbors, active)
    best = jnp.argmin(scores)
    row = jax.tree.map(lambda leaf: jnp.asarray(leaf)[best], rows)
    return unless_too_few(row, f, geometry.count)


def multi_krum(
    rows: Any,
    f: int,
    *,
    m: int | None = None,
    neighbors: str = "byzfl",
    active: jax.Array | None = None,
) -> Any:
    """Averages the ``m`` rows with the smallest scores of :func:`krum`.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      m: how many rows to average, at most ``n - f``, which is what ``None`` means.
      neighbors: as in :func:`krum`.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``2 f >= n``, ``m`` is out of
        range, or ``neighbors`` is unknown or leaves none.

    References:
      Blanchard et al., `Byzantine-Tolerant Machine Learning
      <https://arxiv.org/abs/1703.02757>`_, 2017.
    """
    n = count_rows("multi_krum", rows)
    check_faulty("multi_krum", f, n)
    if m is not None:
        _validate.integer("multi_krum", "m", m, at_least=1)
        if m > n - f:
            raise ValueError(f"multi_krum: m must be at most n - f = {n - f}, got {m}.")
    scores, geometry = _scores("multi_krum", rows, f, neighbors, active)
    most = geometry.count.number - f
    take = most if m is None else jnp.minimum(m, most)
    chosen = jnp.argsort(jnp.argsort(scores, stable=True)) < take
    weights = geometry.share(chosen)
    return unless_too_few(combine(weights, rows, geometry.usable), f, geometry.count)


def nearest_neighbor_average(
    rows: Any, f: int, idx: jax.typing.ArrayLike = 0, *, active: jax.Array | None = None
) -> Any:
    """Averages the ``n - f`` rows nearest to one of them, itself included.

    Args:
      rows: pytree with a leading axis of ``n`` participants.
      f: number of faulty rows to bear, below half of them.
      idx: which row, in ``[0, n)``.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``2 f >= n``, or ``idx`` is out
        of range.

    References:
      Farhadkhani et al., `Robust Collaborative Learning with Linear Gradient Overhead
      <https://arxiv.org/abs/2209.10931>`_, 2022.
    """
    who = "nearest_neighbor_average"
    n = count_rows(who, rows)
    check_faulty(who, f, n)
    if not isinstance(idx, jax.Array):
        _validate.integer(who, "idx", idx, at_least=0)
        if int(idx) >= n:  # type: ignore[arg-type]  # an integer by now
            raise ValueError(f"{who}: idx must lie in [0, {n}), got {idx}.")
    geometry = Geometry.of(rows, active)
    weights = nearest_weights(geometry, f)[jnp.asarray(idx)]
    return unless_too_few(combine(weights, rows, geometry.usable), f, geometry.count)


def nearest_weights(geometry: Geometry, f: int) -> jax.Array:
    """Weights ``[n, n]``: in row ``i`` those of the ``n - f`` rows nearest to row ``i``.

    A row that is not usable is near to nobody: all usable ones count alike for it.
    """
    own = jnp.eye(len(geometry.usable), dtype=bool)
    chosen = nearest(geometry.distances, own, geometry.count.number - f)
    return geometry.share(chosen | ~geometry.usable[:, None])


def _scores(who, rows, f, neighbors, active):
    """Sums of the squared distances to the nearest other rows; infinite if not usable."""
    n = count_rows(who, rows)
    check_faulty(who, f, n)
    _validate.one_of(who, "neighbors", neighbors, ("byzfl", "original"))
    fewer = 1 if neighbors == "byzfl" else 2
    if neighbors == "original" and n - f - fewer < 1:
        raise ValueError(f"{who}: neighbors='original' needs n > f + 2, got n = {n}, f = {f}.")
    geometry = Geometry.of(rows, active)
    ordered = jnp.sort(geometry.distances, axis=1)  # its own zero comes first
    rank = jnp.arange(n)
    counted = (rank >= 1) & (rank <= geometry.count.number - f - fewer)
    scores = jnp.sum(jnp.where(counted, ordered, 0), axis=1)
    return jnp.where(geometry.usable, scores, jnp.inf), geometry
