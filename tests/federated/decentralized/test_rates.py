"""Random averaging along edges: resistances, the two constants, equal and optimal rates."""

import numpy as np
import pytest

from gradax.federated import topology


def lollipop(clique, tail):
    """A complete graph with a path hanging from its last node."""
    inner = [(i, j) for i in range(clique) for j in range(i)]
    return np.array(inner + [(k, k + 1) for k in range(clique - 1, clique + tail - 1)])


def barbell():
    """Two complete graphs of four, with a bridge."""
    left = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    return np.array([*left, (3, 4), *((i + 4, j + 4) for i, j in left)])


GRAPHS = {
    "path": (topology.edges(topology.path(5)), 5, 6.47214, 6.47214),
    "ring": (topology.edges(topology.ring(6)), 6, 5.47723, 5.47723),
    "star": (topology.edges(topology.star(6)), 6, 5.0, 5.0),
    "complete": (topology.edges(topology.complete(5)), 5, 2.82843, 2.82843),
    "hypercube": (topology.edges(topology.hypercube(8)), 8, 6.48074, 6.48074),
    "grid": (topology.edges(topology.grid(3, 3)), 9, 10.0995, 9.8337),
    "barbell": (barbell(), 8, 21.8418, 13.2054),
    "lollipop": (lollipop(5, 3), 8, 24.6823, 14.0373),
}
on_every_graph = pytest.mark.parametrize("name", GRAPHS)


def some_rates(count):
    return np.random.default_rng(0).uniform(0.4, 2.0, count)


@on_every_graph
def test_resistances_obey_foster_and_bound_chi2(name):
    pairs, n, *_ = GRAPHS[name]
    rates = some_rates(len(pairs))
    resistance = topology.effective_resistance(pairs, rates, n)
    np.testing.assert_allclose(rates @ resistance, n - 1, rtol=1e-12)
    chi1, chi2 = topology.graph_chi(pairs, rates, n)
    assert chi2 <= chi1
    np.testing.assert_allclose(chi2, resistance.max() / 2, rtol=1e-12)
    np.testing.assert_allclose(
        topology.graph_chi(pairs, 3 * rates, n), (chi1 / 3, chi2 / 3), rtol=1e-10
    )


@on_every_graph
def test_rates_meet_the_condition_at_the_recorded_totals(name):
    pairs, n, uniform, optimal = GRAPHS[name]
    equal, best = topology.uniform_edge_rates(pairs, n), topology.optimal_edge_rates(pairs, n)
    for rates, total in ((equal, uniform), (best, optimal)):
        np.testing.assert_allclose(np.prod(topology.graph_chi(pairs, rates, n)), 0.5, rtol=1e-9)
        np.testing.assert_allclose(rates.sum(), total, rtol=1e-3)
    if name in ("ring", "star", "complete", "hypercube"):
        np.testing.assert_allclose(best, equal, rtol=1e-3)
    np.testing.assert_allclose(equal, equal[0], rtol=1e-12)


def test_a_bridge_deserves_more_than_the_edges_within():
    rates = topology.optimal_edge_rates(barbell(), 8)
    touching = [2, 4, 5, 7, 8, 9]  # edges with an end of the bridge
    np.testing.assert_allclose(rates[6], 2.6955, rtol=5e-3)
    np.testing.assert_allclose(rates[touching], 0.9768, rtol=5e-3)
    np.testing.assert_allclose(np.delete(rates, [*touching, 6]), 0.7749, rtol=5e-3)


@pytest.mark.parametrize("n", [4, 10])
def test_closed_forms_of_equal_rates(n):
    rate = lambda graph: topology.uniform_edge_rates(topology.edges(graph), n)
    np.testing.assert_allclose(rate(topology.complete(n)), np.sqrt(2) / n, rtol=1e-10)
    np.testing.assert_allclose(rate(topology.star(n)), 1.0, rtol=1e-10)
    ring = np.sqrt((n - 1) / (2 * n * (1 - np.cos(2 * np.pi / n))))
    np.testing.assert_allclose(rate(topology.ring(n)), ring, rtol=1e-10)


def test_resistances_of_a_path_are_those_of_its_edges():
    rates = np.array([0.5, 2.0, 4.0])
    found = topology.effective_resistance(topology.edges(topology.path(4)), rates, 4)
    np.testing.assert_allclose(found, 1 / rates)


def test_one_node_has_nothing_to_mix():
    assert topology.edges(topology.ring(1)).shape == (0, 2)
    assert topology.graph_chi([], [], 1) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("pairs", "rates", "n", "message"),
    [
        ([[0, 1]], 1.0, 3, "edges must connect all nodes; node 0 cannot reach 2"),
        ([[0, 1], [1, 3]], 1.0, 3, r"edges must lie in \[0, 3\), got 0 to 3"),
        ([[0, 1], [-1, 1]], 1.0, 3, "got -1 to 1"),
        ([[0, 1], [1, 1]], 1.0, 2, "an edge needs two nodes, got 1 twice"),
        ([[0, 1], [1, 0]], 1.0, 2, "an edge occurs twice"),
        ([[0, 1]], [1.0, 1.0], 2, r"rates must have shape \(1,\), got \(2,\)"),
        ([[0, 1]], 0.0, 2, "rates must be positive and finite"),
        ([[0, 1]], np.inf, 2, "rates must be positive and finite"),
        ([[0.0, 1.0]], 1.0, 2, r"edges must be integers \[edges, 2\], got float64"),
        ([0, 1], 1.0, 2, r"edges must be integers \[edges, 2\]"),
        ([[0, 1]], 1.0, 0, "n must be an integer >= 1, got 0"),
    ],
)
def test_refuses(pairs, rates, n, message):
    with pytest.raises(ValueError, match=f"graph_chi: .*{message}"):
        topology.graph_chi(pairs, rates, n)


@pytest.mark.parametrize("function", [topology.uniform_edge_rates, topology.optimal_edge_rates])
def test_rates_need_two_nodes(function):
    with pytest.raises(ValueError, match="n must be an integer >= 2, got 1"):
        function([], 1)


def test_edges_of_what_is_no_graph():
    with pytest.raises(ValueError, match="edges: adjacency must be one symmetric matrix"):
        topology.edges([[0, 1], [0, 0]])
