"""One multiplication by a mixing matrix over a named axis: the step that gossip methods share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _validate
from gradax._wide import wide

from .. import axis
from . import topology
from ._graphs import as_list, is_sparse
from ._sparse_rows import Placed, SparseRows


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf takes part in mixing; integers pass through."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def check_alike(who: str, updates: Any, params: Any) -> None:
    """Raises unless updates and params have the same structure and shapes.

    Args:
      who: public name of the caller, for the message.
      updates: a tree.
      params: another one.

    Raises:
      ValueError: if they differ.
    """
    structures: list[Any] = [jax.tree.structure(tree) for tree in (updates, params)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"{who}: updates and params must be trees of one structure, got {structures[0]} and "
            f"{structures[1]}."
        )
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (updates, params)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{who}: updates and params must have the same shapes, got {shapes[0]} and "
            f"{shapes[1]}; do all nodes have models of one kind?"
        )


class Members(NamedTuple):
    """Who sits in the lanes of the axis, where nodes may be absent.

    Attributes:
      node: ``int32[]``, number of the node that calls.
      lane: ``int32[]``, where it sits.
      active: ``bool[]``, whether it takes part.
      nodes: ``int32[lanes]``, number of the node in each lane.
      here: ``bool[lanes]``, whether it takes part.
      placed: the same, seen from the nodes.
      in_order: whether node i is known to sit in lane i.
    """

    node: jax.Array
    lane: jax.Array
    active: jax.Array
    nodes: jax.Array
    here: jax.Array
    placed: Placed
    in_order: bool


class Mixer(NamedTuple):
    """What :func:`make_mixer` builds.

    Attributes:
      members: ``members(active, client_id, num_clients)``, from extras that may be ``None``;
        it checks sizes, and returns ``None`` if everybody takes part in the order of numbers.
      clock: ``clock(count, round)``, the number of the matrix, equal for all nodes.
      mix: ``mix(tree, t, members)``, the node's row of the ``t``-th matrix times the trees of
        all nodes, in the dtype of accumulation.
      receivers: ``receivers(t, members)``, ``int32[]``, to how many others the node sends.
    """

    members: Callable[..., Members | None]
    clock: Callable[..., jax.Array]
    mix: Callable[..., Any]
    receivers: Callable[..., jax.Array]


def make_mixer(
    who: str,
    mixing: Any,
    axis_name: axis.AxisName,
    *,
    steps: int = 1,
    backend: str = "gather",
    require_connected: bool = True,
    keep_sums: bool = False,
) -> Mixer:
    """Builds the functions with which a tree is mixed ``steps`` times.

    Args:
      who: public name of the caller, for messages.
      mixing: ``[n, n]``, or ``[T, n, n]`` of which ``mix`` takes number ``t % T``, or sparse.
        A traced array (an injected hyper-parameter) is used unchecked.
      axis_name: axis of the nodes.
      steps: how often the matrix is applied.
      backend: ``"gather"`` or ``"permute"``.
      require_connected: refuse a matrix whose graph is in several parts.
      keep_sums: what becomes of weights when nodes are absent. By default a node keeps what it
        would give to absent ones, and rows go on to sum to one; otherwise it keeps what absent
        ones would take from it, and columns go on to sum to one. For a symmetric matrix this is
        the same.

    Returns:
      The functions.

    Raises:
      ValueError: if an argument is wrong; at trace time if the axis has another size.
    """
    axis.names(axis_name)
    _validate.integer(who, "steps", steps, at_least=1)
    _validate.one_of(who, "backend", backend, ("gather", "permute"))
    backends = {"permute": _Permuted, "gather": _Sparse if is_sparse(mixing) else _Dense}
    if isinstance(mixing, jax.core.Tracer):
        if backend == "permute":
            raise ValueError(f"{who}: backend 'permute' needs a mixing matrix that is not traced.")
        matrices: Any = mixing.reshape(-1, *mixing.shape[-2:])
    else:
        checked = topology.check_mixing(mixing, who=who, require_connected=require_connected)
        matrices = as_list(checked)
    backing = backends[backend](who, matrices, axis_name, steps, keep_sums)
    num_nodes, period = matrices[0].shape[0], len(matrices)

    def members(active=None, client_id=None, num_clients=None):
        _check_size(who, num_nodes, axis_name, client_id, num_clients)
        return _find_members(num_nodes, axis_name, active, client_id)

    def clock(count, round=None):
        count = count if round is None else jnp.asarray(round)
        # Under vmap the counts of the lanes are batched; their maximum is one number.
        for name in axis.names(axis_name):
            count = count if axis.is_manual(name) else jax.lax.pmax(count, name)
        return count

    def mix(tree, t, members=None):
        function = lambda leaf: backing.mix(jnp.asarray(leaf), t, members)
        return jax.tree.map(lambda leaf: function(leaf) if is_inexact(leaf) else leaf, tree)

    if isinstance(mixing, jax.core.Tracer):
        receivers = lambda t, members=None: jnp.int32(steps * (axis.size(axis_name) - 1))
    else:
        receivers = _make_receivers(matrices, period, axis_name, steps)
    return Mixer(members, clock, mix, receivers)


# Who is there -------------------------------------------------------------------------------


def _check_size(who, num_nodes, axis_name, client_id, num_clients):
    lanes = axis.size(axis_name)
    if client_id is None or not isinstance(num_clients, int):
        fits = lanes == num_nodes if client_id is None else lanes <= num_nodes
        found = f"the axis {axis_name!r} has {lanes} participants"
    else:
        fits, found = num_clients == num_nodes, f"there are {num_clients} participants"
    if not fits:
        raise ValueError(f"{who}: mixing is a matrix of {num_nodes} nodes, but {found}.")


def _find_members(num_nodes, axis_name, active, client_id) -> Members | None:
    if active is None and client_id is None:
        return None
    lane = axis.index(axis_name)
    node = lane if client_id is None else jnp.asarray(client_id, jnp.int32)
    active = node < num_nodes if active is None else jnp.asarray(active) & (node < num_nodes)
    node = jnp.minimum(node, num_nodes - 1)
    nodes, here = axis.all_gather((node, active), axis_name)
    seats = jnp.where(here, nodes, num_nodes)  # who is absent sits nowhere
    present = jnp.zeros(num_nodes, bool).at[seats].set(True, mode="drop")
    lanes = jnp.arange(len(nodes), dtype=jnp.int32)
    lane_of = jnp.zeros(num_nodes, jnp.int32).at[seats].set(lanes, mode="drop")
    placed = Placed(present, lane_of)
    return Members(node, lane, active, nodes, here, placed, in_order=client_id is None)


def _make_receivers(matrices: Sequence[Any], period, axis_name, steps):
    """Counts who has a weight for a node that it sends to: entries of its column."""
    listeners = [_listeners(matrix) for matrix in matrices]
    table = np.stack([steps * one.sum(axis=1) for one in listeners]).astype(np.int32)
    sparse = SparseRows(listeners) if is_sparse(matrices) else None
    dense = np.stack(listeners) if sparse is None else None

    def receivers(t, members=None):
        if members is None:
            return jnp.asarray(table)[t % period, axis.index(axis_name)]
        present = members.placed.present.astype(jnp.float32)
        if sparse is not None:
            count = sparse.times(t, members.node, present)
        else:
            count = jnp.asarray(dense)[t % period, members.node].astype(jnp.float32) @ present
        return jnp.where(members.active, steps * count, 0).astype(jnp.int32)

    return receivers


def _listeners(matrix):
    """Row i marks who has a weight for node i, other than itself."""
    if not is_sparse(matrix):
        return (matrix.T != 0) & ~np.eye(len(matrix), dtype=bool)
    from scipy import sparse

    rows, columns = matrix.nonzero()
    others = rows != columns
    ends = columns[others], rows[others]
    return sparse.csr_array((np.ones(others.sum()), ends), shape=matrix.shape)


# Ways to multiply ---------------------------------------------------------------------------


class _Dense:
    """Gathers the rows of all nodes once; the matrix is raised to its power beforehand."""

    def __init__(self, who, matrices, axis_name, steps, keep_sums):
        del who
        numpy = jnp if isinstance(matrices, jax.core.Tracer) else np
        self._matrices, self._axis_name, self._steps = numpy.stack(matrices), axis_name, steps
        self._powers = numpy.linalg.matrix_power(self._matrices, steps)
        self._keep_sums = keep_sums

    def mix(self, leaf, t, members):
        dtype = wide(leaf.dtype)
        rows = axis.all_gather(leaf, self._axis_name).astype(dtype)
        if members is None:
            row = self._pick(self._powers, t)[axis.index(self._axis_name)]
        else:
            row = self._row_of_members(t, members)
            rows = jnp.where(_like(members.here, rows), rows, 0)
        return axis.contract(row.astype(jnp.finfo(dtype).dtype), rows)

    def _pick(self, stack, t):
        return jnp.asarray(stack)[0 if len(stack) == 1 else t % len(stack)]

    def _row_of_members(self, t, members):
        """The node's weights of the lanes, after all steps."""
        matrix = self._pick(self._matrices, t)
        # No power of the whole matrix: who is absent passes nothing on.
        taken = matrix[members.nodes][:, members.nodes]
        absent = ~members.placed.present
        kept = (matrix.T if self._keep_sums else matrix)[members.nodes] @ absent.astype(taken.dtype)
        among = jnp.where(members.here, taken, 0) + jnp.diag(kept)
        row = among[members.lane]
        for _ in range(self._steps - 1):
            row = axis.contract(row, among)
        return row


