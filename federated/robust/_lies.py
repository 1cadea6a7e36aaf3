"""What attackers send, as functions of the honest messages."""

from typing import Any

import jax
import jax.numpy as jnp

from gradax import _validate
from gradax._wide import widen

from . import rules
from ._rows import count_rows, mean_of_rows


def sign_flip(honest: Any) -> Any:
    """Sends minus the mean of the honest messages.

    Args:
      honest: pytree with a leading axis of honest participants.

    Returns:
      A tree like one message.

    Raises:
      ValueError: if there is no honest message.
    """
    return jax.tree.map(jnp.negative, rules.mean(honest))


def inner_product(honest: Any, tau: jax.typing.ArrayLike = 2.0) -> Any:
    r"""Sends :math:`-\tau` times the mean of the honest messages ("fall of empires").

    A small :math:`\tau` such as 0.1 hides near the honest messages and still points the wrong
    way.

    Args:
      honest: pytree with a leading axis of honest participants.
      tau: factor :math:`\tau`.

    Returns:
      A tree like one message.

    Raises:
      ValueError: if there is no honest message.

    References:
      Xie et al., `Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
      Manipulation <https://arxiv.org/abs/1903.03936>`_, 2019.
    """
    return jax.tree.map(
        lambda leaf: jnp.negative(tau * leaf).astype(leaf.dtype), rules.mean(honest)
    )


def a_little_is_enough(honest: Any, tau: jax.typing.ArrayLike = 1.5) -> Any:
    r"""Sends the mean plus :math:`\tau` standard deviations of every coordinate.

    Args:
      honest: pytree with a leading axis of at least two honest participants.
      tau: factor :math:`\tau` of the sample standard deviation.

    Returns:
      A tree like one message.

    Raises:
      ValueError: if there are fewer than two honest messages.

    References:
      Baruch et al., `A Little Is Enough: Circumventing Defenses For Distributed Learning
      <https://arxiv.org/abs/1902.06156>`_, 2019.
    """
    h = count_rows("a_little_is_enough", honest)
    if h < 2:
        raise ValueError(f"a_little_is_enough: honest must hold at least 2 messages, got {h}.")

    def of_leaf(leaf):
        wide = widen(jnp.asarray(leaf))
        mean = mean_of_rows(wide)
        variance = mean_of_rows(jnp.abs(wide - mean) ** 2) * h / (h - 1)
        return (mean + tau * jnp.sqrt(variance)).astype(leaf.dtype)

    return jax.tree.map(of_leaf, honest)


def mimic(honest: Any, k: int = 0) -> Any:
    """Sends a copy of one honest message, to give it more weight than it has.

    Args:
      honest: pytree with a leading axis of ``h`` honest participants.
      k: whom to copy, in ``[0, h)``.

    Returns:
      A tree like one message.

    Raises:
      ValueError: if ``k`` is out of range.

    References:
      Karimireddy et al., `Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing
      <https://arxiv.org/abs/2006.09365>`_, 2020.
    """
    h = count_rows("mimic", honest)
    _validate.integer("mimic", "k", k, at_least=0)
    if k >= h:
        raise ValueError(f"mimic: k must lie in [0, {h}), got {k}.")
    return jax.tree.map(lambda leaf: leaf[k], honest)


def gaussian(
    honest: Any,
    key: jax.Array,
    mu: jax.typing.ArrayLike = 0.0,
    sigma: jax.typing.ArrayLike = 1.0,
) -> Any:
    r"""Sends noise: independent draws from :math:`N(\mu, \sigma^2)`.

    Args:
      honest: pytree with a leading axis of honest participants; only its shapes count.
      key: JAX key of this draw.
      mu: mean :math:`\mu`.
      sigma: standard deviation :math:`\sigma \ge 0`.

    Returns:
      A tree like one message; integer leaves are zero.

    Raises:
      ValueError: if ``sigma`` is a negative number, or there is no honest message.
    """
    _validate.interval("gaussian", "sigma", sigma, "[0, inf)")
    count_rows("gaussian", honest)
    leaves, structure = jax.tree.flatten(honest)
    keys = jax.random.split(key, max(len(leaves), 1))

    def of_leaf(leaf, leaf_key):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros_like(leaf[0])
        noise = jax.random.normal(leaf_key, leaf.shape[1:], leaf.dtype)
        return (mu + sigma * noise).astype(leaf.dtype)

    noises = [of_leaf(leaf, leaf_key) for leaf, leaf_key in zip(leaves, keys, strict=False)]
    return jax.tree.unflatten(structure, noises)
