r"""Graphs and mixing matrices for decentralized training, built once on the host.

A graph is a symmetric 0/1 adjacency matrix without a diagonal. A mixing matrix is a square
matrix whose rows sum to one: node :math:`i` replaces its value by
:math:`\sum_j W_{ij} x_j`. Everything here is NumPy in float64 and is never traced.

>>> from gradax.federated import topology
>>> topology.metropolis_weights(topology.path(3)).round(3)
array([[0.667, 0.333, 0.   ],
       [0.333, 0.333, 0.333],
       [0.   , 0.333, 0.667]])
"""

import warnings
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from gradax import _validate

from ._graphs import Matrix as Matrix
from ._graphs import check_square, unreachable
from ._graphs import complete as complete
from ._graphs import erdos_renyi as erdos_renyi
from ._graphs import grid as grid
from ._graphs import hypercube as hypercube
from ._graphs import is_connected as is_connected
from ._graphs import path as path
from ._graphs import ring as ring
from ._graphs import star as star
from ._graphs import torus as torus

_TOLERANCE = 1e-6


# --- directed mixing matrices ---------------------------------------------------------------


def exponential(n: int) -> Matrix:
    r"""Lets every node average itself with the nodes :math:`1, 2, 4, \dots` further on.

    With :math:`k = \lceil \log_2 n \rceil` each of the :math:`k + 1` values has the weight
    :math:`1 / (k + 1)`; offsets that coincide modulo ``n`` add up. Directed and doubly
    stochastic; for even ``n`` the spectral gap is :math:`2 / (1 + k)`.

    Args:
      n: number of nodes, at least 1.

    Returns:
      The mixing matrix ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no positive integer.

    References:
      Ying et al., `Exponential Graph is Provably Efficient for Decentralized Deep Training
      <https://arxiv.org/abs/2110.13363>`_, 2021.
    """
    _validate.integer("exponential", "n", n, at_least=1)
    offsets = [0, *_powers_of_two(n)]
    return circulant(n, [(offset, 1.0 / len(offsets)) for offset in offsets])


def one_peer_exponential(n: int) -> Matrix:
    r"""Lets every node average with one other: at step t the one :math:`2^{t \bmod k}` further.

    If ``n`` is a power of two, any :math:`k = \log_2 n` consecutive matrices multiply to exact
    averaging.

    Args:
      n: number of nodes, at least 1.

    Returns:
      The mixing matrices ``float64[k, n, n]``, to be used in turn (``k = 1`` for ``n = 1``).

    Raises:
      ValueError: if ``n`` is no positive integer.

    References:
      Ying et al., `Exponential Graph is Provably Efficient for Decentralized Deep Training
      <https://arxiv.org/abs/2110.13363>`_, 2021.
    """
    _validate.integer("one_peer_exponential", "n", n, at_least=1)
    offsets = _powers_of_two(n) or [0]
    return np.stack([circulant(n, [(0, 0.5), (offset, 0.5)]) for offset in offsets])


def circulant(n: int, shares: Iterable[tuple[int, float]]) -> Matrix:
    """Builds a mixing matrix in which every node treats its neighbours alike.

    Args:
      n: number of nodes, at least 1.
      shares: pairs ``(offset, weight)``: node ``i`` takes ``weight`` of node
        ``(i + offset) % n``; weights of equal offsets add up.

    Returns:
      The matrix ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no positive integer.

    Examples:
      >>> from gradax.federated import topology
      >>> topology.circulant(3, [(0, 0.5), (1, 0.5)])
      array([[0.5, 0.5, 0. ],
             [0. , 0.5, 0.5],
             [0.5, 0. , 0.5]])
    """
    _validate.integer("circulant", "n", n, at_least=1)
    mixing, nodes = np.zeros((n, n)), np.arange(n)
    for offset, weight in shares:
        mixing[nodes, (nodes + offset) % n] += weight
    return mixing


# --- weights for a graph --------------------------------------------------------------------


