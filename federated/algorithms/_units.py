"""Displacements in gradient units: what a local step's rate and the number of steps say."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._extras import require

from ..rounds import scale_by_round_rate


def rated_optimizer(
    who: str,
    learning_rate: optax.ScalarOrSchedule,
    client: optax.GradientTransformation | None,
) -> optax.GradientTransformation:
    """Chooses the local optimizer where a rate is needed in any case.

    Args:
      who: name of the factory that asks.
      learning_rate: a number or a schedule of the round.
      client: a transformation, or ``None`` for SGD at that rate.

    Returns:
      The transformation.

    Raises:
      ValueError: if the rate cannot be one.
    """
    _validate.learning_rate(who, learning_rate)
    return scale_by_round_rate(learning_rate) if client is None else client


def rate_of(who: str, learning_rate: optax.ScalarOrSchedule, round: Any) -> Any:
    """The rate of a round.

    Args:
      who: public name of the transformation that asks.
      learning_rate: a number or a schedule of the round.
      round: the extra of this name; only a schedule needs it.

    Returns:
      A scalar.
    """
    if callable(learning_rate):
        return learning_rate(require(who, "round", round))
    return learning_rate


def steps_of(who: str, batches: Any, num_steps: Any) -> Any:
    """The number of local steps that a client makes.

    Args:
      who: public name of the transformation that asks.
      batches: the extra of this name.
      num_steps: the extra of this name; ``None`` if the client uses all batches.

    Returns:
      An integer, or ``int32[]``.
    """
    leaves = jax.tree.leaves(require(who, "batches", batches))
    return leaves[0].shape[0] if num_steps is None else num_steps


def divided(tree: Any, by: Any) -> Any:
    """Divides a tree by a scalar, in the dtypes of its leaves; by zero gives zero.

    Args:
      tree: any tree of arrays.
      by: a scalar, not negative.

    Returns:
      The quotient.
    """

    def divide(leaf):
        scale = jnp.asarray(by, leaf.dtype)
        return jnp.where(scale != 0, leaf / jnp.where(scale != 0, scale, 1), 0)

    return jax.tree.map(divide, tree)
