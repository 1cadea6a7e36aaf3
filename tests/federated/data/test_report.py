"""What a partition looks like in numbers and in a picture."""

import numpy as np
import pytest

from gradax import federated

data = federated.data
LABELS = np.array([0, 0, 0, 1, 1, 2])
PARTS = [np.array([0, 1, 3]), np.array([2, 4, 5])]


def test_counts_classes_and_sizes():
    summary = data.describe(PARTS, LABELS)
    np.testing.assert_array_equal(summary.class_counts, [[2, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(summary.sizes, [3, 3])
    np.testing.assert_allclose(summary.label_skew, 1 / 6)


def test_skew_is_none_for_equal_and_near_one_for_disjoint_clients():
    labels = np.repeat(np.arange(20), 10)
    even = [np.arange(start, 200, 10) for start in range(10)]
    apart = list(np.arange(200).reshape(20, 10))
    assert data.describe(even, labels).label_skew == 0.0
    np.testing.assert_allclose(data.describe(apart, labels).label_skew, 0.95)


def test_prints_the_ends_of_a_long_table():
    labels = np.arange(100) % 3
    text = str(data.describe(data.partition_iid(100, 50), labels))
    assert text.startswith("50 clients, 100 examples, 3 classes; size 2 to 2, median 2;")
    lines = text.splitlines()
    assert len(lines) == 2 + 8 + 1 + 3
    assert lines[10].strip() == "..."
    assert lines[-1].split()[0] == "49"


def test_draws_one_bar_for_each_client_and_class():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ax = data.plot_partition(PARTS, LABELS)
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(3, 2)
    np.testing.assert_array_equal(widths, [[2, 1], [1, 1], [0, 1]])
    starts = np.array([bar.get_x() for bar in ax.patches]).reshape(3, 2)
    np.testing.assert_array_equal(starts, [[0, 0], [2, 1], [3, 2]])
    _, mine = pyplot.subplots()
    assert data.plot_partition([np.arange(30)], np.arange(30), ax=mine) is mine
    pyplot.close("all")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[0], []], r"describe: every client needs an example, got empty clients \[1\]"),
        ([[0, 6]], r"must lie in \[0, 6\), got 6"),
        ([], "at least one client"),
    ],
)
def test_refuses_what_is_no_partition(parts, message):
    with pytest.raises(ValueError, match=message):
        data.describe(parts, LABELS)
