"""The consensus: the mean of a population in which the best count most."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax.federated import axis

from ._individual import movable, own_value, put_back

CBO_PAPER = catalogue.Paper(
    title="A Consensus-Based Model for Global Optimization and its Mean-Field Limit",
    authors="Pinnau et al.",
    year=2016,
    arxiv="1604.05648",
)


@catalogue.register("function", CBO_PAPER)
def consensus_point(
    params: optax.Params,
    value: jax.typing.ArrayLike,
    alpha: jax.typing.ArrayLike = 100.0,
    axis_name: axis.AxisName = "population",
    *,
    active: jax.typing.ArrayLike | None = None,
) -> optax.Params:
    r"""Averages a population with weights that fall exponentially with the loss.

    With individuals :math:`x_i` and losses :math:`E_i`,

    .. math::
        \bar x = \frac{\sum_i w_i x_i}{\sum_i w_i},
        \qquad w_i = \exp(-\alpha (E_i - \min_j E_j)).

    :math:`\alpha = 0` gives the plain mean; for large :math:`\alpha` the best individual
    remains. Losses that are not finite count as infinite; if all are, the mean is plain. Sums
    are made in float32 at least. One number per individual is gathered and one model is summed,
    so memory does not grow with the population.

    Args:
      params: this individual :math:`x_i`, any pytree.
      value: its loss :math:`E_i`, a real scalar.
      alpha: inverse temperature :math:`\alpha \ge 0`, in units of one over the loss.
      axis_name: axis of the population.
      active: whether this individual counts, a boolean scalar; by default all do.

    Returns:
      The consensus, equal for all individuals, with the structure and dtypes of ``params``.
      Integer leaves are this individual's own.

    Raises:
      ValueError: if ``alpha`` is a Python number below zero, ``value`` is no real scalar, or
        the axis is not bound.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> x, losses = jnp.array([0.0, 1.0, 3.0]), jnp.array([2.0, 1.0, 4.0])
      >>> meet = lambda x, loss: gradax.optimizers.consensus_point(x, loss, alpha=1.0)
      >>> print(jax.vmap(meet, axis_name="population")(x, losses).round(4))
      [0.8107 0.8107 0.8107]

    References:
      Pinnau et al., `A Consensus-Based Model for Global Optimization and its Mean-Field Limit
      <https://arxiv.org/abs/1604.05648>`_, 2016.
    """
    who = "consensus_point"
    _validate.interval(who, "alpha", alpha, "[0, inf)")
    weight = softmin_weight(own_value(who, params, value, None), alpha, axis_name, active)
    return put_back(weighted_mean(movable(params), weight, axis_name), params, jnp.asarray)


def softmin_weight(
    value: jax.Array,
    alpha: jax.typing.ArrayLike,
    axis_name: axis.AxisName,
    active: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """This individual's share in the consensus; the shares add up to one.

    Args:
      value: its loss, a real scalar.
      alpha: inverse temperature.
      axis_name: axis of the population.
      active: whether it counts; who does not has the share zero.

    Returns:
      A scalar of the dtype of ``value``.
    """
    present = jnp.ones([], bool) if active is None else jnp.asarray(active, bool)
    values, present = axis.all_gather((value, present), axis_name)
    finite = jnp.isfinite(values) & present
    least = jnp.min(jnp.where(finite, values, jnp.inf))
    # Bounded, since no more than one of alpha and the gap may be zero or infinite.
    gap = jnp.minimum(jnp.where(finite, values - least, 0), jnp.finfo(values.dtype).max)
    counted = jnp.where(jnp.any(finite), finite, present)
    weights = jnp.where(counted, jnp.exp(-jnp.asarray(alpha, values.dtype) * gap), 0)
    # Whoever has the least loss has the weight one, so that the sum is zero only for nobody.
    shares = weights / jnp.maximum(jnp.sum(weights), 1)
    return shares[axis.index(axis_name)]


def weighted_mean(tree: Any, weight: jax.Array, axis_name: axis.AxisName) -> Any:
    """The sum of all individuals' trees times their shares; who has none may hold NaN."""
    counted = jax.tree.map(lambda x: jnp.where(weight > 0, x, 0), tree)
    return axis.weighted_sum(counted, weight, axis_name)
