"""ChebCB: a bandit that chooses by context, with one Chebyshev polynomial for each arm."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._keys import as_key
from gradax.schedules._protocols import Bandit

from . import _arms

PAPER = catalogue.Paper(
    title="Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System "
    "Instances",
    authors="Khodak et al.",
    year=2023,
    arxiv="2310.02246",
)

#: At most so many sweeps for a fit that leaves its box; two or three do as a rule.
_SWEEPS = 20


class ChebCBState(NamedTuple):
    """State of :func:`cheb_cb`; its size does not grow with the rounds.

    Attributes:
      count: ``int32[]``, costs observed.
      gram: ``float[arms, features, features]``, sum of products of features of each arm.
      moments: ``float[arms, features]``, sum of features times cost above the offset.
      squares: ``float[arms]``, sum of squares of these costs.
      cross: ``float[3]``, sums of prediction squared, prediction times cost, and cost squared.
      largest: ``float[]``, the largest cost above the offset; 0 at first.
      smallest: ``float[]``, the smallest; infinite at first.
      scale: ``float[]``, the unit :math:`K N` of predicted costs; 0 at first.
      theta: ``float[arms, features]``, coefficients of the predicted cost, in units of ``scale``.
      eta: ``float[]``, how much the predictions count; 0 at first.
      context: ``float[]``, the one for which the choice in force was made.
      probs: ``float[arms]``, the probabilities with which it was drawn.
      action: ``int32[]``, its index in the grid.
      key: random key of the draws to come.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    gram: jax.Array
    moments: jax.Array
    squares: jax.Array
    cross: jax.Array
    largest: jax.Array
    smallest: jax.Array
    scale: jax.Array
    theta: jax.Array
    eta: jax.Array
    context: jax.Array
    probs: jax.Array
    action: jax.Array
    key: jax.Array