def metropolis_weights(adjacency: npt.ArrayLike, *, require_connected: bool = True) -> Matrix:
    r"""Gives each edge the weight :math:`1 / (1 + \max(d_i, d_j))`, the rest to the node itself.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``.
      require_connected: refuse a graph in several parts, which can never agree.

    Returns:
      The mixing matrix ``float64[n, n]``: symmetric, doubly stochastic, with a positive
      diagonal.

    Raises:
      ValueError: if ``adjacency`` is no adjacency matrix, or not connected.

    References:
      Xiao and Boyd, Fast linear iterations for distributed averaging, 2004.
    """
    adjacency = _check_adjacency("metropolis_weights", adjacency, require_connected)
    degrees = adjacency.sum(axis=1)
    mixing = adjacency / (1.0 + np.maximum.outer(degrees, degrees))
    np.fill_diagonal(mixing, 1.0 - mixing.sum(axis=1))
    return mixing


def laplacian_weights(
    adjacency: npt.ArrayLike, eps: float | None = None, *, require_connected: bool = True
) -> Matrix:
    r"""Computes :math:`W = I - \epsilon L` with the Laplacian :math:`L` of the graph.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``.
      eps: step :math:`\epsilon`, below two over the largest eigenvalue of :math:`L`; the
        default is one over (1 + largest degree).
      require_connected: refuse a graph in several parts, which can never agree.

    Returns:
      The mixing matrix ``float64[n, n]``, symmetric; above one over the largest degree some
      weights are negative, which is allowed and warned of.

    Raises:
      ValueError: if ``adjacency`` is no adjacency matrix or not connected, or ``eps`` does
        not contract.
    """
    adjacency = _check_adjacency("laplacian_weights", adjacency, require_connected)
    matrix, max_degree = laplacian(adjacency), adjacency.sum(axis=1).max()
    if eps is None:
        eps = 1.0 / (1.0 + max_degree)
    largest = np.linalg.eigvalsh(matrix)[-1]
    allowed = 2.0 / largest if largest > 0.0 else np.inf
    if not 0.0 < eps < allowed * (1.0 - 1e-12):  # the eigenvalue is rounded
        raise ValueError(f"laplacian_weights: eps must lie in (0, {allowed:.6g}), got {eps}.")
    if eps * max_degree > 1.0 + _TOLERANCE:
        message = f"laplacian_weights: eps = {eps} exceeds 1 / degree: some weights are negative."
        warnings.warn(message, stacklevel=2)
    return np.eye(len(matrix)) - eps * matrix


def best_constant_weights(adjacency: npt.ArrayLike, *, require_connected: bool = True) -> Matrix:
    r"""Computes :math:`W = I - \epsilon L` with the :math:`\epsilon` that averages fastest.

    That is :math:`\epsilon = 2 / (\lambda_2(L) + \lambda_{\max}(L))`; weights may be negative.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``.
      require_connected: refuse a graph in several parts, which can never agree.

    Returns:
      The mixing matrix ``float64[n, n]``, symmetric.

    Raises:
      ValueError: if ``adjacency`` is no adjacency matrix, or not connected.

    References:
      Xiao and Boyd, Fast linear iterations for distributed averaging, 2004.
    """
    adjacency = _check_adjacency("best_constant_weights", adjacency, require_connected)
    matrix = laplacian(adjacency)
    eigenvalues = np.linalg.eigvalsh(matrix)
    if not adjacency.any():
        return np.eye(len(matrix))
    return np.eye(len(matrix)) - 2.0 / (eigenvalues[1] + eigenvalues[-1]) * matrix


def lazy(mixing: npt.ArrayLike) -> Matrix:
    """Computes ``(W + I) / 2``: every node keeps half of its own value.

    Args:
      mixing: mixing matrix ``[n, n]``, or several ``[T, n, n]``.

    Returns:
      The lazy matrix, of the same shape.

    Raises:
      ValueError: if ``mixing`` is not square or a row does not sum to one.
    """
    mixing = check_mixing(mixing, who="lazy", require_connected=False)
    return (mixing + np.eye(mixing.shape[-1])) / 2.0


# --- what a matrix does ---------------------------------------------------------------------


def laplacian(adjacency: npt.ArrayLike) -> Matrix:
    """Computes the graph Laplacian, degrees on the diagonal minus the adjacency.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``.

    Returns:
      The Laplacian ``float64[n, n]``.

    Raises:
      ValueError: if ``adjacency`` is no adjacency matrix.
    """
    adjacency = _check_adjacency("laplacian", adjacency, require_connected=False)
    return np.diag(adjacency.sum(axis=1)) - adjacency


