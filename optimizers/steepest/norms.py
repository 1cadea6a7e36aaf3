r"""Norms of parameters: how long a step is, and which step of length one descends steepest.

A :class:`Norm` knows three things: the length ``norm(x)``; the direction
``lmo(m)`` :math:`= \arg\max_{\|d\| \le 1} \langle m, d \rangle` of its unit ball (the linear
minimization oracle, up to the sign); and ``dual(m)`` :math:`= \langle m, \text{lmo}(m) \rangle`.

Norms of one array have names: ``"l2"`` (or ``"frobenius"``), ``"linf"``, ``"l1"``, ``"rms"``,
and for matrices ``"spectral"``, ``"nuclear"``, ``"rms_to_rms"``. :func:`product` makes of them
one norm of a tree, :func:`scaled` multiplies a norm, :func:`spectral_with` replaces the singular
value decomposition by something faster.

>>> import jax.numpy as jnp
>>> from gradax.optimizers import norms
>>> m = {"w": jnp.diag(jnp.array([3.0, 1.0])), "b": jnp.array([2.0, -1.0])}
>>> norm = norms.product({"w": "spectral", "b": "linf"}, combine="max")
>>> print(float(norm.dual(m)), norm.lmo(m)["b"])
7.0 [ 1. -1.]

Directions have the dtype of ``m``; lengths are real scalars, in float32 at least. The direction
of zero is zero.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from gradax import _validate
from gradax._wide import widen

from ._layout import Layout, find
from ._orthogonalize import Orthogonalizer, apply_orthogonalizer, resolve_coefficients


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Norm:
    """A norm of an array, or of a whole tree.

    Attributes:
      name: how it calls itself.
      norm: length of ``x``, a scalar.
      lmo: the direction of length one that is aligned best with ``m``, like ``m``; of several
        a fixed one. Zero for zero.
      joint: whether it measures a tree as one; otherwise it is one of a single array.
      min_rank: least rank of the arrays it can measure.
      self_dual: whether it is its own dual norm; its length is then known with the direction.
    """

    name: str
    norm: Callable[[Any], jax.Array]
    lmo: Callable[[Any], Any]
    joint: bool = False
    min_rank: int = 0
    self_dual: bool = False

    def dual(self, m: Any) -> jax.Array:
        """Dual norm of ``m``, a scalar: the most that a direction of length one can gain."""
        return self.gain(m, self.lmo(m))

    def sharp(self, m: Any) -> Any:
        """The direction times the dual norm: it grows with ``m``, as gradients do."""
        direction = self.lmo(m)
        return _times(self.gain(m, direction), direction)

    def gain(self, m: Any, direction: Any) -> jax.Array:
        """Dual norm of ``m``, given its direction.

        Args:
          m: an array, or a tree if the norm is one of trees.
          direction: :attr:`lmo` of it.

        Returns:
          A scalar.
        """
        # Sums that the direction was made with, where an inner product would be one more pass.
        return self.norm(m) if self.self_dual else _inner(m, direction)

    def __repr__(self) -> str:
        return f"norms.{self.name}"


#: A norm, its name, a tree of both (a prefix of params), or a function from params to such a
#: tree.
NormLike: TypeAlias = Norm | str | Any


def _stack(scalars):
    return jnp.stack(scalars) if scalars else jnp.zeros([0])


def _inner(a, b):
    """Real part of the inner product of two trees."""
    products = jax.tree.map(lambda x, y: jnp.sum(jnp.real(jnp.conj(widen(x)) * widen(y))), a, b)
    return jnp.sum(_stack(jax.tree.leaves(products)))


def _times(factor, tree):
    """A scalar times a tree, in the tree's dtypes."""
    return jax.tree.map(lambda x: (factor * widen(x)).astype(x.dtype), tree)


# --- norms of one array ---------------------------------------------------------------------


def _largest(x):
    return jnp.max(jnp.abs(widen(x)), initial=0)


def _unit(x):
    """Divides by the largest magnitude, so that squares neither overflow nor vanish."""
    largest = _largest(x)
    return widen(x) / jnp.where(largest > 0, largest, 1)


def _sum_of_squares(x):
    return jnp.sum(jnp.real(jnp.conj(x) * x))


def _l2_lmo(m):
    unit = _unit(m)
    # The sum is at least one, unless all is zero.
    return (unit / jnp.sqrt(jnp.maximum(_sum_of_squares(unit), 1))).astype(m.dtype)


def _l1_lmo(m):
    """The sign of the entry of largest magnitude, of several the first."""
    m, positions = jnp.asarray(m), jnp.arange(m.size).reshape(m.shape)
    largest = jnp.abs(m) == jnp.max(jnp.abs(m), initial=0)
    first = jnp.min(jnp.where(largest, positions, m.size), initial=m.size)
    # A product and no choice: a NaN anywhere has to show.
    return jnp.sign(m) * (positions == first).astype(m.dtype)


