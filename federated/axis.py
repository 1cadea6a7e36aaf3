"""Collectives over named axes: the one place where participants talk to each other.

An axis is one name or a tuple of nested names, outermost first. The same call works under
``jax.vmap``, ``jax.pmap``, ``jax.shard_map`` and any nesting of them; participants are
numbered row-major over the tuple. Under ``vmap`` sums are written as a contraction of the
gathered rows, which XLA compiles to one matrix product, many times faster on CPU than its
reduction over the leading axis; on a mesh they are the hardware's own reductions.

``shard_map`` of ``vmap`` needs ``check_vma=False``.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

AxisName: TypeAlias = str | tuple[str, ...]

P = ParamSpec("P")
R = TypeVar("R")


def _explain_unbound(function: Callable[P, R]) -> Callable[P, R]:
    """Turns JAX's ``NameError`` for an unknown axis into advice."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except NameError as error:
            if "unbound axis name" not in str(error):
                raise
            name = str(error).rpartition(":")[2].strip()
            raise ValueError(
                f"axis_name {name!r} is not bound: call the update inside "
                f"jax.vmap(..., axis_name={name!r}), jax.pmap or jax.shard_map, "
                "or through gradax.federated.simulate."
            ) from error

    return wrapped


def names(axis_name: AxisName) -> tuple[str, ...]:
    """Lists the names of an axis, outermost first.

    Args:
      axis_name: a name or a tuple of names.

    Returns:
      A tuple of names.

    Raises:
      ValueError: if there is no name, or one occurs twice (JAX would silently use the
        innermost axis for both).

    Examples:
      >>> names("clients")
      ('clients',)
      >>> names(("hosts", "hosts"))
      Traceback (most recent call last):
      ValueError: axis_name must not repeat a name, got ('hosts', 'hosts').
    """
    listed = axis_name if isinstance(axis_name, tuple | list) else (axis_name,)
    if not listed or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"axis_name must be a string or a tuple of them, got {axis_name!r}.")
    if len(set(listed)) != len(listed):
        raise ValueError(f"axis_name must not repeat a name, got {axis_name!r}.")
    return tuple(listed)


def is_manual(axis_name: AxisName) -> bool:
    """Tells devices from lanes: whether a part of the axis belongs to ``pmap`` or ``shard_map``.

    Args:
      axis_name: a name or a tuple of nested names, outermost first.

    Returns:
      ``False`` if the whole axis is vmapped: what does not depend on the participant is then
      computed once for all. ``True`` if every device computes it again.
    """
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return any(name in manual for name in names(axis_name))


@_explain_unbound
def size(axis_name: AxisName) -> int:
    """Returns the number of participants, a Python integer."""
    return math.prod(lax.axis_size(name) for name in names(axis_name))


@_explain_unbound
def index(axis_name: AxisName) -> jax.Array:
    """Returns this participant's number, ``int32[]``, row-major over nested axes."""
    position = jnp.zeros([], jnp.int32)
    for name in names(axis_name):
        position = position * lax.axis_size(name) + lax.axis_index(name)
    return position


@_explain_unbound
def all_gather(tree: Any, axis_name: AxisName) -> Any:
    """Stacks the trees of all participants.

    Args:
      tree: pytree of arrays of this participant.
      axis_name: a name or a tuple of nested names, outermost first.

    Returns:
      A tree like ``tree`` whose leaves have a new leading axis of participants, in the order
      of :func:`index`.
    """
    listed = names(axis_name)
    count = size(axis_name)

    def gather(leaf):
        # One name at a time: a gather over a tuple fails in every nesting.
        for name in reversed(listed):
            leaf = lax.all_gather(leaf, name)
        return leaf.reshape(count, *leaf.shape[len(listed) :])

    return jax.tree.map(gather, tree)


@_explain_unbound
def weighted_sum(tree: Any, weight: jax.typing.ArrayLike, axis_name: AxisName) -> Any:
    r"""Computes :math:`\sum_i w_i x_i` over the participants.

    Sums are accumulated in float32 at least, and returned in each leaf's dtype.

    Args:
      tree: pytree :math:`x_i` of this participant.
      weight: scalar :math:`w_i` of this participant.
      axis_name: a name or a tuple of nested names, outermost first.

    Returns:
      A tree like ``tree``, equal for all participants; integer leaves become float.
    """
    listed = names(axis_name)

    def of_leaf(leaf):
        total = _wide_sum(leaf, weight, listed)
        return total.astype(leaf.dtype) if _is_inexact(leaf) else total

    return jax.tree.map(of_leaf, jax.tree.map(jnp.asarray, tree))


