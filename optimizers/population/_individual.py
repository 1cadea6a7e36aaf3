"""What every individual of a population needs: its loss, its draws, the leaves that can move."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from gradax import _extras
from gradax._wide import widen
from gradax.federated import axis

#: ``sampler(key, shape, dtype)`` draws independent numbers of mean zero and variance one.
Sampler: TypeAlias = Callable[..., jax.Array]


def own_value(
    who: str,
    params: optax.Params,
    value: jax.typing.ArrayLike | None,
    value_fn: Callable[[optax.Params], jax.Array] | None,
) -> jax.Array:
    """The individual's loss, in float32 at least; computed where only a function is given.

    Args:
      who: public name of the method, for messages.
      params: the individual.
      value: its loss, or ``None``.
      value_fn: function of params that returns the loss, or ``None``.

    Returns:
      A scalar.

    Raises:
      MissingExtraError: if both are ``None``.
      ValueError: if ``value`` is no real scalar.
    """
    if value is None and value_fn is not None:
        value = value_fn(params)
    loss = jnp.asarray(_extras.require(who, "value", value))
    if loss.shape or jnp.iscomplexobj(loss):
        raise ValueError(
            f"{who}: value must be a real scalar, one loss per individual, got "
            f"{loss.dtype}{list(loss.shape)}."
        )
    return widen(loss)


def split_keys(
    shared_key: jax.Array, axis_name: axis.AxisName, number: jax.typing.ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """Advances a key that all individuals have alike, and makes a key of one's own from it.

    Args:
      shared_key: the key in the state.
      axis_name: axis of the population.
      number: the individual's number, or ``None`` for its place on the axis.

    Returns:
      The next shared key, and the individual's own key for this update.
    """
    next_key, common = jax.random.split(shared_key)
    number = axis.index(axis_name) if number is None else number
    return next_key, jax.random.fold_in(common, number)


def movable(tree: Any) -> Any:
    """The inexact leaves, in the dtype in which they are computed; ``None`` for the others."""
    keep = lambda x: widen(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else None
    return jax.tree.map(keep, tree)


def put_back(moved: Any, params: optax.Params, otherwise: Callable[[jax.Array], jax.Array]) -> Any:
    """A tree like params from what became of its inexact leaves, in the dtypes of params.

    Args:
      moved: tree made by :func:`movable`, or by mapping over one.
      params: the individual.
      otherwise: what an integer leaf becomes.

    Returns:
      The tree.
    """
    choose = lambda x, new: otherwise(x) if new is None else new.astype(jnp.result_type(x))
    return jax.tree.map(choose, params, moved)
