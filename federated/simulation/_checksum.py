"""Checksums of a state, the same on any mesh, so that damage on a disk does not pass unseen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..rounds._participants import is_key

#: Arrays on the host visit the device in blocks of about this many bytes.
_BLOCK = 2**26


def checksums(tree: Any) -> list[int]:
    """Sums up each leaf of a tree, bit by bit.

    Every number is mixed with its position by a one-to-one function and added modulo
    :math:`2^{32}`. A leaf in which one number has changed has another sum for certain, one in
    which several have with a chance of :math:`1 - 2^{-32}`. The order of addition does not
    matter: the sums do not depend on how arrays lie on devices, or in which process.

    Args:
      tree: of arrays, typed keys included, on devices or on the host.

    Returns:
      One number per leaf.

    Examples:
      >>> import jax.numpy as jnp
      >>> checksums([jnp.array([1.0, 2.0])]) == checksums([jnp.array([2.0, 1.0])])
      False
    """
    leaves = jax.tree.leaves(tree)
    whole = [leaf for leaf in leaves if not isinstance(leaf, np.ndarray)]
    sums = iter(jax.device_get(_sums(whole, np.uint32(0))))
    return [_by_blocks(x) if isinstance(x, np.ndarray) else int(next(sums)) for x in leaves]


def _by_blocks(leaf: np.ndarray) -> int:
    """The sum of an array that may not fit on the device."""
    if leaf.nbytes <= _BLOCK:
        return int(_sums([leaf], np.uint32(0))[0])
    rows, total = max(1, _BLOCK * len(leaf) // leaf.nbytes), 0
    for start in range(0, len(leaf), rows):
        block = leaf[start : start + rows]
        total += int(_sums([block], np.uint32(start * _words_per_row(leaf) % 2**32))[0])
    return total % 2**32


def _words_per_row(leaf: np.ndarray) -> int:
    return jax.eval_shape(_words, jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype)).size


@jax.jit
def _sums(leaves, start):
    return [_sum(_words(leaf), start) for leaf in leaves]


def _sum(words, start):
    place, stride = start, 1
    for axis in reversed(range(words.ndim)):
        index = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place += index * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(_mixed(words ^ _mixed(place + jnp.uint32(0x9E3779B9))), dtype=jnp.uint32)


def _mixed(x):
    """A one-to-one function of 32 bits in which each bit of the input reaches all others."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _words(leaf):
    """The bits of an array as ``uint32``, in the order of its numbers."""
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    leaf = jnp.asarray(leaf)
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == jnp.bool_ or jax.dtypes.itemsize_bits(leaf.dtype) < 8:
        leaf = leaf.astype(jnp.float32)
    bits = min(jax.dtypes.itemsize_bits(leaf.dtype), 32)
    return lax.bitcast_convert_type(leaf, f"uint{bits}").astype(jnp.uint32)
