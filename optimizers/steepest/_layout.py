"""Which leaves are matrices, along which axes, and how to work on them: alone, stacked, shared."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers

from gradax import catalogue
from gradax.federated import axis

from ._orthogonalize import PAPER

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


#: Words in the name of a leaf, or of the module that holds it, that tell embeddings, norms and
#: output layers; words that begin with ``embed`` or end with ``norm`` do too.
_OUTSIDE = (
    *("emb", "wte", "wpe", "pos", "positional", "cls", "ln", "bn"),
    *("unembed", "unembedding", "logits", "classifier", "readout"),
)

#: Last words in the names of leaves that are vectors, one for each layer or head of a stack.
_VECTORS = ("bias", "biases", "scale", "offset", "gamma", "beta")


def _names(path: tuple[Any, ...]) -> list[str]:
    """Names on the way to a leaf; paths written as one key count as several."""
    last = path[-1] if path else None
    if len(path) > 1 and getattr(last, "name", None) == "value":
        path = path[:-1]  # the box around a variable of Flax NNX
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    return [name for name in re.split(r"[/.]", text) if name]


def _words(name: str) -> list[str]:
    """``LMHead_0``, ``lm_head`` -> lm, head."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _is_outside(name: str) -> bool:
    """Whether a module or leaf of this name is an embedding, a norm or an output layer."""
    words = _words(name)
    return (
        any(w in _OUTSIDE or w.startswith("embed") or w.endswith("norm") for w in words)
        or (words[-1:] == ["head"] and words[-2:-1] not in (["multi"], ["attention"]))
        or words in (["output", "layer"], ["output", "projection"])
    )


def _is_refused(names: list[str]) -> bool:
    """Whether a leaf is no hidden matrix by its name or that of the module that holds it."""
    spoken = [name for name in names if not name.isdigit()]
    return any(map(_is_outside, spoken[-2:])) or any(
        word in _VECTORS for name in spoken[-1:] for word in _words(name)[-1:]
    )


def _is_in_scan(names: list[str]) -> bool:
    """Whether a module on the way to a leaf gives it a leading axis of layers."""
    *modules, leaf = names or [""]
    # Behind a number, as in layers/0 and layers/Conv_1, lie layers of their own.
    behind = [*modules[1:], leaf if leaf.isdigit() else "leaf"]
    return any(
        name.lower().startswith("scan")
        or (name.lower() in ("layers", "blocks") and not below[-1].isdigit())
        for name, below in zip(modules, behind, strict=False)
    )


#: Axes that are not named count stacked matrices.
_LAST_TWO = MuonDimensionNumbers(-2, -1)


def _kernel_axes(names: list[str], rank: int) -> MuonDimensionNumbers:
    """Axes of a Flax kernel whose rank, without the axis of layers, is three or more."""
    above, module, _ = ["", "", *(name for name in names if not name.isdigit())][-3:]
    if rank in (3, 4) and module in ("query", "key", "value"):
        return MuonDimensionNumbers(-3, (-2, -1))
    if rank in (3, 4) and module == "out" and "att" in above.lower():
        return MuonDimensionNumbers((-3, -2), -1)
    if rank > 3 or any(word.startswith("conv") for word in _words(module)):
        return MuonDimensionNumbers(tuple(range(-rank, -1)), -1)
    return _LAST_TWO


def _matches(patterns: str | Sequence[str], text: str) -> bool:
    listed = (patterns,) if isinstance(patterns, str) else patterns
    return any(re.search(pattern, text) for pattern in listed)


