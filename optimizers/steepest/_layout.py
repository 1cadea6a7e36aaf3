"""Which leaves are matrices, along which axes, and how to read them as such."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

#: One specification for all leaves, a tree of them (a prefix of params; ``None`` where a leaf is
#: no matrix), or a function from params to such a tree.
DimensionNumbers: TypeAlias = MuonDimensionNumbers | Any | Callable[[optax.Params], Any]


class Layout(NamedTuple):
    """How a leaf is read as a stack of matrices.

    Attributes:
      shape: shape of the leaf.
      order: its axes, those of the stack first, then the reduction axes, then the output axes.
      batch: shape of the stack, ``()`` for a single matrix.
      fan_in: number of rows, product of the reduction axes.
      fan_out: number of columns, product of the output axes.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    batch: tuple[int, ...]
    fan_in: int
    fan_out: int

    def matrices(self, leaf: jax.Array) -> jax.Array:
        """Reads a leaf as matrices ``[*batch, rows, columns]``."""
        # A rank-two leaf stays as it is either way round: it would be transposed back.
        if leaf.ndim == 2:
            return leaf
        return leaf.transpose(self.order).reshape(*self.batch, self.fan_in, self.fan_out)

    def leaf(self, matrices: jax.Array) -> jax.Array:
        """Undoes :meth:`matrices`."""
        if len(self.shape) == 2:
            return matrices
        ordered = matrices.reshape([self.shape[axis] for axis in self.order])
        return ordered.transpose(sorted(range(len(self.order)), key=self.order.__getitem__))


def by_rank(tree: Any) -> Any:
    """Calls the leaves of rank two matrices of shape ``(in, out)``, and all others none.

    Args:
      tree: params or updates.

    Returns:
      A tree of ``MuonDimensionNumbers`` and ``None``.
    """
    return jax.tree.map(lambda leaf: MuonDimensionNumbers() if jnp.ndim(leaf) == 2 else None, tree)


def _by_path(dimension_numbers: DimensionNumbers, tree: Any) -> dict[Any, Any]:
    """Path of a leaf or subtree -> what is said about it."""
    if isinstance(dimension_numbers, MuonDimensionNumbers):
        return {(): dimension_numbers}
    specs = dimension_numbers(tree) if callable(dimension_numbers) else dimension_numbers
    is_spec = lambda node: node is None or isinstance(node, MuonDimensionNumbers)
    return dict(jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec))


def find(who: str, dimension_numbers: DimensionNumbers | None, tree: Any) -> list[Layout | None]:
    """Finds the layout of every leaf.

    Args:
      who: public name of the factory.
      dimension_numbers: what its argument of that name says; ``None`` demands that all leaves
        have rank two.
      tree: params or updates, perhaps with leaves masked out.

    Returns:
      For each leaf of ``tree`` its layout, or ``None`` if it is no matrix.

    Raises:
      ValueError: if a leaf has no specification or one that does not fit.
    """
    specs = _by_path(by_rank if dimension_numbers is None else dimension_numbers, tree)
    layouts: list[Layout | None] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name, shape = f"params{jax.tree_util.keystr(path)}", jnp.shape(leaf)
        # Looked up by path, not mapped: leaves masked out here may still be specified.
        prefixes = [path[:end] for end in range(len(path) + 1) if path[:end] in specs]
        spec = specs[prefixes[0]] if prefixes else None
        if spec is None and (dimension_numbers is None or not prefixes):
            raise ValueError(
                f"{who}: dimension_numbers must say how the leaf {name} of shape {shape} is a "
                "matrix, or None that it is none."
            )
        layouts.append(None if spec is None else _layout(who, name, shape, spec))
    return layouts


def _layout(who: str, name: str, shape: tuple[int, ...], spec: Any) -> Layout:
    if not isinstance(spec, MuonDimensionNumbers):
        raise ValueError(
            f"{who}: dimension_numbers must consist of MuonDimensionNumbers and None, "
            f"got {spec!r} for the leaf {name}."
        )
    rank = len(shape)
    groups = [(axes,) if isinstance(axes, int) else tuple(axes) for axes in spec]
    axes = groups[0] + groups[1]
    if not all(-rank <= axis < rank for axis in axes) or len({a % rank for a in axes}) < len(axes):
        raise ValueError(
            f"{who}: dimension_numbers must name different axes of the leaf {name} "
            f"of shape {shape}, got {spec}."
        )
    rows, columns = (tuple(axis % rank for axis in group) for group in groups)
    stack = tuple(axis for axis in range(rank) if axis not in rows + columns)
    sizes = lambda group: tuple(shape[axis] for axis in group)
    return Layout(
        shape=shape,
        order=stack + rows + columns,
        batch=sizes(stack),
        fan_in=math.prod(sizes(rows)),
        fan_out=math.prod(sizes(columns)),
    )


def partition_labels(who: str, dimension_numbers: DimensionNumbers | None) -> Callable[[Any], Any]:
    """Makes the labels ``"matrix"`` and ``"other"`` for ``optax.partition``.

    Args:
      who: as in :func:`find`.
      dimension_numbers: as in :func:`find`.

    Returns:
      A function from params to a tree of labels.
    """

    def labels(params):
        layouts = find(who, dimension_numbers, params)
        names = ["other" if layout is None else "matrix" for layout in layouts]
        return jax.tree.unflatten(jax.tree.structure(params), names)

    return labels
