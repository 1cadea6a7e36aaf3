r"""Graphs and mixing matrices for decentralized training, built once on the host.

A graph is a symmetric 0/1 adjacency matrix without a diagonal. A mixing matrix is a square
matrix whose rows sum to one: node :math:`i` replaces its value by
:math:`\sum_j W_{ij} x_j`. Everything here is NumPy in float64 and is never traced.

Large graphs need not be whole matrices: with ``sparse=True`` a graph is a
``scipy.sparse.csr_array``, what is computed from a sparse matrix is sparse too, and time and
memory are those of its edges. Several sparse matrices, to be used in turn, are a list.

>>> from gradax.federated import topology
>>> topology.metropolis_weights(topology.path(3)).round(3)
array([[0.667, 0.333, 0.   ],
       [0.333, 0.333, 0.333],
       [0.   , 0.333, 0.667]])
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gradax import _validate

from ._graphs import Matrix as Matrix
from ._graphs import MatrixLike as MatrixLike
from ._graphs import SparseMatrix as SparseMatrix
from ._graphs import as_list, check_square, is_sparse, unreachable
from ._graphs import complete as complete
from ._graphs import erdos_renyi as erdos_renyi
from ._graphs import grid as grid
from ._graphs import hypercube as hypercube
from ._graphs import is_connected as is_connected
from ._graphs import path as path
from ._graphs import ring as ring
from ._graphs import star as star
from ._graphs import torus as torus
from ._rates import edges as edges
from ._rates import effective_resistance as effective_resistance
from ._rates import graph_chi as graph_chi
from ._rates import optimal_edge_rates as optimal_edge_rates
from ._rates import uniform_edge_rates as uniform_edge_rates

_TOLERANCE = 1e-6
#: Sparse matrices up to this size are decomposed as dense ones: Lanczos needs room.
_FEW = 64


# --- directed mixing matrices ---------------------------------------------------------------


def exponential(n: int, *, sparse: bool = False) -> Matrix | SparseMatrix:
    r"""Lets every node average itself with the nodes :math:`1, 2, 4, \dots` further on.

    With :math:`k = \lceil \log_2 n \rceil` each of the :math:`k + 1` values has the weight
    :math:`1 / (k + 1)`; offsets that coincide modulo ``n`` add up. Directed and doubly
    stochastic; for even ``n`` the spectral gap is :math:`2 / (1 + k)`.

    Args:
      n: number of nodes, at least 1.
      sparse: return a ``scipy.sparse.csr_array`` and never form the whole matrix.

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
    return circulant(n, [(offset, 1.0 / len(offsets)) for offset in offsets], sparse=sparse)


def one_peer_exponential(n: int, *, sparse: bool = False) -> Matrix | list[SparseMatrix]:
    r"""Lets every node average with one other: at step t the one :math:`2^{t \bmod k}` further.

    If ``n`` is a power of two, any :math:`k = \log_2 n` consecutive matrices multiply to exact
    averaging.

    Args:
      n: number of nodes, at least 1.
      sparse: return a list of ``scipy.sparse.csr_array``.

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
    shares = [[(0, 0.5), (offset, 0.5)] for offset in offsets]
    matrices = [circulant(n, pair, sparse=sparse) for pair in shares]
    return matrices if sparse else np.stack(matrices)


def circulant(
    n: int, shares: Iterable[tuple[int, float]], *, sparse: bool = False
) -> Matrix | SparseMatrix:
    """Builds a mixing matrix in which every node treats its neighbours alike.

    Args:
      n: number of nodes, at least 1.
      shares: pairs ``(offset, weight)``: node ``i`` takes ``weight`` of node
        ``(i + offset) % n``; weights of equal offsets add up.
      sparse: as in :func:`exponential`.

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
    listed, nodes = list(shares), np.arange(n)
    columns = [(nodes + offset) % n for offset, _ in listed]
    weights = np.repeat([float(weight) for _, weight in listed], n)
    return _assemble(n, np.tile(nodes, len(listed)), np.concatenate(columns), weights, sparse)


# --- weights for a graph --------------------------------------------------------------------


def metropolis_weights(
    adjacency: MatrixLike, *, require_connected: bool = True
) -> Matrix | SparseMatrix:
    r"""Gives each edge the weight :math:`1 / (1 + \max(d_i, d_j))`, the rest to the node itself.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``, sparse or not.
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
    nodes, degrees = np.arange(adjacency.shape[0]), adjacency.sum(axis=1)
    rows, columns = adjacency.nonzero()
    weights = 1.0 / (1.0 + np.maximum(degrees[rows], degrees[columns]))
    own = 1.0 - np.bincount(rows, weights, len(nodes))
    rows, columns = (np.concatenate([ends, nodes]) for ends in (rows, columns))
    weights = np.concatenate([weights, own])
    return _assemble(len(nodes), rows, columns, weights, is_sparse(adjacency))


def laplacian_weights(
    adjacency: MatrixLike, eps: float | None = None, *, require_connected: bool = True
) -> Matrix | SparseMatrix:
    r"""Computes :math:`W = I - \epsilon L` with the Laplacian :math:`L` of the graph.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``, sparse or not.
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
    # No eigenvalue exceeds twice the largest degree: usually none need be computed.
    if not 0.0 < eps * max_degree < 1.0 - 1e-12:
        largest = _laplacian_ends(matrix)[1]
        allowed = 2.0 / largest if largest > 0.0 else np.inf
        if not 0.0 < eps < allowed * (1.0 - 1e-12):  # the eigenvalue is rounded
            raise ValueError(f"laplacian_weights: eps must lie in (0, {allowed:.6g}), got {eps}.")
    if eps * max_degree > 1.0 + _TOLERANCE:
        message = f"laplacian_weights: eps = {eps} exceeds 1 / degree: some weights are negative."
        warnings.warn(message, stacklevel=2)
    return _identity_like(matrix) - eps * matrix


