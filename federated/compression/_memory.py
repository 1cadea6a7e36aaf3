"""What the members that compress share: keys, memories, and sending through a code."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _keys
from gradax._wide import wide

from ._compressor import Compressor, shapes_of

_LARGEST = np.iinfo(np.int32).max


def check_compressor(who: str, compressor: Any) -> None:
    """Raises unless the argument is a compressor.

    Args:
      who: public name of the factory.
      compressor: what was given.

    Raises:
      TypeError: if it is none.
    """
    if not isinstance(compressor, Compressor):
        raise TypeError(
            f"{who}: compressor must be a Compressor, such as top_k(0.01), got {compressor!r}."
        )


def check_contractive(who: str, compressor: Any) -> None:
    """Raises unless the argument is a contractive compressor.

    Args:
      who: public name of the factory.
      compressor: what was given.

    Raises:
      TypeError: if it is no compressor.
      ValueError: if error feedback could diverge with it.
    """
    check_compressor(who, compressor)
    if not compressor.is_contractive:
        raise ValueError(
            f"{who}: compressor must be contractive, but {compressor!r} is not; use "
            "compressor.shrunk(), which divides by 1 + omega, or for rand_k scaled=False."
        )


def own_key(who: str, compressor: Compressor, key: jax.typing.ArrayLike) -> jax.Array | None:
    """Makes the key of a state, if the compressor draws.

    Args:
      who: public name of the factory.
      compressor: the compressor.
      key: of the constructor.

    Returns:
      A key, or ``None``.
    """
    return _keys.as_key(who, key) if compressor.is_random else None


def split(key: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None]:
    """Splits a key into that of this update and the next one's; ``None`` stays ``None``."""
    if key is None:
        return None, None
    now, later = jax.random.split(key)
    return now, later


def memory(tree: Any) -> Any:
    """Makes zeros for what is remembered: float32 at least, since errors add up."""

    def zeros(leaf):
        dtype = jnp.result_type(leaf)
        return jnp.zeros_like(leaf, dtype=wide(dtype) if is_inexact(leaf) else dtype)

    return jax.tree.map(zeros, tree)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is compressed, rather than passed on."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def map_inexact(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps over inexact leaves; others stay as they are in ``tree``."""
    return jax.tree.map(lambda x, *y: function(x, *y) if is_inexact(x) else x, tree, *rest)


def on_the_wire(tree: Any, like: Any) -> Any:
    """Rounds what is to be sent to the dtypes of ``like``, within what these can hold."""

    def leaf(x, like):
        if x.dtype == like.dtype:
            return x
        if not jnp.issubdtype(x.dtype, jnp.complexfloating):
            limit = jnp.finfo(like.dtype).max.astype(x.dtype)
            x = jnp.where(jnp.isfinite(x), jnp.clip(x, -limit, limit), x)
        return x.astype(like.dtype)

    return map_inexact(leaf, tree, like)


def compressed_bytes(compressor: Compressor, like: Any) -> jax.Array:
    """Bytes of a message, ``int32[]``; what does not fit is cut to the largest integer."""
    return jnp.int32(min(math.ceil(compressor.bits(like) / 8), _LARGEST))


def full_bytes(like: Any) -> jax.Array:
    """Bytes of a tree that is not compressed, as :func:`compressed_bytes`."""
    total = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes_of(like))
    return jnp.int32(min(total, _LARGEST))


def where(condition: jax.Array | None, new: Any, old: Any) -> Any:
    """Chooses between trees by one scalar; ``None`` means the new one."""
    if condition is None:
        return new
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
