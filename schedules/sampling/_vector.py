"""What the functions of this room take: one number for each domain, item or task."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _validate


def vector(who: str, name: str, values: Any, allowed: str, size: int | None = None) -> jax.Array:
    """Checks a vector of numbers and brings it into floating point.

    Args:
      who: public name of the factory.
      name: name of the argument.
      values: what was given; the values of traced arrays cannot be judged.
      allowed: the interval in which all of them must lie, such as ``"(0, inf)"``.
      size: how many there must be; ``None`` for one at least.

    Returns:
      ``float[size]``.

    Raises:
      ValueError: if the shape is another one or a value lies outside of the interval.
    """
    shape = np.shape(values)
    if len(shape) != 1 or shape[0] == 0 or (size is not None and shape[0] != size):
        wanted = "one number at least" if size is None else f"{size} numbers"
        raise ValueError(f"{who}: {name} must be a vector of {wanted}, got the shape {shape}.")
    if not isinstance(values, jax.core.Tracer):
        numbers = np.asarray(values, np.float64)
        for extreme in (numbers.min(), numbers.max()):
            _validate.interval(who, name, float(extreme), allowed)
    return jnp.asarray(values, float)
