"""Graphs: symmetric 0/1 adjacency matrices without a diagonal, from networkx where it has them."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gradax import _validate
from gradax._optional import load

#: A dense matrix, or several stacked.
Matrix: TypeAlias = npt.NDArray[np.float64]
#: A ``scipy.sparse.csr_array``; SciPy is imported only where there is one.
SparseMatrix: TypeAlias = Any
#: What is accepted as one matrix or several: an array, a sparse array, a list of sparse arrays.
MatrixLike: TypeAlias = npt.ArrayLike | SparseMatrix | Sequence[SparseMatrix]


def ring(n: int, *, sparse: bool = False) -> Matrix | SparseMatrix:
    r"""Connects node :math:`i` with :math:`i \pm 1` modulo ``n``.

    Args:
      n: number of nodes, at least 1.
      sparse: return a ``scipy.sparse.csr_array`` and never form the whole matrix.

    Returns:
      The adjacency ``float64[n, n]``; one edge for ``n = 2``, none for ``n = 1``.

    Raises:
      ValueError: if ``n`` is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("ring", "n", n, at_least=1)
    return _adjacency(_networkx("ring").cycle_graph(n), sparse)


def path(n: int, *, sparse: bool = False) -> Matrix | SparseMatrix:
    """Connects node :math:`i` with :math:`i + 1`, without closing the ring.

    Args:
      n: number of nodes, at least 1.
      sparse: as in :func:`ring`.

    Returns:
      The adjacency ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("path", "n", n, at_least=1)
    return _adjacency(_networkx("path").path_graph(n), sparse)


def star(n: int, *, sparse: bool = False) -> Matrix | SparseMatrix:
    """Connects node 0 with every other node.

    Args:
      n: number of nodes, the hub included, at least 1.
      sparse: as in :func:`ring`.

    Returns:
      The adjacency ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("star", "n", n, at_least=1)
    return _adjacency(_networkx("star").star_graph(n - 1), sparse)


def complete(n: int, *, sparse: bool = False) -> Matrix | SparseMatrix:
    """Connects every node with every other one.

    Args:
      n: number of nodes, at least 1.
      sparse: as in :func:`ring`.

    Returns:
      The adjacency ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("complete", "n", n, at_least=1)
    return _adjacency(_networkx("complete").complete_graph(n), sparse)


def grid(rows: int, cols: int, *, sparse: bool = False) -> Matrix | SparseMatrix:
    """Connects horizontal and vertical neighbours of a rectangle.

    Args:
      rows: number of rows, at least 1.
      cols: number of columns, at least 1.
      sparse: as in :func:`ring`.

    Returns:
      The adjacency ``float64[rows * cols, rows * cols]``; the node in row ``a`` and column
      ``b`` is number ``a * cols + b``.

    Raises:
      ValueError: if an argument is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    return _rectangle("grid", rows, cols, periodic=False, sparse=sparse)


def torus(rows: int, cols: int, *, sparse: bool = False) -> Matrix | SparseMatrix:
    """Connects neighbours of a rectangle whose opposite sides are glued together.

    Args:
      rows: number of rows, at least 1.
      cols: number of columns, at least 1.
      sparse: as in :func:`ring`.

    Returns:
      The adjacency ``float64[rows * cols, rows * cols]``, numbered row by row as in
      :func:`grid`. With two rows or columns both ways round are the same edge.

    Raises:
      ValueError: if an argument is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    return _rectangle("torus", rows, cols, periodic=True, sparse=sparse)


def hypercube(n: int, *, sparse: bool = False) -> Matrix | SparseMatrix:
    """Connects nodes whose numbers differ in one binary digit.

    Args:
      n: number of nodes, a power of two.
      sparse: as in :func:`ring`.

    Returns:
      The adjacency ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no power of two.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("hypercube", "n", n, at_least=1)
    if n & (n - 1):
        raise ValueError(f"hypercube: n must be a power of two, got {n}.")
    if n == 1:
        return path(1, sparse=sparse)
    return _adjacency(_networkx("hypercube").hypercube_graph(n.bit_length() - 1), sparse)


