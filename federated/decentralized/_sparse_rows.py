"""Rows of sparse matrices times what all nodes hold, in time and memory of the edges."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradax._wide import wide

#: Up to this many slots are written out, so that XLA fuses them into one pass without a buffer.
_WRITTEN_OUT = 16


class Slots(NamedTuple):
    """Entries of rows, each row filled up to a common number.

    Attributes:
      columns: ``int32[..., rows, slots]``.
      weights: ``float64[..., rows, slots]``; those that fill up are zero.
    """

    columns: Any
    weights: Any


class Placed(NamedTuple):
    """Where to find nodes, if some are absent or sit elsewhere than in the order of numbers.

    Attributes:
      present: ``bool[n]``, of each node, whether it is there.
      lane_of: ``int32[n]``, in which row of what is multiplied it sits.
    """

    present: jax.Array
    lane_of: jax.Array


class SparseRows:
    """Multiplies single rows of matrices used in turn.

    Every node adds up its own row: one slot after the other takes a row of what all nodes
    hold, so under ``vmap`` as on devices nothing larger than the result is stored. Rows that
    are much longer than the others (the hub of a star) keep their remainder in pieces of their
    own, which are added up once for all nodes: a padded table would grow with the longest row.
    """

    def __init__(self, matrices: Sequence[Any]):
        """Lays the entries out.

        Args:
          matrices: ``csr_array`` of one size.
        """
        self.period, self.nodes = len(matrices), matrices[0].shape[0]
        counts = np.stack([np.diff(matrix.indptr) for matrix in matrices])
        width = _best_width(counts)
        excess = np.maximum(counts - width, 0)
        # Pieces about as long as there are many of them.
        length = max(1, int(np.ceil(np.sqrt(excess.sum() / max(1, np.count_nonzero(excess))))))
        laid = [_lay_out(matrix, width, length) for matrix in matrices]
        self._first = _stack([first for first, *_ in laid])
        self._has_pieces = bool(excess.any())
        self._heavy = max(int(np.count_nonzero(row)) for row in excess)
        if self._has_pieces:
            most = max(len(owners) for *_, owners, _ in laid)
            self._pieces = _stack([_pad(pieces, most) for _, pieces, *_ in laid])
            # Pieces that fill up belong to nobody, and are dropped.
            fill = lambda owners: np.pad(
                owners, (0, most - len(owners)), constant_values=self._heavy + 1
            )
            self._owners = np.stack([fill(owners) for *_, owners, _ in laid])
            # Rows without a remainder point behind the last one.
            self._heavy_of = np.stack([heavy_of for *_, heavy_of in laid])

    def times(
        self, t: jax.Array, node: jax.Array, rows: jax.Array, placed: Placed | None = None
    ) -> jax.Array:
        """Computes one row of the ``t``-th matrix times what the nodes hold.

        Args:
          t: which matrix; the same for all nodes, and not batched, or every lane would look at
            every node.
          node: ``int32[]``, which row.
          rows: ``[n, ...]``, or ``[lanes, ...]`` if the nodes are ``placed``.
          placed: where the nodes are; absent ones count zero.

        Returns:
          ``[...]``, in the dtype of accumulation.
        """
        pick = lambda table: jnp.asarray(table)[0 if self.period == 1 else t % self.period]
        first = Slots(*(pick(part)[node] for part in self._first))
        total = _add_up(first, rows, placed)
        if not self._has_pieces:
            return total
        pieces = Slots(*map(pick, self._pieces))
        partial = jax.vmap(lambda piece: _add_up(piece, rows, placed))(pieces)
        remainders = jax.ops.segment_sum(
            partial, pick(self._owners), self._heavy + 1, indices_are_sorted=True
        )
        return total + remainders[pick(self._heavy_of)[node]]


def _add_up(slots: Slots, rows, placed):
    dtype = wide(rows.dtype)
    weights = slots.weights.astype(jnp.finfo(dtype).dtype)

    def term(slot):
        column = slots.columns[slot]
        lane = column if placed is None else placed.lane_of[column]
        row = weights[slot] * rows.at[lane].get(mode="promise_in_bounds").astype(dtype)
        return row if placed is None else jnp.where(placed.present[column], row, 0)

    count = slots.columns.shape[0]
    if count > _WRITTEN_OUT:
        add = lambda slot, total: total + term(slot)
        return jax.lax.fori_loop(1, count, add, term(0), unroll=4)
    total = term(0)
    for slot in range(1, count):
        total = total + term(slot)
    return total


def _best_width(counts) -> int:
    """The number of slots of every row for which there is least to do.

    An entry in a remainder costs about as much as three slots.
    """
    widths, flat = np.unique(np.maximum(counts, 1)), np.sort(counts, axis=None)
    above = len(flat) - np.searchsorted(flat, widths, side="right")
    sums = np.concatenate([[0], np.cumsum(flat[::-1])])
    costs = len(flat) * widths + 3 * (sums[above] - widths * above)
    return int(widths[np.argmin(costs)])


def _lay_out(matrix, width, length):
    """First slots, pieces, the owner of each piece, and for every node its number as an owner."""
    n, counts = matrix.shape[0], np.diff(matrix.indptr)
    row = np.repeat(np.arange(n), counts)
    place = np.arange(len(row)) - matrix.indptr[row]
    early = place < width
    first = _fill(n, width, row[early], place[early], matrix, early)
    beyond = np.maximum(counts - width, 0)
    heavy = np.flatnonzero(beyond)
    in_pieces = -(-beyond // length)
    start = np.cumsum(in_pieces) - in_pieces
    late = ~early
    further = place[late] - width
    piece = start[row[late]] + further // length
    pieces = _fill(int(in_pieces.sum()), length, piece, further % length, matrix, late)
    heavy_of = np.full(n, len(heavy), np.int32)
    heavy_of[heavy] = np.arange(len(heavy))
    owners = np.repeat(np.arange(len(heavy), dtype=np.int32), in_pieces[heavy])
    return first, pieces, owners, heavy_of


def _fill(rows, slots, row, slot, matrix, chosen) -> Slots:
    """A table of the chosen entries of a matrix."""
    columns, weights = np.zeros((rows, slots), np.int32), np.zeros((rows, slots))
    # What fills up repeats a neighbour: zero times NaN is NaN, and must come from nobody else.
    head = slot == 0
    columns[row[head]] = matrix.indices[chosen][head, None]
    columns[row, slot], weights[row, slot] = matrix.indices[chosen], matrix.data[chosen]
    return Slots(columns, weights)


def _pad(slots: Slots, count: int) -> Slots:
    missing = ((0, count - len(slots.columns)), (0, 0))
    return Slots(*(np.pad(part, missing) for part in slots))


def _stack(several: list[Slots]) -> Slots:
    return Slots(*(np.stack(parts) for parts in zip(*several, strict=True)))
