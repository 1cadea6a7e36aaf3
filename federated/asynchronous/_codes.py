"""Gradient codes: what each worker computes and sends, and how the sum is recovered."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gradax import _validate
from gradax._wide import widen

#: Draws of a cyclic code among which the best conditioned one is kept.
_DRAWS = 30

#: Largest deviation from one that the combined weight of a part may have.
TOLERANCE = 1e-6


def check_code(who: str, n: int, s: int) -> None:
    """Raises unless there can be a code of ``n`` workers that bears ``s`` stragglers."""
    _validate.integer(who, "n", n, at_least=1)
    _validate.integer(who, "s", s, at_least=0)
    if s >= n:
        raise ValueError(f"{who}: s must be below n = {n}, got {s}.")


def cyclic_code(
    n: int, s: int, seed: int | None = None, *, parity: npt.ArrayLike | None = None
) -> np.ndarray:
    r"""Makes a cyclic gradient code: any ``n - s`` of ``n`` workers determine the sum.

    Row :math:`i` says what worker :math:`i` sends: a combination of the gradients of parts
    :math:`i, \dots, i + s` (modulo :math:`n`). A random matrix :math:`H` with :math:`s` rows, each
    of which adds up to zero, is drawn; the first entry is :math:`B_{ii} = 1`, the others solve
    :math:`H B_i = 0`. Then the vector of ones lies in the span of any :math:`n - s` rows.

    How large the decoding weights get, and so how much rounding is magnified, depends on the
    draw: for ``n, s = 10, 3`` they reach from 18 to 100,000. Where ``s + 1`` divides ``n``,
    :func:`repetition_code` has none of it.

    Args:
      n: number of workers and of parts of the data.
      s: number of stragglers to bear, below ``n``.
      seed: of the draw; by default the best conditioned of 30 is kept, judged by sets of
        stragglers (all, or a sample where they are many).
      parity: the matrix :math:`H`, ``[s, n]``, instead of a draw.

    Returns:
      ``float64[n, n]``.

    Raises:
      ValueError: if ``s`` or ``n`` is out of range, or ``parity`` has another shape or columns
        that do not add up to zero.

    Examples:
      >>> from gradax.federated import coding
      >>> code = coding.cyclic_code(4, 1)
      >>> (code != 0).astype(int).tolist()
      [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]

    References:
      Tandon et al., `Gradient Coding <https://arxiv.org/abs/1612.03301>`_, 2016.
    """
    check_code("cyclic_code", n, s)
    if parity is not None:
        return _from_parity(_checked_parity(parity, n, s))
    if s == 0:
        return np.eye(n)
    seeds = range(_DRAWS) if seed is None else [seed]
    codes = [_from_parity(_draw_parity(n, s, one)) for one in seeds]
    if len(codes) == 1:
        return codes[0]
    sets = _straggler_sets(n, s)
    return min(codes, key=lambda code: _largest_weight(code, sets))


def _draw_parity(n, s, seed):
    free = np.random.default_rng(seed).normal(size=(s, n - 1))
    return np.concatenate([free, -free.sum(axis=1, keepdims=True)], axis=1)


def _checked_parity(parity, n, s):
    matrix = np.asarray(parity, np.float64)
    if matrix.shape != (s, n) or not np.allclose(matrix.sum(axis=1), 0, atol=1e-4):
        raise ValueError(
            f"cyclic_code: parity must have the shape {(s, n)} and rows that add up to 0, got "
            f"{parity!r}."
        )
    return matrix


def _from_parity(parity):
    s, n = parity.shape
    others = (np.arange(n)[:, None] + np.arange(1, s + 1)) % n
    code = np.eye(n)
    if s:
        blocks = parity[:, others].transpose(1, 0, 2)
        code[np.arange(n)[:, None], others] = np.linalg.solve(blocks, -parity.T[..., None])[..., 0]
    return code


def _straggler_sets(n, s):
    """The sets of workers that are on time, all or a sample that can be judged in seconds."""
    most = max(4, min(500, 200_000 // n**2))
    if math.comb(n, s) <= most:
        late = [list(chosen) for chosen in itertools.combinations(range(n), s)]
    else:
        rng = np.random.default_rng(0)
        late = [rng.choice(n, s, replace=False) for _ in range(most)]
    return np.stack([np.delete(np.arange(n), chosen) for chosen in late])


def _largest_weight(code, sets):
    """The largest decoding weight over sets of ``n - s`` workers."""
    orthogonal, triangular = np.linalg.qr(code[sets].transpose(0, 2, 1))
    right = orthogonal.sum(axis=1)[..., None]
    try:
        return np.abs(np.linalg.solve(triangular, right)).max()
    except np.linalg.LinAlgError:
        return math.inf


def repetition_code(n: int, s: int) -> np.ndarray:
    """Makes a repetition code: groups of ``s + 1`` workers who all send the same sum.

    Decoding weights lie in [0, 1]: nothing is magnified, so prefer it to :func:`cyclic_code`
    where ``s + 1`` divides ``n``.

    Args:
      n: number of workers and of parts of the data.
      s: number of stragglers to bear, below ``n``; ``s + 1`` divides ``n``.

    Returns:
      ``float64[n, n]``, row ``i`` saying what worker ``i`` sends.

    Raises:
      ValueError: if ``s`` or ``n`` is out of range or ``s + 1`` does not divide ``n``.

    Examples:
      >>> from gradax.federated import coding
      >>> coding.repetition_code(4, 1).astype(int).tolist()
      [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]

    References:
      Tandon et al., `Gradient Coding <https://arxiv.org/abs/1612.03301>`_, 2016.
    """
    check_code("repetition_code", n, s)
    if n % (s + 1):
        raise ValueError(f"repetition_code: s + 1 must divide n = {n}, got s = {s}.")
    return np.kron(np.eye(n // (s + 1)), np.ones((s + 1, s + 1)))


def gradient_code(n: int, s: int) -> np.ndarray:
    """The repetition code where there is one, else the cyclic one."""
    return cyclic_code(n, s) if n % (s + 1) else repetition_code(n, s)


def check_matrix(who: str, code: npt.ArrayLike) -> np.ndarray:
    """Returns a code as a matrix of float64, or raises a ``ValueError``."""
    matrix = np.asarray(code, np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape or not np.isfinite(matrix).all():
        raise ValueError(
            f"{who}: code must be a matrix [workers, parts] of finite numbers, got shape "
            f"{matrix.shape}."
        )
    return matrix


def decode_vector(code: npt.ArrayLike, active: npt.ArrayLike) -> np.ndarray:
    """Finds the weights with which the messages of the workers on time give the sum.

    Args:
      code: of :func:`cyclic_code` or :func:`repetition_code`, ``[n, parts]``.
      active: ``bool[n]``, who was on time.

    Returns:
      ``float64[n]``, the solution of least norm, zero for who was late.

    Raises:
      ValueError: if ``active`` has not one entry for each worker.
      RuntimeError: if the sum is not determined by these workers.

    Examples:
      >>> from gradax.federated import coding
      >>> code = coding.repetition_code(4, 1)
      >>> coding.decode_vector(code, [False, True, True, True]).round(2).tolist()
      [0.0, 1.0, 0.5, 0.5]
    """
    matrix = check_matrix("decode_vector", code)
    on_time = np.asarray(active, bool)
    if on_time.shape != matrix.shape[:1]:
        raise ValueError(
            f"decode_vector: active must have the shape {matrix.shape[:1]}, got {on_time.shape}."
        )
    weights = np.zeros(len(matrix))
    rows, ones = matrix[on_time], np.ones(matrix.shape[1])
    weights[on_time] = np.linalg.lstsq(rows.T, ones)[0]
    error = np.abs(weights @ matrix - ones).max()
    if error > TOLERANCE:
        late = np.flatnonzero(~on_time).tolist()
        raise RuntimeError(
            f"decode_vector: without workers {late} the sum cannot be recovered, the error is "
            f"{error:.1e}."
        )
    return weights


def load(code: npt.ArrayLike) -> float:
    """Returns the share of the data on which the busiest worker computes.

    Args:
      code: of :func:`cyclic_code` or :func:`repetition_code`.

    Returns:
      Number of its parts over that of all.

    Examples:
      >>> from gradax.federated import coding
      >>> coding.load(coding.cyclic_code(5, 2))
      0.6
    """
    matrix = check_matrix("load", code)
    return float(np.count_nonzero(matrix, axis=1).max() / matrix.shape[1])


def support(code: npt.ArrayLike) -> np.ndarray:
    """Lists the parts that each worker computes, beginning with its own and going round.

    Args:
      code: of :func:`cyclic_code` or :func:`repetition_code`.

    Returns:
      ``int64[n, s + 1]``.

    Raises:
      ValueError: if workers compute different numbers of parts.

    Examples:
      >>> from gradax.federated import coding
      >>> coding.support(coding.cyclic_code(4, 1)).tolist()
      [[0, 1], [1, 2], [2, 3], [3, 0]]
    """
    matrix = check_matrix("support", code)
    counts = np.count_nonzero(matrix, axis=1)
    if counts.min() != counts.max():
        raise ValueError(
            f"support: every worker must compute equally many parts, got {counts.tolist()}."
        )
    width = matrix.shape[1]
    around = (np.arange(len(matrix))[:, None] + np.arange(width)) % width
    used = np.take_along_axis(matrix, around, axis=1) != 0
    return around[used].reshape(len(matrix), -1)


def encode(per_part_grads: Any, code: npt.ArrayLike, worker: jax.typing.ArrayLike) -> Any:
    r"""Combines the gradients of a worker's parts into its message :math:`\sum_j B_{ij} g_j`.

    Args:
      per_part_grads: pytree whose leaves have a leading axis of the worker's parts, in the order
        of :func:`support`; gradients of sums (or of equally large means) over each part.
      code: of :func:`cyclic_code` or :func:`repetition_code`.
      worker: the number of the worker; may be traced, such as ``jax.lax.axis_index(...)``.

    Returns:
      The message, in the dtypes of the leaves; sums are made in float32 at least.

    Raises:
      ValueError: if a leaf has another leading axis.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax.federated import coding
      >>> code = coding.repetition_code(4, 1)
      >>> coding.encode(jnp.array([[1.0, 2.0], [10.0, 20.0]]), code, 3).tolist()
      [11.0, 22.0]
    """
    parts = support(code)
    weights = np.take_along_axis(np.asarray(code, np.float64), parts, axis=1)

    def combine(leaf):
        leaf = jnp.asarray(leaf)
        if leaf.shape[:1] != parts.shape[1:]:
            raise ValueError(
                f"encode: per_part_grads must have a leading axis of {parts.shape[1]} parts, got "
                f"the shape {leaf.shape}."
            )
        own = jnp.asarray(weights, widen(leaf).dtype)[worker]
        total = jnp.tensordot(own, widen(leaf), axes=1, precision=jax.lax.Precision.HIGHEST)
        return total.astype(leaf.dtype)

    return jax.tree.map(combine, per_part_grads)
