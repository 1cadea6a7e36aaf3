"""Blocks made of whole leaves: every array of a network, or labelled groups of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _extras
from gradax._wide import widen

from ._choose_block import Method, choose_block, gradient_mapping


class _Leaf(NamedTuple):
    """What is known of a leaf.

    Attributes:
      block: number of its block.
      smoothness: bound of its block, ``None`` if not given.
      diagonal: bounds of its elements, ``None`` if not given.
    """

    block: int
    smoothness: Any
    diagonal: Any


class LeafBlocks:
    """Blocks of leaves, which are never joined into one vector.

    Args:
      method: rule, update and curvature.
      param_labels: a label for each leaf, a prefix tree or a function of params; ``None`` makes
        each leaf a block.

    Raises:
      ValueError: if rule or update need a matrix.
    """

    def __init__(self, method: Method, param_labels: Any):
        for argument, value in (("rule", method.rule), ("update", method.update)):
            if value in ("gsq", "matrix", "newton"):
                raise ValueError(
                    f"{method.who}: {argument}={value!r} needs blocks of coordinates; give "
                    "blocks= or block_size=."
                )
        if method.hessian is not None:
            raise ValueError(f"{method.who}: hessian must be None where blocks are made of leaves.")
        self.method, self.param_labels = method, param_labels

    def begin(self, params: optax.Params) -> jax.Array:
        """Checks that every leaf has its label and bounds."""
        self._layout(params)
        return jnp.full([], -1, jnp.int32)

    def step(self, updates, params, last_block, key, extras):
        """Makes the direction, and the number of the block that it moves."""
        del extras
        leaves, tree = jax.tree.flatten(updates)
        if not leaves:
            return updates, last_block
        layout = self._layout(updates)
        bounds = [x.smoothness if self.method.update == "lipschitz" else x.diagonal for x in layout]
        grads = self._gradients(leaves, params, bounds)
        of_block = {known.block: known.smoothness for known in layout}
        smoothness = None
        if self.method.smoothness is not None:
            smoothness = jnp.array([of_block[k] for k in range(len(of_block))], float)
        scores = lambda: self._scores(grads, layout, smoothness)
        block = choose_block(self.method.rule, len(of_block), last_block, key, smoothness, scores)
        chosen = [
            jnp.where(block == known.block, g / _like(bound, g), 0).astype(leaf.dtype)
            for leaf, g, bound, known in zip(leaves, grads, bounds, layout, strict=True)
        ]
        return jax.tree.unflatten(tree, chosen), block

    def _gradients(self, leaves, params, bounds):
        """The gradient in single precision or better, with prox the gradient mapping."""
        grads, prox = [widen(leaf) for leaf in leaves], self.method.prox
        if prox is None:
            return grads
        points = map(widen, jax.tree.leaves(_extras.require_params(self.method.who, params)))
        triples = zip(grads, points, bounds, strict=True)
        return [gradient_mapping(prox, g, x, _like(bound, g)) for g, x, bound in triples]

    def _scores(self, grads, layout, smoothness):
        scale = [known.diagonal if self.method.rule == "gsd" else 1.0 for known in layout]
        square = lambda g: jnp.real(g * jnp.conj(g))
        sums = [jnp.sum(square(g) / _like(d, g)) for g, d in zip(grads, scale, strict=True)]
        blocks = np.array([known.block for known in layout])
        total = jax.ops.segment_sum(jnp.stack(sums), blocks, max(blocks) + 1)
        return total / smoothness if self.method.rule == "gsl" else total

    def _layout(self, tree: optax.Params) -> list[_Leaf]:
        method, labels = self.method, self.param_labels
        spread = lambda prefix: jax.tree.leaves(jax.tree.broadcast(prefix, tree))
        count = len(jax.tree.leaves(tree))
        nothing = [None] * count
        diagonal = nothing if method.diagonal is None else spread(method.diagonal)
        if labels is None:
            smoothness = nothing if method.smoothness is None else spread(method.smoothness)
            return list(map(_Leaf, range(count), smoothness, diagonal))
        names = spread(labels(tree) if callable(labels) else labels)
        number = {name: k for k, name in enumerate(dict.fromkeys(names))}
        smoothness = [self._smoothness_of(name) for name in names]
        return list(map(_Leaf, [number[name] for name in names], smoothness, diagonal))

    def _smoothness_of(self, label: Any) -> Any:
        given = self.method.smoothness
        if not isinstance(given, Mapping):
            return given
        if label not in given:
            raise ValueError(
                f"{self.method.who}: smoothness must have an entry for every label, got none for "
                f"{label!r}."
            )
        return given[label]


def _like(bound, g):
    """A bound in the real dtype of a leaf."""
    return jnp.asarray(bound, jnp.finfo(g.dtype).dtype)
