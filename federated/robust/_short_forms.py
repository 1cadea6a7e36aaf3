"""The usual rules as aggregates of their own."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from gradax import _validate
from gradax.catalogue import Paper, register

from .. import axis
from . import rules
from ._robust_aggregate import robust_aggregate

_MEDIAN = Paper(
    "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    "Yin et al.",
    2018,
    "1803.01498",
)
_KRUM = Paper("Byzantine-Tolerant Machine Learning", "Blanchard et al.", 2017, "1703.02757")
_GEOMETRIC = Paper(
    "Robust Aggregation for Federated Learning", "Pillutla et al.", 2019, "1912.13445"
)
_NEIGHBORS = ("byzfl", "original")


def _short(rule: Callable[..., Any], axis_name: axis.AxisName, **fixed: Any):
    """The aggregate of a rule with its parameters fixed."""
    if "f" in fixed:
        _validate.integer(rule.__name__, "f", fixed["f"], at_least=0)
    return robust_aggregate(functools.partial(rule, **fixed), axis_name)


@register("aggregate", _MEDIAN, needs=("axis",), example={"axis_name": "clients"})
def coordinate_median(axis_name: axis.AxisName) -> optax.GradientTransformationExtraArgs:
    """Takes the median of every coordinate over the participants.

    Bears fewer than half of them, whatever they send. The short form of
    :func:`robust_aggregate` with :func:`gradax.federated.rules.median`.

    Args:
      axis_name: axis of the participants.

    Returns:
      A transformation with the state :class:`RobustAggregateState`; it needs the axis.

    Raises:
      ValueError: if ``axis_name`` is no name or tuple of names.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> tx = gradax.federated.coordinate_median("clients")
      >>> combine = lambda u: tx.update(u, tx.init(u))[0]
      >>> jax.vmap(combine, axis_name="clients")(jnp.array([1.0, 2.0, jnp.nan])).tolist()
      [2.0, 2.0, 2.0]

    References:
      Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
      <https://arxiv.org/abs/1803.01498>`_, 2018.
    """
    return _short(rules.median, axis_name)


@register("aggregate", _MEDIAN, needs=("axis",), example={"axis_name": "clients", "f": 1})
def trimmed_mean(axis_name: axis.AxisName, f: int) -> optax.GradientTransformationExtraArgs:
    """Averages every coordinate without its ``f`` smallest and ``f`` largest values.

    The short form of :func:`robust_aggregate` with
    :func:`gradax.federated.rules.trimmed_mean`.

    Args:
      axis_name: axis of the participants.
      f: number of liars to bear, below half of the participants. Static.

    Returns:
      A transformation with the state :class:`RobustAggregateState`; it needs the axis.

    Raises:
      ValueError: if ``f`` is no integer >= 0; at trace time if ``2 f >= n``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> tx = gradax.federated.trimmed_mean("clients", f=1)
      >>> combine = lambda u: tx.update(u, tx.init(u))[0]
      >>> rows = jnp.array([1.0, 3.0, 4.0, 1e9])
      >>> jax.vmap(combine, axis_name="clients")(rows).tolist()
      [3.5, 3.5, 3.5, 3.5]

    References:
      Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
      <https://arxiv.org/abs/1803.01498>`_, 2018.
    """
    return _short(rules.trimmed_mean, axis_name, f=f)


@register("aggregate", _KRUM, needs=("axis",), example={"axis_name": "clients", "f": 1})
def krum(
    axis_name: axis.AxisName, f: int, neighbors: str = "byzfl"
) -> optax.GradientTransformationExtraArgs:
    """Takes the message whose nearest neighbours are nearest.

    The short form of :func:`robust_aggregate` with :func:`gradax.federated.rules.krum`.

    Args:
      axis_name: axis of the participants.
      f: number of liars to bear, below half of the participants. Static.
      neighbors: how many neighbours count: ``"byzfl"`` for ``n - f - 1``, ``"original"`` for
        ``n - f - 2``. Static.

    Returns:
      A transformation with the state :class:`RobustAggregateState`; it needs the axis.

    Raises:
      ValueError: if an argument is out of range; at trace time if ``2 f >= n``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> tx = gradax.federated.krum("clients", f=1)
      >>> combine = lambda u: tx.update(u, tx.init(u))[0]
      >>> rows = jnp.array([0.0, 2.0, 3.0, -50.0])
      >>> jax.vmap(combine, axis_name="clients")(rows).tolist()
      [2.0, 2.0, 2.0, 2.0]

    References:
      Blanchard et al., `Byzantine-Tolerant Machine Learning
      <https://arxiv.org/abs/1703.02757>`_, 2017.
    """
    _validate.one_of("krum", "neighbors", neighbors, _NEIGHBORS)
    return _short(rules.krum, axis_name, f=f, neighbors=neighbors)


@register("aggregate", _KRUM, needs=("axis",), example={"axis_name": "clients", "f": 1})
def multi_krum(
    axis_name: axis.AxisName, f: int, m: int | None = None, neighbors: str = "byzfl"
) -> optax.GradientTransformationExtraArgs:
    """Averages the ``m`` messages with the smallest scores of Krum.

    The short form of :func:`robust_aggregate` with :func:`gradax.federated.rules.multi_krum`.

    Args:
      axis_name: axis of the participants.
      f: number of liars to bear, below half of the participants. Static.
      m: how many messages to average; ``None`` is ``n - f``, the most there may be. Static.
      neighbors: as in :func:`krum`. Static.

    Returns:
      A transformation with the state :class:`RobustAggregateState`; it needs the axis.

    Raises:
      ValueError: if an argument is out of range; at trace time if ``2 f >= n`` or
        ``m > n - f``.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> tx = gradax.federated.multi_krum("clients", f=1, m=2)
      >>> combine = lambda u: tx.update(u, tx.init(u))[0]
      >>> rows = jnp.array([0.0, 2.0, 3.0, -50.0])
      >>> jax.vmap(combine, axis_name="clients")(rows).tolist()
      [2.5, 2.5, 2.5, 2.5]

    References:
      Blanchard et al., `Byzantine-Tolerant Machine Learning
      <https://arxiv.org/abs/1703.02757>`_, 2017.
    """
    _validate.one_of("multi_krum", "neighbors", neighbors, _NEIGHBORS)
    if m is not None:
        _validate.integer("multi_krum", "m", m, at_least=1)
    return _short(rules.multi_krum, axis_name, f=f, m=m, neighbors=neighbors)


@register("aggregate", _GEOMETRIC, needs=("axis",), example={"axis_name": "clients"})
def geometric_median(
    axis_name: axis.AxisName, tol: jax.typing.ArrayLike = 1e-6, max_iters: int = 200
) -> optax.GradientTransformationExtraArgs:
    """Takes the point with the smallest sum of distances to the messages.

    Bears fewer than half of the participants. The short form of :func:`robust_aggregate` with
    :func:`gradax.federated.rules.geometric_median`.

    Args:
      axis_name: axis of the participants.
      tol: iterate until the weights of the messages change by less than this.
      max_iters: at most so many iterations. Static.

    Returns:
      A transformation with the state :class:`RobustAggregateState`; it needs the axis.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> tx = gradax.federated.geometric_median("clients")
      >>> combine = lambda u: tx.update(u, tx.init(u))[0]
      >>> rows = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0], [0.25, 0.25]])
      >>> jax.vmap(combine, axis_name="clients")(rows)[0].tolist()
      [0.25, 0.25]

    References:
      Pillutla et al., `Robust Aggregation for Federated Learning
      <https://arxiv.org/abs/1912.13445>`_, 2019.
    """
    _validate.interval("geometric_median", "tol", tol, "(0, inf)")
    _validate.integer("geometric_median", "max_iters", max_iters, at_least=1)
    return _short(rules.geometric_median, axis_name, tol=tol, max_iters=max_iters)
