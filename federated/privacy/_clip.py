"""Bounded contributions: of one participant's message, and of single examples."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._extras import require
from gradax._wide import real_dtype, wide, widen
from gradax.catalogue import register

from ._papers import DP_FEDAVG


def clip_tree(tree: Any, bound: jax.typing.ArrayLike) -> Any:
    """Scales a tree down to a norm of at most ``bound``; one that is not finite becomes zero.

    Args:
      tree: of floating leaves.
      bound: on the norm of all leaves together.

    Returns:
      A tree like ``tree``.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return tree
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
    clean = jax.tree.map(lambda x: jnp.where(finite, widen(x), 0), tree)
    norm = optax.tree.norm(clean)
    within = norm <= bound
    scale = bound / jnp.where(within, 1, norm)

    def shorten(leaf, like):
        # Rounding to the leaf's dtype must not lengthen it again.
        shy = (scale * (1 - float(jnp.finfo(like.dtype).eps))).astype(real_dtype(leaf))
        return (leaf * jnp.where(within, 1, shy)).astype(like.dtype)

    return jax.tree.map(shorten, clean, tree)


def clipped_sum(examples: Any, bound: jax.typing.ArrayLike) -> Any:
    """Adds up gradients of single examples, each clipped; one that is not finite counts as zero.

    Args:
      examples: leaves ``[examples, ...]``.
      bound: on the norm of one example's gradient, over all leaves.

    Returns:
      The sum, in single precision at least.
    """
    leaves, structure = jax.tree.flatten(examples)
    if not leaves:
        return examples
    beyond = lambda leaf: tuple(range(1, leaf.ndim))
    finite = jnp.all(jnp.stack([jnp.isfinite(x).all(axis=beyond(x)) for x in leaves]), axis=0)
    mask = lambda x: jnp.where(finite.reshape(-1, *[1] * (x.ndim - 1)), widen(x), 0)
    total, _ = optax.per_example_global_norm_clip([mask(leaf) for leaf in leaves], bound)
    kept = [sum.astype(wide(leaf.dtype)) for sum, leaf in zip(total, leaves, strict=True)]
    return jax.tree.unflatten(structure, kept)


def num_rows(examples: Any) -> int:
    """Length of the leading axis."""
    leaves = jax.tree.leaves(examples)
    return leaves[0].shape[0] if leaves else 1


def example_grads(who: str, params: Any, extras: dict[str, Any]) -> Any:
    """Finds the gradients of single examples among the extras.

    Args:
      who: name of the transformation that asks.
      params: where they are taken.
      extras: of the update.

    Returns:
      Leaves ``[examples, ...]``.

    Raises:
      MissingExtraError: if there is neither ``per_example_grads`` nor ``per_example_grad_fn``.
    """
    given, function = extras.get("per_example_grads"), extras.get("per_example_grad_fn")
    if given is None and function is not None:
        return function(params)
    return require(who, "per_example_grads", given)


@register("direction", DP_FEDAVG, example={"l2_norm_clip": 10.0})
def clip_contribution(l2_norm_clip: jax.typing.ArrayLike) -> optax.GradientTransformation:
    r"""Bounds what one participant can change: :math:`m \min(1, C / \lVert m \rVert)`.

    The norm is taken over all leaves. As ``optax.clip_by_global_norm``, but the bound holds for
    **every** message: one with NaN or infinite numbers becomes zero, and rounding cannot exceed
    :math:`C`.

    Args:
      l2_norm_clip: :math:`C > 0`; infinity clips nothing.

    Returns:
      A stateless transformation.

    Raises:
      ValueError: if ``l2_norm_clip`` is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.clip_contribution(1.0)
      >>> for message in (jnp.array([3.0, 4.0]), jnp.array([jnp.inf, 0.0])):
      ...     clipped, _ = tx.update(message, tx.init(message))
      ...     print([round(float(x), 4) for x in clipped])
      [0.6, 0.8]
      [0.0, 0.0]

    References:
      McMahan et al., `Learning Differentially Private Recurrent Language Models
      <https://arxiv.org/abs/1710.06963>`_, 2017.
    """
    _validate.interval("clip_contribution", "l2_norm_clip", l2_norm_clip, "(0, inf]")

    def update_fn(updates, state, params=None):
        del params
        return clip_tree(updates, l2_norm_clip), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)
