"""States of many participants, each with random keys of its own."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed keys, or the shape of one."""
    return jnp.issubdtype(getattr(leaf, "dtype", jnp.float32), jax.dtypes.prng_key)


def _is_shared(path: tuple[Any, ...]) -> bool:
    """Whether a field on the way to the leaf is named ``shared...``."""
    names = (getattr(step, "name", getattr(step, "key", "")) for step in path)
    return any(str(name).startswith("shared") for name in names)


def fold_keys(state: Any, own: jax.Array | None, common: jax.Array | None = None) -> Any:
    """Folds numbers into the typed keys of a state.

    Args:
      state: any pytree.
      own: ``uint32[]`` or ``int32[]``, folded into keys that belong to their holder, or
        ``None`` to leave them.
      common: likewise for keys below a field whose name starts with ``shared``.

    Returns:
      The state with other keys.
    """

    def fold(path, leaf):
        number = common if _is_shared(path) else own
        if number is None or not is_key(leaf):
            return leaf
        fold_in = jax.random.fold_in
        for _ in range(leaf.ndim):  # a field may hold several keys
            fold_in = jax.vmap(fold_in, (0, None))
        return fold_in(leaf, number)

    return jax.tree_util.tree_map_with_path(fold, state)


def init_participants(
    tx: optax.GradientTransformation, params: optax.Params, ids: jax.Array
) -> optax.OptState:
    """Initializes one state for each participant.

    A typed key (``jax.random.key``) in a state belongs to its participant, whose number is
    folded in here, once. Keys below a field whose name starts with ``shared`` stay equal for
    all: they are meant for draws in common.

    Args:
      tx: the transformation.
      params: parameters of one participant.
      ids: ``int32[n]``, the participants' numbers.

    Returns:
      The state of ``tx``, every leaf with a leading axis of participants.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> state = federated.init_participants(optax.trace(0.9), jnp.zeros(3), jnp.arange(5))
      >>> state.trace.shape
      (5, 3)
    """
    return jax.vmap(lambda number: fold_keys(tx.init(params), number))(jnp.asarray(ids))
