"""What a run reports, and how it is kept and drawn."""

import csv
import json
import sys
import types
from typing import ClassVar

import matplotlib as mpl
import numpy as np
import pytest

from gradax import federated
from tests.federated.simulation.problems import NUM_CLIENTS, simulate

ROWS = [
    {"round": 1, "bytes_up": 10, "bytes_down": 20, "seconds": 0.5, "loss": 4.0},
    {"round": 2, "bytes_up": 30, "bytes_down": 20, "seconds": 0.5, "accuracy": 0.5},
    {
        "round": 3,
        "bytes_up": 2**40,
        "bytes_down": 20,
        "seconds": 0.5,
        "loss": 1.0,
        "accuracy": 0.75,
    },
]
HISTORY = federated.History(ROWS)


def test_columns_leave_out_rounds_that_were_not_measured():
    assert HISTORY.columns == ["round", "bytes_up", "bytes_down", "seconds", "loss", "accuracy"]
    assert HISTORY.column("accuracy") == [0.5, 0.75]
    assert HISTORY.last("loss") == 1.0
    assert HISTORY.total("bytes_up") == 2**40 + 40
    assert len(HISTORY) == 3


def test_shows_itself():
    assert repr(federated.History()) == "History(empty)"
    assert repr(HISTORY).startswith("History(3 rounds; last: round=3, bytes_up=")
    assert "loss=1, accuracy=0.75" in repr(HISTORY)


def test_copies_the_rows():
    rows = [{"round": 1}]
    history = federated.History(rows)
    history.rows[0]["round"] = 5
    assert rows == [{"round": 1}]


def test_json_lines_come_back_exactly(tmp_path):
    rows = [*ROWS, {"round": 4, "loss": float("nan"), "means": [1.0, 0.1], "seconds": 1 / 3}]
    path = tmp_path / "history.jsonl"
    federated.History(rows).to_json(path)
    back = federated.History.from_json(path)
    assert back.rows[:3] == ROWS
    assert repr(back.rows[3]) == repr(rows[3])  # NaN is not equal to itself
    assert json.loads(path.read_text().splitlines()[0]) == ROWS[0]


def test_a_table_has_a_line_for_each_round(tmp_path):
    path = tmp_path / "history.csv"
    HISTORY.to_csv(path)
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == HISTORY.columns
    assert [float(line["seconds"]) for line in lines] == [0.5] * 3
    assert int(lines[2]["bytes_up"]) == 2**40
    assert lines[0]["accuracy"] == ""


def test_a_data_frame_is_indexed_by_round():
    frame = HISTORY.to_pandas()
    assert frame.index.tolist() == [1, 2, 3]
    assert frame["loss"].dropna().tolist() == [4.0, 1.0]


@pytest.mark.parametrize(
    ("against", "x"),
    [("round", [2, 3]), ("bytes_up", [40, 40 + 2**40]), ("seconds", [1.0, 1.5])],
)
def test_a_curve_has_the_points_that_were_measured(against, x):
    found_x, found_y = HISTORY.curve("accuracy", against)
    np.testing.assert_array_equal(found_x, x)
    np.testing.assert_array_equal(found_y, [0.5, 0.75])


def test_draws_on_given_axes_and_on_its_own():
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    assert HISTORY.plot("accuracy", "bytes_up", ax=axes, label="one") is axes
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_xdata(), [40e-6, (2**40 + 40) / 1e6])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("megabytes up", "accuracy")
    pyplot.close(figure)
    axes = HISTORY.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("round", "loss")
    pyplot.close(axes.figure)


@pytest.mark.parametrize(
    "call",
    [
        lambda: HISTORY.column("acuracy"),
        lambda: HISTORY.last("acuracy"),
        lambda: HISTORY.total("acuracy"),
        lambda: HISTORY.curve("acuracy"),
        lambda: HISTORY.curve("loss", "acuracy"),
        lambda: federated.History().last("acuracy"),
    ],
)
def test_an_unknown_column_is_an_error_that_lists_the_known_ones(call):
    with pytest.raises(ValueError, match=r"no column 'acuracy'; there are \["):
        call()


def test_a_run_reports_every_round_and_evaluates_after_every_segment():
    calls = lambda params: {"norm": abs(params["b"]), "w": params["w"]}
    history = simulate(
        federated.fedspeed(0.1), rounds=5, segment=2, cohort=3, evaluate=calls
    ).history
    assert history.columns == [
        "round",
        "num_active",
        "bytes_up",
        "bytes_down",
        "seconds",
        "loss",
        "norm",
        "w",
    ]
    assert history.column("round") == [1, 2, 3, 4, 5]
    assert history.column("num_active") == [3] * 5
    assert history.column("bytes_up") == history.column("bytes_down") == [3 * 16] * 5
    assert [("norm" in row) for row in history.rows] == [False, True, False, True, True]
    assert len(history.last("w")) == 3
    assert all(seconds > 0 for seconds in history.column("seconds"))
    plain = {int, float, list}
    assert {type(value) for row in history.rows for value in row.values()} == plain


def test_a_draw_that_was_cut_is_reported():
    cohort = federated.poisson_cohort(NUM_CLIENTS, 0.9, max_size=3)
    history = simulate(federated.fedavg(0.1), rounds=4, cohort=cohort).history
    assert history.column("num_active") == [3] * 4
    assert sum(history.column("num_cut")) >= 8


class _Writer:
    """Stands in for TensorBoard's writer."""

    written: ClassVar[list] = []

    def __init__(self, logdir):
        self.logdir = logdir

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.written.append("closed")

    def add_scalar(self, name, value, global_step):
        self.written.append((self.logdir, name, value, global_step))


def test_tensorboard_receives_every_number_at_its_round(tmp_path, monkeypatch):
    module = types.SimpleNamespace(SummaryWriter=_Writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    rows = [{"round": 1, "loss": 2.0}, {"round": 2, "loss": 1, "each": [1.0, 2.0]}]
    federated.History(rows).to_tensorboard(tmp_path)
    folder = str(tmp_path)
    assert _Writer.written == [(folder, "loss", 2.0, 1), (folder, "loss", 1, 2), "closed"]


def test_without_tensorboard_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'gradax\[tensorboard\]'"):
        HISTORY.to_tensorboard(tmp_path)
