"""Rows of many clients in one array: read for a cohort, written back in place."""

from typing import Any

import jax
import jax.numpy as jnp


def read(store: Any, ids: jax.Array | None) -> Any:
    """Gathers the rows of a cohort.

    Args:
      store: pytree, leaves ``[num_clients, ...]``.
      ids: ``int32[lanes]``; ``num_clients`` (nobody) reads the last row. ``None``: everybody.

    Returns:
      A tree like ``store``, leaves ``[lanes, ...]``.
    """
    if ids is None:
        return store
    lanes, index = ids.shape[0], _at_least_two(ids, store)
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip")[:lanes], store)


def write(store: Any, ids: jax.Array | None, rows: Any) -> Any:
    """Scatters the rows of a cohort back; what nobody wrote is dropped.

    Args:
      store: pytree, leaves ``[num_clients, ...]``.
      ids: as for :func:`read`.
      rows: a tree like ``store``, leaves ``[lanes, ...]``.

    Returns:
      The new store.
    """
    if ids is None:
        return rows
    index = _at_least_two(ids, store)

    def put(leaf, row):
        if index.shape != ids.shape:
            row = jnp.concatenate([row, row])
        return leaf.at[index].set(row, mode="drop")

    return jax.tree.map(put, store, rows)


def _at_least_two(ids: jax.Array, store: Any) -> jax.Array:
    """Adds an empty lane to a cohort of one.

    XLA on CPU copies the whole store at every step of a scan whose gather or scatter touches a
    single row; with two rows, the second one dropped, it works in place (``benchmarks/``:
    chunk_of_one).
    """
    if ids.shape[0] != 1 or not jax.tree.leaves(store):
        return ids
    nobody = jax.tree.leaves(store)[0].shape[0]
    return jnp.concatenate([ids, jnp.full((1,), nobody, ids.dtype)])