def spectral_gap(mixing: npt.ArrayLike) -> float:
    r"""Computes :math:`1 - \|W - J\|_2`: by how much one mixing shrinks disagreement at least.

    :math:`J` averages exactly. The norm is the largest singular value, which is right for
    directed matrices too. The gap is zero for a graph in several parts, one for :math:`J`.

    Args:
      mixing: mixing matrix ``[n, n]``.

    Returns:
      The gap, a Python float.

    Raises:
      ValueError: if ``mixing`` is not one square matrix or a row does not sum to one.

    Examples:
      >>> from gradax.federated import topology
      >>> W = topology.metropolis_weights(topology.ring(8))
      >>> round(topology.spectral_gap(W), 7)
      0.1952621
    """
    mixing = check_mixing(mixing, who="spectral_gap", require_connected=False)
    if mixing.ndim != 2:
        raise ValueError(f"spectral_gap: mixing must be one matrix, got shape {mixing.shape}.")
    return 1.0 - float(np.linalg.norm(mixing - 1.0 / len(mixing), ord=2))


def is_doubly_stochastic(mixing: npt.ArrayLike) -> bool:
    """Tells whether the columns sum to one as well, so that mixing keeps the mean of the nodes.

    Args:
      mixing: mixing matrix ``[n, n]``, or several ``[T, n, n]``.

    Returns:
      Whether all rows and columns sum to one.
    """
    mixing = check_square("is_doubly_stochastic", "mixing", mixing)
    sums = np.stack([mixing.sum(axis=-1), mixing.sum(axis=-2)])
    return bool(np.all(np.abs(sums - 1.0) <= _TOLERANCE))


def check_mixing(
    mixing: npt.ArrayLike, *, who: str = "check_mixing", require_connected: bool = True
) -> Matrix:
    """Returns a mixing matrix in float64, or says what is wrong with it.

    Args:
      mixing: mixing matrix ``[n, n]``, or several ``[T, n, n]`` used in turn.
      who: name of the caller, for the message.
      require_connected: refuse a matrix whose graph is in several parts.

    Returns:
      A copy, ``float64[n, n]`` or ``float64[T, n, n]``.

    Raises:
      ValueError: if it is not square, not finite, a row does not sum to one (within 1e-6), or
        it is not connected.

    Examples:
      >>> from gradax.federated import topology
      >>> topology.check_mixing([[0.5, 0.5], [0.5, 0.4]])
      Traceback (most recent call last):
      ValueError: check_mixing: rows of mixing must sum to 1, got 0.9 in row 1.
    """
    mixing = check_square(who, "mixing", mixing)
    sums = mixing.sum(axis=-1)
    wrong = np.argwhere(~(np.abs(sums - 1.0) <= _TOLERANCE))
    if len(wrong):
        where = tuple(wrong[0])
        matrix = f" of matrix {where[0]}" if len(where) > 1 else ""
        raise ValueError(
            f"{who}: rows of mixing must sum to 1, "
            f"got {sums[where]:.6g} in row {where[-1]}{matrix}."
        )
    if require_connected:
        _refuse_disconnected(who, "mixing", mixing)
    return mixing


# --- shared ---------------------------------------------------------------------------------


def _powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... below ``n``."""
    return [2**m for m in range((n - 1).bit_length())]


def _check_adjacency(who: str, adjacency: npt.ArrayLike, require_connected: bool) -> Matrix:
    adjacency = check_square(who, "adjacency", adjacency)
    if adjacency.ndim != 2:
        raise ValueError(f"{who}: adjacency must be one matrix, got shape {adjacency.shape}.")
    if not np.isin(adjacency, (0.0, 1.0)).all():
        raise ValueError(f"{who}: adjacency must hold zeros and ones only.")
    if (adjacency != adjacency.T).any():
        i, j = np.argwhere(adjacency != adjacency.T)[0]
        raise ValueError(f"{who}: adjacency must be symmetric, got an edge {i}, {j} one way only.")
    if adjacency.diagonal().any():
        node = int(np.argmax(adjacency.diagonal()))
        raise ValueError(f"{who}: adjacency must have a zero diagonal, got a loop at node {node}.")
    if require_connected:
        _refuse_disconnected(who, "adjacency", adjacency)
    return adjacency


def _refuse_disconnected(who: str, name: str, matrix: Matrix) -> None:
    missing = unreachable(matrix)
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{who}: {name} must be connected, got a graph of {matrix.shape[-1]} nodes in which "
            f"node 0 cannot exchange values with {shown}; pass require_connected=False to allow it."
        )
