"""Compressors that keep every coordinate, in few bits."""

import abc
import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gradax import _validate
from gradax._wide import wide, wide_dtype
from gradax.catalogue import Paper, register

from ._compressor import Compressor, item_bits
from ._vector_code import Extents, VectorCode, coordinates, dimension, index_bits, norm_bits

_SIGN = Paper(
    "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
    "Karimireddy et al.",
    2019,
    "1901.09847",
)
_NATURAL = Paper(
    "Natural Compression for Distributed Deep Learning", "Horvath et al.", 2019, "1905.10988"
)
_QSGD = Paper(
    "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding",
    "Alistarh et al.",
    2016,
    "1610.02132",
)


@dataclasses.dataclass(frozen=True)
class NoCompression(VectorCode):
    """See :func:`no_compression`."""

    is_contractive = True
    is_unbiased = True

    def _code(self, key, parts, count=None):
        del key, count
        return parts

    def _bits(self, extents: Extents) -> int:
        return sum(count * item_bits(dtype) for count, dtype in extents)

    def _delta(self, d: int) -> float:
        del d
        return 1.0

    def _omega(self, d: int) -> float:
        del d
        return 0.0


@dataclasses.dataclass(frozen=True)
class SignL1(VectorCode):
    """See :func:`sign_l1`.

    Attributes:
      per_leaf: whether each leaf has a mean of its own.
    """

    per_leaf: bool

    is_contractive = True

    def _code(self, key, parts, count=None):
        del key
        dtype = wide_dtype(*parts)
        total = sum(jnp.sum(jnp.abs(part), dtype=dtype) for part in parts)
        mean = total / (coordinates(parts) if count is None else count)
        return [mean * jnp.sign(part) for part in parts]

    def _bits(self, extents: Extents) -> int:
        return dimension(extents) + norm_bits(extents)

    def _delta(self, d: int) -> float:
        return 1 / d


@dataclasses.dataclass(frozen=True)
class Rounding(VectorCode):
    """Rounds every coordinate up or down at random, to be right on average."""

    is_random = True
    is_unbiased = True

    @abc.abstractmethod
    def round(self, parts: Sequence[jax.Array], uniforms: Sequence[jax.Array]) -> list[jax.Array]:
        """Rounds away from zero where the uniform number is below the probability of that.

        Args:
          parts: one vector, in real arrays.
          uniforms: arrays like ``parts`` with numbers in [0, 1).

        Returns:
          What is received.
        """

    def _code(self, key, parts, count=None):
        del count
        keys = jax.random.split(key, len(parts))
        draw = lambda key, part: jax.random.uniform(key, part.shape, wide(part.dtype))
        return self.round(parts, [draw(*pair) for pair in zip(keys, parts, strict=True)])


@dataclasses.dataclass(frozen=True)
class NaturalCompression(Rounding):
    """See :func:`natural_compression`."""

    def round(self, parts, uniforms):
        """As :meth:`Rounding.round`; the neighbours are powers of two."""
        return [_to_power_of_two(*pair) for pair in zip(parts, uniforms, strict=True)]

    def _bits(self, extents: Extents) -> int:
        return sum(count * (1 + jnp.finfo(dtype).nexp) for count, dtype in extents)

    def _omega(self, d: int) -> float:
        del d
        return 1 / 8


@dataclasses.dataclass(frozen=True)
class Dithering(Rounding):
    """Rounds the coordinates, divided by a norm, to levels in [0, 1].

    Attributes:
      s: number of levels above zero.
      p: of the norm.
      per_leaf: whether each leaf has a norm of its own.
    """

    s: int
    p: float
    per_leaf: bool

    def round(self, parts, uniforms):
        """As :meth:`Rounding.round`; the neighbours are the levels around each coordinate."""
        norm = _norm(parts, self.p)
        safe = jnp.where(norm == 0, 1, norm)

        def leaf(part, uniform):
            size = jnp.minimum(jnp.abs(part) / safe, 1)
            return norm * jnp.sign(part) * self._level(size, uniform)

        return [leaf(*pair) for pair in zip(parts, uniforms, strict=True)]

    @abc.abstractmethod
    def _level(self, size: jax.Array, uniform: jax.Array) -> jax.Array:
        """The level to which a size in [0, 1] is rounded."""

    def _bits(self, extents: Extents) -> int:
        return dimension(extents) * index_bits(2 * self.s + 1) + norm_bits(extents)


@dataclasses.dataclass(frozen=True)
class QSGD(Dithering):
    """See :func:`qsgd`."""

    def _level(self, size, uniform):
        below = jnp.floor(self.s * size)
        return (below + (uniform < self.s * size - below)) / self.s

    def _omega(self, d: int) -> float:
        return min(d / self.s**2, math.sqrt(d) / self.s)


@dataclasses.dataclass(frozen=True)
class NaturalDithering(Dithering):
    """See :func:`natural_dithering`."""

    def _level(self, size, uniform):
        smallest = 2.0 ** (1 - self.s)
        to_smallest = jnp.where(uniform < size / smallest, smallest, 0.0)
        return jnp.where(size < smallest, to_smallest, _to_power_of_two(size, uniform))

    def _omega(self, d: int) -> float:
        grows = d ** (1 / min(self.p, 2.0)) * 2.0 ** (1 - self.s)
        return 1 / 8 + grows * min(1.0, grows)


def _to_power_of_two(x, uniform):
    x = x.astype(uniform.dtype)
    mantissa, _ = jnp.frexp(jnp.abs(x))  # in [1/2, 1), or 0
    below = jnp.abs(x) / jnp.where(mantissa == 0, 1, 2 * mantissa)  # exact
    above = jnp.where(jnp.isfinite(2 * below), 2 * below, below)
    return jnp.sign(x) * jnp.where(uniform < 2 * mantissa - 1, above, below)


