"""Graphs and mixing matrices against closed forms and the facts of the literature."""

import functools
import warnings

import networkx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from gradax import federated

topology = federated.topology

GRAPHS = {
    "ring": topology.ring(5),
    "path": topology.path(4),
    "star": topology.star(6),
    "complete": topology.complete(4),
    "grid": topology.grid(2, 3),
    "torus": topology.torus(3, 4),
    "hypercube": topology.hypercube(8),
    "erdos_renyi": topology.erdos_renyi(12, 0.3, seed=1),
}
every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
weights_of = pytest.mark.parametrize(
    "weights",
    [topology.metropolis_weights, topology.laplacian_weights, topology.best_constant_weights],
    ids=lambda f: f.__name__,
)
metropolis_gap = lambda graph: topology.spectral_gap(topology.metropolis_weights(graph))


def edges(adjacency):
    return {(int(i), int(j)) for i, j in np.argwhere(np.triu(adjacency))}


@every_graph
def test_an_adjacency_is_symmetric_zero_one_and_connected(graph):
    assert graph.dtype == np.float64
    assert (graph == graph.T).all()
    assert set(np.unique(graph)) <= {0.0, 1.0}
    assert not graph.diagonal().any()
    assert topology.is_connected(graph)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (topology.ring(4), {(0, 1), (1, 2), (2, 3), (0, 3)}),
        (topology.ring(2), {(0, 1)}),
        (topology.path(3), {(0, 1), (1, 2)}),
        (topology.star(4), {(0, 1), (0, 2), (0, 3)}),
        (topology.complete(3), {(0, 1), (0, 2), (1, 2)}),
        (topology.grid(2, 3), {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)}),
        (topology.torus(2, 2), {(0, 1), (2, 3), (0, 2), (1, 3)}),
        (topology.hypercube(4), {(0, 1), (0, 2), (1, 3), (2, 3)}),
    ],
)
def test_nodes_are_numbered_as_documented(graph, expected):
    assert edges(graph) == expected


def test_a_torus_wraps_both_ways():
    graph = topology.torus(3, 4)
    assert edges(graph) == {
        tuple(sorted((a * 4 + b, c * 4 + d)))
        for a in range(3)
        for b in range(4)
        for c, d in (((a + 1) % 3, b), (a, (b + 1) % 4))
    }


@pytest.mark.parametrize(
    "alone",
    [topology.ring, topology.path, topology.star, topology.complete, topology.hypercube],
    ids=lambda f: f.__name__,
)
def test_one_node_has_no_edge(alone):
    assert alone(1).tolist() == [[0.0]]
    assert topology.metropolis_weights(alone(1)).tolist() == [[1.0]]
    assert topology.best_constant_weights(alone(1)).tolist() == [[1.0]]


def test_the_hypercube_flips_one_bit():
    graph = topology.hypercube(16)
    assert all((i ^ j).bit_count() == 1 for i, j in edges(graph))
    assert (graph.sum(axis=0) == 4).all()


def test_erdos_renyi_repeats_with_its_seed():
    draw = lambda seed: topology.erdos_renyi(15, 0.3, seed=seed)
    assert (draw(3) == draw(3)).all()
    assert (draw(3) != draw(4)).any()
    assert (topology.erdos_renyi(5, 1.0) == topology.complete(5)).all()


def test_erdos_renyi_has_the_density_asked_for():
    densities = [topology.erdos_renyi(40, 0.3, seed=s).mean() * 40 / 39 for s in range(10)]
    np.testing.assert_allclose(np.mean(densities), 0.3, atol=0.03)


@every_graph
@weights_of
def test_weights_are_symmetric_doubly_stochastic_and_contract(weights, graph):
    mixing = weights(graph)
    np.testing.assert_allclose(mixing, mixing.T, atol=1e-15)
    np.testing.assert_allclose(mixing.sum(axis=1), 1.0)
    assert topology.is_doubly_stochastic(mixing)
    assert 0.0 < topology.spectral_gap(mixing) <= 1.0 + 1e-12
    assert ((mixing != 0) <= (graph + np.eye(len(graph)) != 0)).all()


