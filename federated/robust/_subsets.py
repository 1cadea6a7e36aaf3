"""Rules that look for the best subset of rows, or weigh rows by how they spread."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._distances import Geometry, combine, dot
from ._rows import check_faulty, count_rows, unless_too_few

#: More subsets than these are refused.
MOST_SUBSETS = 50_000
#: Steps of ``caf`` in which rows that have been dropped set the scale.
_PATIENCE = 1000
#: Steps of the power method before eigenvalue problems are solved.
_POWER_STEPS = 20


def mda(rows: Any, f: int, *, active: jax.Array | None = None) -> Any:
    """Averages the ``n - f`` rows that lie closest together (minimum-diameter averaging).

    All subsets are looked at: the time grows with their number, ``n`` choose ``f``. Of equal
    diameters the first subset in lexicographic order is taken.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``2 f >= n``, or there are more
        than 50,000 subsets.

    References:
      El Mhamdi et al., `Genuinely Distributed Byzantine Machine Learning
      <https://arxiv.org/abs/1905.03853>`_, 2019.
    """
    subsets = _subsets("mda", rows, f)
    geometry = Geometry.of(rows, active)

    def widest(number, diameters):
        furthest = jnp.max(jnp.where(kept, geometry.distances[number], 0), axis=1)
        return jnp.maximum(diameters, jnp.where(kept[:, number], furthest, 0))

    kept, allowed = _kept(subsets, geometry)
    zeros = jnp.zeros(len(subsets), geometry.distances.dtype)
    diameters = lax.fori_loop(0, kept.shape[1], widest, zeros)
    best = jnp.argmin(jnp.where(allowed, diameters, jnp.inf))
    weights = geometry.share(kept[best])
    return unless_too_few(combine(weights, rows, geometry.usable), f, geometry.count)


def smea(rows: Any, f: int, *, active: jax.Array | None = None) -> Any:
    """Averages the ``n - f`` rows whose covariance has the smallest largest eigenvalue.

    All subsets are looked at. A few steps of the power method bound each eigenvalue from below;
    eigenvalue problems are solved, in the order of the bounds, until no other can be smaller.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``2 f >= n``, or there are more
        than 50,000 subsets.

    References:
      Allouah et al., `Distributed Learning with Curious and Adversarial Machines
      <https://arxiv.org/abs/2302.04787>`_, 2023.
    """
    subsets = _subsets("smea", rows, f)
    geometry = Geometry.of(rows, active)
    kept, allowed = _kept(subsets, geometry)
    best = jnp.argmin(_top_eigenvalues(geometry, kept, allowed, f))
    weights = geometry.share(kept[best])
    return unless_too_few(combine(weights, rows, geometry.usable), f, geometry.count)


def caf(rows: Any, f: int, *, active: jax.Array | None = None) -> Any:
    """Lowers the weights of rows that stick out along the direction of largest variance.

    From weights of one, a row's weight is multiplied by one minus its squared deviation along
    the first principal direction, relative to the largest; this goes on until the weights add
    up to ``n - 2 f`` or less. Of all weighted means on the way, that with the smallest largest
    eigenvalue is returned (covariance-bound agnostic filter).

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, or ``2 f >= n``.

    References:
      Allouah et al., `Towards Trustworthy Federated Learning with Untrusted Participants
      <https://arxiv.org/abs/2505.01874>`_, 2025.
    """
    check_faulty("caf", f, count_rows("caf", rows))
    geometry = Geometry.of(rows, active)
    dtype = geometry.distances.dtype

    def step(loop):
        number, weights, best, smallest, _ = loop
        inner, root = _inner_products(geometry, weights)
        values, vectors = jnp.linalg.eigh(_covariance(inner, root))
        along = jnp.where(geometry.usable, jnp.abs(dot(inner, root * vectors[:, -1])), 0)
        # Rows that have been dropped count too, but must not hold the others up for ever: without
        # them every step drops one more.
        counted = (weights > 0) | (number < _PATIENCE)
        most = jnp.max(jnp.where(counted, along, 0))
        better = values[-1] < smallest
        best = jnp.where(better, weights, best)
        deviation = jnp.minimum(along / jnp.where(most > 0, most, 1), 1)
        spread = (values[-1] > 0) & (most > 0)
        lower = weights * (1 - deviation**2)
        return number + 1, lower, best, jnp.minimum(values[-1], smallest), spread

    def unfinished(loop):
        _, weights, _, _, spread = loop
        return (jnp.sum(weights) > geometry.count.number - 2 * f) & spread

    ones = geometry.usable.astype(dtype)
    start = (0, ones, ones, jnp.asarray(jnp.inf, dtype), jnp.array(True))
    best = lax.while_loop(unfinished, step, start)[2]
    weights = best / jnp.maximum(jnp.sum(best), jnp.finfo(dtype).tiny)
    return unless_too_few(combine(weights, rows, geometry.usable), f, geometry.count)


def _subsets(who, rows, f):
    """Marks who is left out of each subset, ``[subsets, n]``; the first keeps the first rows."""
    n = count_rows(who, rows)
    check_faulty(who, f, n)
    number = math.comb(n, f)
    if number > MOST_SUBSETS:
        raise ValueError(
            f"{who}: at most {MOST_SUBSETS:,} subsets can be looked at, but {n} rows have "
            f"{number:,} subsets without f = {f} of them; take another rule."
        )
    left_out = np.zeros((number, n), bool)
    for row, members in zip(left_out[::-1], itertools.combinations(range(n), f), strict=True):
        row[list(members)] = True
    return left_out


def _kept(left_out, geometry):
    """Who is kept in each subset, and which subsets are allowed.

    A subset must not leave out a row that is absent anyway, nor keep one that is not usable.
    """
    active = geometry.count.active
    kept = ~left_out if active is None else active & ~left_out
    allowed = ~jnp.any(kept & ~geometry.usable, axis=1)
    if active is not None:
        allowed &= ~jnp.any(left_out & ~active, axis=1)
    return jnp.asarray(kept), allowed


def _top_eigenvalues(geometry, kept, allowed, f):
    """Largest eigenvalues of the subsets' covariances, infinite where they cannot be the least."""
    floors = jnp.where(allowed, _floors(geometry, kept, f), jnp.inf)
    order, number = jnp.argsort(floors), len(kept)
    dtype = floors.dtype
    rounding = 8 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(geometry.gram))

    def open_question(loop):
        position, _, least = loop
        floor = floors[order[jnp.minimum(position, number - 1)]]
        undecided = (1 - 1e-4) * floor - rounding <= least
        return (position < number) & jnp.isfinite(floor) & undecided

    def solve(loop):
        # One after the other: a batch is divided among the threads of the host, for which several
        # devices on it can wait for ever.
        position, values, least = loop
        subset = order[position]
        covariance = _covariance(*_inner_products(geometry, kept[subset].astype(dtype)))
        found = jnp.where(allowed[subset], jnp.linalg.eigvalsh(covariance)[-1], jnp.inf)
        return position + 1, values.at[subset].set(found), jnp.minimum(least, found)

    unknown = jnp.full(number, jnp.inf, dtype)
    return lax.while_loop(open_question, solve, (0, unknown, jnp.asarray(jnp.inf, dtype)))[1]