def _norm(parts, p):
    """The p-norm of a vector in parts; squares of large numbers do not overflow."""
    dtype = wide_dtype(*parts)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(part)).astype(dtype) for part in parts]))
    if math.isinf(p):
        return largest
    scale = jnp.where(largest == 0, 1, largest)
    powers = [jnp.sum((jnp.abs(part) / scale) ** p, dtype=dtype) for part in parts]
    return largest * sum(powers) ** (1 / p)


@register("function", Paper("Sparsified SGD with Memory", "Stich et al.", 2018, "1809.07599"))
def no_compression() -> Compressor:
    r"""Sends everything as it is: :math:`\delta = 1`, :math:`\omega = 0`.

    Returns:
      The compressor.

    Examples:
      >>> from gradax import federated
      >>> federated.no_compression().bits(10)
      320

    References:
      Stich et al., `Sparsified SGD with Memory <https://arxiv.org/abs/1809.07599>`_, 2018.
    """
    return NoCompression()


@register("function", _SIGN)
def sign_l1(*, per_leaf: bool = False) -> Compressor:
    r"""Sends signs, and the mean magnitude once: :math:`C(x) = \|x\|_1 / d \cdot \sign(x)`.

    Contractive with :math:`\delta = \|x\|_1^2 / (d \|x\|_2^2)`, which is at least :math:`1/d`
    (that is what :meth:`Compressor.delta` says) and about 0.64 for normally distributed
    coordinates. The wire carries a bit per coordinate and a float32 (or wider) mean. A
    coordinate that is exactly zero arrives as zero, for which one bit has no room: where zeros
    are common, choose another code.

    Args:
      per_leaf: one mean for each leaf, rather than for all together.

    Returns:
      The compressor.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> federated.sign_l1().compress(None, jnp.array([1.0, -2.0, 6.0]))[0].tolist()
      [3.0, -3.0, 3.0]

    References:
      Karimireddy et al., `Error Feedback Fixes SignSGD and other Gradient Compression Schemes
      <https://arxiv.org/abs/1901.09847>`_, 2019.
    """
    return SignL1(per_leaf)


@register("function", _NATURAL)
def natural_compression() -> Compressor:
    r"""Rounds every coordinate to one of the two powers of two around it, at random.

    Unbiased with :math:`\omega = 1/8`. The wire carries sign and exponent: 9 bits per coordinate
    of float32 or bfloat16, 6 of float16, 12 of float64.

    Returns:
      The compressor; it needs a key.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> x = jnp.full(1000, 0.75)
      >>> received, _ = federated.natural_compression().compress(jax.random.key(0), x)
      >>> sorted(set(received.tolist()))
      [0.5, 1.0]

    References:
      Horvath et al., `Natural Compression for Distributed Deep Learning
      <https://arxiv.org/abs/1905.10988>`_, 2019.
    """
    return NaturalCompression()


@register("function", _NATURAL, example={"s": 4})
def natural_dithering(s: int, p: float = 2.0, *, per_leaf: bool = False) -> Compressor:
    r"""Rounds :math:`|x_i| / \|x\|_p` at random to levels 0, :math:`2^{1-s}`, ..., 1/2, 1.

    Unbiased with :math:`\omega = 1/8 + a \min(1, a)`, :math:`a = d^{1/\min(p, 2)} 2^{1-s}`. The
    wire carries ``ceil(log2(2 s + 1))`` bits per coordinate and a float32 (or wider) norm.

    Args:
      s: number of levels above zero.
      p: of the norm, at least 1; may be infinite.
      per_leaf: one norm for each leaf, rather than for all together.

    Returns:
      The compressor; it needs a key.

    Raises:
      ValueError: if ``s`` or ``p`` is below 1.

    Examples:
      >>> from gradax import federated
      >>> round(federated.natural_dithering(8).omega(64), 4)
      0.1289

    References:
      Horvath et al., `Natural Compression for Distributed Deep Learning
      <https://arxiv.org/abs/1905.10988>`_, 2019.
    """
    _validate.integer("natural_dithering", "s", s, at_least=1)
    if not p >= 1:
        raise ValueError(f"natural_dithering: p must be at least 1, got {p}.")
    return NaturalDithering(s, p, per_leaf)


@register("function", _QSGD, example={"s": 4})
def qsgd(s: int, *, per_leaf: bool = False) -> Compressor:
    r"""Rounds :math:`s |x_i| / \|x\|_2` at random to an integer.

    Unbiased with :math:`\omega = \min(d / s^2, \sqrt{d} / s)`, a bound that is loose. The wire
    carries ``ceil(log2(2 s + 1))`` bits per coordinate (8 for ``s=127``) and a float32 (or
    wider) norm, without the entropy coding that the paper adds.

    Args:
      s: number of levels above zero.
      per_leaf: one norm for each leaf, rather than for all together.

    Returns:
      The compressor; it needs a key.

    Raises:
      ValueError: if ``s`` is below 1.

    Examples:
      >>> from gradax import federated
      >>> eight_bits = federated.qsgd(127)
      >>> eight_bits.bits(1000), round(eight_bits.omega(1000), 4)
      (8032, 0.062)

    References:
      Alistarh et al., `QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding
      <https://arxiv.org/abs/1610.02132>`_, 2016.
    """
    _validate.integer("qsgd", "s", s, at_least=1)
    return QSGD(s, 2.0, per_leaf)