def _is_inexact(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _wide_sum(leaf, weight, listed):
    """The weighted sum of a leaf in the dtype it is accumulated in."""
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    total, factor = leaf.astype(wide), jnp.asarray(weight, wide)
    for name in reversed(listed):
        if is_manual(name):
            total, factor = lax.psum(factor * total, name), jnp.ones([], wide)
        else:
            rows, factors = lax.all_gather((total, factor), name)
            total, factor = contract(factors, rows), jnp.ones([], wide)
    return total


def contract(weights: jax.Array, rows: jax.Array) -> jax.Array:
    """Multiplies weights with stacked rows, at the highest precision.

    Args:
      weights: ``[..., n]``.
      rows: ``[n, ...]``.

    Returns:
      The sums over ``n``: the leading axes of ``weights``, then the others of ``rows``.
    """
    return jnp.tensordot(weights, rows, axes=1, precision=lax.Precision.HIGHEST)


@_explain_unbound
def sum(tree: Any, axis_name: AxisName) -> Any:
    """Adds the trees of all participants.

    Args:
      tree: pytree of arrays of this participant.
      axis_name: a name or a tuple of nested names, outermost first.

    Returns:
      A tree like ``tree``, equal for all participants. Integers are added exactly, booleans
      are counted.
    """
    listed = names(axis_name)

    def of_leaf(leaf):
        if _is_inexact(leaf):
            return _wide_sum(leaf, 1.0, listed).astype(leaf.dtype)
        counted = leaf.astype(jnp.int32) if leaf.dtype == jnp.bool_ else leaf
        return lax.psum(counted, listed)

    return jax.tree.map(of_leaf, jax.tree.map(jnp.asarray, tree))


@_explain_unbound
def mean(tree: Any, axis_name: AxisName) -> Any:
    """Averages the trees of all participants, with equal weights.

    Args:
      tree: pytree of arrays of this participant.
      axis_name: a name or a tuple of nested names, outermost first.

    Returns:
      A tree like ``tree``, equal for all participants; integer leaves become float.
    """
    listed, count = names(axis_name), size(axis_name)

    def of_leaf(leaf):
        if not _is_inexact(leaf):
            return sum(leaf, axis_name) / count
        # Rounded to the leaf's dtype once, after the division.
        return (_wide_sum(leaf, 1.0, listed) / count).astype(leaf.dtype)

    return jax.tree.map(of_leaf, jax.tree.map(jnp.asarray, tree))


@_explain_unbound
def permute(tree: Any, axis_name: AxisName, pairs: Sequence[tuple[int, int]]) -> Any:
    """Sends each participant's tree to another one.

    Args:
      tree: pytree of arrays of this participant.
      axis_name: a name or a tuple of nested names, outermost first.
      pairs: ``(source, destination)`` numbers as :func:`index` counts them; a participant
        to which nobody sends receives zeros.

    Returns:
      A tree like ``tree``: what this participant received.

    Raises:
      ValueError: if a number is out of range or occurs twice on one side.
    """
    listed, count = names(axis_name), size(axis_name)
    for side, title in ((0, "source"), (1, "destination")):
        numbers = [pair[side] for pair in pairs]
        if len(set(numbers)) != len(numbers) or any(not 0 <= k < count for k in numbers):
            raise ValueError(
                f"permute: every {title} must occur once and lie in [0, {count}), got {pairs}."
            )
    if len(listed) == 1 and (is_manual(listed[0]) or len(pairs) == count):
        return jax.tree.map(lambda leaf: lax.ppermute(leaf, listed[0], list(pairs)), tree)
    source = [-1] * count
    for origin, destination in pairs:
        source[destination] = origin
    mine = jnp.asarray(source, jnp.int32)[index(axis_name)]
    pick = lambda rows: jnp.where(mine >= 0, rows[mine], jnp.zeros_like(rows[0]))
    return jax.tree.map(pick, all_gather(tree, axis_name))
