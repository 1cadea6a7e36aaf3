"""Scaling laws: time, memory and compilation of rounds against clients, model and devices.

`python benchmarks/scaling.py` runs about forty processes one after the other, in three minutes;
`--draw` only renews the pictures and the tables of the guide from the saved results.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import _how_fast
import _measure
import _scaling_curves
import _scaling_draw
from _scaling_plan import (
    BATCH,
    CLASSES,
    EXAMPLES,
    FEATURES,
    REPEATED,
    STEPS,
    Planned,
    Point,
    planned,
)

RESULTS = _measure.RESULTS / "scaling.json"
#: Longest time of a point, seconds.
PATIENCE = 300

METHOD = f"""\
A network of {FEATURES} inputs, two hidden layers and {CLASSES} classes; clients hold {EXAMPLES}
examples and make {STEPS} steps on batches of {BATCH}: little work per parameter, so that what the
simulation adds would show. Every point is a process of its own that plays
`gradax.federated.simulate`, in chunks of one client unless said otherwise. The cohorts that the
goals are about are measured once a turn, all else once."""

MEASURES = """\
Time is CPU time of one thread, *start* the CPU time from the call of `simulate` to the compiled
program of the rounds. *Process* is by how much the greatest resident size of the process grew
after data and start were made; in small runs most of it is the compiler's, and the copy of the data
on the device is part of it. *Program* is what XLA sets aside on a device for the rounds: arguments,
results and temporaries, the last also alone, data apart. *By hand* is FedAvg in a dozen lines of
plain JAX, a scan over the clients: the sequential scan whose memory is the measure."""

FITS = """\
*Exponents: least squares in logarithms, over the range that stands beside them, where fixed costs
no longer matter*"""


#: Sweep, series and x of a point, and the runs of each.
Place = tuple[str, str, int]
Runs = Mapping[Place, list[dict[str, float]]]


def main() -> None:
    """Runs all points, or only draws the saved ones."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2, help="turns of the points of the goals")
    parser.add_argument("--draw", action="store_true", help="only draw the saved results")
    arguments = parser.parse_args()
    if not arguments.draw:
        report(run(planned(), arguments.rounds), arguments.rounds).save()
    points = json.loads(RESULTS.read_text())["samples"]["points"]
    for name in _scaling_curves.PICTURES:
        path = _how_fast.PICTURES / f"scaling_{name}.svg"
        _scaling_draw.draw(_scaling_curves.panels(points, name), path)
    _how_fast.write(exponent_rows(points))


# What is run -----------------------------------------------------------------------------


def run(plan: Sequence[Planned], turns: int) -> list[dict[str, Any]]:
    """Runs every point in a process of its own; those of the goals once a turn.

    Args:
      plan: the points.
      turns: how often the points of the goals are run.

    Returns:
      For each point what it is, and its `runs`.
    """
    found = [
        {**one._asdict(), "point": dataclasses.asdict(one.point), "runs": list[dict]()}
        for one in plan
    ]
    for turn, (one, saved) in itertools.product(range(turns), zip(plan, found, strict=True)):
        if turn and (one.series != "gradax" or one.x not in REPEATED):
            continue
        began = time.perf_counter()
        saved["runs"].append(_in_fresh_process(one.point))
        seconds = time.perf_counter() - began
        print(f"{one.sweep}, {one.series}, {one.x:,}: {seconds:.0f} s", flush=True)
    return found


def _in_fresh_process(point: Point) -> dict[str, float]:
    command = [sys.executable, "_scaling_point.py", json.dumps(dataclasses.asdict(point))]
    # Compilation is measured, so nothing compiled earlier may be found on disk.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        command,
        check=True,
        cwd=_measure.FOLDER,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    return json.loads(done.stdout.splitlines()[-1])


# What is said ----------------------------------------------------------------------------