def best_constant_weights(
    adjacency: MatrixLike, *, require_connected: bool = True
) -> Matrix | SparseMatrix:
    r"""Computes :math:`W = I - \epsilon L` with the :math:`\epsilon` that averages fastest.

    That is :math:`\epsilon = 2 / (\lambda_2(L) + \lambda_{\max}(L))`; weights may be negative.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``, sparse or not.
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
    if not adjacency.sum():
        return _identity_like(matrix)
    return _identity_like(matrix) - 2.0 / sum(_laplacian_ends(matrix)) * matrix


def lazy(mixing: MatrixLike) -> Matrix | SparseMatrix | list[SparseMatrix]:
    """Computes ``(W + I) / 2``: every node keeps half of its own value.

    Args:
      mixing: mixing matrix ``[n, n]``, or several ``[T, n, n]``; sparse ones in a list.

    Returns:
      The lazy matrix, of the same shape.

    Raises:
      ValueError: if ``mixing`` is not square or a row does not sum to one.
    """
    mixing = check_mixing(mixing, who="lazy", require_connected=False)
    halved = [(matrix + _identity_like(matrix)) / 2.0 for matrix in as_list(mixing)]
    if isinstance(mixing, list):
        return halved
    return halved[0] if mixing.ndim == 2 else np.stack(halved)


# --- what a matrix does ---------------------------------------------------------------------


def laplacian(adjacency: MatrixLike) -> Matrix | SparseMatrix:
    """Computes the graph Laplacian, degrees on the diagonal minus the adjacency.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``, sparse or not.

    Returns:
      The Laplacian ``float64[n, n]``.

    Raises:
      ValueError: if ``adjacency`` is no adjacency matrix.
    """
    adjacency = _check_adjacency("laplacian", adjacency, require_connected=False)
    nodes = np.arange(adjacency.shape[0])
    degrees = adjacency.sum(axis=1)
    return _assemble(len(nodes), nodes, nodes, degrees, is_sparse(adjacency)) - adjacency


def spectral_gap(mixing: MatrixLike) -> float:
    r"""Computes :math:`1 - \|W - J\|_2`: by how much one mixing shrinks disagreement at least.

    :math:`J` averages exactly. The norm is the largest singular value, which is right for
    directed matrices too. The gap is zero for a graph in several parts, one for :math:`J`.
    For a sparse matrix the norm is found by iteration, to about ten digits.

    Args:
      mixing: mixing matrix ``[n, n]``, sparse or not.

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
    if isinstance(mixing, list) or mixing.ndim != 2:
        shape = len(mixing), *mixing[0].shape
        raise ValueError(f"spectral_gap: mixing must be one matrix, got shape {shape}.")
    if is_sparse(mixing) and mixing.shape[0] > _FEW:
        return 1.0 - _norm_off_mean(mixing)
    matrix = _dense(mixing)
    return 1.0 - float(np.linalg.norm(matrix - 1.0 / len(matrix), ord=2))


def is_doubly_stochastic(mixing: MatrixLike) -> bool:
    """Tells whether the columns sum to one as well, so that mixing keeps the mean of the nodes.

    Args:
      mixing: mixing matrix ``[n, n]``, or several ``[T, n, n]``; sparse ones in a list.

    Returns:
      Whether all rows and columns sum to one.
    """
    matrices = as_list(check_square("is_doubly_stochastic", "mixing", mixing))
    sums = np.array([[matrix.sum(axis=1), matrix.sum(axis=0)] for matrix in matrices])
    return bool(np.all(np.abs(sums - 1.0) <= _TOLERANCE))


def check_mixing(
    mixing: MatrixLike, *, who: str = "check_mixing", require_connected: bool = True
) -> Matrix | SparseMatrix | list[SparseMatrix]:
    """Returns a mixing matrix in float64, or says what is wrong with it.

    Args:
      mixing: mixing matrix ``[n, n]``, or several ``[T, n, n]`` used in turn; sparse ones in a
        list.
      who: name of the caller, for the message.
      require_connected: refuse a matrix whose graph is in several parts.

    Returns:
      A copy, ``float64[n, n]`` or ``float64[T, n, n]``; of sparse ones a ``csr_array`` or a
      list.

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
    matrices = as_list(mixing)
    sums = np.array([matrix.sum(axis=1) for matrix in matrices])
    wrong = np.argwhere(~(np.abs(sums - 1.0) <= _TOLERANCE))
    if len(wrong):
        number, row = wrong[0]
        where = f"row {row}" + (f" of matrix {number}" if len(matrices) > 1 else "")
        raise ValueError(
            f"{who}: rows of mixing must sum to 1, got {sums[number, row]:.6g} in {where}."
        )
    if require_connected:
        _refuse_disconnected(who, "mixing", mixing)
    return mixing


# --- shared ---------------------------------------------------------------------------------


def _powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... below ``n``."""
    return [2**m for m in range((n - 1).bit_length())]


