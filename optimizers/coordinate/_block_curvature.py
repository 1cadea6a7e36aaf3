"""Curvature of blocks of coordinates: checked, cut out, solved with, searched along."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import optax

from gradax import _extras

from ._choose_block import Method

#: How often a line search may halve a step.
_MAX_HALVINGS = 30


class Point(NamedTuple):
    """Where a step is made.

    Attributes:
      updates: the incoming gradient, a tree.
      params: the parameters, or ``None``.
      extras: keyword arguments of ``update``.
      dtype: in which the step is computed.
    """

    updates: optax.Updates
    params: optax.Params | None
    extras: dict[str, Any]
    dtype: Any


def check_shape(method: Method, name: str, allowed: list[tuple[int, ...]]) -> None:
    """Raises unless an argument, if given, has one of the allowed shapes."""
    value = getattr(method, name)
    if value is not None and np.shape(value) not in allowed:
        listed = " or ".join(map(str, allowed))
        raise ValueError(f"{method.who}: {name} must have shape {listed}, got {np.shape(value)}.")


def check_symmetric(who: str, matrices: np.ndarray) -> None:
    """Raises unless stacked matrices are square, symmetric and finite."""
    square = matrices.ndim == 3 and matrices.shape[1] == matrices.shape[2]
    if not square or not np.allclose(matrices, np.swapaxes(matrices, 1, 2), rtol=1e-5):
        raise ValueError(f"{who}: hessian must be symmetric and finite, it is not.")


def stacked_blocks(method: Method, rows: np.ndarray, size: int) -> np.ndarray:
    """The Hessian's blocks, zero where short blocks are padded."""
    stack = (*rows.shape, rows.shape[1])
    check_shape(method, "hessian", [(size, size), stack])
    given = np.asarray(method.hessian, np.float64)
    if given.ndim == 2:
        given = np.pad(given, (0, 1))[rows[:, :, None], rows[:, None, :]]
    check_symmetric(method.who, given)
    inside = rows < size
    return given * (inside[:, :, None] & inside[:, None, :])


def diagonal_at(method: Method, own: jax.Array, at: Point) -> jax.Array:
    """Diagonal bounds of the coordinates ``own``, ones for padding."""
    bounds = jnp.broadcast_to(
        jnp.asarray(method.diagonal, at.dtype), (num_coordinates(at.updates),)
    )
    return bounds.at[own].get(mode="fill", fill_value=1)


def hessian_at(method: Method, own: jax.Array, at: Point) -> jax.Array:
    """The block of the Hessian; the padding of a short block gets ones on the diagonal."""
    size = num_coordinates(at.updates)
    inside, own = own < size, jnp.minimum(own, size - 1)
    if method.hessian is not None:
        block = jnp.asarray(method.hessian, at.dtype)[jnp.ix_(own, own)]
    else:
        params = _extras.require_params(method.who, at.params)
        block = _hessian_fn(method, at)(params, own).astype(at.dtype)
    return jnp.where(inside[:, None] & inside, block, jnp.eye(len(own), dtype=at.dtype))


def _hessian_fn(method: Method, at: Point):
    """What cuts blocks out of the Hessian: the extra, or else Hessian-vector products."""
    given, grad_fn = at.extras.get("block_hessian_fn"), at.extras.get("grad_fn")
    if given is not None or grad_fn is None:
        return _extras.require(method.who, "block_hessian_fn", given)

    def columns(params, own):
        def column(index):
            unit = jnp.zeros(num_coordinates(params), at.dtype).at[index].set(1)
            along = jax.jvp(grad_fn, (params,), (unravel(unit, params),))[1]
            return ravel(along, at.dtype)[own]

        # One after the other: a product with the Hessian is as large as params.
        return jax.lax.map(column, own)

    return columns


def solve(matrix: jax.Array, g: jax.Array) -> jax.Array:
    """Solves a positive definite system; gives zero where the right-hand side is zero."""
    solution = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix, lower=True), g)
    # Where the loss is flat there is no curvature either.
    return jnp.where(jnp.any(g != 0), solution, 0)


def line_search(method: Method, step, g, own, at: Point) -> jax.Array:
    """The Newton step, or the gradient where it does not lead downhill, as long as it may be."""
    value_fn = _extras.require(method.who, "value_fn", at.extras.get("value_fn"))
    params = _extras.require_params(method.who, at.params)
    value = at.extras.get("value")
    value = value_fn(params) if value is None else value
    step = jnp.where(g @ step > 0, step, g)
    moved = jnp.zeros(num_coordinates(params), at.dtype).at[own].set(-step, mode="drop")
    search = optax.scale_by_backtracking_linesearch(_MAX_HALVINGS, decrease_factor=0.5)
    # A new state each time: from the last one it would begin where the last search ended.
    _, found = search.update(
        unravel(moved, params),
        search.init(params),
        params,
        value=value,
        grad=at.updates,
        value_fn=value_fn,
    )
    length = jnp.where(found.info.decrease_error > 0, 0, found.learning_rate)
    return length.astype(at.dtype) * step


def num_coordinates(tree: Any) -> int:
    """Counts the elements of all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def ravel(tree: Any, dtype: Any) -> jax.Array:
    """All leaves as one vector of a dtype."""
    flat = [jnp.reshape(leaf, -1).astype(dtype) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(flat) if len(flat) != 1 else flat[0]


def unravel(vector: jax.Array, like: Any) -> Any:
    """A vector as a tree with the shapes and dtypes of another."""
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [vector[end - x.size : end] for x, end in zip(leaves, ends, strict=True)]
    shaped = [p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(tree, shaped)