@every_graph
def test_metropolis_follows_its_formula(graph):
    mixing, degrees = topology.metropolis_weights(graph), graph.sum(axis=1)
    for i, j in edges(graph):
        assert mixing[i, j] == pytest.approx(1 / (1 + max(degrees[i], degrees[j])))
    assert (mixing.diagonal() > 0).all()


@every_graph
def test_the_laplacian_agrees_with_networkx(graph):
    expected = networkx.laplacian_matrix(networkx.from_numpy_array(graph)).toarray()
    np.testing.assert_allclose(topology.laplacian(graph), expected)


@pytest.mark.parametrize(
    ("graph", "gap"),
    [
        (topology.ring(4), 2 / 3),
        (topology.ring(8), 0.1952621),
        (topology.ring(16), 0.0507470),
        (topology.ring(32), 0.0128098),
        (topology.hypercube(8), 0.5),
        (topology.star(6), 1 / 6),
        (topology.torus(3, 3), 0.6),
        (topology.path(3), 1 / 3),
        (topology.complete(7), 1.0),
    ],
)
def test_known_gaps_of_metropolis_weights(graph, gap):
    assert metropolis_gap(graph) == pytest.approx(gap, abs=1e-7)


@pytest.mark.parametrize("n", [5, 8, 13])
def test_the_rings_second_eigenvalue_in_closed_form(n):
    eigenvalues = np.linalg.eigvalsh(topology.metropolis_weights(topology.ring(n)))
    assert eigenvalues[-2] == pytest.approx(1 / 3 + 2 / 3 * np.cos(2 * np.pi / n))


def test_metropolis_weights_of_a_path():
    third = 1 / 3
    expected = [[2 * third, third, 0], [third, third, third], [0, third, 2 * third]]
    np.testing.assert_allclose(topology.metropolis_weights(topology.path(3)), expected)


