"""Blocks made of single coordinates of the ravelled tree: a fixed partition, or new ones a step."""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _extras, _validate

from ._block_curvature import (
    Point,
    check_shape,
    check_symmetric,
    diagonal_at,
    hessian_at,
    line_search,
    num_coordinates,
    ravel,
    solve,
    stacked_blocks,
    unravel,
)
from ._choose_block import Method, choose_block, gradient_mapping


class _CoordinateBlocks(abc.ABC):
    """What both forms share: leaves become one vector, and one block of it moves."""

    def __init__(self, method: Method):
        self.method = method

    @abc.abstractmethod
    def fit(self, size: int) -> jax.Array:
        """Checks that the blocks fit so many coordinates; makes the first ``last_block``."""

    @abc.abstractmethod
    def select(self, g, last_block, key, at: Point) -> tuple[jax.Array, jax.Array]:
        """Chooses the next block: what is recorded of it, and its coordinates."""

    @abc.abstractmethod
    def bound(self, block, own, at: Point) -> jax.Array:
        """The bound on the block's largest eigenvalue."""

    @abc.abstractmethod
    def solve(self, g, block, own, at: Point) -> jax.Array:
        """Solves the block's system."""

    @abc.abstractmethod
    def all_bounds(self) -> np.ndarray:
        """The bounds of all coordinates' blocks, for proximal steps."""

    def begin(self, params: optax.Params) -> jax.Array:
        """Checks that blocks and params fit; makes the first ``last_block``."""
        for leaf in jax.tree.leaves(params):
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                raise ValueError(
                    f"{self.method.who}: params must be real, got a complex leaf; of complex "
                    "trees only whole leaves can be blocks."
                )
        return self.fit(num_coordinates(params))

    def step(self, updates, params, last_block, key, extras):
        """Makes the direction, and the block that it moves."""
        dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(updates)))
        at, g = Point(updates, params, extras, dtype), ravel(updates, dtype)
        if self.method.prox is not None:
            x = ravel(_extras.require_params(self.method.who, params), dtype)
            diagonal = self.method.update == "diagonal"
            bounds = jnp.asarray(self.method.diagonal if diagonal else self.all_bounds(), dtype)
            g = gradient_mapping(self.method.prox, g, x, bounds)
        block, own = self.select(g, last_block, key, at)
        # The padding of short blocks lies beyond the last coordinate.
        chosen = self._direction(g.at[own].get(mode="fill", fill_value=0), block, own, at)
        return unravel(jnp.zeros_like(g).at[own].set(chosen, mode="drop"), updates), block

    def _direction(self, g, block, own, at: Point) -> jax.Array:
        if self.method.update == "lipschitz":
            return g / self.bound(block, own, at)
        if self.method.update == "diagonal":
            return g / diagonal_at(self.method, own, at)
        step = self.solve(g, block, own, at)
        return (
            step if self.method.update == "matrix" else line_search(self.method, step, g, own, at)
        )


class FixedBlocks(_CoordinateBlocks):
    """Blocks of a partition; what depends on constant curvature is computed once.

    Args:
      method: rule, update and curvature.
      blocks: indices of each block.

    Raises:
      ValueError: if the blocks are no partition, or curvature does not fit them.
    """

    def __init__(self, method: Method, blocks: Sequence[Sequence[int]]):
        super().__init__(method)
        self.rows, self.size = _padded(method.who, blocks)
        check_shape(method, "smoothness", [(), (len(self.rows),)])
        check_shape(method, "diagonal", [(), (self.size,)])
        self.smoothness: Any = method.smoothness
        self.inverses: np.ndarray | None = None
        if method.hessian is not None:
            self._use(stacked_blocks(method, self.rows, self.size))
        if self.smoothness is not None:
            self.smoothness = np.broadcast_to(self.smoothness, len(self.rows))

    def _use(self, hessians: np.ndarray) -> None:
        # The padding gets ones, so that the rest can be inverted.
        padding = (self.rows == self.size)[:, :, None] * np.eye(self.rows.shape[1])
        largest = np.linalg.eigvalsh(hessians)[:, -1]
        inverted = self.method.rule == "gsq" or self.method.update in ("matrix", "newton")
        needed = np.linalg.eigvalsh(hessians + padding)[:, 0] if inverted else largest
        if not np.all(needed > 0):
            raise ValueError(
                f"{self.method.who}: hessian must be positive definite on every block, it is not "
                f"on block {int(np.argmin(needed))}."
            )
        if self.smoothness is None:
            self.smoothness = largest
        if inverted:
            self.inverses = np.linalg.inv(hessians + padding)

    def fit(self, size: int) -> jax.Array:
        """Checks the number of coordinates."""
        if size != self.size:
            raise ValueError(
                f"{self.method.who}: blocks must hold every coordinate of params once, they hold "
                f"{self.size} of {size}."
            )
        return jnp.full([], -1, jnp.int32)

    def select(self, g, last_block, key, at: Point) -> tuple[jax.Array, jax.Array]:
        """Chooses among the rows; recorded is the row's number."""
        rows, rule = jnp.asarray(self.rows), self.method.rule
        known = self.smoothness is not None
        bounds: Any = jnp.asarray(self.smoothness, at.dtype) if known else None

        def scores():
            grads = g.at[rows].get(mode="fill", fill_value=0)
            if rule == "gsd":
                return jnp.sum(grads**2 / diagonal_at(self.method, rows, at), axis=1)
            if rule == "gsq":
                quadratic = lambda one: one[0] @ self.solve(one[0], one[1], one[2], at)
                return jax.lax.map(quadratic, (grads, jnp.arange(len(rows)), rows))
            squares = jnp.sum(grads**2, axis=1)
            return squares / bounds if rule == "gsl" else squares

        block = choose_block(rule, len(rows), last_block, key, bounds, scores)
        return block, rows[block]

    def bound(self, block, own, at: Point) -> jax.Array:
        """Looks the block's bound up."""
        del own
        return jnp.asarray(self.smoothness, at.dtype)[block]

    def all_bounds(self) -> np.ndarray:
        """Spreads the bounds over the coordinates."""
        bounds = np.zeros(self.size + 1)
        bounds[self.rows] = self.smoothness[:, None]
        return bounds[: self.size]

    def solve(self, g, block, own, at: Point) -> jax.Array:
        """Uses the inverse if the Hessian is constant."""
        if self.inverses is not None:
            return jnp.asarray(self.inverses, at.dtype)[block] @ g
        return solve(hessian_at(self.method, own, at), g)


