"""Keys of random numbers: what a constructor's ``key`` argument may be."""

import numbers

import jax
import jax.numpy as jnp


def as_key(who: str, key: jax.typing.ArrayLike | None) -> jax.Array:
    """Makes a key that a state may own from a seed or a key that the caller keeps.

    Args:
      who: public name of the factory.
      key: a typed or raw JAX key, or an integer.

    Returns:
      A key that shares no buffer with the argument.

    Raises:
      ValueError: if ``key`` is ``None``.
    """
    if key is None:
        raise ValueError(f"{who}: key must be a JAX key or an integer, since numbers are drawn.")
    if isinstance(key, numbers.Integral):
        return jax.random.key(int(key))
    return jnp.array(key, copy=True)