#: Euclidean norm; for matrices the Frobenius norm. Its dual is itself.
l2 = frobenius = Norm(
    "l2", lambda x: _largest(x) * jnp.sqrt(_sum_of_squares(_unit(x))), _l2_lmo, self_dual=True
)
#: Largest magnitude. Its direction is the sign, 0 of 0; its dual is l1.
linf = Norm("linf", _largest, jnp.sign)
#: Sum of magnitudes. Its direction is the sign of one largest entry; its dual is linf.
l1 = Norm("l1", lambda x: jnp.sum(jnp.abs(widen(x))), _l1_lmo)
#: Root of the mean square: l2 over the root of the size.
rms = Norm(
    "rms",
    lambda x: l2.norm(x) / math.sqrt(max(x.size, 1)),
    lambda m: _times(math.sqrt(m.size), l2.lmo(m)),
)


# --- norms of matrices ----------------------------------------------------------------------


def _singular_values(x):
    return jnp.linalg.svd(widen(x), compute_uv=False) if x.size else jnp.zeros([1])


def _nuclear_lmo(m):
    if m.size == 0:
        return m
    u, s, vh = jnp.linalg.svd(_unit(m), full_matrices=False)
    chosen = _l1_lmo(s[..., 0])[..., None, None].astype(u.dtype)
    return (chosen * u[..., :, :1] * vh[..., :1, :]).astype(m.dtype)


#: Sum of singular values, of all matrices ``[..., m, n]``. Its direction has rank one; its dual is
#: the largest singular value.
nuclear = Norm("nuclear", lambda x: jnp.sum(_singular_values(x)), _nuclear_lmo, min_rank=2)


def spectral_with(
    orthogonalizer: Orthogonalizer = "svd",
    *,
    ns_steps: int = 5,
    ns_dtype: jax.typing.DTypeLike | None = None,
    dimension_numbers: MuonDimensionNumbers | None = None,
    rms_to_rms: bool = False,
) -> Norm:
    r"""Makes a spectral norm whose direction is found by another orthogonalizer.

    The norm is the largest singular value :math:`\sigma_1(W)`, of a stack of matrices the
    largest of all; the direction is the polar factor of each matrix, the dual the sum of all
    singular values. With ``rms_to_rms`` it is the operator norm of :math:`x \mapsto x W` for
    vectors measured by their root mean square,
    :math:`\sqrt{\text{fan-in} / \text{fan-out}} \; \sigma_1(W)`.

    Only ``"svd"`` finds the direction exactly. An approximate one gives an approximate dual;
    ``"polar_express"`` with 8 steps is off by about 1e-5 in float32 where singular values are
    above a thousandth of the Frobenius norm. The length itself always comes from singular values.

    Args:
      orthogonalizer: as in :func:`gradax.optimizers.orthogonalize`: ``"svd"``, ``"ns5"``,
        ``"polar_express"`` or a function of a batch of matrices. Matrices are divided by their
        largest magnitude before.
      ns_steps: number of iterations of the latter two.
      ns_dtype: dtype of the iterations; ``None`` means that of the matrices, at least float32.
      dimension_numbers: axes of rows and columns; by default the last two. All other axes count
        stacked matrices.
      rms_to_rms: measure inputs and outputs by their root mean square.

    Returns:
      The norm.

    Raises:
      ValueError: if an argument cannot work.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.optimizers import norms
      >>> w = jnp.diag(jnp.array([3.0, 1.0]))
      >>> exact, fast = norms.spectral, norms.spectral_with("polar_express", ns_steps=8)
      >>> print(f"{exact.norm(w):.3f} {exact.dual(w):.3f} {fast.dual(w):.3f}")
      3.000 4.000 4.000
    """
    who = "spectral_with"
    triples = resolve_coefficients(who, orthogonalizer, ns_steps)
    if dimension_numbers is None:
        dimension_numbers = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)

    def read(x) -> tuple[Layout, jax.Array]:
        layout = find(who, dimension_numbers, x)[0]
        assert layout is not None  # a specification was given
        return layout, layout.matrices(x)

    def factor(layout):
        return math.sqrt(max(layout.fan_in, 1) / max(layout.fan_out, 1)) if rms_to_rms else 1.0

    def norm(x):
        layout, matrices = read(x)
        return factor(layout) * jnp.max(_singular_values(matrices), initial=0)

    def lmo(m):
        layout, matrices = read(m)
        # Divided by the largest magnitude, so that eps has only zero to guard.
        polar = apply_orthogonalizer(
            _unit(matrices), orthogonalizer, triples, "frobenius", 1e-30, ns_dtype
        )
        return layout.leaf(polar / factor(layout)).astype(m.dtype)

    return Norm("rms_to_rms" if rms_to_rms else "spectral", norm, lmo, min_rank=2)


