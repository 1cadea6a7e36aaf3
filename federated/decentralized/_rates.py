"""How fast random averaging along the edges of a graph mixes, and the best rates for it."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from gradax import _validate

from ._graphs import Matrix, check_square, unreachable

Edges = npt.NDArray[np.int64]


def edges(adjacency: npt.ArrayLike) -> Edges:
    """Lists the edges of a graph, each once.

    Args:
      adjacency: symmetric 0/1 matrix ``[n, n]``.

    Returns:
      ``int64[edges, 2]``, in order, the smaller node first.

    Raises:
      ValueError: if the matrix is not square or not symmetric.

    Examples:
      >>> from gradax.federated import topology
      >>> topology.edges(topology.path(3)).tolist()
      [[0, 1], [1, 2]]
    """
    matrix = check_square("edges", "adjacency", adjacency)
    if matrix.ndim != 2 or (matrix != matrix.T).any():
        raise ValueError("edges: adjacency must be one symmetric matrix.")
    return np.argwhere(np.triu(matrix, k=1) != 0)


def effective_resistance(edges: npt.ArrayLike, rates: npt.ArrayLike, n: int) -> Matrix:
    r"""Computes the resistance of the network between the ends of every edge.

    With conductances :math:`\lambda_e` and :math:`\Lambda = \sum_e \lambda_e b_e b_e^T`,
    :math:`b_e = e_i - e_j`, that is :math:`R_e = b_e^T \Lambda^+ b_e`. By Foster's theorem
    :math:`\sum_e \lambda_e R_e = n - 1`.

    Args:
      edges: ``[edges, 2]``, pairs of nodes.
      rates: ``[edges]``, or one for all; positive.
      n: number of nodes.

    Returns:
      ``float64[edges]``.

    Raises:
      ValueError: if an argument is out of range or the graph is not connected.

    Examples:
      Two edges in a row, or two ways round a ring of three:

      >>> from gradax.federated import topology
      >>> topology.effective_resistance([[0, 1], [1, 2], [0, 2]], 1.0, n=3).round(3)
      array([0.667, 0.667, 0.667])
    """
    pairs, rates = check_edges("effective_resistance", edges, rates, n)
    return _resistances(_inverse(_weighted_laplacian(pairs, rates, n)), pairs)


def graph_chi(edges: npt.ArrayLike, rates: npt.ArrayLike, n: int) -> tuple[float, float]:
    r"""Computes the two constants by which random exchanges along edges mix.

    With the weighted Laplacian :math:`\Lambda` of :func:`effective_resistance`,
    :math:`\chi_1 = 1 / \lambda_2(\Lambda)` and :math:`\chi_2 = \max_e R_e / 2`; always
    :math:`\chi_2 \le \chi_1`. Rates that are ``c`` times as large divide both by ``c``.

    Args:
      edges: ``[edges, 2]``, pairs of nodes.
      rates: ``[edges]``, exchanges per unit of time, or one for all; positive.
      n: number of nodes.

    Returns:
      ``(chi1, chi2)``; of a single node ``(0.0, 0.0)``.

    Raises:
      ValueError: if an argument is out of range or the graph is not connected.

    Examples:
      >>> from gradax.federated import topology
      >>> chi1, chi2 = topology.graph_chi([[0, 1], [0, 2], [0, 3]], 1.0, n=4)  # a star
      >>> round(chi1, 6), round(chi2, 6)
      (1.0, 0.5)
    """
    pairs, rates = check_edges("graph_chi", edges, rates, n)
    if n == 1:
        return 0.0, 0.0
    laplacian = _weighted_laplacian(pairs, rates, n)
    second = np.linalg.eigvalsh(laplacian)[1]
    resistance = _resistances(_inverse(laplacian), pairs).max()
    return float(1.0 / second), float(resistance / 2.0)


def uniform_edge_rates(edges: npt.ArrayLike, n: int) -> Matrix:
    r"""Computes the least equal rates for which :math:`\chi_1 \chi_2 = 1/2`, as DADAO asks.

    Args:
      edges: ``[edges, 2]``, pairs of nodes.
      n: number of nodes, at least 2.

    Returns:
      ``float64[edges]``.

    Raises:
      ValueError: if an argument is out of range or the graph is not connected.

    Examples:
      >>> from gradax.federated import topology
      >>> topology.uniform_edge_rates([[0, 1], [0, 2], [0, 3]], n=4).round(6)
      array([1., 1., 1.])
    """
    pairs, rates = check_edges("uniform_edge_rates", edges, 1.0, n)
    _validate.integer("uniform_edge_rates", "n", n, at_least=2)
    return _scaled(pairs, rates, n)


def optimal_edge_rates(edges: npt.ArrayLike, n: int) -> Matrix:
    r"""Computes rates with the least sum for which :math:`\chi_1 \chi_2 = 1/2`.

    Equal rates are optimal where all edges are alike, as in a ring or a hypercube; a bridge
    between two clusters deserves more than their inner edges. The two maxima are replaced by
    p-norms, with p growing to 1024, and the logarithms of the rates found by L-BFGS; the sum
    comes within a thousandth of the optimum. A step costs ``O(edges^2 + n^3)``.

    Args:
      edges: ``[edges, 2]``, pairs of nodes.
      n: number of nodes, at least 2.

    Returns:
      ``float64[edges]``.

    Raises:
      ValueError: if an argument is out of range or the graph is not connected.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import topology
      >>> pairs = topology.edges(topology.grid(3, 3))
      >>> equal, best = topology.uniform_edge_rates(pairs, 9), topology.optimal_edge_rates(pairs, 9)
      >>> round(float(equal.sum()), 2), round(float(best.sum()), 2)
      (10.1, 9.83)

    References:
      Nabli and Oyallon, `DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization
      <https://arxiv.org/abs/2208.00779>`_, 2023.
    """
    from scipy import optimize  # slow to import, and needed only here

    pairs, _ = check_edges("optimal_edge_rates", edges, 1.0, n)
    _validate.integer("optimal_edge_rates", "n", n, at_least=2)
    logs = np.zeros(len(pairs))
    for p in (4, 16, 64, 256, 1024):
        found = optimize.minimize(_smooth_total, logs, (pairs, n, p), "L-BFGS-B", jac=True)
        logs = found.x - found.x.mean()  # a common factor changes nothing
    return _scaled(pairs, np.exp(logs), n)


def _smooth_total(logs, pairs, n, p):
    """The logarithm of the sum of rates after scaling, with p-norms for maxima; and its slope."""
    rates = np.exp(logs - logs.max())
    inverse = _inverse(_weighted_laplacian(pairs, rates, n))
    values, vectors = np.linalg.eigh(inverse)
    resistances = _resistances(inverse, pairs)
    log_chi1, weight_values = _log_norm(np.maximum(values, 0.0), p)
    log_chi2, weight_edges = _log_norm(resistances, p)
    # d inverse / d rate_e = -inverse b_e b_e^T inverse
    ends = vectors[pairs[:, 0]] - vectors[pairs[:, 1]]
    through_values = ends**2 @ (values**2 * weight_values)
    moved = inverse[:, pairs[:, 0]] - inverse[:, pairs[:, 1]]
    between = (moved[pairs[:, 0]] - moved[pairs[:, 1]]) ** 2
    slope = 1 / rates.sum() - 0.5 * (through_values + weight_edges @ between)
    return np.log(rates.sum()) + 0.5 * (log_chi1 + log_chi2), rates * slope


def _log_norm(values, p):
    """The logarithm of the p-norm, and its derivative."""
    scale = values.max()
    powers = (values / scale) ** (p - 1)
    total = (powers * values / scale).sum()
    return np.log(scale) + np.log(total) / p, powers / (scale * total)


def _scaled(pairs, rates, n):
    chi1, chi2 = graph_chi(pairs, rates, n)
    return rates * np.sqrt(2.0 * chi1 * chi2)


def _weighted_laplacian(pairs, rates, n):
    laplacian = np.zeros((n, n))
    np.subtract.at(laplacian, (pairs[:, 0], pairs[:, 1]), rates)
    laplacian += laplacian.T
    return laplacian - np.diag(laplacian.sum(axis=1))


def _inverse(laplacian):
    """The pseudo-inverse; the vector of ones is in the kernel."""
    mean = np.full_like(laplacian, 1.0 / len(laplacian))
    return np.linalg.inv(laplacian + mean) - mean


def _resistances(inverse, pairs):
    i, j = pairs.T
    return inverse[i, i] + inverse[j, j] - 2 * inverse[i, j]


def check_edges(
    who: str, edges: npt.ArrayLike | Iterable[tuple[int, int]], rates: npt.ArrayLike, n: int
) -> tuple[Edges, Matrix]:
    """Returns pairs and their rates as arrays, or says what is wrong with them.

    Args:
      who: name of the caller, for messages.
      edges: pairs of nodes.
      rates: one for each pair, or one for all.
      n: number of nodes.

    Returns:
      ``int64[edges, 2]`` and ``float64[edges]``.

    Raises:
      ValueError: if a node is out of range or meets itself, an edge occurs twice, a rate is
        not positive, or the graph is not connected.
    """
    _validate.integer(who, "n", n, at_least=1)
    pairs = np.asarray(edges)
    if not pairs.size:
        pairs = np.zeros((0, 2), np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(
            f"{who}: edges must be integers [edges, 2], got {pairs.dtype}{pairs.shape}."
        )
    pairs = pairs.astype(np.int64)
    if pairs.size and not (pairs.min() >= 0 and pairs.max() < n):
        raise ValueError(f"{who}: edges must lie in [0, {n}), got {pairs.min()} to {pairs.max()}.")
    if (pairs[:, 0] == pairs[:, 1]).any():
        node = pairs[pairs[:, 0] == pairs[:, 1]][0, 0]
        raise ValueError(f"{who}: an edge needs two nodes, got {node} twice.")
    if len(np.unique(np.sort(pairs, axis=1), axis=0)) != len(pairs):
        raise ValueError(f"{who}: an edge occurs twice.")
    rates = np.asarray(rates, np.float64)
    if rates.shape not in ((), (len(pairs),)):
        raise ValueError(f"{who}: rates must have shape ({len(pairs)},), got {rates.shape}.")
    if not (np.isfinite(rates) & (rates > 0)).all():
        raise ValueError(f"{who}: rates must be positive and finite, got {rates}.")
    adjacency = np.zeros((n, n))
    adjacency[pairs[:, 0], pairs[:, 1]] = adjacency[pairs[:, 1], pairs[:, 0]] = 1.0
    if missing := unreachable(adjacency):
        raise ValueError(f"{who}: edges must connect all nodes; node 0 cannot reach {missing[0]}.")
    return pairs, np.broadcast_to(rates, (len(pairs),)).copy()
