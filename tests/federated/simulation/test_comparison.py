"""Several runs in one figure and one table."""

import matplotlib as mpl
import numpy as np
import pytest

from gradax import federated
from gradax.federated import History


def history(*accuracies, start=0):
    """Accuracy measured in every second round, ten megabytes up a round."""
    rows = [
        {"round": r, "bytes_up": 10_000_000, "seconds": 0.5}
        for r in range(1, 1 + 2 * len(accuracies))
    ]
    for number, accuracy in enumerate(accuracies):
        rows[2 * number + 1 - start]["accuracy"] = accuracy
    return History(rows)


RUNS = {
    "slow": [history(0.2, 0.5, 0.6), history(0.4, 0.5, 0.8)],
    "fast": [history(0.5, 0.8, 0.9), history(0.7, 0.8, 0.7)],
    "alone": history(0.1, 0.1, 0.1),
}


def test_a_mean_curve_has_mean_spread_and_range():
    curve = federated.mean_curve(RUNS["fast"])
    np.testing.assert_array_equal(curve.x, [2, 4, 6])
    np.testing.assert_allclose(curve.mean, [0.6, 0.8, 0.8])
    np.testing.assert_allclose(curve.std, [0.02**0.5, 0, 0.02**0.5], atol=1e-15)
    np.testing.assert_allclose(curve.low, [0.5, 0.8, 0.7])
    np.testing.assert_allclose(curve.high, [0.7, 0.8, 0.9])
    bytes_up = federated.mean_curve(RUNS["fast"], against="bytes_up").x
    np.testing.assert_allclose(bytes_up, [20e6, 40e6, 60e6])


def test_one_run_has_no_spread():
    assert federated.mean_curve([RUNS["alone"]]).std.tolist() == [0, 0, 0]


def test_the_table_is_sorted_and_tells_when_a_target_was_reached():
    table = federated.compare_runs(RUNS, target=0.75)
    assert [row["method"] for row in table] == ["fast", "slow", "alone"]
    fast, slow, alone = table
    assert fast["rounds_to_target"] == 4
    assert slow["rounds_to_target"] is alone["rounds_to_target"] is None
    assert fast["runs"] == 2
    assert fast["accuracy"] == pytest.approx(0.8)
    assert fast["accuracy_std"] == pytest.approx(0.02**0.5)
    assert fast["megabytes_up"] == pytest.approx(60.0)
    assert "megabytes_down" not in fast
    assert fast["seconds"] == pytest.approx(3.0)


def test_the_final_value_may_be_a_mean_and_small_may_be_good():
    table = federated.compare_runs(RUNS, target=0.5, last=3, lower_is_better=True)
    assert [row["method"] for row in table] == ["alone", "slow", "fast"]
    assert table[1]["accuracy"] == pytest.approx(0.5)
    assert [row["rounds_to_target"] for row in table] == [2, 2, None]


def test_a_figure_has_a_line_and_a_band_for_each_method():
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    assert federated.plot_runs(RUNS, against="bytes_up", ax=ax) is ax
    first, *_ = lines = ax.get_lines()
    assert [line.get_label() for line in lines] == list(RUNS)
    np.testing.assert_allclose(first.get_xdata(), [20, 40, 60])
    assert ax.get_xlabel() == "megabytes up"
    edges = ax.collections[1].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([edges.min(), edges.max()], [0.6 - 0.02**0.5, 0.8 + 0.02**0.5])
    pyplot.close(figure)
    ax = federated.plot_runs(RUNS, band="range")
    edges = ax.collections[1].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([edges.min(), edges.max()], [0.5, 0.9])
    pyplot.close(ax.figure)
    ax = federated.plot_runs(RUNS, band=None)
    assert not ax.collections
    pyplot.close(ax.figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: federated.mean_curve([]), "at least one run"),
        (lambda: federated.mean_curve(RUNS["fast"], "acuracy"), "no column 'acuracy'"),
        (lambda: federated.mean_curve([history(0.1), history(0.1, start=1)]), "the same rounds"),
        (lambda: federated.plot_runs(RUNS, band="wide"), "band must be one of"),
        (lambda: federated.compare_runs(RUNS, last=0), "last must be an integer >= 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