#: Largest singular value. Its direction is the exact polar factor, its dual the nuclear norm.
spectral = spectral_with()
#: Largest growth of the root mean square from inputs to outputs of a matrix ``(in, out)``.
rms_to_rms = spectral_with(rms_to_rms=True)


# --- norms made of norms --------------------------------------------------------------------


def scaled(factor: jax.typing.ArrayLike, norm: Norm | str) -> Norm:
    """Multiplies a norm; directions and dual norms are divided.

    Args:
      factor: a positive number, possibly traced.
      norm: a norm or its name.

    Returns:
      The norm of ``factor`` times the length.

    Raises:
      ValueError: if ``factor`` is not positive or the name is unknown.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.optimizers import norms
      >>> twice = norms.scaled(2.0, "linf")
      >>> print(twice.norm(jnp.array([3.0, -4.0])), twice.lmo(jnp.array([3.0, -4.0])))
      8.0 [ 0.5 -0.5]
    """
    _validate.interval("scaled", "factor", factor, "(0, inf)")
    base = _named("scaled", norm)
    return dataclasses.replace(
        base,
        name=f"scaled({factor}, {base.name})",
        norm=lambda x: jnp.multiply(factor, base.norm(x)),
        lmo=lambda m: _times(1 / factor, base.lmo(m)),
        self_dual=False,
    )


#: How norms of parts become one: itself a norm, of the vector of the parts' norms.
_COMBINATIONS = {"max": linf, "l2": l2, "sum": l1}


def product(norm: NormLike, combine: str = "max", *, param_labels: Any = None) -> Norm:
    r"""Makes one norm of a tree out of norms of its leaves, or of groups of leaves.

    With the norms :math:`N_k` of the parts, their duals :math:`D_k` and directions :math:`L_k`,

    * ``"max"`` is :math:`\max_k N_k`: every part goes its own way, :math:`L_k`; the dual is
      :math:`\sum_k D_k`;
    * ``"l2"`` is :math:`\sqrt{\sum_k N_k^2}`: part k goes :math:`(D_k / D) L_k`, where
      :math:`D = \sqrt{\sum_k D_k^2}` is the dual;
    * ``"sum"`` is :math:`\sum_k N_k`: only the part with the largest dual goes its way (the first
      of several); the dual is :math:`\max_k D_k`.

    ``"global_l2"``, the Euclidean norm of all entries, is short for ``norm="l2"`` combined by
    ``"l2"``; it is also the name of a norm.

    Every leaf is a part, except that a norm of trees measures what it is given as one: this is
    what ``product`` returns, and ``"global_l2"``. So products nest: ``product({"attention":
    product("spectral", "sum"), "head": "global_l2"}, "max")``.

    Args:
      norm: a norm or its name for all leaves, a tree of them that is a prefix of params, or a
        function from params to such a tree (it may look at shapes only).
      combine: ``"max"``, ``"l2"``, ``"sum"`` or ``"global_l2"``.
      param_labels: labels of leaves, a prefix of params or a function from params to it;
        ``norm`` is then a mapping from labels to norms.

    Returns:
      The norm. It raises a ``ValueError`` when it meets a tree that it does not fit.

    Raises:
      ValueError: if a name is unknown, or ``combine`` does not go with ``norm``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.optimizers import norms
      >>> tree = {"w": jnp.ones((2, 2)), "b": jnp.array([3.0, 4.0])}
      >>> for combine in ("max", "l2", "sum"):
      ...     print(f"{norms.product('l2', combine).norm(tree):.3f}")
      5.000
      5.385
      7.000
    """
    norm, combine = _checked(norm, combine, param_labels)
    outer = _COMBINATIONS[combine]

    def length(x):
        leaves, parts = jax.tree.leaves(x), _parts(norm, param_labels, x)
        return outer.norm(_stack([one.norm(_take(leaves, where)) for one, where in parts]))

    def lmo(m):
        leaves, parts = jax.tree.leaves(m), _parts(norm, param_labels, m)
        pieces = [_take(leaves, where) for _, where in parts]
        directions = [one.lmo(piece) for (one, _), piece in zip(parts, pieces, strict=True)]
        if combine != "max":  # there all weights are one
            triples = zip(parts, pieces, directions, strict=True)
            weights = outer.lmo(_stack([one.gain(m, d) for (one, _), m, d in triples]))
            directions = [_times(weights[k], d) for k, d in enumerate(directions)]
        for (_, where), direction in zip(parts, directions, strict=True):
            for position, leaf in zip(*map(jax.tree.leaves, (where, direction)), strict=True):
                leaves[position] = leaf
        return jax.tree.unflatten(jax.tree.structure(m), leaves)

    return Norm(f"product({norm}, {combine})", length, lmo, joint=True)