def erdos_renyi(
    n: int, p: float, seed: int = 0, max_tries: int = 100, *, sparse: bool = False
) -> Matrix | SparseMatrix:
    """Draws every edge independently, until the graph is connected.

    Graphs become connected around ``p = log(n) / n``.

    Args:
      n: number of nodes, at least 1.
      p: probability of an edge, in ``(0, 1]``.
      seed: of the draws; the same seed gives the same graph.
      max_tries: number of graphs to draw before giving up.
      sparse: as in :func:`ring`; it then draws another graph with the same seed, in time
        proportional to its edges.

    Returns:
      The adjacency ``float64[n, n]`` of a connected graph.

    Raises:
      ValueError: if an argument is out of range, or no draw was connected.
      ImportError: if networkx (the extra ``graphs``) is not installed.

    Examples:
      >>> from gradax.federated import topology
      >>> topology.is_connected(topology.erdos_renyi(20, 0.2, seed=1))
      True
    """
    _validate.integer("erdos_renyi", "n", n, at_least=1)
    _validate.interval("erdos_renyi", "p", p, "(0, 1]")
    _validate.integer("erdos_renyi", "max_tries", max_tries, at_least=1)
    networkx, generator = _networkx("erdos_renyi"), np.random.default_rng(seed)
    draw = networkx.fast_gnp_random_graph if sparse else networkx.gnp_random_graph
    for _ in range(max_tries):
        adjacency = _adjacency(draw(n, p, seed=generator), sparse)
        if is_connected(adjacency):
            return adjacency
    raise ValueError(
        f"erdos_renyi: p is too small to obtain a connected graph, got p = {p} with n = {n} "
        f"in {max_tries} tries; connectivity starts near log(n) / n = {np.log(n) / n:.3g}."
    )


def is_connected(matrix: MatrixLike) -> bool:
    """Tells whether every node can reach every other one.

    Args:
      matrix: adjacency or mixing matrix ``[n, n]``, sparse or not, or several used in turn
        (``[T, n, n]`` or a list of sparse ones), whose edges are then taken together. Directed
        edges count in their direction.

    Returns:
      Whether the graph of the non-zero entries is (strongly) connected.

    Raises:
      ValueError: if the matrix is not square.
    """
    return not unreachable(check_square("is_connected", "matrix", matrix))


def unreachable(matrix: MatrixLike) -> list[int]:
    """Nodes that are not in the strongly connected component of node 0; of checked matrices."""
    from scipy.sparse import csgraph

    edges = sum(abs(one) for one in as_list(matrix))
    _, labels = csgraph.connected_components(edges, directed=True, connection="strong")
    return np.flatnonzero(labels != labels[0]).tolist()


def is_sparse(matrix: Any) -> bool:
    """Whether it is one of SciPy's sparse arrays, or a list with one in it."""
    several = matrix if isinstance(matrix, list | tuple) else [matrix]
    return any(hasattr(one, "tocsr") for one in several)


def as_list(matrix: Any) -> list[Any]:
    """The matrices of a checked stack or list, one by one."""
    if isinstance(matrix, list) or np.ndim(matrix) == 3:
        return list(matrix)
    return [matrix]


def check_square(who: str, name: str, matrix: MatrixLike) -> Any:
    """A copy in float64, of one square matrix or of several, or an error.

    Args:
      who: name of the caller, for the message.
      name: name of the argument, for the message.
      matrix: dense, sparse, or several.

    Returns:
      ``float64[n, n]``, ``float64[T, n, n]``, a ``csr_array`` or a list of them.

    Raises:
      ValueError: if a matrix is not square, or their sizes differ.
    """
    if is_sparse(matrix):
        return _check_sparse_square(who, name, matrix)
    matrix = np.array(matrix, dtype=np.float64)
    square = matrix.ndim in (2, 3) and matrix.shape[-1] == matrix.shape[-2] and matrix.size > 0
    if not square:
        allowed = "square, [n, n] or [T, n, n]"
        raise ValueError(f"{who}: {name} must be {allowed}, got shape {matrix.shape}.")
    return matrix


def _check_sparse_square(who, name, matrix):
    from scipy import sparse

    several = isinstance(matrix, list | tuple)
    given = matrix if several else [matrix]
    matrices = [sparse.csr_array(one, dtype=np.float64, copy=True) for one in given]
    shapes = {one.shape for one in matrices}
    if len(shapes) > 1 or any(shape[0] != shape[1] or not shape[0] for shape in shapes):
        raise ValueError(
            f"{who}: {name} must be square, [n, n], several of the same n, got shapes "
            f"{[one.shape for one in matrices]}."
        )
    for one in matrices:
        one.sum_duplicates()
        one.eliminate_zeros()
    return matrices if several else matrices[0]


def _networkx(who: str) -> Any:
    return load("networkx", "graphs", f"topology.{who}")


def _adjacency(graph: Any, sparse: bool) -> Matrix | SparseMatrix:
    networkx, nodes = _networkx("graphs"), sorted(graph)
    graph.remove_edges_from([(node, node) for node in nodes])  # the loop of a ring of one node
    if sparse:
        return networkx.to_scipy_sparse_array(graph, nodelist=nodes, dtype=np.float64)
    return networkx.to_numpy_array(graph, nodelist=nodes, dtype=np.float64)


def _rectangle(
    who: str, rows: int, cols: int, periodic: bool, sparse: bool
) -> Matrix | SparseMatrix:
    _validate.integer(who, "rows", rows, at_least=1)
    _validate.integer(who, "cols", cols, at_least=1)
    return _adjacency(_networkx(who).grid_2d_graph(rows, cols, periodic=periodic), sparse)
