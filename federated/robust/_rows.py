"""Stacks of messages, one row per participant: what rules and attacks share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradax import _validate
from gradax._wide import widen

from .. import axis


def count_rows(who: str, rows: Any) -> int:
    """Returns the number of rows, the same for all leaves.

    Args:
      who: name of the caller, for the message.
      rows: pytree with a leading axis of participants.

    Returns:
      Their number.

    Raises:
      ValueError: if there is no row, or leaves disagree.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(rows)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"{who}: rows must be a tree whose leaves have one common leading axis of at least "
            f"one participant, got shapes {shapes}."
        )
    return counts.pop()


def check_faulty(who: str, f: int, n: int) -> None:
    """Raises unless fewer than half of the participants are faulty.

    Args:
      who: name of the caller, for the message.
      f: number of faulty participants.
      n: number of participants.

    Raises:
      ValueError: if ``f`` is no integer, negative, or ``2 f >= n``.
    """
    _validate.integer(who, "f", f, at_least=0)
    if 2 * f >= n:
        raise ValueError(f"{who}: cannot tolerate 2f >= n, got f = {f} of n = {n} participants.")


def inexact_leaves(tree: Any) -> list[jax.Array]:
    """Lists the floating and complex leaves; integers take no part in distances."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]


class Count(NamedTuple):
    """How many rows there are, and which.

    Attributes:
      number: a Python integer if all are there, else ``int32[]``.
      active: ``bool[n]``, which are there; ``None`` means all.
    """

    number: Any
    active: jax.Array | None

    @classmethod
    def of(cls, n: int, active: jax.Array | None) -> "Count":
        """Counts the rows that are there."""
        if active is None:
            return cls(n, None)
        active = jnp.asarray(active, bool)
        return cls(jnp.sum(active, dtype=jnp.int32), active)

    def clear(self, leaf: jax.Array) -> jax.Array:
        """Puts infinity, which sorts last, into absent rows of a leaf; integers become float."""
        leaf = jnp.asarray(leaf)
        if self.active is None:
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            leaf = widen(leaf)
        last = complex(jnp.inf, jnp.inf) if jnp.iscomplexobj(leaf) else jnp.inf
        return jnp.where(_column(self.active, leaf), leaf, jnp.asarray(last, leaf.dtype))


def unless_too_few(result: Any, f: int, count: Count) -> Any:
    """Gives zero where so few rows are there that ``f`` faulty ones may outvote the others.

    Args:
      result: tree of a rule.
      f: number of faulty rows to bear.
      count: how many rows there are. If all are, ``check_faulty`` has judged them.

    Returns:
      The tree, or zeros.
    """
    if count.active is None:
        return result
    enough = count.number > 2 * f
    return jax.tree.map(lambda leaf: jnp.where(enough, leaf, jnp.zeros_like(leaf)), result)


def mask_rows(rows: Any, keep: jax.Array) -> Any:
    """Sets rows to zero, so that a weight of zero removes them even if they were not finite.

    Args:
      rows: pytree with a leading axis of ``n`` participants.
      keep: ``bool[n]``.

    Returns:
      A tree like ``rows``.
    """
    clear = lambda leaf: jnp.where(_column(keep, leaf), leaf, jnp.zeros_like(leaf))
    return jax.tree.map(clear, rows)


def _column(mask, leaf):
    return mask.reshape(-1, *(1,) * (jnp.ndim(leaf) - 1))


def mean_of_leaf(leaf: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Averages over the leading axis, those that are there; integers become float."""
    leaf = jnp.asarray(leaf)
    if active is None:
        average = mean_of_rows(widen(leaf))
    else:
        wide = mask_rows(widen(leaf), active)
        share = active / jnp.maximum(jnp.sum(active), 1)
        average = axis.contract(share.astype(jnp.finfo(wide.dtype).dtype), wide)
    return average.astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else average


def mean_of_rows(leaf: jax.Array) -> jax.Array:
    """Averages over the leading axis as a product, many times faster on CPU than a reduction."""
    shares = jnp.full(len(leaf), 1.0 / len(leaf), jnp.finfo(leaf.dtype).dtype)
    return axis.contract(shares, leaf)


def append_copies(honest: jax.Array, row: jax.Array, f: int) -> jax.Array:
    """Stacks ``f`` copies of one message below the honest ones.

    Args:
      honest: ``[h, ...]``.
      row: ``[...]``.
      f: number of copies.

    Returns:
      ``[h + f, ...]``, in the dtype of ``honest``.
    """
    copies = jnp.broadcast_to(row.astype(honest.dtype), (f, *honest.shape[1:]))
    return jnp.concatenate([honest, copies])