@catalogue.register("function", PAPER, example={"params": {"kernel": np.ones((2, 3))}})
def muon_dimension_numbers(
    params: optax.Params,
    *,
    exclude: str | Sequence[str] = (),
    include: str | Sequence[str] = (),
    stacked: str | Sequence[str] | None = None,
) -> Any:
    r"""Finds the hidden matrices of a network by the names and ranks of its leaves.

    A leaf is no matrix if its rank is below two, or if its own name or that of the module that
    holds it says

    - embedding: a word that begins with ``embed``, or ``wte``, ``wpe``, ``emb``, ``pos``, ...;
    - output layer: a last word ``head`` (but ``MultiHead...`` is none), ``logits``,
      ``classifier``, ``readout``, ``unembed``, ``output_layer``, ``output_projection``;
    - norm: a word that ends with ``norm``, ``ln``, ``bn``;
    - vector: a leaf ``bias``, ``scale``, ``offset``, ``gamma`` or ``beta``, which has rank two
      where layers are stacked, and in attention.

    All other leaves of rank two are matrices ``(in, out)``, whatever they are called. Of higher
    rank only a leaf ``kernel`` is one, read as Flax makes it: in ``query``, ``key``, ``value``
    as ``(in, heads * size)``, in ``out`` of an attention as ``(heads * size, out)``, in a module
    ``conv...`` and from rank four on as ``(height * width * in, out)``, else as a stack of
    matrices. Below a module ``scan...``, or ``layers`` or ``blocks`` without a number behind it,
    the first axis of leaves of rank three and more counts layers, and any name will do for the
    rest of two axes.

    Which layer of a plain perceptron is the last cannot be seen; exclude it by name. ``out``,
    ``output`` and ``out_proj`` occur inside of blocks and are not excluded.

    Args:
      params: params or updates; leaves may be masked out.
      exclude: regular expressions, searched for in the path of a leaf, such as
        ``"block/Dense_0/kernel"``; where one is found the leaf is no matrix.
      include: likewise: the leaf is not refused for its name, and its last two axes are the
        matrix unless it is a ``kernel``; ``exclude`` is stronger.
      stacked: likewise: the first axis counts layers, in leaves of every rank; replaces the
        rule about ``scan``, ``layers`` and ``blocks``.

    Returns:
      A tree like ``params`` of ``optax.contrib.MuonDimensionNumbers`` and ``None``, as
      :func:`muon` takes it. What it says about a leaf depends on its path and rank alone.

    Raises:
      ValueError: if a pattern is no regular expression.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> params = {
      ...     "wte": {"embedding": jnp.ones((9, 4))},
      ...     "Conv_0": {"kernel": jnp.ones((3, 3, 4, 5)), "bias": jnp.ones(5)},
      ...     "lm_head": {"kernel": jnp.ones((4, 9))},
      ... }
      >>> found = gradax.optimizers.muon_dimension_numbers(params)
      >>> print(found["Conv_0"]["kernel"].reduction_axis, found["Conv_0"]["bias"])
      (-4, -3, -2) None
      >>> print(found["wte"], found["lm_head"])
      {'embedding': None} {'kernel': None}

      To exclude a last layer by its number:

      >>> import functools
      >>> names = functools.partial(gradax.optimizers.muon_dimension_numbers, exclude="Dense_2")
      >>> tx = gradax.optimizers.muon(0.02, muon_weight_dimension_numbers=names)

    References:
      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024.
    """
    for name, patterns in (("exclude", exclude), ("include", include), ("stacked", stacked or ())):
        try:
            _matches(patterns, "")
        except (re.error, TypeError) as error:
            raise ValueError(
                f"muon_dimension_numbers: {name} must be regular expressions, got {patterns!r}."
            ) from error

    def of_leaf(path, leaf):
        names = _names(path)
        text, rank = "/".join(names), jnp.ndim(leaf)
        included = _matches(include, text)
        if _matches(exclude, text) or (_is_refused(names) and not included):
            return None
        if stacked is not None:
            rank -= _matches(stacked, text)
        elif rank > 2 and _is_in_scan(names):
            rank -= 1
        if rank > 2 and names[-1:] == ["kernel"]:
            return _kernel_axes(names, rank)
        return _LAST_TWO if rank == 2 or (rank > 2 and included) else None

    return jax.tree_util.tree_map_with_path(of_leaf, params)


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


def oriented(matrices: jax.Array) -> jax.Array:
    """Transposes tall matrices, so that they have at most as many rows as columns."""
    rows, columns = matrices.shape[-2:]
    return jnp.matrix_transpose(matrices) if rows > columns else matrices


def whole(leaf: jax.Array) -> jax.Array:
    """Gathers a leaf that is split along explicit axes of a mesh; others stay as they are."""
    sharding = jax.typeof(leaf).sharding
    if any(part is not None for part in sharding.spec):
        return jax.sharding.reshard(leaf, NamedSharding(sharding.mesh, PartitionSpec()))
    return leaf


def split_like(leaf: jax.Array, original: jax.Array) -> jax.Array:
    """Undoes :func:`whole`."""
    sharding = jax.typeof(original).sharding
    if any(part is not None for part in sharding.spec):
        return jax.sharding.reshard(leaf, sharding)
    return leaf