class AnewBlocks(_CoordinateBlocks):
    """As many coordinates as asked for, chosen anew each step.

    Args:
      method: rule, update and curvature.
      block_size: how many.

    Raises:
      ValueError: if the rule or the curvature needs fixed blocks.
    """

    def __init__(self, method: Method, block_size: int):
        super().__init__(method)
        _validate.integer(method.who, "block_size", block_size, at_least=1)
        if method.rule in ("lipschitz", "gsl", "gsq"):
            raise ValueError(
                f"{method.who}: rule={method.rule!r} needs fixed blocks=, got block_size=."
            )
        check_shape(method, "smoothness", [()])
        if method.prox is not None and method.update == "lipschitz" and method.smoothness is None:
            raise ValueError(f"{method.who}: prox with block_size needs smoothness, got None.")
        if method.hessian is not None:
            check_symmetric(method.who, np.asarray(method.hessian)[None])
        self.block_size = block_size

    def fit(self, size: int) -> jax.Array:
        """Checks the number of coordinates."""
        if self.block_size > size:
            raise ValueError(
                f"{self.method.who}: block_size must be at most the number of coordinates, "
                f"{size}, got {self.block_size}."
            )
        check_shape(self.method, "diagonal", [(), (size,)])
        check_shape(self.method, "hessian", [(size, size)])
        return jnp.full([self.block_size], -1, jnp.int32)

    def select(self, g, last_block, key, at: Point) -> tuple[jax.Array, jax.Array]:
        """Chooses coordinates, which are also what is recorded."""
        count, rule = self.block_size, self.method.rule
        if rule == "cyclic":
            own = (last_block[-1] + 1 + jnp.arange(count)) % g.size
        elif rule == "random":
            own = jax.random.choice(key, g.size, [count], replace=False)
        else:
            scale = jnp.asarray(self.method.diagonal if rule == "gsd" else 1, at.dtype)
            own = jax.lax.top_k(g**2 / scale, count)[1]
        own = own.astype(jnp.int32)
        return own, own

    def bound(self, block, own, at: Point) -> jax.Array:
        """Takes the largest eigenvalue of the block unless a bound is given."""
        del block
        if self.method.smoothness is not None:
            return jnp.asarray(self.method.smoothness, at.dtype)
        largest = jnp.linalg.eigvalsh(hessian_at(self.method, own, at))[-1]
        # A block without curvature has no gradient either.
        return jnp.maximum(largest, jnp.finfo(at.dtype).tiny)

    def all_bounds(self) -> np.ndarray:
        """One bound for all."""
        return np.asarray(self.method.smoothness)

    def solve(self, g, block, own, at: Point) -> jax.Array:
        """Solves with the rows and columns of the block."""
        del block
        return solve(hessian_at(self.method, own, at), g)


def _padded(who: str, blocks: Sequence[Sequence[int]]) -> tuple[np.ndarray, int]:
    """Blocks as rows of equal length, filled up with the number of coordinates."""
    rows = [np.asarray(row) for row in blocks] if np.iterable(blocks) else []
    if not rows or any(row.ndim != 1 or row.dtype.kind not in "iu" for row in rows):
        raise ValueError(f"{who}: blocks must be lists of integers, got {blocks!r}.")
    listed = np.sort(np.concatenate(rows))
    if wrong := set(listed.tolist()) ^ set(range(listed.size)):
        raise ValueError(
            f"{who}: blocks must hold each of 0 ... {listed.size - 1} once, {min(wrong)} is "
            "missing or out of range."
        )
    longest = max(row.size for row in rows)
    fill = lambda row: np.pad(row, (0, longest - row.size), constant_values=listed.size)
    return np.stack([fill(row) for row in rows]).astype(np.int32), listed.size