@jax.jit
def box_least_squares(
    gram: jax.Array, moments: jax.Array, box: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Least squares from the normal equations, in a box if the shortest solution leaves it.

    In the box, a sweep of coordinate descent decides which coefficients lie on faces. Newton steps
    among the others, each up to the next face, then find the best point of the face that is
    reached: sweeps alone converge slowly where features are nearly dependent.

    Args:
      gram: ``float[features, features]``, sum of products of features.
      moments: ``float[features]``, sum of features times targets.
      box: ``float[features]``, the largest absolute values.

    Returns:
      The coefficients, ``float[features]``, and whether the box was needed, ``bool[]``.
    """
    pinv = lambda matrix: jnp.linalg.pinv(matrix, hermitian=True)
    shortest = pinv(gram) @ moments
    outside = jnp.any(jnp.abs(shortest) > box)
    inverse = jnp.where(jnp.diagonal(gram) > 0, 1 / jnp.diagonal(gram), 0)
    clip = lambda theta: jnp.clip(theta, -box, box)
    eps = jnp.finfo(gram.dtype).eps

    def move(feature, theta):
        slope = gram[feature] @ theta - moments[feature]
        return clip(theta.at[feature].add(-slope * inverse[feature]))

    def newton(_, theta):
        free = jnp.abs(theta) < box * (1 - 32 * eps)
        face = jnp.where(free[:, None] & free, gram, 0)
        step = jnp.where(free, pinv(face) @ jnp.where(free, moments - gram @ theta, 0), 0)
        room = jnp.where(step == 0, jnp.inf, (box - theta * jnp.sign(step)) / jnp.abs(step))
        return clip(theta + jnp.minimum(1, room.min()) * step)

    def sweep(carry):
        number, theta, _ = carry
        new = jax.lax.fori_loop(0, theta.size, move, theta)
        new = jax.lax.fori_loop(0, theta.size, newton, new)
        return number + 1, new, jnp.any(jnp.abs(new - theta) > 8 * eps * box)

    more = lambda carry: carry[2] & (carry[0] < _SWEEPS)
    boxed = jax.lax.while_loop(more, sweep, (0, clip(shortest), outside))[1]
    return jnp.where(outside, boxed, shortest), outside


@jax.jit
def probabilities(predicted: jax.Array, eta: jax.typing.ArrayLike) -> jax.Array:
    """Inverse gap weighting: the better an arm's prediction, the more probable it is.

    Args:
      predicted: ``float[arms]``, costs.
      eta: how much they count.

    Returns:
      ``float[arms]``, probabilities that sum to one.
    """
    best = jnp.argmin(predicted)
    probs = jnp.reciprocal(predicted.size + eta * (predicted - predicted[best]))
    return probs.at[best].add(1 - probs.sum())


@functools.partial(jax.jit, static_argnames=("offset", "pad_min"))
def _learn(
    state: ChebCBState, phi: jax.Array, above: jax.Array, offset: float, pad_min: bool
) -> ChebCBState:
    """Adds an observation to the sums, and fits all arms anew.

    Args:
      state: with ``count``, ``largest`` and ``smallest`` renewed already.
      phi: ``float[features]``, features of the context of the choice in force.
      above: its cost minus the offset.
      offset: the least possible cost.
      pad_min: whether the range of costs begins at zero.

    Returns:
      The state with new sums, scale, coefficients and ``eta``.
    """
    (arms, m), arm, cost = state.theta.shape, state.action, above + offset
    predicted = state.theta[arm] @ phi
    gram = state.gram.at[arm].add(jnp.outer(phi, phi))
    moments = state.moments.at[arm].add(above * phi)
    squares = state.squares.at[arm].add(above**2)
    cross = state.cross + jnp.stack([predicted**2, predicted * cost, cost**2])

    kind = jnp.finfo(gram.dtype)
    # A floor whose square is still a number: all costs may be zero.
    most = jnp.maximum(state.largest + offset, kind.tiny**0.4)
    spread = most if pad_min else state.largest - state.smallest
    n = 2 + 4 * spread / most * (1 + math.log(m))
    scale = most * n
    degrees = jnp.arange(1, m, dtype=gram.dtype)
    box = jnp.concatenate([1 / n[None], 2 * spread / scale / degrees])
    theta, boxed = jax.vmap(box_least_squares, (0, 0, None))(gram, moments / scale, box)

    residual = squares / scale**2 - 2 * jnp.sum(theta * moments, axis=1) / scale
    residual += jnp.einsum("aj,ajk,ak->a", theta, gram, theta)
    # As published: a fit that needed its box counts in the round in which it is made.
    refitted = (scale != state.scale) | (jnp.arange(arms) == arm)
    error = cross[0] - 2 * cross[1] / scale + cross[2] / scale**2
    error -= jnp.sum(jnp.where(refitted & boxed, jnp.maximum(residual, 0), 0))
    alpha = (math.pi + 2 / math.pi * math.log(2 * m + 1)) * spread / (2 * scale * (m + 1))
    t = state.count.astype(gram.dtype)
    slack = jnp.maximum(jnp.maximum(error, 0) + 2 * alpha**2 * t, kind.eps**2)
    return state._replace(
        gram=gram,
        moments=moments,
        squares=squares,
        cross=cross,
        scale=scale,
        theta=theta,
        eta=2 * t * jnp.sqrt(arms * t / slack),
    )


@catalogue.register(
    "controller",
    PAPER,
    example={"grid": (1.0, 1.5, 1.9), "num_features": 3, "low": 0.0, "high": 1.0},
)
def cheb_cb(
    grid: jax.typing.ArrayLike | Sequence[float],
    num_features: int,
    low: float,
    high: float,
    *,
    cost_offset: float = 1.0,
    pad_min: bool = True,
) -> Bandit:
    r"""A bandit that chooses from a grid by context, and competes with the best value of each.

    The context is a number :math:`x \in [a, b]` that is known before the choice, such as the
    size of a shift or the noise of a batch. With :math:`u` its place in :math:`[-1, 1]`, the
    predicted cost of arm :math:`i` is :math:`y_i = \sum_j \theta_{ij} T_j(u)`, a Chebyshev series
    of :math:`m` terms. In round :math:`t`, with :math:`s` the arm of the least,

    .. math::
        p_i = \frac{1}{d + \eta_{t-1} (y_i - y_s)} \quad (i \ne s), \qquad
        p_s = 1 - \sum_{i \ne s} p_i .

    Then :math:`\theta_i` is fitted to all costs :math:`\ell` of arm :math:`i`, as
    :math:`(\ell - \ell_0) / (K N)`: shortest least squares, held in a box
    :math:`|\theta_{i0}| \le 1/N`, :math:`|\theta_{ij}| \le 2 (b - a) L / (K N j)` where that
    leaves it. Here :math:`K` is the largest cost so far, :math:`L` the range of costs over
    :math:`b - a`, and :math:`N = 2 + 4 (b - a) (L / K) (1 + \log m)`. With the error :math:`R` of
    the predictions made before each cost, minus the residual of a fit that needed its box,

    .. math::
        \eta_t = 2 t \sqrt{\frac{d\,t}{R + 2 \alpha^2 t}}, \qquad
        \alpha = \Bigl(\pi + \frac{2}{\pi} \log(2m + 1)\Bigr) \frac{(b - a) L}{2 K N (m + 1)}.

    Round one is uniform. Sums of products of features replace the history. As with
    :func:`tsallis_inf`, a cost that is not finite counts as the largest before it.

    Args:
      grid: the values to choose from. Static.
      num_features: :math:`m \ge 1`, terms of each series; 3 to 8 do, and fewer are learnt sooner.
        Static.
      low: :math:`a`, lower end of the contexts. Static.
      high: :math:`b > a`, upper end. Static.
      cost_offset: :math:`\ell_0 \ge 0`, the least cost that is possible; 1 for numbers of
        iterations, 0 for most losses. Static.
      pad_min: whether the range of costs begins at zero, as in the authors' code, rather than at
        the smallest cost so far. Static.

    Returns:
      A :class:`Bandit` with ``init(key, context=None) -> ChebCBState``, ``value(state)`` and
      ``update(state, cost, context) -> ChebCBState``. ``context`` is always that of the choice
      to be made, not of the cost; without a first one the middle is taken. Traced contexts are
      cut to ``[low, high]``. The value is weakly typed.

    Raises:
      ValueError: if an argument is out of its range, or a Python number that is passed as a cost
        or context is.

    Examples:
      Large contexts ask for the first value, small ones for the second.

      >>> from gradax import schedules
      >>> bandit = schedules.cheb_cb([0.1, 1.0], num_features=2, low=0.0, high=1.0, cost_offset=0.0)
      >>> contexts = [0.1, 0.9, 0.5, 0.3, 0.7] * 20
      >>> state = bandit.init(0, contexts[0])
      >>> for context, following in zip(contexts, contexts[1:]):
      ...     cost = abs(bandit.value(state) - (1.0 - 0.9 * context))
      ...     state = bandit.update(state, cost, following)
      >>> for context in (0.0, 1.0):
      ...     print(bandit.update(state, 0.5, context).probs.argmax())
      1
      0

    References:
      Khodak et al., `Learning to Relax: Setting Solver Parameters Across a Sequence of Linear
      System Instances <https://arxiv.org/abs/2310.02246>`_, 2023.
    """
    who = "cheb_cb"
    values = _arms.read_grid(who, grid)
    _validate.integer(who, "num_features", num_features, at_least=1)
    _validate.interval(who, "low", low, "(-inf, inf)")
    _validate.interval(who, "high", high, f"({low}, inf)")
    _validate.interval(who, "cost_offset", cost_offset, "[0, inf)")
    low, high, cost_offset = float(low), float(high), float(cost_offset)
    arms, m, width = len(values), num_features, high - low

    def features(context):
        place = jnp.clip(2 * (context - low) / width - 1, -1, 1)
        return jnp.cos(jnp.arange(m) * jnp.arccos(place))

    def read(context, dtype):
        _validate.interval(who, "context", context, f"[{low}, {high}]")
        context = jnp.asarray(context, dtype)
        return jnp.where(jnp.isnan(context), low + width / 2, jnp.clip(context, low, high))

    def init(key: jax.typing.ArrayLike, context: jax.typing.ArrayLike | None = None) -> ChebCBState:
        probs = jnp.full(arms, 1 / arms, float)
        key, action = _arms.draw(as_key(who, key), probs)
        return ChebCBState(
            count=jnp.zeros([], jnp.int32),
            gram=jnp.zeros((arms, m, m)),
            moments=jnp.zeros((arms, m)),
            squares=jnp.zeros(arms),
            cross=jnp.zeros(3),
            largest=jnp.zeros([]),
            smallest=jnp.full([], jnp.inf, float),
            scale=jnp.zeros([]),
            theta=jnp.zeros((arms, m)),
            eta=jnp.zeros([]),
            context=read(low + width / 2 if context is None else context, probs.dtype),
            probs=probs,
            action=action,
            key=key,
        )

    def update(
        state: ChebCBState, cost: jax.typing.ArrayLike, context: jax.typing.ArrayLike
    ) -> ChebCBState:
        above, largest = _arms.excess(who, cost, cost_offset, state.largest)
        state = state._replace(
            count=optax.safe_increment(state.count),
            largest=largest,
            smallest=jnp.minimum(state.smallest, above),
        )
        state = _learn(state, features(state.context), above, cost_offset, pad_min)
        following = read(context, state.context.dtype)
        probs = probabilities(state.theta @ features(following), state.eta)
        key, action = _arms.draw(state.key, probs)
        return state._replace(context=following, probs=probs, action=action, key=key)

    return Bandit(init, lambda state: _arms.pick(values, state.action), update)