def _assemble(n: int, rows: Any, columns: Any, weights: Any, sparse: bool) -> Any:
    """A matrix of ``n`` nodes from its entries; those at the same place add up."""
    if not sparse:
        matrix = np.zeros((n, n))
        np.add.at(matrix, (rows, columns), weights)
        return matrix
    from scipy.sparse import coo_array

    return coo_array((weights, (rows, columns)), shape=(n, n)).tocsr()


def _identity_like(matrix: Any) -> Any:
    nodes = np.arange(matrix.shape[0])
    return _assemble(len(nodes), nodes, nodes, np.ones(len(nodes)), is_sparse(matrix))


def _dense(matrix: Any) -> Matrix:
    return matrix.toarray() if is_sparse(matrix) else matrix


def _laplacian_ends(matrix: Any) -> tuple[float, float]:
    """The second smallest and the largest eigenvalue of a Laplacian."""
    if not is_sparse(matrix) or matrix.shape[0] <= _FEW:
        eigenvalues = np.linalg.eigvalsh(_dense(matrix))
        return float(eigenvalues[min(1, len(eigenvalues) - 1)]), float(eigenvalues[-1])
    from scipy.sparse import linalg

    start = np.random.default_rng(0).normal(size=matrix.shape[0])
    # A little below zero, where the matrix can be inverted.
    smallest = linalg.eigsh(
        matrix, k=2, sigma=-1e-3, which="LM", v0=start, return_eigenvectors=False
    )
    return float(max(smallest)), _largest_eigenvalue(lambda x: matrix @ x, start)


def _norm_off_mean(mixing: SparseMatrix) -> float:
    """The largest singular value of a sparse matrix minus the exact average."""
    off_mean = lambda matrix, x: matrix @ x - np.mean(x)
    start = np.random.default_rng(0).normal(size=mixing.shape[0])
    squared = _largest_eigenvalue(lambda x: off_mean(mixing.T, off_mean(mixing, x)), start)
    return float(np.sqrt(max(squared, 0.0)))


def _largest_eigenvalue(product: Callable[[Any], Any], start: Any) -> float:
    """The largest eigenvalue of a symmetric operator without negative ones."""
    from scipy.sparse import linalg

    shape = (len(start), len(start))
    operator = linalg.LinearOperator(shape, matvec=product, dtype=np.float64)
    try:
        return float(linalg.eigsh(operator, k=1, v0=start, tol=1e-10, return_eigenvectors=False)[0])
    except linalg.ArpackNoConvergence:
        raise
    except linalg.ArpackError:
        # So few different eigenvalues that there is nothing to iterate: they are all in here.
        basis = (start / np.linalg.norm(start))[:, None]
        while basis.shape[1] < len(start):
            following = product(basis[:, -1])
            scale = np.linalg.norm(following)
            for _ in range(2):
                following = following - basis @ (basis.T @ following)
            if np.linalg.norm(following) <= 1e-10 * scale:
                break
            basis = np.column_stack([basis, following / np.linalg.norm(following)])
        images = np.column_stack([product(vector) for vector in basis.T])
        return float(np.linalg.eigvalsh(basis.T @ images)[-1])


def _check_adjacency(who: str, adjacency: MatrixLike, require_connected: bool) -> Any:
    adjacency = check_square(who, "adjacency", adjacency)
    if isinstance(adjacency, list) or adjacency.ndim != 2:
        shape = len(adjacency), *adjacency[0].shape
        raise ValueError(f"{who}: adjacency must be one matrix, got shape {shape}.")
    values = adjacency.data if is_sparse(adjacency) else adjacency
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError(f"{who}: adjacency must hold zeros and ones only.")
    i_of, j_of = (adjacency != adjacency.T).nonzero()
    if len(i_of):
        i, j = i_of[0], j_of[0]
        raise ValueError(f"{who}: adjacency must be symmetric, got an edge {i}, {j} one way only.")
    if adjacency.diagonal().any():
        node = int(np.argmax(adjacency.diagonal()))
        raise ValueError(f"{who}: adjacency must have a zero diagonal, got a loop at node {node}.")
    if require_connected:
        _refuse_disconnected(who, "adjacency", adjacency)
    return adjacency


def _refuse_disconnected(who: str, name: str, matrix: Any) -> None:
    missing = unreachable(matrix)
    if missing:
        nodes = as_list(matrix)[0].shape[0]
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{who}: {name} must be connected, got a graph of {nodes} nodes in which "
            f"node 0 cannot exchange values with {shown}; pass require_connected=False to allow it."
        )
