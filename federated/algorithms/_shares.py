"""Means over all clients that a server keeps up to date from those who took part."""

from typing import Any

import jax
import jax.numpy as jnp

from gradax._extras import require


def add_share(
    who: str, mean: Any, minus_change: Any, *, num_active: Any = None, num_clients: Any = None
) -> Any:
    """Updates a mean over all clients when some of them changed their part.

    With ``S`` active clients of ``N``, the mean of everybody moves by ``S / N`` times the mean
    change of the active ones.

    Args:
      who: public name of the server that asks.
      mean: a tree.
      minus_change: minus the uniform mean of the active clients' changes, alike.
      num_active: the extra of this name.
      num_clients: the extra of this name.

    Returns:
      The new mean, in the dtypes of the old one.

    Raises:
      MissingExtraError: if one of the extras is ``None``.
    """
    num_active = require(who, "num_active", num_active)
    num_clients = require(who, "num_clients", num_clients)

    def add(m, minus):
        share = jnp.asarray(num_active, m.dtype) / jnp.asarray(num_clients, m.dtype)
        return m - share * minus.astype(m.dtype)

    return jax.tree.map(add, mean, minus_change)
