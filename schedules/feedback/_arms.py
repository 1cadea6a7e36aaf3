"""What bandits share: the grid, the draw of an arm, and costs that may be broken."""

import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def read_grid(who: str, grid: jax.typing.ArrayLike | Sequence[float]) -> tuple[float, ...]:
    """Returns the values to choose from as Python numbers.

    Args:
      who: public name of the factory.
      grid: the values, one dimension.

    Returns:
      As many numbers.

    Raises:
      ValueError: if there are none, or they are no finite real numbers.
    """
    values = np.asarray(grid)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{who}: grid must list one value or more, got shape {values.shape}.")
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(f"{who}: grid must hold finite real numbers, got {values.tolist()}.")
    return tuple(values.tolist())


def pick(grid: tuple[float, ...], action: jax.Array) -> jax.Array:
    """The grid's value at an index, weakly typed: it takes the dtype of what it multiplies."""
    return jnp.select([action == arm for arm in range(len(grid))], list(grid))


def draw(key: jax.Array, probs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits a key and draws an arm; returns the next key and the arm."""
    key, own = jax.random.split(key)
    return key, jax.random.choice(own, probs.size, p=probs).astype(jnp.int32)


def excess(
    who: str, cost: jax.typing.ArrayLike, offset: float, largest: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns a cost minus the offset, and the largest of these so far.

    A run that broke must not break the bandit: a cost that is not finite, or too large for its
    square to be summed (3e15 in 32 bits), counts as the largest before it, or as the offset plus
    one if there was none.

    Args:
      who: public name of the factory.
      cost: what was observed.
      offset: the least possible cost.
      largest: the largest excess so far, zero at first.

    Returns:
      The excess, and the new largest one.

    Raises:
      ValueError: if ``cost`` is a Python number below the offset.
    """
    if isinstance(cost, numbers.Real) and cost < offset:
        raise ValueError(f"{who}: cost must lie in [{offset}, inf), got {cost}.")
    cost = jnp.asarray(cost, largest.dtype)
    fallback = jnp.where(largest > 0, largest, 1)
    sound = jnp.abs(cost) < jnp.finfo(cost.dtype).max ** 0.4
    above = jnp.where(sound, jnp.maximum(cost - offset, 0), fallback)
    return above, jnp.maximum(largest, above)
