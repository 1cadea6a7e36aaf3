"""What a run reports: one row of metrics per round."""

import csv
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gradax import _optional

#: Columns that a plot adds up over the rounds when they stand on the x axis.
_CUMULATIVE = ("bytes_up", "bytes_down", "seconds")


class History:
    """Metrics per round, in plain Python numbers.

    Every row holds ``round`` (counted from 1), ``num_active``, ``bytes_up`` and ``bytes_down``
    (sent by all participants together in this round), ``seconds`` (wall time, the segment's
    shared out evenly among its rounds) and ``loss`` (mean over the participants of the loss on
    their first batch, before training) where there is a loss, and ``epsilon`` (of all rounds so
    far) where :func:`simulate` was given ``privacy``; rows at the end of a segment also
    hold what ``evaluate`` and ``evaluate_clients`` returned.

    Args:
      rows: dictionaries, one per round.

    Examples:
      >>> from gradax import federated
      >>> history = federated.History([{"round": 1, "loss": 2.0}, {"round": 2, "loss": 1.0}])
      >>> history.column("loss")
      [2.0, 1.0]
      >>> history.last("loss")
      1.0
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self.rows: list[dict[str, Any]] = [dict(row) for row in rows]

    def __len__(self) -> int:
        """Number of rounds."""
        return len(self.rows)

    def __repr__(self) -> str:
        """Names the columns and shows the last row."""
        if not self.rows:
            return "History(empty)"
        shown = ", ".join(f"{name}={_short(value)}" for name, value in self.rows[-1].items())
        return f"History({len(self)} rounds; last: {shown})"

    @property
    def columns(self) -> list[str]:
        """Names of all metrics, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> list[Any]:
        """Lists one metric over the rounds, without those in which it was not measured.

        Args:
          name: of the metric.

        Returns:
          Its values.

        Raises:
          ValueError: if no round has it; the message lists what there is.
        """
        values = [row[name] for row in self.rows if name in row]
        if not values:
            raise ValueError(f"History: no column {name!r}; there are {self.columns}.")
        return values

    def last(self, name: str) -> Any:
        """Returns the last measured value of a metric.

        Args:
          name: of the metric.

        Returns:
          The value.

        Raises:
          ValueError: if no round has it.
        """
        return self.column(name)[-1]

    def total(self, name: str) -> Any:
        """Adds a metric up over the rounds, for instance ``"bytes_up"``.

        Args:
          name: of the metric.

        Returns:
          The sum.

        Raises:
          ValueError: if no round has it.
        """
        return sum(self.column(name))

    def to_pandas(self) -> Any:
        """Returns the history as a ``pandas.DataFrame`` indexed by round (extra ``tables``)."""
        pandas = _optional.load("pandas", "tables", "History.to_pandas")
        return pandas.DataFrame(self.rows).set_index("round")

    def to_json(self, path: str | pathlib.Path) -> None:
        """Writes the rows as JSON lines.

        Args:
          path: of the file.
        """
        lines = (json.dumps(row) for row in self.rows)
        pathlib.Path(path).write_text("".join(f"{line}\n" for line in lines))

    @classmethod
    def from_json(cls, path: str | pathlib.Path) -> "History":
        """Reads what :meth:`to_json` wrote.

        Args:
          path: of the file.

        Returns:
          The history.
        """
        lines = pathlib.Path(path).read_text().splitlines()
        return cls(json.loads(line) for line in lines)

    def to_csv(self, path: str | pathlib.Path) -> None:
        """Writes a table with one line per round.

        Args:
          path: of the file.
        """
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def to_tensorboard(self, folder: str | pathlib.Path) -> None:
        """Writes all numbers as scalars for TensorBoard (extra ``tensorboard``).

        Columns that are no single numbers are left out. Give every run a folder of its own
        below a common one, and point TensorBoard at that.

        Args:
          folder: of the run; made if it is not there.
        """
        tensorboard = _optional.load("tensorboardX", "tensorboard", "History.to_tensorboard")
        with tensorboard.SummaryWriter(logdir=str(folder)) as writer:
            for row in self.rows:
                for name, value in row.items():
                    if name != "round" and isinstance(value, int | float):
                        writer.add_scalar(name, value, global_step=row["round"])

    def curve(self, metric: str, against: str = "round") -> tuple[np.ndarray, np.ndarray]:
        """Returns the points of a curve.

        Args:
          metric: what stands on the y axis.
          against: what stands on the x axis; bytes and seconds are added up over the rounds.

        Returns:
          ``(x, y)``, one point for each round in which ``metric`` was measured.

        Raises:
          ValueError: if a name is unknown.
        """
        self.column(metric), self.column(against)
        steps = np.array([row.get(against, 0) for row in self.rows], np.float64)
        x = np.cumsum(steps) if against in _CUMULATIVE else steps
        measured = [i for i, row in enumerate(self.rows) if metric in row]
        return x[measured], np.array([self.rows[i][metric] for i in measured], np.float64)

    def plot(
        self, metric: str = "loss", against: str = "round", ax: Any = None, **style: Any
    ) -> Any:
        """Draws a curve (extra ``plot``).

        Args:
          metric: what stands on the y axis.
          against: ``"round"``, ``"bytes_up"``, ``"bytes_down"``, ``"seconds"`` or ``"time"``.
          ax: matplotlib axes; the current ones by default.
          **style: for ``Axes.plot``.

        Returns:
          The axes.

        Raises:
          ValueError: if a name is unknown.
        """
        pyplot = _optional.load("matplotlib.pyplot", "plot", "History.plot")
        ax = ax or pyplot.gca()
        x, y = self.curve(metric, against)
        unit, label = axis_of(against)
        ax.plot(x / unit, y, **style)
        ax.set(xlabel=label, ylabel=metric)
        return ax


def axis_of(against: str) -> tuple[float, str]:
    """The unit in which a column is drawn on an x axis, and the label of the axis."""
    megabytes = against.startswith("bytes")
    return (1e6, f"megabytes {against[6:]}") if megabytes else (1.0, against)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
