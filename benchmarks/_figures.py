"""Figures of benchmarks that can be compared with those of another run, and goals for them."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Self


@dataclasses.dataclass
class Ratio:
    """A figure that can be compared with that of another run.

    Attributes:
      what: what is measured.
      median: of the turns, like the two that follow.
      least: smallest value.
      greatest: largest value.
      turns: how many there were; a figure taken once has no spread.
      better: `lower` or `higher`.
    """

    what: str
    median: float
    least: float
    greatest: float
    turns: int
    better: str

    @classmethod
    def of(cls, what: str, values: Sequence[float], better: str = "lower", **more: Any) -> Self:
        """Sums up the values of some turns."""
        extremes = min(values), max(values)
        return cls(what, statistics.median(values), *extremes, len(values), better, **more)


@dataclasses.dataclass
class Goal(Ratio):
    """A figure that was aimed at.

    Attributes:
      limit: such as `<= 0.5`.
      met: whether the median keeps it.
    """

    limit: str
    met: bool

    @classmethod
    def at_most(cls, what: str, values: Sequence[float], limit: float) -> "Goal":
        """Judges the median of `values` against an upper limit."""
        met = statistics.median(values) <= limit
        return cls.of(what, values, limit=f"<= {limit}", met=met)

    @classmethod
    def at_least(cls, what: str, values: Sequence[float], limit: float) -> "Goal":
        """Judges the median of `values` against a lower limit."""
        met = statistics.median(values) >= limit
        return cls.of(what, values, "higher", limit=f">= {limit}", met=met)
