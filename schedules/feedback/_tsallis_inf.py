"""Tsallis-INF: a bandit that comes to cost little more than the best fixed value of a grid."""

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
    title="An Optimal Algorithm for Stochastic and Adversarial Bandits",
    authors="Zimmert, Seldin",
    year=2018,
    arxiv="1807.07623",
)

#: A step multiplies the distance from the pole by 1.5 at most; near the solution errors square.
_NEWTON_STEPS = 60


class TsallisINFState(NamedTuple):
    """State of :func:`tsallis_inf`.

    Attributes:
      count: ``int32[]``, costs observed.
      costs: ``float[arms]``, estimated total cost :math:`k_i` of each arm, above the offset.
      mean_cost: ``float[]``, mean :math:`c` of the observed costs above the offset; 1 at first.
      largest: ``float[]``, the largest of them; 0 at first.
      probs: ``float[arms]``, the probabilities with which the choice in force was drawn.
      action: ``int32[]``, its index in the grid.
      key: random key of the draws to come.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    costs: jax.Array
    mean_cost: jax.Array
    largest: jax.Array
    probs: jax.Array
    action: jax.Array
    key: jax.Array


@jax.jit
def probabilities(costs: jax.Array, eta: jax.typing.ArrayLike) -> jax.Array:
    r"""Solves :math:`p_i = 4 / (\eta (z_i - x))^2,\ \sum_i p_i = 1` for :math:`x < \min z`.

    In units of :math:`2 / \eta` and counted from :math:`\min z`, Newton starts at :math:`x = -1`,
    where the sum is one or more. The sum is convex and increasing in x: from there the steps
    fall towards the solution, and never cross the pole.

    Args:
      costs: ``float[arms]``, :math:`z`.
      eta: :math:`\eta > 0`.

    Returns:
      ``float[arms]``, probabilities that sum to one.
    """
    gaps = eta / 2 * (costs - costs.min())

    def newton(_, x):
        roots = 1 / (gaps - x)
        return x - (jnp.sum(roots**2) - 1) / (2 * jnp.sum(roots**3))

    x = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, jnp.full([], -1, gaps.dtype))
    probs = (gaps - x) ** -2.0
    return probs / probs.sum()


@catalogue.register("controller", PAPER, example={"grid": (0.01, 0.1, 1.0)})
def tsallis_inf(
    grid: jax.typing.ArrayLike | Sequence[float], *, cost_offset: float = 1.0
) -> Bandit:
    r"""A bandit that chooses from a grid and competes with the best fixed value.

    Only the cost :math:`\ell` of what was chosen is observed. Let :math:`k_i` be the sum of
    :math:`(\ell - \ell_0) / p_i` over the rounds in which arm :math:`i` was drawn, and :math:`c`
    the mean of :math:`\ell - \ell_0` over all rounds. In round :math:`t = 1, 2, \dots`

    .. math::
        p_i = \frac{4}{\eta^2 (k_i / c - x)^2}, \qquad \eta = \frac{2}{\sqrt{t}},

    with the :math:`x` below all :math:`k_i / c` for which they sum to one. Costs may be on any
    scale. There is nothing to tune, and no number of rounds to be known in advance. Round one
    is uniform.

    A cost that is not finite counts as the largest before it, so that a run which diverged
    teaches the bandit without breaking it.

    Args:
      grid: the values to choose from. Static.
      cost_offset: :math:`\ell_0`, the least cost that is possible; 1 for numbers of iterations,
        0 for most losses. Static. Traced costs below it count as equal to it.

    Returns:
      A :class:`Bandit` with ``init(key) -> TsallisINFState``, ``value(state)`` and
      ``update(state, cost) -> TsallisINFState``. The value is weakly typed.

    Raises:
      ValueError: if the grid is empty or not finite, the offset not finite, or a Python number
        that is passed as a cost lies below the offset.

    Examples:
      >>> from gradax import schedules
      >>> bandit = schedules.tsallis_inf([0.1, 1.0, 10.0], cost_offset=0.0)
      >>> state = bandit.init(0)
      >>> for _ in range(200):
      ...     rate = bandit.value(state)
      ...     state = bandit.update(state, cost=(rate - 1.0) ** 2)
      >>> bool(state.probs[1] > 0.8)
      True

    References:
      Zimmert and Seldin, `An Optimal Algorithm for Stochastic and Adversarial Bandits
      <https://arxiv.org/abs/1807.07623>`_, 2018. Khodak et al., `Learning to Relax
      <https://arxiv.org/abs/2310.02246>`_, 2023, use it for solvers.
    """
    who = "tsallis_inf"
    values = _arms.read_grid(who, grid)
    _validate.interval(who, "cost_offset", cost_offset, "(-inf, inf)")

    def init(key: jax.typing.ArrayLike) -> TsallisINFState:
        probs = jnp.full(len(values), 1 / len(values), float)
        key, action = _arms.draw(as_key(who, key), probs)
        return TsallisINFState(
            count=jnp.zeros([], jnp.int32),
            costs=jnp.zeros(len(values)),
            mean_cost=jnp.ones([]),
            largest=jnp.zeros([]),
            probs=probs,
            action=action,
            key=key,
        )

    def update(state: TsallisINFState, cost: jax.typing.ArrayLike) -> TsallisINFState:
        above, largest = _arms.excess(who, cost, cost_offset, state.largest)
        count = optax.safe_increment(state.count)
        mean_cost = state.mean_cost + (above - state.mean_cost) / count
        costs = state.costs.at[state.action].add(above / state.probs[state.action])
        # If every cost equals the offset the mean is zero, and so are all the sums.
        relative = costs / jnp.maximum(mean_cost, jnp.finfo(costs.dtype).tiny)
        probs = probabilities(relative, 2 / jnp.sqrt(count + 1.0))
        key, action = _arms.draw(state.key, probs)
        return TsallisINFState(count, costs, mean_cost, largest, probs, action, key)

    return Bandit(init, lambda state: _arms.pick(values, state.action), update)
