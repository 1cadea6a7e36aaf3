"""Several runs beside each other: mean and spread over seeds, a figure, a table."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from gradax import _optional, _validate

from ._history import History, axis_of

#: Name -> a history, or one for each seed.
Runs: TypeAlias = Mapping[str, History | Sequence[History]]


class MeanCurve(NamedTuple):
    """A metric over several runs of the same method.

    Attributes:
      x: ``float64[points]``, mean of what stands on the x axis.
      mean: ``float64[points]``.
      std: ``float64[points]``, standard deviation over the runs, with ``n - 1``; 0 for one run.
      low: ``float64[points]``, the least run.
      high: ``float64[points]``, the greatest run.
    """

    x: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_curve(
    histories: Sequence[History], metric: str = "accuracy", against: str = "round"
) -> MeanCurve:
    """Averages a metric over runs, round by round.

    Args:
      histories: of the same rounds, measured in the same ones.
      metric: what stands on the y axis.
      against: what stands on the x axis, see :meth:`History.curve`.

    Returns:
      The mean curve.

    Raises:
      ValueError: if there is no run, a name is unknown, or runs were measured in other rounds.

    Examples:
      >>> from gradax import federated
      >>> runs = [federated.History([{"round": 5, "accuracy": a}]) for a in (0.6, 0.8)]
      >>> curve = federated.mean_curve(runs)
      >>> float(curve.x[0]), round(float(curve.mean[0]), 3), round(float(curve.std[0]), 3)
      (5.0, 0.7, 0.141)
    """
    if not histories:
        raise ValueError("mean_curve: histories must hold at least one run, got none.")
    rounds = [history.curve(metric)[0] for history in histories]
    if any(not np.array_equal(rounds[0], other) for other in rounds[1:]):
        raise ValueError(f"mean_curve: {metric!r} must be measured in the same rounds of all runs.")
    curves = [history.curve(metric, against) for history in histories]
    x, y = (np.stack(parts) for parts in zip(*curves, strict=True))
    std = np.std(y, axis=0, ddof=1) if len(y) > 1 else np.zeros(y.shape[1])
    return MeanCurve(x.mean(axis=0), y.mean(axis=0), std, y.min(axis=0), y.max(axis=0))


def plot_runs(
    runs: Runs,
    metric: str = "accuracy",
    against: str = "round",
    ax: Any = None,
    band: Literal["std", "range"] | None = "std",
) -> Any:
    """Draws a curve for every method: the mean over its runs, and a band (extra ``plot``).

    Args:
      runs: name of a method -> its history, or one history per seed.
      metric: what stands on the y axis.
      against: what stands on the x axis, see :meth:`History.curve`.
      ax: matplotlib axes; the current ones by default.
      band: one standard deviation up and down, or from the least to the greatest run, or none.

    Returns:
      The axes.

    Raises:
      ValueError: as :func:`mean_curve`, or if ``band`` is unknown.

    Examples:
      >>> import matplotlib
      >>> from gradax import federated
      >>> matplotlib.use("Agg")
      >>> rows = [{"round": 1, "accuracy": 0.5}, {"round": 2, "accuracy": 0.7}]
      >>> ax = federated.plot_runs({"fedavg": federated.History(rows)})
      >>> ax.get_xlabel(), ax.get_ylabel()
      ('round', 'accuracy')
    """
    _validate.one_of("plot_runs", "band", band, ("std", "range", None))
    pyplot = _optional.load("matplotlib.pyplot", "plot", "plot_runs") if ax is None else None
    ax = pyplot.gca() if pyplot else ax
    unit, label = axis_of(against)
    for number, (name, histories) in enumerate(runs.items()):
        curve = mean_curve(_listed(histories), metric, against)
        # Ten colours are told apart; further curves are dashed.
        style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
        ax.plot(curve.x / unit, curve.mean, label=name, **style)
        if band is not None:
            spread = (curve.mean - curve.std, curve.mean + curve.std)
            edges = (curve.low, curve.high) if band == "range" else spread
            ax.fill_between(curve.x / unit, *edges, color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xlabel=label, ylabel=metric)
    ax.legend(fontsize="small")
    return ax


def compare_runs(
    runs: Runs,
    metric: str = "accuracy",
    target: float | None = None,
    *,
    last: int = 1,
    lower_is_better: bool = False,
) -> list[dict[str, Any]]:
    """Sums up runs in a table, the best method first.

    Args:
      runs: name of a method -> its history, or one history per seed.
      metric: by which methods are compared.
      target: a value of the metric; the table then tells when the mean over the runs first
        reaches it.
      last: measurements at the end that count as the final value, averaged.
      lower_is_better: whether small values are good.

    Returns:
      A dictionary per method, for instance for ``pandas.DataFrame``: ``method``, ``runs``,
      the metric and ``<metric>_std`` over the runs, ``rounds_to_target`` (``None`` if it was
      not reached; only with a target), ``megabytes_up`` and ``megabytes_down`` of all clients
      together, ``seconds``; the last three are means over the runs, where they are known.

    Raises:
      ValueError: as :func:`mean_curve`, or if ``last`` is smaller than 1.

    Examples:
      >>> from gradax import federated
      >>> rows = [{"round": 1, "accuracy": 0.5}, {"round": 2, "accuracy": 0.75}]
      >>> history = federated.History(rows)
      >>> federated.compare_runs({"fedavg": [history, history]}, target=0.7)
      [{'method': 'fedavg', 'runs': 2, 'accuracy': 0.75, 'accuracy_std': 0.0, \
'rounds_to_target': 2}]
    """
    _validate.integer("compare_runs", "last", last, at_least=1)
    table = []
    for name, histories in runs.items():
        histories = _listed(histories)
        curve = mean_curve(histories, metric)
        finals = [np.mean(history.column(metric)[-last:]) for history in histories]
        spread = float(np.std(finals, ddof=1)) if len(finals) > 1 else 0.0
        row = {"method": name, "runs": len(histories), metric: float(np.mean(finals))}
        row[f"{metric}_std"] = spread
        if target is not None:
            good = curve.mean <= target if lower_is_better else curve.mean >= target
            row["rounds_to_target"] = int(curve.x[good.argmax()]) if good.any() else None
        table.append(row | _costs(histories))
    return sorted(table, key=lambda row: row[metric], reverse=not lower_is_better)


def _listed(histories: History | Sequence[History]) -> Sequence[History]:
    return [histories] if isinstance(histories, History) else histories


def _costs(histories: Sequence[History]) -> dict[str, float]:
    known = {"bytes_up": ("megabytes_up", 1e6), "bytes_down": ("megabytes_down", 1e6)}
    known["seconds"] = ("seconds", 1.0)
    return {
        name: float(np.mean([history.total(column) for history in histories])) / unit
        for column, (name, unit) in known.items()
        if all(column in history.columns for history in histories)
    }