def _floors(geometry, kept, f):
    """Rayleigh quotients after some steps of the power method: no more than the eigenvalues."""
    gram, tiny = geometry.gram, jnp.finfo(geometry.gram.dtype).tiny
    share = kept.astype(gram.dtype) / jnp.maximum(geometry.count.number - f, 1)
    root = jnp.sqrt(share)
    unit = lambda v: v / jnp.maximum(jnp.linalg.norm(v, axis=1, keepdims=True), tiny)

    def multiply(v):
        v = root * v
        v = dot(v - share * jnp.sum(v, axis=1, keepdims=True), gram)
        return root * (v - jnp.sum(share * v, axis=1, keepdims=True))

    longest = jnp.argmax(share * jnp.diagonal(gram), axis=1)
    start = unit(multiply(unit(root * gram[longest])))
    vectors = lax.fori_loop(0, _POWER_STEPS, lambda _, v: unit(multiply(v)), start)
    return jnp.sum(vectors * multiply(vectors), axis=1)


def _inner_products(geometry, weights):
    """Inner products ``[n, n]`` of the rows less their weighted mean; roots of the weights."""
    share = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
    towards = dot(geometry.gram, share)
    inner = geometry.gram - towards[:, None] - towards[None, :] + dot(share, towards)
    return inner, jnp.sqrt(share)


def _covariance(inner, root):
    """A matrix ``[n, n]`` that has the nonzero eigenvalues of the rows' covariance."""
    return root[:, None] * inner * root[None, :]