class _Sparse:
    """Gathers the rows of all nodes in every step, and adds up those of the neighbours."""

    def __init__(self, who, matrices, axis_name, steps, keep_sums):
        del who
        self._axis_name, self._steps = axis_name, steps
        self._rows = self._kept = SparseRows(matrices)
        if keep_sums and any(abs(matrix - matrix.T).max() > 0 for matrix in matrices):
            self._kept = SparseRows([matrix.T.tocsr() for matrix in matrices])

    def mix(self, leaf, t, members):
        dtype = leaf.dtype
        for _ in range(self._steps):
            # What travels has the dtype of the parameters, at every hop.
            leaf = self._apply(leaf.astype(dtype), t, members)
        return leaf

    def _apply(self, leaf, t, members):
        rows = axis.all_gather(leaf, self._axis_name)
        if members is None:
            return self._rows.times(t, axis.index(self._axis_name), rows)
        mixed = self._rows.times(t, members.node, rows, members.placed)
        absent = (~members.placed.present).astype(jnp.finfo(mixed.dtype).dtype)
        kept = self._kept.times(t, members.node, absent)
        own = leaf.astype(mixed.dtype)
        return jnp.where(kept == 0, mixed, mixed + kept * own)


class _Permuted:
    """Sends to fixed offsets, one message per offset and application."""

    def __init__(self, who, matrices, axis_name, steps, keep_sums):
        self._nodes, self._axis_name, self._steps = matrices[0].shape[0], axis_name, steps
        self._shares = [_offsets(who, matrix) for matrix in matrices]
        sparse = [topology.circulant(self._nodes, shares, sparse=True) for shares in self._shares]
        # For lanes whose distances are not those of the nodes in them.
        self._elsewhere = _Sparse(who, sparse, axis_name, steps, keep_sums)

    def mix(self, leaf, t, members):
        if members is not None and not members.in_order:
            return self._elsewhere.mix(leaf, t, members)
        walk = lambda shares: lambda leaf: self._walk(leaf, shares, members)
        branches = [walk(shares) for shares in self._shares]
        if len(branches) == 1:
            return branches[0](leaf)
        return jax.lax.switch(t % len(branches), branches, leaf)

    def _walk(self, leaf, shares, members):
        dtype = leaf.dtype
        for _ in range(self._steps):
            leaf = self._apply(leaf.astype(dtype), shares, members)
        return leaf

    def _apply(self, leaf, shares, members):
        dtype = wide(leaf.dtype)
        total = jnp.zeros(leaf.shape, dtype)
        for offset, share in shares:
            pairs = [((node + offset) % self._nodes, node) for node in range(self._nodes)]
            received = axis.permute(leaf, self._axis_name, pairs) if offset else leaf
            if members is not None:
                neighbor = (members.node + offset) % self._nodes
                received = jnp.where(members.placed.present[neighbor], received, leaf)
            total = total + share * received.astype(dtype)
        return total


def _like(mask, rows):
    """A mask of rows, shaped so that it broadcasts over them."""
    return mask.reshape(-1, *[1] * (rows.ndim - 1))


def _offsets(who, matrix):
    """The non-zero ``(offset, weight)`` of a circulant matrix."""
    weights = matrix[[0]].toarray()[0] if is_sparse(matrix) else matrix[0]
    shares = [(int(offset), float(weights[offset])) for offset in np.flatnonzero(weights)]
    rows = topology.circulant(len(weights), shares, sparse=is_sparse(matrix))
    if abs(matrix - rows).max() > 1e-12:
        raise ValueError(
            f"{who}: backend 'permute' needs a circulant mixing matrix (ring, exponential, "
            "one_peer_exponential); use backend 'gather'."
        )
    return shares
