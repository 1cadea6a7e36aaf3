"""What `benchmarks/scaling.py` says: fits, the points behind every curve, and rows of peers."""

import dataclasses

import pytest

from tests.gradax.benches import imported

MODULES = ("_measure", "_scaling_plan", "_scaling_draw", "_scaling_curves", "_how_fast")


@pytest.fixture(scope="module")
def benches():
    with imported(*MODULES) as modules:
        yield modules


def test_an_exponent_is_fitted_from_the_given_place_on(benches):
    x = [1, 10, 100, 1_000, 10_000]
    line = benches._scaling_draw.Line("gradax", x, [500, 500, *(2 * v**1.5 for v in x[2:])], 100)
    fit = line.fit
    assert fit.exponent == pytest.approx(1.5)
    assert fit.factor == pytest.approx(2)
    assert str(fit) == "1.50 (100 to 10,000)"


def test_a_fit_through_two_points_is_refused(benches):
    line = benches._scaling_draw.Line("gradax", [1, 10, 100], [1, 2, 3], low=10)
    with pytest.raises(ValueError, match="gradax: a fit needs three points, got 2"):
        _ = line.fit


def test_the_plan_has_points_for_every_curve_and_every_fit(benches):
    run = dict.fromkeys(benches._scaling_curves.FIELDS, 2.0)
    points = [{**one._asdict(), "runs": [run]} for one in benches._scaling_plan.planned()]
    for picture in benches._scaling_curves.PICTURES:
        for panel in benches._scaling_curves.panels(points, picture):
            for line in panel.lines:
                assert line.x, (picture, line.label)
                assert line.fit is None or line.fit.exponent == pytest.approx(0, abs=1e-9)


def test_parameters_are_those_of_the_network(benches):
    point = benches._scaling_plan.Point(width=16, depth=3)
    layers = [(32, 16), *[(16, 16)] * 3, (16, 10)]
    assert point.parameters == sum(i * o + o for i, o in layers)
    assert dataclasses.replace(point, scanned=True).parameters == point.parameters


def test_a_row_of_a_peer_sums_up_the_goals_of_its_name(benches):
    peer = benches._how_fast.Peer("muon", "Muon", "theirs", "over theirs")
    goals = [
        {"what": "a over theirs", "median": 0.5, "met": True},
        {"what": "b over theirs", "median": 0.25, "met": True},
        {"what": "c over theirs", "median": 1.5, "met": False},
        {"what": "copies", "median": 9.0, "met": False},
    ]
    row = benches._how_fast._peer_row(peer, {"goals": goals})
    assert row == ["Muon", "theirs", "0.5 (0.25-1.5)", "2 of 3"]
    with pytest.raises(ValueError, match="muon: no goal is named like 'over theirs'"):
        benches._how_fast._peer_row(peer, {"goals": goals[3:]})
