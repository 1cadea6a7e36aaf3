"""PowerSGD: matrices of low rank, by one step of a warm-started power iteration."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from gradax import _validate
from gradax._wide import wide
from gradax.catalogue import Paper, register

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


@dataclasses.dataclass(frozen=True)
class PowerSGD(Compressor):
    """See :func:`power_sgd`.

    Attributes:
      rank: of what is received.
    """

    rank: int

    is_contractive = True

    def init(self, tree):
        """Draws right factors to begin with, the same for everybody."""
        key = jax.random.key(0)

        def factor(number, leaf):
            if not self._is_low_rank(leaf):
                return ()
            shape = _matrix_shape(leaf)[1], self.rank
            return jax.random.normal(jax.random.fold_in(key, number), shape, _dtype(leaf))

        return tuple(factor(*numbered) for numbered in enumerate(shapes_of(tree)))

    def compress(self, key, tree, state=()):
        """As :meth:`Compressor.compress`; without a state it begins anew."""
        received, _, state = self.mean(key, tree, state, lambda part: part)
        return received, state

    def mean(self, key, tree, state, average):
        """As :meth:`Compressor.mean`; of matrices only the factors are averaged.

        A participant's share is its own matrix, projected to the columns that all agreed on.
        """
        del key
        leaves, structure = jax.tree.flatten(tree)
        state = state or self.init(tree)
        done = [self._leaf(*pair, average) for pair in zip(leaves, state, strict=True)]
        means, own, factors = zip(*done, strict=True) if done else ((), (), ())
        whole = lambda parts: jax.tree.unflatten(structure, parts)
        return whole(means), whole(own), factors

    def bits(self, like: Like) -> int:
        """As :meth:`Compressor.bits`."""

        def leaf_bits(leaf):
            if not self._is_low_rank(leaf):
                return exact_bits(leaf)
            return self.rank * sum(_matrix_shape(leaf)) * item_bits(_dtype(leaf))

        return sum(map(leaf_bits, shapes_of(like)))

    def delta(self, like: Like) -> float:
        """Returns 0: the error is no longer than the input, and no better constant holds."""
        return float(not any(map(self._is_low_rank, shapes_of(like))))

    def _is_low_rank(self, leaf):
        """Whether the factors of a leaf are smaller than the leaf."""
        if not is_coded(leaf) or len(leaf.shape) < 2:
            return False
        rows, columns = _matrix_shape(leaf)
        return self.rank * (rows + columns) < rows * columns

    def _leaf(self, leaf, right, average):
        """Mean, own share and next right factor of one leaf."""
        leaf = jnp.asarray(leaf)
        if not self._is_low_rank(leaf):
            return average(leaf), leaf, right
        real = as_real(leaf)
        matrix = real.reshape(_matrix_shape(leaf)).astype(right.dtype)
        left, _ = jnp.linalg.qr(average(matrix @ right))
        own = matrix.T @ left
        mean = average(own)
        product = lambda right: from_real((left @ right.T).reshape(real.shape), leaf)
        # After zero gradients the iteration would have nothing to start from.
        following = jnp.where(jnp.any(mean != 0), mean, right)
        return product(mean), product(own), following


def _matrix_shape(leaf):
    """Rows and columns of a leaf as a real matrix; imaginary parts are further rows."""
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return leaf.shape[0] * (2 if is_complex else 1), math.prod(leaf.shape[1:])


def _dtype(leaf):
    return wide(jnp.finfo(leaf.dtype).dtype)


@register(
    "function",
    Paper(
        "PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization",
        "Vogels et al.",
        2019,
        "1905.13727",
    ),
    example={"rank": 2},
)
def power_sgd(rank: int) -> Compressor:
    r"""Sends matrices as products of two thin ones, found by a power iteration.

    A leaf of two or more dimensions is a matrix :math:`M` of its first dimension against the
    others. With the right factor :math:`Q` of the last call (random numbers at first),

    .. math::
        P = \mathrm{orth}(M Q), \qquad Q \leftarrow M^\top P, \qquad C(M) = P Q^\top.

    Under an axis (:func:`ef14`, :func:`compressed_mean`) both products are averaged over the
    participants, so that nothing else has to be exchanged. Leaves whose factors would not be
    smaller travel as they are. The wire carries :math:`r (a + b)` numbers for an :math:`a
    \times b` matrix, in float32 at least.

    The error is never longer than the input, but no constant better than that holds: use it with
    error feedback, which makes up for what is left out, and give :func:`econtrol` a gain.

    Args:
      rank: :math:`r`, at least 1.

    Returns:
      The compressor; its state holds the right factors.

    Raises:
      ValueError: if ``rank`` is below 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> M = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 7.0))
      >>> received, _ = federated.power_sgd(1).compress(None, M)
      >>> bool(jnp.allclose(received, M, rtol=1e-5))
      True

    References:
      Vogels et al., `PowerSGD: Practical Low-Rank Gradient Compression for Distributed
      Optimization <https://arxiv.org/abs/1905.13727>`_, 2019.
    """
    _validate.integer("power_sgd", "rank", rank, at_least=1)
    return PowerSGD(rank)
