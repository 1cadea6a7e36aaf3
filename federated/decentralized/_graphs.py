"""Graphs: symmetric 0/1 adjacency matrices without a diagonal, from networkx where it has them."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gradax import _validate
from gradax._optional import load

Matrix: TypeAlias = npt.NDArray[np.float64]


def ring(n: int) -> Matrix:
    r"""Connects node :math:`i` with :math:`i \pm 1` modulo ``n``.

    Args:
      n: number of nodes, at least 1.

    Returns:
      The adjacency ``float64[n, n]``; one edge for ``n = 2``, none for ``n = 1``.

    Raises:
      ValueError: if ``n`` is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("ring", "n", n, at_least=1)
    return _adjacency(_networkx("ring").cycle_graph(n))


def path(n: int) -> Matrix:
    """Connects node :math:`i` with :math:`i + 1`, without closing the ring.

    Args:
      n: number of nodes, at least 1.

    Returns:
      The adjacency ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("path", "n", n, at_least=1)
    return _adjacency(_networkx("path").path_graph(n))


def star(n: int) -> Matrix:
    """Connects node 0 with every other node.

    Args:
      n: number of nodes, the hub included, at least 1.

    Returns:
      The adjacency ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("star", "n", n, at_least=1)
    return _adjacency(_networkx("star").star_graph(n - 1))


def complete(n: int) -> Matrix:
    """Connects every node with every other one.

    Args:
      n: number of nodes, at least 1.

    Returns:
      The adjacency ``float64[n, n]``.

    Raises:
      ValueError: if ``n`` is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    _validate.integer("complete", "n", n, at_least=1)
    return _adjacency(_networkx("complete").complete_graph(n))


def grid(rows: int, cols: int) -> Matrix:
    """Connects horizontal and vertical neighbours of a rectangle.

    Args:
      rows: number of rows, at least 1.
      cols: number of columns, at least 1.

    Returns:
      The adjacency ``float64[rows * cols, rows * cols]``; the node in row ``a`` and column
      ``b`` is number ``a * cols + b``.

    Raises:
      ValueError: if an argument is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    return _rectangle("grid", rows, cols, periodic=False)


def torus(rows: int, cols: int) -> Matrix:
    """Connects neighbours of a rectangle whose opposite sides are glued together.

    Args:
      rows: number of rows, at least 1.
      cols: number of columns, at least 1.

    Returns:
      The adjacency ``float64[rows * cols, rows * cols]``, numbered row by row as in
      :func:`grid`. With two rows or columns both ways round are the same edge.

    Raises:
      ValueError: if an argument is no positive integer.
      ImportError: if networkx (the extra ``graphs``) is not installed.
    """
    return _rectangle("torus", rows, cols, periodic=True)


def hypercube(n: int) -> Matrix:
    """Connects nodes whose numbers differ in one binary digit.

    Args:
      n: number of nodes, a power of two.

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
        return np.zeros((1, 1))
    return _adjacency(_networkx("hypercube").hypercube_graph(n.bit_length() - 1))


def erdos_renyi(n: int, p: float, seed: int = 0, max_tries: int = 100) -> Matrix:
    """Draws every edge independently, until the graph is connected.

    Graphs become connected around ``p = log(n) / n``.

    Args:
      n: number of nodes, at least 1.
      p: probability of an edge, in ``(0, 1]``.
      seed: of the draws; the same seed gives the same graph.
      max_tries: number of graphs to draw before giving up.

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
    for _ in range(max_tries):
        adjacency = _adjacency(networkx.gnp_random_graph(n, p, seed=generator))
        if is_connected(adjacency):
            return adjacency
    raise ValueError(
        f"erdos_renyi: p is too small to obtain a connected graph, got p = {p} with n = {n} "
        f"in {max_tries} tries; connectivity starts near log(n) / n = {np.log(n) / n:.3g}."
    )


def is_connected(matrix: npt.ArrayLike) -> bool:
    """Tells whether every node can reach every other one.

    Args:
      matrix: adjacency or mixing matrix ``[n, n]``, or several ``[T, n, n]`` used in turn,
        whose edges are then taken together. Directed edges count in their direction.

    Returns:
      Whether the graph of the non-zero entries is (strongly) connected.

    Raises:
      ValueError: if the matrix is not square.
    """
    return not unreachable(check_square("is_connected", "matrix", matrix))


def unreachable(matrix: Matrix) -> list[int]:
    """Nodes that are not in the strongly connected component of node 0."""
    from scipy.sparse import csgraph

    edges = (matrix != 0.0).any(axis=0) if matrix.ndim == 3 else matrix != 0.0
    _, labels = csgraph.connected_components(edges, directed=True, connection="strong")
    return np.flatnonzero(labels != labels[0]).tolist()


def _networkx(who: str) -> Any:
    return load("networkx", "graphs", f"topology.{who}")


def _adjacency(graph: Any) -> Matrix:
    adjacency = _networkx("graphs").to_numpy_array(graph, nodelist=sorted(graph), dtype=np.float64)
    np.fill_diagonal(adjacency, 0.0)  # networkx closes a ring of one node into a loop
    return adjacency


def _rectangle(who: str, rows: int, cols: int, periodic: bool) -> Matrix:
    _validate.integer(who, "rows", rows, at_least=1)
    _validate.integer(who, "cols", cols, at_least=1)
    return _adjacency(_networkx(who).grid_2d_graph(rows, cols, periodic=periodic))


def check_square(who: str, name: str, matrix: npt.ArrayLike) -> Matrix:
    """A copy in float64, of one square matrix or of a stack of them, or an error."""
    matrix = np.array(matrix, dtype=np.float64)
    square = matrix.ndim in (2, 3) and matrix.shape[-1] == matrix.shape[-2] and matrix.size > 0
    if not square:
        allowed = "square, [n, n] or [T, n, n]"
        raise ValueError(f"{who}: {name} must be {allowed}, got shape {matrix.shape}.")
    return matrix