@every_graph
def test_best_constant_is_the_best_constant(graph):
    best = topology.spectral_gap(topology.best_constant_weights(graph))
    largest = np.linalg.eigvalsh(topology.laplacian(graph))[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # negative weights are among those tried
        others = [
            topology.spectral_gap(topology.laplacian_weights(graph, eps))
            for eps in np.linspace(0.02, 0.98, 25) * 2 / largest
        ]
    assert best >= max(others) - 1e-12


def test_lazy_keeps_half():
    mixing = topology.metropolis_weights(topology.ring(5))
    np.testing.assert_allclose(topology.lazy(mixing), (mixing + np.eye(5)) / 2)
    stack = topology.one_peer_exponential(4)
    np.testing.assert_allclose(topology.lazy(stack)[1], (stack[1] + np.eye(4)) / 2)


@pytest.mark.parametrize(
    ("n", "gap"),
    [(6, 0.5), (8, 0.5), (10, 0.4), (16, 0.4), (32, 1 / 3), (5, 0.75), (7, 0.6464), (9, 0.5582)],
)
def test_known_gaps_of_the_exponential_graph(n, gap):
    mixing = topology.exponential(n)
    assert topology.is_doubly_stochastic(mixing)
    assert topology.spectral_gap(mixing) == pytest.approx(gap, abs=5e-5)


@pytest.mark.parametrize(("n", "exact"), [(1, True), (2, True), (4, True), (8, True), (6, False)])
def test_one_peer_averages_exactly_for_powers_of_two(n, exact):
    stack = topology.one_peer_exponential(n)
    assert stack.shape == (max(1, int(np.ceil(np.log2(n)))), n, n)
    assert topology.is_doubly_stochastic(stack)
    assert topology.is_connected(stack)
    for start in range(len(stack)):
        product = functools.reduce(np.matmul, np.roll(stack, start, axis=0))
        assert np.allclose(product, 1 / n) == exact


def test_direction_counts_for_connection():
    chain = np.array([[0.5, 0.5], [0.0, 1.0]])
    assert not topology.is_connected(chain)
    assert topology.is_connected(topology.exponential(5))


def test_no_single_matrix_of_a_stack_need_be_connected():
    stack = topology.one_peer_exponential(4)
    assert not topology.is_connected(stack[1])
    assert topology.is_connected(stack)


SPARSE = {
    "ring": functools.partial(topology.ring, 70),
    "single": functools.partial(topology.ring, 1),
    "star": functools.partial(topology.star, 70),
    "torus": functools.partial(topology.torus, 8, 9),
    "hypercube": functools.partial(topology.hypercube, 8),
}


@pytest.mark.parametrize("draw", SPARSE.values(), ids=SPARSE)
def test_sparse_graphs_and_weights_are_the_dense_ones(draw):
    graph, dense = draw(sparse=True), draw()
    assert isinstance(graph, scipy.sparse.csr_array)
    pairs = [(graph, dense), (topology.laplacian(graph), topology.laplacian(dense))]
    for weights in (
        topology.metropolis_weights,
        topology.laplacian_weights,
        topology.best_constant_weights,
        lambda graph: topology.lazy(topology.metropolis_weights(graph)),
    ):
        pairs.append((weights(graph), weights(dense)))
        assert topology.is_doubly_stochastic(pairs[-1][0])
        gaps = [topology.spectral_gap(mixing) for mixing in pairs[-1]]
        assert gaps[0] == pytest.approx(gaps[1], abs=1e-9)
    for found, expected in pairs:
        assert isinstance(found, scipy.sparse.csr_array)
        np.testing.assert_allclose(found.toarray(), expected, atol=1e-9)


@pytest.mark.parametrize("n", [1, 5, 8])
def test_sparse_exponential_graphs_are_the_dense_ones(n):
    found = topology.exponential(n, sparse=True)
    np.testing.assert_allclose(found.toarray(), topology.exponential(n))
    stack = topology.one_peer_exponential(n, sparse=True)
    assert topology.is_doubly_stochastic(stack)
    assert topology.is_connected(stack)
    dense = np.stack([matrix.toarray() for matrix in stack])
    np.testing.assert_allclose(dense, topology.one_peer_exponential(n))
    lazy = topology.lazy(stack)
    np.testing.assert_allclose(lazy[-1].toarray(), topology.lazy(dense)[-1])


def test_a_sparse_erdos_renyi_graph_is_a_graph_of_the_density_asked_for():
    graph = topology.erdos_renyi(300, 0.05, seed=1, sparse=True)
    assert topology.is_connected(graph)
    assert graph.nnz == pytest.approx(0.05 * 300 * 299, rel=0.1)
    assert (graph != topology.erdos_renyi(300, 0.05, seed=1, sparse=True)).nnz == 0
    assert topology.laplacian(graph).sum() == 0


@pytest.mark.parametrize("convert", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
def test_the_range_of_eps_is_judged_by_eigenvalues(convert):
    graph = convert(topology.ring(80))  # its largest eigenvalue is 4
    with pytest.raises(ValueError, match=r"eps must lie in \(0, 0.5\), got 0.51"):
        topology.laplacian_weights(graph, 0.51)
    with pytest.raises(ValueError, match=r"eps must lie in \(0, 0.5\), got nan"):
        topology.laplacian_weights(graph, float("nan"))
    assert topology.is_doubly_stochastic(topology.laplacian_weights(graph, 0.499))


@settings(deadline=None, max_examples=25)
@given(n=st.integers(2, 9), p=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_a_graph_is_connected_if_and_only_if_its_gap_is_positive(n, p, seed):
    draws = np.triu(np.random.default_rng(seed).random((n, n)) < p, 1).astype(float)
    graph = draws + draws.T
    mixing = topology.metropolis_weights(graph, require_connected=False)
    assert (topology.spectral_gap(mixing) > 1e-9) == topology.is_connected(graph)


coo = scipy.sparse.coo_array
TWO_PAIRS = np.kron(np.eye(2), topology.complete(2))


@weights_of
def test_a_disconnected_graph_is_refused_unless_asked_for(weights):
    message = r"adjacency must be connected, got a graph of 4 nodes.*node 0.*with 2, 3"
    with pytest.raises(ValueError, match=message):
        weights(TWO_PAIRS)
    mixing = weights(TWO_PAIRS, require_connected=False)
    assert topology.spectral_gap(mixing) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: topology.ring(0), r"ring: n must be an integer >= 1, got 0"),
        (lambda: topology.path(2.0), r"path: n must be an integer >= 1, got 2.0"),
        (lambda: topology.grid(0, 3), r"grid: rows must be an integer >= 1, got 0"),
        (lambda: topology.torus(3, -1), r"torus: cols must be an integer >= 1, got -1"),
        (lambda: topology.hypercube(6), r"hypercube: n must be a power of two, got 6"),
        (lambda: topology.exponential(0), r"exponential: n must be an integer >= 1"),
        (lambda: topology.one_peer_exponential(True), r"n must be an integer >= 1, got True"),
        (lambda: topology.erdos_renyi(5, 0.0), r"erdos_renyi: p must lie in \(0, 1\], got 0.0"),
        (lambda: topology.erdos_renyi(5, 1.5), r"erdos_renyi: p must lie in \(0, 1\], got 1.5"),
        (lambda: topology.erdos_renyi(50, 0.001), r"p is too small to obtain a connected graph"),
        (lambda: topology.erdos_renyi(5, 0.5, max_tries=0), r"max_tries must be an integer >= 1"),
        (lambda: topology.laplacian([[0, 1], [0, 0]]), r"symmetric, got an edge 0, 1 one way"),
        (lambda: topology.laplacian([[1, 1], [1, 0]]), r"zero diagonal, got a loop at node 0"),
        (lambda: topology.laplacian([[0, 2], [2, 0]]), r"zeros and ones only"),
        (lambda: topology.laplacian(np.zeros((2, 3))), r"square, .* got shape \(2, 3\)"),
        (lambda: topology.laplacian(np.zeros((1, 2, 2))), r"one matrix, got shape \(1, 2, 2\)"),
        (lambda: topology.laplacian(np.zeros((0, 0))), r"square, .* got shape \(0, 0\)"),
        (lambda: topology.laplacian_weights(topology.ring(4), 0.5), r"eps must lie in \(0, 0.5\)"),
        (lambda: topology.laplacian_weights(topology.ring(4), 0.0), r"eps must lie in \(0, 0.5\)"),
        (lambda: topology.spectral_gap(topology.one_peer_exponential(4)), r"must be one matrix"),
        (lambda: topology.check_mixing(np.ones((2, 3)) / 3), r"square, .* got shape \(2, 3\)"),
        (lambda: topology.laplacian(coo([[0, 1], [0, 0]])), r"got an edge 0, 1 one way"),
        (lambda: topology.laplacian(coo([[1, 1], [1, 0]])), r"zero diagonal, got a loop at node 0"),
        (lambda: topology.laplacian(coo([[0, 2], [2, 0]])), r"zeros and ones only"),
        (lambda: topology.laplacian([coo(np.eye(2))] * 3), r"one matrix, got shape \(3, 2, 2\)"),
        (lambda: topology.metropolis_weights(coo(TWO_PAIRS)), r"adjacency must be connected"),
        (
            lambda: topology.spectral_gap(topology.one_peer_exponential(4, sparse=True)),
            r"must be one matrix, got shape \(2, 4, 4\)",
        ),
        (lambda: topology.check_mixing([1.0]), r"square, .* got shape \(1,\)"),
        (lambda: topology.check_mixing(np.eye(2)), r"mixing must be connected"),
        (lambda: topology.check_mixing([[np.nan, 0.5], [0.5, 0.5]]), r"sum to 1, got nan in row 0"),
        (
            lambda: topology.check_mixing([np.eye(2), [[0.5, 0.5], [0.5, 0.6]]]),
            r"rows of mixing must sum to 1, got 1.1 in row 1 of matrix 1",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_negative_weights_are_warned_of():
    with pytest.warns(UserWarning, match="some weights are negative"):
        topology.laplacian_weights(topology.complete(4), 0.4)


def test_checking_returns_a_copy():
    mixing = topology.exponential(3)
    topology.check_mixing(mixing)[0, 0] = 7.0
    assert mixing[0, 0] != 7.0