def report(points: Sequence[dict[str, Any]], turns: int) -> _measure.Report:
    """Tables and goals."""
    made = _measure.Report(
        name="scaling",
        title="Scaling laws",
        method=[METHOD, MEASURES],
        command=f"python benchmarks/scaling.py --rounds {turns}",
        packages=("jax", "jaxlib", "optax", "gradax"),
        samples={"points": list(points)},
    )
    for sweep, chosen in itertools.groupby(points, key=lambda one: one["sweep"]):
        made.table(f"*{TITLES[sweep]}*", COLUMNS, [_row(point) for point in chosen])
    made.table(FITS, ("what", "of", "against", "exponent"), exponent_rows(points))
    runs = {(one["sweep"], one["series"], one["x"]): one["runs"] for one in points}
    made.goals = [goal for cohort in (1_000, 10_000) for goal in _goals(runs, cohort)]
    starts = _over(runs, "start", ("clients", "gradax", 10_000), ("clients", "gradax", 10))
    made.goals.append(_measure.Goal.at_most("start: 10,000 clients a round over 10", starts, 1.2))
    for what, field, *pair in RATIOS:
        made.ratio(what, _over(runs, field, *pair))
    return made


#: What else is compared from run to run: a field of two points.
RATIOS = (
    (
        "time of 1,000 clients: one by one over all side by side",
        "round",
        ("chunk", "fedavg", 1),
        ("chunk", "fedavg", 1_000),
    ),
    (
        "time of a mesh of eight devices on one core over none",
        "round",
        ("devices", "mesh", 8),
        ("devices", "no mesh", 1),
    ),
    (
        "time of 10,000 clients over that of the scan by hand",
        "round",
        ("clients", "gradax", 10_000),
        ("clients", "by hand", 10_000),
    ),
    (
        "start: 128 layers scanned over unrolled",
        "start",
        ("depth", "scanned", 128),
        ("depth", "unrolled", 128),
    ),
)
TITLES = {
    "clients": "Clients a round, of 10,000; 100,000 parameters",
    "population": "Clients of the population, 10 a round; 2,442 parameters",
    "model": "Parameters; 10 clients a round, of 1,000",
    "chunk": "Clients side by side, of 1,000 a round; 100,000 parameters",
    "devices": "Devices forced upon one core; 64 clients a round, side by side",
    "depth": "Hidden layers of 64 units, one after the other or stacked and scanned",
}
COLUMNS = (
    "",
    "",
    "rounds/s",
    "CPU ms a round",
    "CPU us a client",
    "start, CPU s",
    "process, MB",
    "program, MB",
    "temporaries, MB",
)


def _row(point: dict[str, Any]) -> list[str]:
    of = lambda field: _scaling_curves.median(point, field)
    digits = lambda value: f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    milliseconds = of("round")
    cells = [1e3 / milliseconds, milliseconds, 1e3 * milliseconds / point["point"]["cohort"]]
    cells += map(of, ("start", "process", "program", "temporaries"))
    return [f"{point['x']:,}", point["series"], *map(digits, cells)]


def exponent_rows(points: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The fits as cells."""
    return [[*names, str(fit)] for *names, fit in _scaling_curves.exponents(points)]


def _goals(runs: Runs, cohort: int) -> list[_measure.Goal]:
    """What a large cohort may cost: against a smaller one, and against the sequential scan."""
    here, name = ("clients", "gradax", cohort), f"{cohort:,} clients a round"
    rounds = _over(runs, "round", here, ("clients", "gradax", 100))
    client = [ratio * 100 / cohort for ratio in rounds]
    made = [_measure.Goal.at_most(f"{name}: a client's time over that of 100", client, 1.2)]
    for field in ("process", "program"):
        memory = _over(runs, field, here, ("clients", "by hand", cohort))
        what = f"{name}: memory of the {field} over the scan by hand"
        made.append(_measure.Goal.at_most(what, memory, 1.5))
    return made


def _over(runs: Runs, field: str, one: Place, other: Place) -> list[float]:
    """Ratios of two points, turn by turn; what was measured once stands for every turn."""
    above, below = ([each[field] for each in runs[place]] for place in (one, other))
    return _measure.ratios(above, below * len(above) if len(below) == 1 else below)


if __name__ == "__main__":
    main()
