"""What a compressor is: what arrives, what travels, and how far the two may be apart."""

import abc
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

#: A tree of arrays or shapes; an integer d stands for a vector of d float32 numbers.
Like: TypeAlias = Any


class Compressor(abc.ABC):
    r"""A lossy code for trees of arrays, written :math:`C` below.

    What arrives is represented densely, in the shapes and dtypes of what was sent. A compressor
    gives one of two guarantees for a vector :math:`x`, in expectation over its draws:

    .. math::
        \text{contractive: } \mathbb{E}\|C(x) - x\|^2 \le (1 - \delta) \|x\|^2, \qquad
        \text{unbiased: } \mathbb{E}\,C(x) = x,\;
        \mathbb{E}\|C(x) - x\|^2 \le \omega \|x\|^2.

    All inexact leaves together are one vector, which is never put together in memory; with the
    argument ``per_leaf=True``, where there is one, each leaf is a vector of its own. Integer
    leaves travel as they are, and a complex number counts as two real ones.

    Compressors are immutable, compare by value and can be hashed.

    Attributes:
      is_random: whether :meth:`compress` needs a key.
      is_contractive: whether it is contractive for every vector, as error feedback needs.
      is_unbiased: whether it is unbiased.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> half = federated.top_k(0.5)
      >>> half.compress(None, jnp.array([1.0, -3.0, 2.0, 0.5]))[0].tolist()
      [0.0, -3.0, 2.0, 0.0]
      >>> half.delta(4), half.bits(4)
      (0.5, 68)
    """

    is_random = False
    is_contractive = False
    is_unbiased = False

    def init(self, tree: Any) -> Any:
        """Makes what is kept from one call to the next: nothing, for most compressors.

        Args:
          tree: what will be compressed, arrays or shapes.

        Returns:
          The state, the same for every participant.
        """
        del tree
        return ()

    @abc.abstractmethod
    def compress(self, key: jax.Array | None, tree: Any, state: Any = ()) -> tuple[Any, Any]:
        """Sends a tree through the code.

        Args:
          key: JAX key, another one for each sender and call; ``None`` if nothing is drawn.
          tree: what is sent.
          state: from :meth:`init` or the last call.

        Returns:
          What is received, like ``tree``, and the next state.

        Raises:
          ValueError: if a key is needed and missing.
        """

    def mean(
        self, key: jax.Array | None, tree: Any, state: Any, average: Callable[[Any], Any]
    ) -> tuple[Any, Any, Any]:
        """Averages what all participants send; call it under their axis.

        Args:
          key: this participant's key.
          tree: what it sends.
          state: its state.
          average: a linear function of a tree, such as ``lambda tree: axis.mean(tree, "nodes")``.

        Returns:
          The mean, equal for all; this participant's share in it, which error feedback takes for
          received (``average`` of the shares is the mean); the next state.
        """
        own, state = self.compress(key, tree, state)
        return average(own), own, state

    @abc.abstractmethod
    def bits(self, like: Like) -> int:
        """Counts the bits that one message takes.

        Args:
          like: a tree of arrays or shapes like what is sent, or the length of a float32 vector.

        Returns:
          The number of bits, a Python integer.
        """

    def delta(self, like: Like) -> float | None:
        r"""Returns the contraction constant :math:`\delta`.

        Args:
          like: as in :meth:`bits`.

        Returns:
          A number in [0, 1], or ``None`` if the compressor is not contractive.
        """
        del like
        return None

    def omega(self, like: Like) -> float | None:
        r"""Returns the variance constant :math:`\omega`.

        Args:
          like: as in :meth:`bits`.

        Returns:
          A number, or ``None`` if the compressor is biased.
        """
        del like
        return None

    def then(self, second: "Compressor") -> "Compressor":
        r"""Codes the values that a selection keeps by a second compressor.

        Constants combine: of two unbiased ones to :math:`1 + \omega = (1+\omega_1)(1+\omega_2)`,
        of two contractive ones to :math:`\delta = \delta_1 \delta_2`. A norm that the second
        needs is taken over what is kept.

        Args:
          second: such as ``qsgd(4)``. After :func:`top_k` take ``qsgd(4).shrunk()``: a biased
            and an unbiased compressor together have no guarantee.

        Returns:
          The two as one.

        Raises:
          ValueError: if this is neither :func:`top_k` nor :func:`rand_k`, or ``second`` is one
            of them or works on matrices.

        Examples:
          >>> from gradax import federated
          >>> small = federated.top_k(0.1).then(federated.natural_compression().shrunk())
          >>> round(small.delta(1000), 4), small.bits(1000)
          (0.0889, 1900)
        """
        from ._combined import Then

        return Then(self, second)  # type: ignore[arg-type]  # it looks itself

    def shrunk(self) -> "Compressor":
        r"""Makes an unbiased compressor contractive: multiplies by :math:`1/(1+\omega)`.

        Returns:
          The compressor with :math:`\delta = 1/(1+\omega)`; the wire carries the same.

        Raises:
          ValueError: if this compressor is biased.

        Examples:
          >>> from gradax import federated
          >>> round(federated.natural_compression().shrunk().delta(1000), 4)
          0.8889
        """
        from ._combined import Shrunk

        return Shrunk(self)  # type: ignore[arg-type]  # it looks itself


def shapes_of(like: Like) -> list[jax.ShapeDtypeStruct]:
    """Lists the leaves of what is sent, as shapes."""
    if isinstance(like, int):
        return [jax.ShapeDtypeStruct((like,), jnp.float32)]
    return jax.tree.leaves(jax.eval_shape(lambda tree: jax.tree.map(jnp.asarray, tree), like))


def is_coded(leaf: Any) -> bool:
    """Whether a leaf is compressed at all."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact) and math.prod(leaf.shape) > 0


def item_bits(dtype: Any) -> int:
    """Bits of one number."""
    return 8 * np.dtype(dtype).itemsize


def exact_bits(leaf: Any) -> int:
    """Bits of a leaf that travels as it is."""
    return math.prod(leaf.shape) * item_bits(leaf.dtype)


def as_real(leaf: jax.Array) -> jax.Array:
    """A leaf in real numbers: a complex one with a leading axis of real and imaginary part."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return jnp.stack([leaf.real, leaf.imag])
    return leaf


def from_real(part: jax.Array, like: jax.Array) -> jax.Array:
    """Undoes :func:`as_real`; the dtype is that of ``like``."""
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        return jax.lax.complex(part[0], part[1]).astype(like.dtype)
    return part.astype(like.dtype)
