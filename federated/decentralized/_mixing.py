"""One multiplication by a mixing matrix over a named axis: the step that gossip methods share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _validate
from gradax._wide import wide

from .. import axis
from . import topology

#: ``mix(tree, t)``: row ``axis.index`` of the t-th matrix times the trees of all nodes.
Mix = Callable[[Any, jax.Array], Any]


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf takes part in mixing; integers pass through."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def make_receivers(
    mixing: Any, axis_name: axis.AxisName, steps: int = 1
) -> Callable[[jax.Array], jax.Array]:
    """Builds the function that counts to how many others a node sends its message.

    Args:
      mixing: as in :func:`make_mix`; of a traced matrix every other node counts.
      axis_name: axis of the nodes.
      steps: how often the matrix is applied.

    Returns:
      ``receivers(t)``, ``int32[]``, for the node that calls it.
    """
    if isinstance(mixing, jax.core.Tracer):
        return lambda t: jnp.int32(steps * (axis.size(axis_name) - 1))
    matrices = np.asarray(mixing).reshape(-1, *np.shape(mixing)[-2:])
    others = (matrices != 0) & ~np.eye(matrices.shape[-1], dtype=bool)
    table = (steps * others.sum(axis=1)).astype(np.int32)
    return lambda t: jnp.asarray(table)[t % len(table), axis.index(axis_name)]


def make_mix(
    who: str,
    mixing: Any,
    axis_name: axis.AxisName,
    *,
    steps: int = 1,
    backend: str = "gather",
    require_connected: bool = True,
) -> Mix:
    """Builds the function that mixes a tree ``steps`` times.

    Args:
      who: public name of the caller, for messages.
      mixing: ``[n, n]``, or ``[T, n, n]`` of which ``mix`` takes number ``t % T``. A traced
        array (an injected hyper-parameter) is used unchecked.
      axis_name: axis of the nodes.
      steps: how often the matrix is applied.
      backend: ``"gather"`` or ``"permute"``.
      require_connected: refuse a matrix whose graph is in several parts.

    Returns:
      ``mix(tree, t)``, which returns a tree in the dtype of accumulation.

    Raises:
      ValueError: if an argument is wrong; at trace time if the axis has another size.
    """
    axis.names(axis_name)
    _validate.integer(who, "steps", steps, at_least=1)
    _validate.one_of(who, "backend", backend, ("gather", "permute"))
    if isinstance(mixing, jax.core.Tracer):
        if backend == "permute":
            raise ValueError(f"{who}: backend 'permute' needs a mixing matrix that is not traced.")
        traced = mixing.reshape(-1, *mixing.shape[-2:])
        return _gather_mix(who, jnp.linalg.matrix_power(traced, steps), axis_name)
    checked = topology.check_mixing(mixing, who=who, require_connected=require_connected)
    matrices = checked.reshape(-1, *checked.shape[-2:])
    if backend == "permute":
        return _permute_mix(who, matrices, axis_name, steps)
    return _gather_mix(who, np.linalg.matrix_power(matrices, steps), axis_name)


def _check_size(who, nodes, axis_name):
    if nodes != axis.size(axis_name):
        raise ValueError(
            f"{who}: mixing is a matrix of {nodes} nodes, but the axis {axis_name!r} has "
            f"{axis.size(axis_name)} participants."
        )


def _gather_mix(who, matrices, axis_name):
    """Mixes by one gather; the matrix has been raised to its power beforehand."""
    period, nodes = matrices.shape[:2]

    def mix(tree, t):
        _check_size(who, nodes, axis_name)
        matrix = jnp.asarray(matrices)[0 if period == 1 else t % period]
        row = matrix[axis.index(axis_name)]

        def mix_leaf(leaf):
            dtype = wide(jnp.result_type(leaf))
            rows = axis.all_gather(leaf, axis_name).astype(dtype)
            return axis.contract(row.astype(jnp.finfo(dtype).dtype), rows)

        return _on_inexact(mix_leaf, tree)

    return mix


def _permute_mix(who, matrices, axis_name, steps):
    """Mixes by sending to fixed offsets, one message per offset and application."""
    period, nodes = matrices.shape[:2]
    shares = [_offsets(who, matrix) for matrix in matrices]

    def apply_once(leaf, shares_of_step):
        dtype = wide(jnp.result_type(leaf))
        total = jnp.zeros(jnp.shape(leaf), dtype)
        for offset, share in shares_of_step:
            pairs = [((node + offset) % nodes, node) for node in range(nodes)]
            received = axis.permute(leaf, axis_name, pairs) if offset else leaf
            total = total + share * received.astype(dtype)
        return total

    def mix_leaf(leaf, shares_of_step):
        for _ in range(steps - 1):
            # What travels has the dtype of the parameters, at every hop.
            leaf = apply_once(leaf, shares_of_step).astype(leaf.dtype)
        return apply_once(leaf, shares_of_step)

    def mix(tree, t):
        _check_size(who, nodes, axis_name)
        branches = [
            lambda tree, step=step: _on_inexact(lambda leaf: mix_leaf(leaf, step), tree)
            for step in shares
        ]
        return branches[0](tree) if period == 1 else jax.lax.switch(t % period, branches, tree)

    return mix


def _offsets(who, matrix):
    """The non-zero ``(offset, weight)`` of a circulant matrix."""
    weights = matrix[0]
    rows = topology.circulant(len(matrix), list(enumerate(weights)))
    if not np.allclose(matrix, rows, rtol=0.0, atol=1e-12):
        raise ValueError(
            f"{who}: backend 'permute' needs a circulant mixing matrix (ring, exponential, "
            "one_peer_exponential); use backend 'gather'."
        )
    return [(offset, float(weight)) for offset, weight in enumerate(weights) if weight]


def _on_inexact(function, tree):
    return jax.tree.map(
        lambda leaf: function(jnp.asarray(leaf)) if is_inexact(leaf) else leaf, tree
    )
