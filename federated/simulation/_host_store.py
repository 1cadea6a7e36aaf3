"""States of all clients on the host: in NumPy arrays, or in files mapped into memory."""

import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..rounds._participants import init_participants, is_key
from ..rounds._wire import tree_bytes

#: First states are made on the device in blocks of about this many bytes.
_BLOCK = 2**26


class HostStore:
    """One row per client and leaf, read and written by client numbers.

    Typed keys are kept as their data, since NumPy has no such type.

    Args:
      shapes: of the states of all clients, leaves ``[num_clients, ...]``.
      directory: where to keep the leaves in files ``clients_*.npy``, made if absent; ``None``:
        in memory. Files of an earlier run are replaced by new ones; arrays that were mapped to
        them stay what they are.

    Raises:
      ValueError: if the directory is a file.
    """

    def __init__(self, shapes: Any, directory: str | os.PathLike | None = None):
        self.shapes = shapes
        self._folder = None if directory is None else pathlib.Path(directory)
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise ValueError(
                f"simulate: client_state={str(self._folder)!r} is a file, not a directory."
            )
        self._raw, self._structure = jax.tree.flatten(jax.eval_shape(to_raw, shapes))
        self._has_keys = any(map(is_key, jax.tree.leaves(shapes)))
        self._whole = None

    @functools.cached_property
    def _leaves(self) -> list[np.ndarray]:
        """Made at the first use: a run that is refused has touched no file."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        return [self._allocate(number, leaf) for number, leaf in enumerate(self._raw)]

    def _allocate(self, number: int, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if self._folder is None or 0 in leaf.shape:
            return np.zeros(leaf.shape, leaf.dtype)
        path = self._folder / f"clients_{number:03d}.npy"
        path.unlink(missing_ok=True)
        # A plain array that lies in the file: jax does not take the subclass.
        return np.asarray(np.lib.format.open_memmap(path, "w+", leaf.dtype, leaf.shape))

    def begin(self, client: optax.GradientTransformation, params: optax.Params) -> None:
        """Fills in the first states, block by block.

        Args:
          client: the client's chain.
          params: parameters of one participant.
        """
        if not self._raw:
            return
        count = self._raw[0].shape[0]
        block = min(count, max(1, _BLOCK * count // max(tree_bytes(self._raw), 1)))
        make = jax.jit(lambda params, ids: to_raw(init_participants(client, params, ids)))
        for start in range(0, count, block):
            # The last block has the shape of the others: its last client is made repeatedly.
            ids = np.minimum(np.arange(start, start + block, dtype=np.int32), count - 1)
            for leaf, rows in zip(self._leaves, jax.tree.leaves(make(params, ids)), strict=True):
                part = leaf[start : start + block]
                part[...] = np.asarray(rows)[: len(part)]

    def load(self, clients: Any) -> None:
        """Takes states from elsewhere.

        Args:
          clients: a tree like ``shapes``; arrays in memory are taken over, not copied.
        """
        if clients is self._whole:
            return
        for number, leaf in enumerate(jax.tree.leaves(to_raw(clients))):
            own = isinstance(leaf, np.ndarray) and leaf.flags.writeable
            if own and self._folder is None and not isinstance(leaf.base, np.memmap):
                self._leaves[number] = leaf
            else:
                np.copyto(self._leaves[number], leaf)
        self._whole = None

    def whole(self) -> Any:
        """The states of all clients, typed keys restored; arrays are the store's own."""
        if self._whole is None:
            tree = jax.tree.unflatten(self._structure, self._leaves)
            self._whole = to_typed(tree, self.shapes)
        return self._whole

    def read(self, ids: np.ndarray) -> Any:
        """Copies rows; the number of clients (nobody) reads the last one.

        Args:
          ids: ``int32[lanes]``.

        Returns:
          A tree like ``shapes``, leaves ``[lanes, ...]``.
        """
        rows = [np.take(leaf, ids, axis=0, mode="clip") for leaf in self._leaves]
        return jax.tree.unflatten(self._structure, rows)

    def write(self, ids: np.ndarray, rows: Any) -> None:
        """Writes rows back; those of nobody are dropped.

        Args:
          ids: ``int32[lanes]``.
          rows: a tree like ``shapes``, leaves ``[lanes, ...]``.
        """
        for leaf, row in zip(self._leaves, jax.tree.leaves(rows), strict=True):
            there = ids < len(leaf)
            leaf[ids[there]] = row[there]
        self._whole = None if self._has_keys else self._whole


def to_raw(tree: Any) -> Any:
    """Replaces typed keys by their data.

    Args:
      tree: of arrays.

    Returns:
      The tree; other leaves are left as they are.
    """
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def to_typed(tree: Any, like: Any) -> Any:
    """The inverse of :func:`to_raw`.

    Args:
      tree: what that returned.
      like: a tree that has a typed key, or the shape of one, where there was one.

    Returns:
      The tree with typed keys.
    """

    def typed(leaf, like):
        if not is_key(like):
            return leaf
        return jax.random.wrap_key_data(
            jnp.asarray(leaf), impl=jax.random.key_impl(jnp.empty((), like.dtype))
        )

    return jax.tree.map(typed, tree, like)
