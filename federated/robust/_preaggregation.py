"""Pre-aggregators: what happens to the rows before a rule combines them."""

from typing import Any

import jax
import jax.numpy as jnp

from gradax import _validate

from . import _nearness
from ._distances import Geometry, combine, distances_to, finite_rows
from ._rows import Count, check_faulty, count_rows, mask_rows


def nnm(rows: Any, f: int, *, active: jax.Array | None = None) -> Any:
    """Replaces every row by the mean of the ``n - f`` rows nearest to it, itself included.

    Nearest-neighbour mixing: with it in front, rules bear honest rows that differ. A row that
    is not finite becomes the mean of the finite ones.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like ``rows``; if ``active`` is given, a pair of it and ``active``.

    Raises:
      ValueError: if there are no rows, their numbers differ, or ``2 f >= n``.

    References:
      Allouah et al., `Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity
      <https://arxiv.org/abs/2302.01772>`_, 2023.
    """
    check_faulty("nnm", f, count_rows("nnm", rows))
    geometry = Geometry.of(rows, active)
    weights = _nearness.nearest_weights(geometry, f)
    return _with_active(combine(weights, rows, geometry.usable), active)


def bucketing(
    rows: Any,
    f: int = 0,
    *,
    s: int,
    key: jax.Array | None = None,
    perm: jax.typing.ArrayLike | None = None,
    active: jax.Array | None = None,
) -> Any:
    """Averages random buckets of ``s`` rows each; the last bucket may be smaller.

    The rule behind it sees fewer rows, of which still ``f`` may be faulty, and which differ
    less. A row that is not finite is left out of its bucket.

    Args:
      rows: pytree with a leading axis of ``n`` participants.
      f: ignored, so that bucketing stands where another pre-aggregator could.
      s: number of rows in a bucket, at least 1. Static.
      key: JAX key of the draw of the order.
      perm: ``int[n]``, an order to take instead.
      active: ``bool[n]``, which rows are there; ``None`` means all. Only those fill buckets.

    Returns:
      A tree with a leading axis of ``ceil(n / s)`` buckets; if ``active`` is given, a pair of
      it and which buckets hold anybody.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``s`` is no integer above 0, or
        not exactly one of ``key`` and ``perm`` is given.

    References:
      Karimireddy et al., `Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing
      <https://arxiv.org/abs/2006.09365>`_, 2020.
    """
    del f
    n = count_rows("bucketing", rows)
    _validate.integer("bucketing", "s", s, at_least=1)
    if (key is None) == (perm is None):
        raise ValueError("bucketing: give either key, to draw an order, or perm, the order.")
    order = jnp.asarray(perm) if key is None else jax.random.permutation(key, n)
    if active is not None:  # who is there comes first, in this order
        order = order[jnp.argsort(~active[order], stable=True)]
    bucket = jnp.argsort(order) // s
    usable = finite_rows(rows) & (True if active is None else active)
    member = usable & (bucket == jnp.arange(-(-n // s))[:, None])
    weights = member / jnp.maximum(jnp.sum(member, axis=1, keepdims=True), 1)
    buckets = combine(weights, rows, usable)
    if active is None:
        return buckets
    return buckets, s * jnp.arange(-(-n // s)) < jnp.sum(active)


def clip_rows(
    rows: Any,
    f: int = 0,
    *,
    max_norm: jax.typing.ArrayLike,
    active: jax.Array | None = None,
) -> Any:
    """Shortens rows that are longer than a norm to that norm.

    Args:
      rows: pytree with a leading axis of participants.
      f: ignored, so that clipping stands where another pre-aggregator could.
      max_norm: largest Euclidean norm over the whole tree, >= 0.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like ``rows``; if ``active`` is given, a pair of it and ``active``. A row whose
      norm is no finite number becomes zero.

    Raises:
      ValueError: if there are no rows, their numbers differ, or ``max_norm`` is negative.
    """
    del f
    count_rows("clip_rows", rows)
    _validate.interval("clip_rows", "max_norm", max_norm, "[0, inf)")
    return _with_active(_clip(rows, jnp.sqrt(distances_to(rows, None)), max_norm), active)


def arc(rows: Any, f: int, *, active: jax.Array | None = None) -> Any:
    """Shortens the longest rows to the norm of the longest other one (adaptive clipping).

    The ``floor(2 f (n - f) / n)`` longest rows are clipped.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like ``rows``; if ``active`` is given, a pair of it and ``active``. A row whose
      norm is no finite number becomes zero.

    Raises:
      ValueError: if there are no rows, their numbers differ, or ``2 f >= n``.

    References:
      Allouah et al., `Adaptive Gradient Clipping for Robust Federated Learning
      <https://arxiv.org/abs/2405.14432>`_, 2024.
    """
    n = count_rows("arc", rows)
    check_faulty("arc", f, n)
    count = Count.of(n, active)
    norms = jnp.sqrt(distances_to(rows, None))
    there = norms if count.active is None else jnp.where(count.active, norms, -jnp.inf)
    clipped = 2 * f * (count.number - f) // jnp.maximum(count.number, 1)
    longest_first = -jnp.sort(-there)
    threshold = longest_first[jnp.clip(clipped, 0, n - 1)]
    return _with_active(_clip(rows, norms, threshold), active)


def _with_active(rows, active):
    return rows if active is None else (rows, active)


def _clip(rows, norms, max_norm):
    finite = jnp.isfinite(norms)
    factor = jnp.minimum(1, max_norm / jnp.where(norms > 0, norms, 1))
    factor = jnp.where(norms > 0, factor, 1)

    def of_leaf(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        column = factor.reshape(-1, *(1,) * (leaf.ndim - 1))
        return (leaf * column).astype(leaf.dtype)

    return jax.tree.map(of_leaf, mask_rows(jax.tree.map(jnp.asarray, rows), finite))