def check_stack_sharding(who: str, sharding: Any, axis_name: Any) -> None:
    """Raises unless a sharding splits the first axis of a stack and nothing else.

    Args:
      who: public name of the factory.
      sharding: what its argument ``stack_sharding`` says.
      axis_name: what its argument ``axis_name`` says.

    Raises:
      ValueError: if it does not, or if both arguments are given.
    """
    if sharding is None:
        return
    if axis_name is not None:
        raise ValueError(
            f"{who}: stack_sharding must be left out with axis_name, got {sharding!r}."
        )
    spec = tuple(sharding.spec) if isinstance(sharding, NamedSharding) else ()
    if not spec or spec[0] is None or any(part is not None for part in spec[1:]):
        raise ValueError(
            f"{who}: stack_sharding must be a jax.sharding.NamedSharding that splits the first "
            f"axis alone, such as NamedSharding(mesh, P('data')), got {sharding!r}."
        )


def _padded(stack: jax.Array, count: int) -> jax.Array:
    """Appends matrices until they can be dealt out to ``count`` devices."""
    # Zeros are safe: a matrix of zeros stays one.
    return jnp.pad(stack, ((0, -len(stack) % count), (0, 0), (0, 0)))


def _among_participants(stack, function, axis_name):
    """Each participant does an equal part of the stack; one gather brings all parts together."""
    padded = _padded(stack, axis.size(axis_name))
    share = len(padded) // axis.size(axis_name)
    first = share * axis.index(axis_name)
    part = function(jax.lax.dynamic_slice_in_dim(padded, first, share))
    return axis.all_gather(part, axis_name).reshape(padded.shape)[: len(stack)]


def _split_over(sharding: NamedSharding) -> tuple[str, ...]:
    """Axes of the mesh over which a stack is dealt out."""
    names = sharding.spec[0]
    return names if isinstance(names, tuple) else (names,)


def _is_explicit(sharding: NamedSharding) -> bool:
    kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
    return any(kinds[name] == AxisType.Explicit for name in _split_over(sharding))


def lying_like(leaf: jax.Array, other: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """Keeps the layout of a stack to come from spreading to what it is made of.

    Args:
      leaf: what will be stacked.
      other: an array of its shape that lies where it shall lie.
      sharding: that of the stack, or ``None`` for no stack.

    Returns:
      ``leaf``. Without this the compiler would compute the momentum of a leaf that is a stack by
      itself in shares, and gather it a second time.
    """
    if sharding is None or _is_explicit(sharding):
        return leaf
    return shard_alike(leaf, other)[0]


def _on_mesh(stack, function, sharding):
    """Each device of a mesh does its part of the stack; one gather brings all parts together."""
    mesh, spec = sharding.mesh, PartitionSpec(sharding.spec[0])
    place = jax.sharding.reshard if _is_explicit(sharding) else jax.lax.with_sharding_constraint
    padded = _padded(stack, math.prod(mesh.shape[name] for name in _split_over(sharding)))
    # A constraint alone would leave it to the compiler where it puts collectives.
    shares = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    done = shares(place(padded, NamedSharding(mesh, spec)))
    return place(done, NamedSharding(mesh, PartitionSpec()))[: len(stack)]


def in_stacks(
    matrices: Sequence[jax.Array],
    function: Callable[[jax.Array], jax.Array],
    axis_name: axis.AxisName | None = None,
    sharding: NamedSharding | None = None,
) -> list[jax.Array]:
    """Applies a function once to all matrices of the same shape, turned alike, and dtype.

    Args:
      matrices: arrays ``[*batch, rows, columns]``.
      function: maps a batch ``[k, m, n]`` with ``m <= n`` to another one, row by row.
      axis_name: participants with equal matrices that share the work.
      sharding: how devices of a mesh share the work, under ``jit``.

    Returns:
      Arrays of the shapes of ``matrices``.
    """
    wide = [oriented(x) for x in matrices]
    groups: dict[Any, list[int]] = {}
    for position, x in enumerate(wide):
        if x.size:
            groups.setdefault((x.shape[-2:], x.dtype), []).append(position)
    done = list(wide)
    for (shape, _), members in groups.items():
        flat = [wide[position].reshape(-1, *shape) for position in members]
        stack = jnp.concatenate(flat)
        if axis_name is not None:
            stack = _among_participants(stack, function, axis_name)
        elif sharding is not None:
            stack = _on_mesh(stack, function, sharding)
        else:
            stack = function(stack)
        ends = list(itertools.accumulate(len(x) for x in flat))[:-1]
        for position, part in zip(members, jnp.split(stack, ends), strict=True):
            done[position] = part.reshape(wide[position].shape)
    return [
        jnp.matrix_transpose(x) if x.shape != matrix.shape else x
        for x, matrix in zip(done, matrices, strict=True)
    ]
