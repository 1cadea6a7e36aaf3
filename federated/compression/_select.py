"""Compressors that keep some coordinates: the largest, or random ones."""

import abc
import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradax import _validate
from gradax.catalogue import Paper, register

from ._compressor import Compressor, item_bits
from ._vector_code import Extents, VectorCode, coordinates, dimension, index_bits, widest

_SPARSIFIED = Paper("Sparsified SGD with Memory", "Stich et al.", 2018, "1809.07599")

#: Bits of the key from which sender and receiver draw the same coordinates.
_KEY_BITS = 64


@dataclasses.dataclass(frozen=True)
class Selection(VectorCode):
    """Keeps ``k`` of ``d`` coordinates.

    Attributes:
      fraction: how many are kept, as a fraction of ``d``.
      k: how many are kept, instead of a fraction.
      per_leaf: whether each leaf is a vector of its own.
    """

    fraction: float | None
    k: int | None
    per_leaf: bool

    _who = "selection"

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.k is None):
            raise ValueError(
                f"{self._who}: give one of fraction and k, got {self.fraction} and {self.k}."
            )
        if self.k is not None:
            _validate.integer(self._who, "k", self.k, at_least=1)
        _validate.interval(self._who, "fraction", self.fraction, "(0, 1]")

    def kept(self, d: int) -> int:
        """Returns how many of ``d`` coordinates are kept, and refuses more than there are."""
        if self.k is None:
            return max(1, round((self.fraction or 0.0) * d))
        if self.k > d:
            raise ValueError(f"{self._who}: k must lie in [1, d], got {self.k} with d = {d}.")
        return self.k

    def _bits(self, extents: Extents) -> int:
        values = self.kept(dimension(extents)) * item_bits(widest(extents))
        return values + self._where_bits(extents)

    @abc.abstractmethod
    def _where_bits(self, extents: Extents) -> int:
        """Bits that say which coordinates are kept."""


@dataclasses.dataclass(frozen=True)
class TopK(Selection):
    """See :func:`top_k`."""

    is_contractive = True
    _who = "top_k"

    def _code(self, key, parts, count=None):
        del key, count
        if self.kept(coordinates(parts)) == coordinates(parts):
            return parts
        wide = jnp.promote_types(jnp.result_type(*parts), jnp.float32)
        # The bits of floating numbers >= 0 are ordered like the numbers; NaN is the largest.
        integer = jnp.int64 if jnp.finfo(wide).bits == 64 else jnp.int32
        size = lambda part: lax.bitcast_convert_type(jnp.abs(part).astype(wide), integer)
        # Subnormal numbers count as zeros: compiled code may flush them, or may not.
        floor = np.finfo(wide).smallest_normal.view(integer) - 1
        k = self.kept(coordinates(parts))
        return _keep(parts, _largest(list(map(size, parts)), k, int(floor)))

    def _where_bits(self, extents: Extents) -> int:
        d = dimension(extents)
        return 0 if self.kept(d) == d else self.kept(d) * index_bits(d)

    def _delta(self, d: int) -> float:
        return self.kept(d) / d


@dataclasses.dataclass(frozen=True)
class RandK(Selection):
    """See :func:`rand_k`.

    Attributes:
      scaled: whether the kept coordinates are multiplied by ``d / k``.
    """

    scaled: bool = False

    is_random = True
    _who = "rand_k"

    @property
    def is_contractive(self) -> bool:  # type: ignore[override]
        """Whether nothing is scaled."""
        return not self.scaled

    @property
    def is_unbiased(self) -> bool:  # type: ignore[override]
        """Whether what is kept is scaled."""
        return self.scaled

    def _code(self, key, parts, count=None):
        del count
        d = coordinates(parts)
        keys = jax.random.split(key, len(parts))
        draw = lambda key, part: 1 + (jax.random.bits(key, part.shape) >> 2).astype(jnp.int32)
        drawn = [draw(*pair) for pair in zip(keys, parts, strict=True)]
        received = _keep(parts, _largest(drawn, self.kept(d), 0))
        return [d / self.kept(d) * part for part in received] if self.scaled else received

    def _where_bits(self, extents: Extents) -> int:
        d = dimension(extents)
        return min(self.kept(d) * index_bits(d), _KEY_BITS)

    def _delta(self, d: int) -> float:
        return self.kept(d) / d

    def _omega(self, d: int) -> float:
        return d / self.kept(d) - 1


def _keep(parts, masks):
    keep = lambda part, mask: jnp.where(mask, part, jnp.zeros_like(part))
    return [keep(*pair) for pair in zip(parts, masks, strict=True)]


