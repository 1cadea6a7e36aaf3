"""Norms of the leaves of a tree, or of groups of leaves that share a label."""

from typing import Any

import jax
import jax.numpy as jnp

from ._make_monitor import record_dtype, widened


class LeafGroups:
    """Leaves that are measured together.

    Without labels each leaf is a group of its own, in the order of :func:`jax.tree.leaves`;
    otherwise a label is a group, in the order of the sorted labels.
    """

    def __init__(self, who: str, param_labels: Any):
        self._who, self._param_labels = who, param_labels

    def names(self, params: Any) -> list[Any]:
        """Lists the groups: labels, or numbers of leaves."""
        if self._param_labels is None:
            return list(range(len(jax.tree.leaves(params))))
        return sorted(set(jax.tree.leaves(self._labels(params))), key=str)

    def nan(self, params: Any) -> jax.Array:
        """Returns the record of no group yet."""
        return jnp.full([len(self.names(params))], jnp.nan, record_dtype(params))

    def squared_norms(self, tree: Any) -> jax.Array:
        """Computes the squared Euclidean norm of each group, in the dtype of records."""
        names = self.names(tree)
        groups: dict[Any, list[jax.Array]] = {name: [] for name in names}
        for name, leaf in zip(self._of_leaves(tree), jax.tree.leaves(widened(tree)), strict=True):
            groups[name].append(jnp.sum(jnp.real(leaf * jnp.conj(leaf))))
        return jnp.array([sum(squares, 0.0) for squares in groups.values()], record_dtype(tree))

    def _labels(self, tree):
        return self._param_labels(tree) if callable(self._param_labels) else self._param_labels

    def _of_leaves(self, tree):
        """The group of each leaf."""
        if self._param_labels is None:
            return self.names(tree)
        spread = lambda label, part: jax.tree.map(lambda _: label, part)
        try:
            return jax.tree.leaves(jax.tree.map(spread, self._labels(tree), tree))
        except ValueError as error:
            raise ValueError(
                f"{self._who}: param_labels must be a tree like params, or a prefix of it, with "
                f"labels as leaves, or a function of params that returns one; {error}"
            ) from error
