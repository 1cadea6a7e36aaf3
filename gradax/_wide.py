"""Arithmetic on leaves of any dtype: in single precision at least, no wider than a leaf asks."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp


def real_dtype(leaf: Any) -> Any:
    """The dtype of a leaf's absolute values."""
    return jnp.finfo(jnp.result_type(leaf)).dtype


def wide_dtype(*leaves: Any) -> Any:
    """The widest real dtype among float32 and those of the leaves."""
    return jnp.result_type(jnp.float32, *map(real_dtype, leaves))


def wide(dtype: jax.typing.DTypeLike) -> Any:
    """The dtype in which a leaf of this dtype is computed: float32 or complex64 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(leaf: jax.typing.ArrayLike) -> jax.Array:
    """The leaf in the dtype in which it is computed."""
    return jnp.asarray(leaf, wide(jnp.result_type(leaf)))


def inner_product(a: Iterable[jax.Array], b: Iterable[jax.Array], dtype: Any) -> jax.Array:
    """The real inner product of two lists of leaves, a scalar of ``dtype``."""
    # Not jnp.vdot: XLA fuses the sum of a product with whatever makes its factors.
    product = lambda x, y: jnp.real(jnp.conj(widen(x)) * widen(y))
    terms = [jnp.sum(product(x, y), dtype=dtype) for x, y in zip(a, b, strict=True)]
    return sum(terms, jnp.zeros([], dtype))
