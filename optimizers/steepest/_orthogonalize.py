"""orthogonalize: the nearest (semi-)orthogonal matrix, by matrix products or exactly."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _validate, catalogue
from gradax._wide import widen

#: Maps a batch of matrices ``[..., m, n]``, ``m <= n``, to matrices of the same shape.
Orthogonalizer = Literal["ns5", "polar_express", "svd"] | Callable[[jax.Array], jax.Array]
Preconditioning = Literal["frobenius", "spectral", "aol", "schatten"]
Triple = tuple[Any, Any, Any]

ORTHOGONALIZERS = ("ns5", "polar_express", "svd")
PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")

#: Coefficients of the write-up, which trade exactness for a steep slope at zero, and those of
#: Dion, one triple a step.
PRESETS: dict[str, Any] = {
    "standard": (3.4445, -4.7750, 2.0315),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}

PAPER = catalogue.Paper(
    title="Muon: An optimizer for hidden layers in neural networks",
    authors="Jordan et al.",
    year=2024,
    url="https://kellerjordan.github.io/posts/muon/",
)

_POLAR_EXPRESS = catalogue.Paper(
    title="The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon "
    "Algorithm",
    authors="Amsel et al.",
    year=2025,
    arxiv="2505.16932",
)

#: Length of the published list; later steps repeat its last triple.
_LISTED = 10


def _minimax_quintic(low: float, high: float) -> np.ndarray:
    """The odd quintic closest to one on an interval, by Remez exchange."""
    if low / high >= 1 - 5e-6:  # the exchange is singular here: take the limit
        return np.array([15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5])
    inner = np.array([3 * low + high, low + 3 * high]) / 4
    last_error = np.inf
    for _ in range(100):
        x = np.array([low, *inner, high])
        system = np.stack([x, x**3, x**5, [1, -1, 1, -1]], axis=1)
        a, b, c, error = np.linalg.solve(system, np.ones(4))
        if abs(error - last_error) < 1e-15:
            break
        last_error, root = error, np.sqrt(9 * b * b - 20 * a * c)
        inner = np.sqrt((-3 * b + np.array([-root, root])) / (10 * c))
    return np.array([a, b, c])


@functools.lru_cache
def _composition(lower: float, cushion: float, safety: float) -> tuple[Triple, ...]:
    """Greedy composition: each quintic is the best on what the ones before leave."""
    low, high, triples = lower, 1.0, []
    for step in range(_LISTED):
        triple = _minimax_quintic(max(low, cushion * high), high)
        value = lambda x, t: t @ [x, x**3, x**5]
        if cushion * high > low:
            triple = triple * 2 / (value(low, triple) + value(high, triple))
        if step < _LISTED - 1:
            triple = triple / [safety, safety**3, safety**5]
        a, b, c = map(float, triple)
        triples.append((a, b, c))
        low = value(low, triple)
        high = 2 - low
    return tuple(triples)


@catalogue.register("function", _POLAR_EXPRESS, example={"num_steps": 5})
def polar_express_coefficients(
    num_steps: int,
    *,
    lower: float = 1e-3,
    cushion: float = 0.02407327424182761,
    safety: float = 1.01,
) -> tuple[tuple[float, float, float], ...]:
    r"""Coefficients of the odd quintics that orthogonalize fastest, one triple a step.

    Step :math:`k` is the :math:`p_k(x) = a_k x + b_k x^3 + c_k x^5` that minimises
    :math:`\max |1 - p_k|` over the interval in which the steps before leave the singular
    values, found by Remez exchange in float64 on the host. The list has ten triples, later
    steps repeat the last; shorter lists are its beginning.

    Args:
      num_steps: number of triples, at least 1.
      lower: smallest singular value aimed at, relative to the norm, in ``(0, 1)``.
      cushion: the interval's lower end is at least this share of its upper end, in ``(0, 1)``;
        it keeps the early steps from being too steep.
      safety: factor at least 1 by which all but the last step shrink their argument, against
        rounding in bfloat16.

    Returns:
      ``num_steps`` triples ``(a, b, c)``.

    Raises:
      ValueError: if an argument is out of its range.

    Examples:
      >>> import gradax
      >>> for triple in gradax.optimizers.polar_express_coefficients(2):
      ...     print(*(f"{value:.6f}" for value in triple))
      8.205160 -22.901935 16.460725
      4.066916 -2.861285 0.518380

    References:
      Amsel et al., `The Polar Express: Optimal Matrix Sign Methods and Their Application to
      the Muon Algorithm <https://arxiv.org/abs/2505.16932>`_, 2025.
    """
    who = "polar_express_coefficients"
    _validate.integer(who, "num_steps", num_steps, at_least=1)
    _validate.interval(who, "lower", lower, "(0, 1)")
    _validate.interval(who, "cushion", cushion, "(0, 1)")
    _validate.interval(who, "safety", safety, "[1, inf)")
    listed = _composition(lower, cushion, safety)
    return (listed + listed[-1:] * num_steps)[:num_steps]


def resolve_coefficients(
    who: str,
    orthogonalizer: Orthogonalizer,
    ns_steps: int,
    ns_coeffs: Any = None,
) -> tuple[Triple, ...]:
    """Lists the triples of an iteration, or none for the methods that are no iteration.

    Args:
      who: public name of the factory.
      orthogonalizer: as in :func:`orthogonalize`.
      ns_steps: as in :func:`orthogonalize`.
      ns_coeffs: as in :func:`orthogonalize`.

    Returns:
      One triple a step.

    Raises:
      ValueError: if an argument cannot work.
    """
    _validate.integer(who, "ns_steps", ns_steps, at_least=1)
    if not callable(orthogonalizer):
        _validate.one_of(who, "orthogonalizer", orthogonalizer, ORTHOGONALIZERS)
    if ns_coeffs is None and orthogonalizer == "polar_express":
        return polar_express_coefficients(ns_steps)
    if orthogonalizer != "ns5":
        if ns_coeffs is not None:
            raise ValueError(
                f"{who}: ns_coeffs needs orthogonalizer='ns5', got {orthogonalizer!r}."
            )
        return ()
    if ns_coeffs is None:
        ns_coeffs = "standard"
    if isinstance(ns_coeffs, str):
        _validate.one_of(who, "ns_coeffs", ns_coeffs, PRESETS)
        ns_coeffs = PRESETS[ns_coeffs]
    try:
        shape = np.shape(ns_coeffs)
    except ValueError:  # rows of different length
        shape = None
    if shape is None or len(shape) not in (1, 2) or shape[-1] != 3 or shape[0] == 0:
        raise ValueError(f"{who}: ns_coeffs must have shape (3,) or (k, 3), got {ns_coeffs!r}.")
    rows = ns_coeffs if len(shape) == 2 else [ns_coeffs] * ns_steps
    return tuple(tuple(row) for row in rows)


def _matmul(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of matrices that is accumulated, and returned, in float32 at least."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(spec, a, b, preferred_element_type=wide)


def _gram(x: jax.Array) -> jax.Array:
    # Contracting the last axes asks for no transpose of x, unlike x @ x.T.
    return _matmul("...ij,...kj->...ik", x, jnp.conj(x))


def _normalize(x, preconditioning, eps, safety):
    """Brings singular values below about one; returns the Gram matrix too if it is known."""
    if preconditioning in ("frobenius", "spectral"):
        order = "fro" if preconditioning == "frobenius" else 2
        wide = widen(x)
        norm = jnp.linalg.norm(wide, ord=order, axis=(-2, -1), keepdims=True)
        return (wide / (safety * norm + eps)).astype(x.dtype), None
    gram = _gram(x)
    if preconditioning == "aol":
        sums = jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)
        rows = jax.lax.rsqrt(jnp.maximum(sums, eps))
        return (x * rows).astype(x.dtype), gram * rows * jnp.matrix_transpose(rows)
    norm = jnp.linalg.norm(gram, axis=(-2, -1), keepdims=True)
    factor = jax.lax.rsqrt(jnp.maximum(norm, eps))
    return (x * factor).astype(x.dtype), gram * factor**2


def _polynomial(gram: jax.Array, triple: Triple, dtype: jax.typing.DTypeLike) -> jax.Array:
    """``a + b gram + c gram^2``, in ``dtype``."""
    a, b, c = triple
    narrow = gram.astype(dtype)
    square = _matmul("...ij,...jk->...ik", narrow, narrow)
    # With a on the diagonal the whole step is one product with x, and no sum over x.
    return (a * jnp.eye(gram.shape[-1], dtype=gram.dtype) + b * gram + c * square).astype(dtype)


def _iterate(x: jax.Array, triples: Sequence[Triple], gram: jax.Array | None) -> jax.Array:
    """Applies ``a + b (x x^H) + c (x x^H)^2`` to ``x``, once for each triple."""
    product = functools.partial(_matmul, "...ij,...jk->...ik")
    # Two steps in one pass cost three more products of square matrices and spare two with x.
    # Not three steps: each one multiplies the rounding errors of gram by up to a^2, and where
    # they outgrow small eigenvalues the polynomial goes astray.
    steps = 2 if 2 * x.shape[-1] > 3 * x.shape[-2] else 1
    for first in range(0, len(triples), steps):
        gram = _gram(x) if gram is None else gram
        factor = _polynomial(gram, triples[first], x.dtype)
        for triple in triples[first + 1 : first + steps]:
            half = product(factor, gram.astype(x.dtype)).astype(x.dtype)
            gram = product(half, factor)  # of factor @ x, since factor and gram commute
            factor = product(_polynomial(gram, triple, x.dtype), factor).astype(x.dtype)
        x, gram = product(factor, x).astype(x.dtype), None
    return x


def _exact(x: jax.Array) -> jax.Array:
    """Polar factor by SVD; directions that do not occur in ``x`` are left out."""
    wide = widen(x)
    u, s, vh = jnp.linalg.svd(wide, full_matrices=False)
    noise = jnp.finfo(wide.dtype).eps * max(x.shape[-2:]) * jnp.max(s, axis=-1, keepdims=True)
    return (u * (s > noise)[..., None, :].astype(u.dtype)) @ vh


def _call(orthogonalizer, x):
    batch = x.reshape(-1, *x.shape[-2:])
    out = jnp.asarray(orthogonalizer(batch))
    if out.shape != batch.shape:
        raise ValueError(
            f"orthogonalizer: must keep the shape of a batch of matrices, "
            f"got {out.shape} for {batch.shape}."
        )
    return out.reshape(x.shape)


def apply_orthogonalizer(
    x: jax.Array,
    orthogonalizer: Orthogonalizer,
    triples: Sequence[Triple],
    preconditioning: Preconditioning,
    eps: jax.typing.ArrayLike,
    ns_dtype: jax.typing.DTypeLike | None,
) -> jax.Array:
    """Does what :func:`orthogonalize` says, with checked arguments and listed triples.

    Args:
      x: ``[..., m, n]``.
      orthogonalizer: as in :func:`orthogonalize`.
      triples: coefficients, one triple a step.
      preconditioning: as in :func:`orthogonalize`.
      eps: as in :func:`orthogonalize`.
      ns_dtype: as in :func:`orthogonalize`.

    Returns:
      An array like ``x``.
    """
    if x.size == 0:
        return x
    dtype, tall = x.dtype, x.shape[-2] > x.shape[-1]
    x = jnp.matrix_transpose(x) if tall else x
    if callable(orthogonalizer):
        x = _call(orthogonalizer, x)
    elif orthogonalizer == "svd":
        x = _exact(x)
    else:
        safety = 1.01 if orthogonalizer == "polar_express" else 1.0
        x, gram = _normalize(x, preconditioning, eps, safety)
        if ns_dtype is not None and not jnp.iscomplexobj(x):
            x = x.astype(ns_dtype)
        x = _iterate(x, triples, gram)
    return (jnp.matrix_transpose(x) if tall else x).astype(dtype)


@catalogue.register("function", PAPER, example={"matrices": np.diag([2.0, 1.0])})
def orthogonalize(
    matrices: jax.typing.ArrayLike,
    orthogonalizer: Orthogonalizer = "ns5",
    *,
    ns_steps: int = 5,
    ns_coeffs: Any = None,
    preconditioning: Preconditioning = "frobenius",
    eps: jax.typing.ArrayLike = 1e-7,
    ns_dtype: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    r"""Moves all singular values of matrices towards one.

    For the thin SVD :math:`X = U S V^H` the exact result is :math:`U V^H`. The iterations only
    multiply matrices: from :math:`X / (\|X\|_F + \epsilon)` on they repeat

    .. math::
        X \leftarrow (a I + b \, X X^H + c \, (X X^H)^2) X,

    on the transpose if there are more rows than columns. If the ``n`` columns are more than one
    and a half times the ``m`` rows, two steps share one pass over :math:`X`: the second Gram
    matrix follows from the first by products of ``m`` by ``m`` matrices, which saves up to half
    of the multiplications. Carried on for longer it would lose accuracy, so the third step takes
    it from :math:`X` again.

    ``"ns5"`` has constant coefficients with a steep slope at zero and leaves singular values
    between about 0.7 and 1.2 on purpose; ``"polar_express"`` converges
    (:func:`polar_express_coefficients`; its norm is taken 1.01 times larger); ``"svd"`` is exact,
    leaves directions that do not occur at zero, and works in float32 at least. A matrix of zeros
    stays one.

    Args:
      matrices: ``[..., m, n]``, floating or complex.
      orthogonalizer: a name above, or a function of a batch ``[k, m, n]`` with ``m <= n``
        that returns one of the same shape.
      ns_steps: number of iterations, at least 1. Static.
      ns_coeffs: for ``"ns5"``: another triple ``(a, b, c)``, or ``[k, 3]`` for exactly ``k``
        iterations, or the preset ``"standard"`` or ``"dion"``.
      preconditioning: what an iteration starts from: ``"frobenius"`` and ``"spectral"`` divide
        by a norm (the latter is an SVD), ``"schatten"`` by the Schatten-4 norm; ``"aol"``
        divides rows by the root of the sums of the Gram matrix, which saves an iteration and
        changes the limit.
      eps: added to the norm, or floor of what ``"aol"`` and ``"schatten"`` divide by; positive.
      ns_dtype: dtype of the iterations of real matrices, such as bfloat16; ``None`` means that
        of ``matrices``.

    Returns:
      An array like ``matrices``.

    Raises:
      ValueError: if an argument cannot work.

    Examples:
      >>> import gradax, jax.numpy as jnp
      >>> g = jnp.array([[3.0, 0.0], [4.0, 5.0]])
      >>> print(gradax.optimizers.orthogonalize(g, "svd").round(4))
      [[ 0.8944 -0.4472]
       [ 0.4472  0.8944]]

    References:
      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024.

      Amsel et al., `The Polar Express: Optimal Matrix Sign Methods and Their Application to
      the Muon Algorithm <https://arxiv.org/abs/2505.16932>`_, 2025.

      Boissin et al., `Turbo-Muon: Accelerating Orthogonality-Based Optimization with
      Pre-Conditioning <https://arxiv.org/abs/2512.04632>`_, 2025.
    """
    who = "orthogonalize"
    triples = resolve_coefficients(who, orthogonalizer, ns_steps, ns_coeffs)
    _validate.one_of(who, "preconditioning", preconditioning, PRECONDITIONINGS)
    _validate.interval(who, "eps", eps, "(0, inf)")
    matrices = jnp.asarray(matrices)
    if matrices.ndim < 2:
        raise ValueError(f"{who}: matrices must have rank >= 2, got shape {matrices.shape}.")
    return apply_orthogonalizer(matrices, orthogonalizer, triples, preconditioning, eps, ns_dtype)
