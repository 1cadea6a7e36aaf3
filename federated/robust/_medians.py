"""The geometric median, and clipping towards a centre."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradax import _validate
from gradax._wide import widen

from . import _coordinates
from ._distances import Geometry, combine, distances_to, dot, gram_about, to_combination
from ._rows import Count, check_faulty, count_rows, unless_too_few


def geometric_median(
    rows: Any,
    f: int = 0,
    *,
    tol: jax.typing.ArrayLike = 1e-6,
    max_iters: int = 200,
    active: jax.Array | None = None,
) -> Any:
    r"""Finds the point with the smallest sum of distances to the rows.

    .. math::
        z = \operatorname{argmin}_z \sum_i \|x_i - z\|.

    Weiszfeld's iteration on the weights of the rows, from the row that is best itself. If no
    other point is better than that row, it is returned at once.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them; the result does not depend on it.
      tol: iterate until the weights, of sum one, change by less than this in sum.
      max_iters: at most so many iterations.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``2 f >= n``, ``tol`` is not
        positive or ``max_iters`` no integer above 0.

    References:
      Pillutla et al., `Robust Aggregation for Federated Learning
      <https://arxiv.org/abs/1912.13445>`_, 2019; Vardi and Zhang, The multivariate
      :math:`L_1`-median and associated data depth, 2000.
    """
    who = "geometric_median"
    check_faulty(who, f, count_rows(who, rows))
    _validate.interval(who, "tol", tol, "(0, inf)")
    _validate.integer(who, "max_iters", max_iters, at_least=1)
    geometry = Geometry.of(rows, active)

    def step(loop):
        number, weights, _ = loop
        distance = jnp.sqrt(to_combination(geometry.gram, weights))
        pull = jnp.where(geometry.usable, 1 / jnp.maximum(distance, tiny), 0)
        new = pull / jnp.sum(pull)
        return number + 1, new, jnp.sum(jnp.abs(new - weights))

    tiny = jnp.finfo(geometry.distances.dtype).tiny ** 0.5
    weights, settled = _leave_best_row(geometry)
    start = (0, weights, jnp.where(settled, 0, jnp.inf).astype(weights.dtype))
    unfinished = lambda loop: (loop[0] < max_iters) & (loop[2] > tol)
    weights = lax.while_loop(unfinished, step, start)[1]
    return unless_too_few(combine(weights, rows, geometry.usable), f, geometry.count)


def weiszfeld(
    rows: Any,
    f: int = 0,
    *,
    nu: jax.typing.ArrayLike = 0.1,
    iters: int = 3,
    init: str = "zero",
    active: jax.Array | None = None,
) -> Any:
    r"""Makes a few smoothed steps towards the geometric median, as other libraries do.

    .. math::
        z \leftarrow \frac{\sum_i b_i x_i}{\sum_i b_i}, \qquad
        b_i = \frac{1}{\max(\|x_i - z\|, \nu)}.

    Three steps from zero are not yet the geometric median; :func:`geometric_median` is.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them; the result does not depend on it.
      nu: smallest distance :math:`\nu > 0` that counts.
      iters: number of steps, at least 1.
      init: begin at ``"zero"`` or at the coordinate-wise ``"median"``.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``2 f >= n``, or another argument
        is out of range.

    References:
      Pillutla et al., `Robust Aggregation for Federated Learning
      <https://arxiv.org/abs/1912.13445>`_, 2019.
    """
    check_faulty("weiszfeld", f, count_rows("weiszfeld", rows))
    _validate.interval("weiszfeld", "nu", nu, "(0, inf)")
    _validate.integer("weiszfeld", "iters", iters, at_least=1)
    _validate.one_of("weiszfeld", "init", init, ("zero", "median"))
    point = _coordinates.median(rows, active=active) if init == "median" else None
    geometry = Geometry.of(rows, active)

    def weigh(squares):
        pull = jnp.where(geometry.usable, 1 / jnp.maximum(jnp.sqrt(squares), nu), 0)
        return (pull / jnp.maximum(jnp.sum(pull), jnp.finfo(pull.dtype).tiny)).astype(
            geometry.distances.dtype
        )

    first = weigh(distances_to(rows, point))
    weights = lax.fori_loop(1, iters, lambda _, w: weigh(to_combination(geometry.gram, w)), first)
    return unless_too_few(combine(weights, rows, geometry.usable), f, geometry.count)


def centered_clipping(
    rows: Any,
    f: int = 0,
    *,
    tau: jax.typing.ArrayLike,
    iters: int = 1,
    center: Any = None,
    active: jax.Array | None = None,
) -> Any:
    r"""Moves a centre by the mean of the rows' clipped distances to it.

    .. math::
        v \leftarrow v + \frac1n \sum_i (x_i - v) \min\Bigl(1, \frac{\tau}{\|x_i - v\|}\Bigr).

    No row moves the centre by more than :math:`\tau / n`. A row whose distance is not a finite
    number does not move it at all.

    Args:
      rows: pytree with a leading axis of participants.
      f: number of faulty rows to bear, below half of them; the result does not depend on it.
      tau: radius :math:`\tau \ge 0`, about as far as honest rows are from the centre.
      iters: number of moves, at least 1.
      center: where to begin, a tree like one row, such as the result before; ``None`` is zero.
      active: ``bool[n]``, which rows are there; ``None`` means all.

    Returns:
      A tree like one row.

    Raises:
      ValueError: if there are no rows, their numbers differ, ``2 f >= n``, or another argument
        is out of range.

    References:
      Karimireddy et al., `Learning from History for Byzantine Robust Optimization
      <https://arxiv.org/abs/2012.10333>`_, 2020.
    """
    who = "centered_clipping"
    n = count_rows(who, rows)
    check_faulty(who, f, n)
    _validate.interval(who, "tau", tau, "[0, inf)")
    _validate.integer(who, "iters", iters, at_least=1)
    count = Count.of(n, active)
    squares = distances_to(rows, center)
    usable = jnp.isfinite(squares)
    if count.active is not None:
        usable &= count.active

    def move(shares, squares):
        """One move of ``v``, which is the centre plus shares of the rows less the centre."""
        distance = jnp.sqrt(squares)
        clipped = jnp.minimum(1, tau / jnp.where(distance > 0, distance, 1))
        pulls = jnp.where(usable, jnp.where(distance > 0, clipped, 1), 0)
        pulls = (pulls / jnp.maximum(count.number, 1)).astype(squares.dtype)
        return shares * (1 - jnp.sum(pulls)) + pulls

    shares = move(jnp.zeros(n, squares.dtype), squares)
    if iters > 1:
        gram = jnp.where(usable[:, None] & usable[None, :], gram_about(rows, center), 0)
        again = lambda _, shares: move(shares, to_combination(gram, shares))
        shares = lax.fori_loop(1, iters, again, shares)
    moved = combine(shares, rows, usable)
    if center is not None:
        rest = 1 - jnp.sum(shares)
        moved = jax.tree.map(lambda row, v: _add_centre(row, v, rest), moved, center)
    return unless_too_few(moved, f, count)


def _add_centre(row, centre, weight):
    wide = widen(row)
    return (wide + weight.astype(jnp.finfo(wide.dtype).dtype) * centre).astype(row.dtype)


def _leave_best_row(geometry):
    r"""Weights of the first point after the best row, and whether that row is the median.

    With :math:`R = \sum_i (x_i - x_k) / \|x_i - x_k\|` over the rows that are not at row
    :math:`k`, the row is the median if :math:`\|R\|` is at most the number of those that are.
    """
    gram, usable = geometry.gram, geometry.usable
    distance = jnp.sqrt(jnp.where(usable[:, None] & usable[None, :], geometry.distances, 0))
    total = jnp.where(usable, jnp.sum(distance, axis=1), jnp.inf)
    best = jnp.argmin(total)
    apart = usable & (distance[best] > 0)
    pull = jnp.where(apart, 1 / jnp.where(apart, distance[best], 1), 0)
    together, towards = jnp.sum(pull), dot(gram, pull)
    strength = dot(pull, towards) - 2 * together * towards[best] + together**2 * gram[best, best]
    strength = jnp.sqrt(jnp.maximum(strength, 0))
    here = jnp.sum(usable & ~apart)
    settled = strength <= here
    stay = jnp.where(settled, 1, here / jnp.maximum(strength, 1)).astype(pull.dtype)
    away = pull / jnp.maximum(jnp.sum(pull), jnp.finfo(pull.dtype).tiny)
    at_best = (jnp.arange(len(usable)) == best) & usable
    return stay * at_best + (1 - stay) * away, settled