def _checked(norm: NormLike, combine: str, param_labels: Any) -> tuple[NormLike, str]:
    """Arguments of :func:`product` with names replaced, as far as they can be seen already."""
    who = "product"
    _validate.one_of(who, "combine", combine, (*_COMBINATIONS, "global_l2"))
    if combine == "global_l2":
        if not (norm is l2 or norm in ("l2", "frobenius", "global_l2")):
            raise ValueError(f"{who}: norm must be 'l2' with combine='global_l2', got {norm!r}.")
        return global_l2, "max"  # one part, which goes its own way
    if param_labels is not None:
        if not isinstance(norm, Mapping):
            raise ValueError(f"{who}: norm must map labels to norms, got {norm!r}.")
        return {label: _named(who, one) for label, one in norm.items()}, combine
    if callable(norm):  # to be seen when it is called
        return norm, combine
    return jax.tree.map(lambda one: _named(who, one), norm), combine


def _named(who: str, norm: Norm | str) -> Norm:
    if isinstance(norm, Norm):
        return norm
    _validate.one_of(who, "norm", norm, NAMED)
    return NAMED[norm]


def _take(leaves, where):
    return jax.tree.map(leaves.__getitem__, where)


def _parts(norm: NormLike, param_labels: Any, tree: Any) -> list[tuple[Norm, Any]]:
    """Norms of the parts of a tree, with the positions of their leaves (a tree of integers)."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    positions = jax.tree.unflatten(jax.tree.structure(tree), range(len(named)))
    if param_labels is not None:
        labels = param_labels(tree) if callable(param_labels) else param_labels
        given = _groups(norm, labels, positions)
    else:
        if callable(norm):
            norm = jax.tree.map(lambda one: _named("product", one), norm(tree))
        given = _prefix("norm", norm, positions)
    parts: list[tuple[Norm, Any]] = []
    for one, where in given:
        if one.joint:
            parts.append((one, where))
            continue
        for position in jax.tree.leaves(where):
            path, leaf = named[position]
            if jnp.ndim(leaf) < one.min_rank:
                raise ValueError(
                    f"product: norm must not be {one.name} for the leaf "
                    f"params{jax.tree_util.keystr(path)} of shape {jnp.shape(leaf)}, "
                    "which is no matrix."
                )
            parts.append((one, position))
    return parts


def _groups(norm: Any, labels: Any, positions: Any) -> list[tuple[Norm, Any]]:
    """The norm of each label, with the positions of the leaves that bear it."""
    groups: dict[Any, list[int]] = {}
    for label, where in _prefix("param_labels", labels, positions):
        _validate.one_of("product", "param_labels", label, norm)
        groups.setdefault(label, []).extend(jax.tree.leaves(where))
    return [(norm[label], group) for label, group in groups.items()]


def _prefix(argument: str, prefix: Any, tree: Any) -> list[tuple[Any, Any]]:
    """Leaves of a prefix, each with what stands in its place in the tree."""
    structure: Any = jax.tree.structure(prefix)
    try:
        return list(zip(jax.tree.leaves(prefix), structure.flatten_up_to(tree), strict=True))
    except ValueError as error:
        raise ValueError(f"product: {argument} must be a prefix of params. {error}") from None


def _tree_scale(x):
    """Largest magnitude of a tree, and its Euclidean norm over that, 1 at least."""
    leaves = jax.tree.leaves(x)
    largest = jnp.max(_stack([_largest(leaf) for leaf in leaves]), initial=0)
    safe = jnp.where(largest > 0, largest, 1)
    squares = _stack([_sum_of_squares(widen(leaf) / safe.astype(_real(leaf))) for leaf in leaves])
    return largest, safe, jnp.sqrt(jnp.maximum(jnp.sum(squares), 1))


def _real(leaf):
    return jnp.finfo(widen(leaf).dtype).dtype


def _global_l2_lmo(m):
    _, safe, root = _tree_scale(m)
    over = lambda leaf: widen(leaf) / safe.astype(_real(leaf)) / root.astype(_real(leaf))
    return jax.tree.map(lambda leaf: over(leaf).astype(leaf.dtype), m)


def _global_l2_norm(x):
    largest, _, root = _tree_scale(x)
    return largest * root


#: Euclidean norm of all entries of a tree: the product of leaves' l2 norms by l2, in one pass less.
global_l2 = Norm("global_l2", _global_l2_norm, _global_l2_lmo, joint=True, self_dual=True)

#: Names under which norms can be given.
NAMED: dict[str, Norm] = {
    **{norm.name: norm for norm in (l2, linf, l1, rms, spectral, nuclear, rms_to_rms, global_l2)},
    "frobenius": l2,
}
