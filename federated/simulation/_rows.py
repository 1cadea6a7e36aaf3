"""Rows of the history, made from what a segment of rounds measured."""

from typing import Any

import jax
import numpy as np


def metric_rows(
    metrics: dict[str, Any], made: int, seconds: float, message_bytes: tuple[int, int | None]
) -> list[dict[str, Any]]:
    """Turns the stacked metrics of a segment into rows of plain numbers.

    Rounds may be many and short, so columns are made first, by NumPy.

    Args:
      metrics: what the engine returned, with a leading axis of rounds.
      made: rounds before this segment.
      seconds: wall time of a round.
      message_bytes: of a message up and down; ``None`` for what peers receive.

    Returns:
      One row per round.
    """
    up, down = message_bytes
    lanes = dict(metrics["lanes"])
    active = np.asarray(lanes.pop("active"))
    length = len(active)
    present = active.sum(axis=1)
    # 64 bits: bytes overflow 32 bits soon.
    sizes = np.asarray(lanes.pop("wire_bytes", up), np.int64)
    copies = np.asarray(lanes.pop("wire_copies", 1), np.int64)
    sent = np.sum(np.where(active, sizes * copies, 0), axis=1)
    cut, scored = (np.asarray(metrics[name]) for name in ("num_cut", "num_scored"))
    columns = {
        "round": made + 1 + np.arange(length),
        "num_active": metrics["num_active"],
        # A loss is one number.
        "bytes_up": sent + 4 * scored,
        # What one peer sends another receives.
        "bytes_down": sent if down is None else down * np.maximum(present, scored),
        "seconds": np.full(length, seconds),
    }
    if "time" in metrics:
        columns["time"] = metrics["time"]
    optional = {"num_cut": (cut, cut > 0), "num_scored": (scored, scored > 0)}
    for name, values in lanes.items():
        optional[name] = (_mean_present(np.asarray(values), active), present > 0)
    rows = [dict(zip(columns, row, strict=True)) for row in _transposed(columns.values())]
    for name, (values, measured) in optional.items():
        for number in np.flatnonzero(measured).tolist():
            rows[number][name] = values[number].item()
    return rows


def _transposed(columns) -> Any:
    """Rows of Python numbers."""
    return zip(*(np.asarray(column).tolist() for column in columns), strict=True)


def _mean_present(values: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Means over those who took part, ``[rounds]``; NaN where nobody did."""
    values = values.reshape(*active.shape, -1)
    kept = np.where(active[..., None], values.astype(np.float64), 0.0)
    with np.errstate(invalid="ignore"):
        return kept.sum(axis=(1, 2)) / (active.sum(axis=1) * values.shape[-1])


def add_evaluation(row: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Puts scalars as Python numbers and arrays as lists into a row of the history.

    Args:
      row: to add to.
      metrics: on the device or not.

    Raises:
      ValueError: if the row has a column of that name already.
    """
    metrics = jax.device_get(metrics)
    taken = sorted(row.keys() & metrics.keys())
    if taken:
        raise ValueError(f"simulate: evaluate must not return {', '.join(taken)}; rename it.")
    row.update({name: np.asarray(value).tolist() for name, value in metrics.items()})


def headline(row: dict[str, Any]) -> str:
    """The metrics of a row for the progress bar.

    Args:
      row: of the history.

    Returns:
      A line of text.
    """
    hidden = ("round", "num_active", "bytes_up", "bytes_down", "seconds", "num_cut", "num_scored")
    shown = {k: v for k, v in row.items() if k not in hidden and isinstance(v, int | float)}
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
