"""Tells by tracing whether workers with data of their own nevertheless make one update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def is_common(
    advance: Callable[..., tuple[Any, Any, Any]],
    axes: dict[str, int],
    params: Any,
    opt_state: Any,
    batch: Any,
) -> bool:
    """Whether the update is the same for all workers by the way it is made.

    It is so after a collective that gives everybody the same, and after whatever else is done
    with the result and with those leaves of the state that never differ. These are found by
    assuming at first that only random keys differ, and tracing the step again until no other
    leaf joins them.

    Args:
      advance: ``advance(params, opt_state, batch) -> (updates, opt_state, metrics)`` of a worker.
      axes: names and sizes of the axes of workers, outermost first.
      params: the common parameters, or their shapes.
      opt_state: of one worker.
      batch: the part of the batch that a worker has.

    Returns:
      ``True`` if it is; ``False`` also where it is so, but tracing does not show it.
    """
    differs = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in _leaves(opt_state)]
    fixed, mine = [False] * len(_leaves(params)), [leaf.ndim > 0 for leaf in _leaves(batch)]

    def outcome(params, opt_state, batch):
        updates, opt_state, _ = advance(params, opt_state, batch)
        return opt_state, updates

    while True:
        flags = fixed + differs + mine
        seen = _differing(outcome, axes, flags, params, opt_state, batch)
        of_state, of_updates = seen[: len(differs)], seen[len(differs) :]
        grown = [before or now for before, now in zip(differs, of_state, strict=True)]
        if grown == differs:
            return not any(of_updates)
        differs = grown


def _leaves(tree):
    return jax.tree.leaves(tree)


def _differing(function, axes, flags, *arguments) -> list[bool]:
    """Which leaves of the result differ between workers, if the flagged ones of arguments do."""
    leaves, structure = jax.tree.flatten(arguments)
    seen: list[list[bool]] = []

    @custom_vmap
    def watch(*leaves):
        return leaves

    @watch.def_vmap
    def _(size, batched, *leaves):
        del size
        seen.append(batched)
        return leaves, tuple(batched)

    def watched(*leaves):
        return watch(*jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves))))

    lead = tuple(axes.values())
    in_axes = tuple(0 if flag else None for flag in flags)
    for name in reversed(axes):
        watched = jax.vmap(watched, in_axes, axis_name=name, axis_size=axes[name])
    results = jax.eval_shape(
        watched,
        *(
            jax.ShapeDtypeStruct((*lead, *leaf.shape) if flag else leaf.shape, leaf.dtype)
            for leaf, flag in zip(leaves, flags, strict=True)
        ),
    )
    return [any(flags) for flags in zip(*seen, strict=True)] or [False] * len(results)
