"""Compressors made of others: coding what a selection keeps, and shrinking."""

import dataclasses

import jax

from ._select import Selection
from ._vector_code import Extents, VectorCode, coordinates, dimension, widest


@dataclasses.dataclass(frozen=True)
class Then(VectorCode):
    """A selection whose values are coded by a second compressor; see :meth:`Compressor.then`.

    Attributes:
      first: the selection.
      second: the code of the values.
    """

    first: Selection
    second: VectorCode

    def __post_init__(self) -> None:
        if not isinstance(self.first, Selection):
            raise ValueError(f"then: the first must be top_k or rand_k, got {self.first!r}.")
        if not isinstance(self.second, VectorCode) or isinstance(self.second, Selection | Then):
            raise ValueError(
                f"then: second must code single numbers, such as qsgd(4), got {self.second!r}."
            )

    per_leaf = property(lambda self: self.first.per_leaf)
    is_random = property(lambda self: self.first.is_random or self.second.is_random)
    is_contractive = property(lambda self: self.first.is_contractive and self.second.is_contractive)
    is_unbiased = property(lambda self: self.first.is_unbiased and self.second.is_unbiased)

    def _code(self, key, parts, count=None):
        del count
        first, second = (None, None) if key is None else jax.random.split(key)
        kept = self.first.kept(coordinates(parts))
        return self.second._code(second, self.first._code(first, parts), kept)

    def _bits(self, extents: Extents) -> int:
        kept = [(self.first.kept(dimension(extents)), widest(extents))]
        return self.first._where_bits(extents) + self.second._bits(kept)

    def _delta(self, d: int) -> float:
        return self.first._delta(d) * self.second._delta(self.first.kept(d))

    def _omega(self, d: int) -> float:
        return (1 + self.first._omega(d)) * (1 + self.second._omega(self.first.kept(d))) - 1


@dataclasses.dataclass(frozen=True)
class Shrunk(VectorCode):
    """An unbiased compressor times ``1 / (1 + omega)``; see :meth:`Compressor.shrunk`.

    Attributes:
      inner: the unbiased compressor.
    """

    inner: VectorCode

    is_contractive = True
    per_leaf = property(lambda self: self.inner.per_leaf)
    is_random = property(lambda self: self.inner.is_random)

    def __post_init__(self) -> None:
        if not self.inner.is_unbiased:
            raise ValueError(f"shrunk: the compressor must be unbiased, got {self.inner!r}.")

    def _code(self, key, parts, count=None):
        factor = self._delta(coordinates(parts) if count is None else count)
        return [factor * part for part in self.inner._code(key, parts, count)]

    def _bits(self, extents: Extents) -> int:
        return self.inner._bits(extents)

    def _delta(self, d: int) -> float:
        return 1 / (1 + self.inner._omega(d))
