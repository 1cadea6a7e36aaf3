"""Compressors of vectors of single numbers, whatever tree the numbers lie in."""

import abc
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from gradax._wide import wide_dtype

from ._compressor import (
    Compressor,
    Like,
    as_real,
    exact_bits,
    from_real,
    is_coded,
    item_bits,
    shapes_of,
)

#: A vector that lies in several arrays: how many coordinates each has, and of what dtype.
Extents: TypeAlias = Sequence[tuple[int, Any]]


class VectorCode(Compressor):
    """A compressor that treats a tree as one vector, or as one for each leaf.

    A subclass defines what is received of a vector, ``_code``, how long the message is,
    ``_bits``, and the constants that its guarantees have.

    Attributes:
      per_leaf: whether each leaf is coded by itself.
    """

    per_leaf = False

    @abc.abstractmethod
    def _code(
        self, key: jax.Array | None, parts: list[jax.Array], count: int | None = None
    ) -> list[jax.Array]:
        """What is received of one vector, given in real arrays, none of them empty.

        ``count`` says how many coordinates travel if a selection has set the others to zero.
        """

    @abc.abstractmethod
    def _bits(self, extents: Extents) -> int:
        """Bits of one vector."""

    def _delta(self, d: int) -> float:
        """The contraction constant of a vector of d numbers, if it is contractive."""
        raise AssertionError(f"{self!r} is not contractive")

    def _omega(self, d: int) -> float:
        """The variance constant of a vector of d numbers, if it is unbiased."""
        raise AssertionError(f"{self!r} is biased")

    def compress(self, key: jax.Array | None, tree: Any, state: Any = ()) -> tuple[Any, Any]:
        """As :meth:`Compressor.compress`."""
        if self.is_random and key is None:
            raise ValueError(f"{self!r} draws random numbers: compress needs a key.")
        leaves, structure = jax.tree.flatten(tree)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        for number, group in enumerate(self._groups(leaves)):
            own = None if key is None else jax.random.fold_in(key, number)
            coded = self._code(own, [as_real(leaves[i]) for i in group])
            for i, part in zip(group, coded, strict=True):
                leaves[i] = from_real(part, leaves[i])
        return jax.tree.unflatten(structure, leaves), state

    def bits(self, like: Like) -> int:
        """As :meth:`Compressor.bits`."""
        others = sum(exact_bits(leaf) for leaf in shapes_of(like) if not is_coded(leaf))
        return others + sum(map(self._bits, self._vectors(like)))

    def delta(self, like: Like) -> float | None:
        """As :meth:`Compressor.delta`."""
        if not self.is_contractive:
            return None
        return min((self._delta(dimension(v)) for v in self._vectors(like)), default=1.0)

    def omega(self, like: Like) -> float | None:
        """As :meth:`Compressor.omega`."""
        if not self.is_unbiased:
            return None
        return max((self._omega(dimension(v)) for v in self._vectors(like)), default=0.0)

    def _groups(self, leaves: Sequence[Any]) -> list[list[int]]:
        """Numbers of the leaves that are one vector together."""
        coded = [i for i, leaf in enumerate(leaves) if is_coded(leaf)]
        if self.per_leaf:
            return [[i] for i in coded]
        return [coded] if coded else []

    def _vectors(self, like: Like) -> list[list[tuple[int, Any]]]:
        leaves = shapes_of(like)
        return [[_extent(leaves[i]) for i in group] for group in self._groups(leaves)]


def _extent(leaf):
    """How many real numbers a leaf holds, and their dtype."""
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return math.prod(leaf.shape) * (2 if is_complex else 1), jnp.finfo(leaf.dtype).dtype


def coordinates(parts: Sequence[jax.Array]) -> int:
    """Number of coordinates of a vector in parts."""
    return sum(part.size for part in parts)


def dimension(extents: Extents) -> int:
    """Number of coordinates of a vector given by its extents."""
    return sum(count for count, _ in extents)


def widest(extents: Extents) -> Any:
    """The dtype in which any coordinate of the vector fits."""
    return jnp.result_type(*[dtype for _, dtype in extents])


def norm_bits(extents: Extents) -> int:
    """Bits of a norm of the vector, which is float32 at least."""
    return item_bits(wide_dtype(*[jnp.zeros(0, dtype) for _, dtype in extents]))


def index_bits(count: int) -> int:
    """Bits of a number below ``count``: the logarithm, rounded up."""
    return max(count - 1, 0).bit_length()
