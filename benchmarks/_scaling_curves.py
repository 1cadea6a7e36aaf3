"""Which points of `scaling.py` make which curves of which pictures, and their exponents."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from _scaling_draw import Fit, Line, Panel

#: Units of what is drawn, and what a run's figure is multiplied with.
TIME, START, MEMORY = "CPU ms a round", "CPU s to the compiled rounds", "MB beside the data"
FIELDS = {
    "round": (TIME, 1e3),
    "start": (START, 1.0),
    "program": (MEMORY, 1e-6),
    "process": (MEMORY, 1e-6),
    "temporaries": (MEMORY, 1e-6),
}


class Curve(NamedTuple):
    """One line of a picture.

    Attributes:
      label: for the legend.
      sweep: whose points it takes.
      series: which of them.
      field: of their runs.
      low: the least x from which on a power law is fitted; ``None`` means no fit.
    """

    label: str
    sweep: str
    series: str
    field: str
    low: float | None = None


#: Name of a picture -> its panels: the label of the x axis, and the curves.
PICTURES: dict[str, list[tuple[str, list[Curve]]]] = {
    "clients": [
        (
            "clients a round",
            [
                Curve("gradax", "clients", "gradax", "round", 100),
                Curve("by hand", "clients", "by hand", "round"),
            ],
        ),
        (
            "clients a round",
            [
                Curve("process", "clients", "gradax", "process", 100),
                Curve("process, by hand", "clients", "by hand", "process"),
                Curve("program", "clients", "gradax", "program", 100),
                Curve("program, by hand", "clients", "by hand", "program"),
            ],
        ),
    ],
    "population": [
        (
            "clients of the population, 10 a round",
            [
                Curve("FedAvg", "population", "fedavg", "round", 100),
                Curve("SCAFFOLD", "population", "scaffold", "round", 100),
            ],
        ),
        (
            "clients of the population, 10 a round",
            [
                Curve("FedAvg, process", "population", "fedavg", "process"),
                Curve("FedAvg, program", "population", "fedavg", "program", 1_000),
                Curve("SCAFFOLD, process", "population", "scaffold", "process"),
                Curve("SCAFFOLD, program", "population", "scaffold", "program", 1_000),
            ],
        ),
    ],
    "model": [
        (
            "parameters, 10 clients a round",
            [Curve("FedAvg", "model", "fedavg", "round", 900_000)],
        ),
        (
            "parameters, 10 clients a round",
            [
                Curve("process", "model", "fedavg", "process"),
                Curve("program", "model", "fedavg", "program", 90_000),
            ],
        ),
    ],
    "chunk": [
        ("clients side by side, of 1,000", [Curve("FedAvg", "chunk", "fedavg", "round")]),
        (
            "clients side by side, of 1,000",
            [
                Curve("process", "chunk", "fedavg", "process"),
                Curve("program", "chunk", "fedavg", "program", 10),
            ],
        ),
    ],
    "devices": [
        (
            "devices forced upon one core, 64 clients a round",
            [
                Curve("on a mesh", "devices", "mesh", "round"),
                Curve("without a mesh", "devices", "no mesh", "round"),
            ],
        ),
        (
            "devices forced upon one core, 64 clients a round",
            [
                Curve("program, a device", "devices", "mesh", "program"),
                Curve("program, without a mesh", "devices", "no mesh", "program"),
            ],
        ),
    ],
    "compilation": [
        (
            "clients a round",
            [
                Curve("gradax", "clients", "gradax", "start", 10),
                Curve("by hand", "clients", "by hand", "start"),
            ],
        ),
        (
            "hidden layers",
            [
                Curve("unrolled", "depth", "unrolled", "start", 32),
                Curve("scanned", "depth", "scanned", "start", 32),
            ],
        ),
    ],
}

Points = Sequence[dict[str, Any]]


def median(point: dict[str, Any], field: str) -> float:
    """The median of a point's runs, in the unit of its axis."""
    return FIELDS[field][1] * statistics.median(one[field] for one in point["runs"])


def panels(points: Points, picture: str) -> list[Panel]:
    """The panels of a picture."""
    made = []
    for x_label, curves in PICTURES[picture]:
        y_label = FIELDS[curves[0].field][0]
        made.append(Panel(x_label, y_label, [_line(points, curve) for curve in curves]))
    return made


def exponents(points: Points) -> Iterator[tuple[str, str, str, Fit]]:
    """All fits: what grows, the curve, against what, and the power law."""
    for picture in PICTURES:
        for panel in panels(points, picture):
            for line in panel.lines:
                if line.fit is not None:
                    yield panel.y_label, line.label, panel.x_label, line.fit


def _line(points: Points, curve: Curve) -> Line:
    chosen = [p for p in points if (p["sweep"], p["series"]) == (curve.sweep, curve.series)]
    y = [median(point, curve.field) for point in chosen]
    return Line(curve.label, [point["x"] for point in chosen], y, curve.low)