def _largest(parts: Sequence[jax.Array], k: int, floor: int) -> list[jax.Array]:
    """Marks the ``k`` largest of the integers above ``floor``, the first among equals.

    If there are fewer, all of them are marked. A bisection of the range of integers: every step
    counts in one pass, leaf by leaf, and about ``log2(d)`` of them are enough. ``lax.top_k``
    wants one vector, and a time that grows with ``k``.
    """
    count_above = lambda level: _count(part > level for part in parts)
    bottom = jnp.array(floor, parts[0].dtype)
    top = jnp.max(jnp.stack([jnp.max(part) for part in parts]))

    def unfinished(bracket):
        low, high, above_low = bracket
        return (high - low > 1) & (above_low > k)

    def halve(bracket):
        low, high, above_low = bracket
        middle = low + (high - low) // 2
        above = count_above(middle)
        enough = above >= k
        return (
            jnp.where(enough, middle, low),
            jnp.where(enough, high, middle),
            jnp.where(enough, above, above_low),
        )

    low, high, above_low = lax.while_loop(unfinished, halve, (bottom, top, count_above(bottom)))
    # Where no level has k above it, many are equal to ``high``: the first ones are taken.
    tied = above_low > k
    missing = k - count_above(high)
    cut = _first_among(parts, high, missing, tied)
    places = _places(parts)
    mark = lambda part, place: (part > low) & (~tied | (part > high) | (place < cut))
    return [mark(*pair) for pair in zip(parts, places, strict=True)]


def _first_among(parts, value, number, wanted):
    """A place below which ``number`` coordinates equal ``value``, by bisection, if wanted."""
    places = _places(parts)
    equal = lambda place: _count(
        (part == value) & (own < place) for part, own in zip(parts, places, strict=True)
    )

    def halve(bracket):
        low, high = bracket
        middle = low + (high - low) // 2
        enough = equal(middle) >= number
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    unfinished = lambda bracket: wanted & (bracket[1] - bracket[0] > 1)
    start = jnp.zeros([], jnp.int32), jnp.array(coordinates(parts), jnp.int32)
    return lax.while_loop(unfinished, halve, start)[1]


def _places(parts):
    """Numbers all coordinates through, in the shapes of the parts."""
    places, begin = [], 0
    for part in parts:
        place = jnp.full_like(part, begin, jnp.int32)
        for dim, extent in enumerate(part.shape):
            stride = math.prod(part.shape[dim + 1 :])
            shape = [extent if other == dim else 1 for other in range(part.ndim)]
            place += stride * jnp.arange(extent, dtype=jnp.int32).reshape(shape)
        places.append(place)
        begin += part.size
    return places


def _count(masks):
    return sum((jnp.sum(mask, dtype=jnp.int32) for mask in masks), jnp.zeros([], jnp.int32))


@register("function", _SPARSIFIED, example={"fraction": 0.1})
def top_k(
    fraction: float | None = None, *, k: int | None = None, per_leaf: bool = False
) -> Compressor:
    r"""Keeps the coordinates of largest magnitude, as they are.

    Contractive with :math:`\delta = k/d`. Among equal magnitudes the first coordinates win;
    zeros are never sent. The wire carries ``k`` values in the widest dtype of the leaves and
    their ``ceil(log2 d)``-bit places.

    The threshold is found by counting, about ``log2(d)`` times, so the time does not depend on
    ``k``.

    Args:
      fraction: :math:`k/d`, in (0, 1]; rounded to the next ``k``, at least one.
      k: number of coordinates, instead of ``fraction``.
      per_leaf: keep that many of each leaf, rather than of all leaves together.

    Returns:
      The compressor.

    Raises:
      ValueError: if not exactly one of ``fraction`` and ``k`` is given or it is out of range;
        at trace time if ``k > d``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tree = {"w": jnp.array([[1.0, -3.0], [2.0, 0.5]]), "b": jnp.array([-2.0])}
      >>> received, _ = federated.top_k(k=2).compress(None, tree)
      >>> received["w"].tolist(), received["b"].tolist()
      ([[0.0, -3.0], [0.0, 0.0]], [-2.0])

    References:
      Stich et al., `Sparsified SGD with Memory <https://arxiv.org/abs/1809.07599>`_, 2018.
    """
    return TopK(fraction, k, per_leaf)


@register("function", _SPARSIFIED, example={"fraction": 0.1})
def rand_k(
    fraction: float | None = None,
    *,
    k: int | None = None,
    scaled: bool = False,
    per_leaf: bool = False,
) -> Compressor:
    r"""Keeps random coordinates, drawn without replacement.

    Contractive with :math:`\delta = k/d`; with ``scaled``, the kept coordinates are multiplied
    by :math:`d/k`, and it is unbiased with :math:`\omega = d/k - 1`. The wire carries ``k``
    values in the widest dtype of the leaves, and the 64-bit key from which the receiver draws
    the same places (or the places, where they are fewer bits).

    Args:
      fraction: as in :func:`top_k`.
      k: as in :func:`top_k`.
      scaled: multiply by :math:`d/k`.
      per_leaf: as in :func:`top_k`.

    Returns:
      The compressor; it needs a key.

    Raises:
      ValueError: as :func:`top_k`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> received, _ = federated.rand_k(k=2, scaled=True).compress(jax.random.key(0), jnp.ones(6))
      >>> sorted(received.tolist())
      [0.0, 0.0, 0.0, 0.0, 3.0, 3.0]

    References:
      Stich et al., `Sparsified SGD with Memory <https://arxiv.org/abs/1809.07599>`_, 2018.
    """
    return RandK(fraction, k, per_leaf, scaled)
