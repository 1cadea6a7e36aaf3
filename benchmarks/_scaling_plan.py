"""What `scaling.py` runs: the points, and the sweeps that they make up.

JAX is not imported: a process inherits the greatest resident size of the one that starts it, so
whoever starts the points has to be smaller than they are.
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

#: Examples of a client, numbers of an example, and classes.
EXAMPLES, FEATURES, CLASSES = 8, 32, 10
#: A client's work in a round: steps on batches of this many examples.
STEPS, BATCH = 2, 4

COHORTS = (10, 32, 100, 316, 1_000, 3_162, 10_000)
#: Cohorts that goals are about: measured in every turn.
REPEATED = (10, 100, 1_000, 10_000)
POPULATIONS = (100, 1_000, 10_000, 100_000)
#: Widths of the hidden layers, for 10^4, 10^5, 10^6, 3 10^6 and 10^7 parameters.
WIDTHS = (80, 295, 978, 1_756, 3_141)
CHUNKS = (1, 10, 100, 1_000)
DEVICES = (1, 2, 4, 8)
DEPTHS = (8, 32, 64, 128)


@dataclasses.dataclass(frozen=True)
class Point:
    """What is run.

    Attributes:
      method: ``"fedavg"``, ``"scaffold"``, or ``"by hand"``: FedAvg in a dozen lines of plain JAX,
        one client after the other.
      population: number of clients.
      cohort: clients of a round.
      width: of the hidden layers.
      depth: number of weight matrices between the hidden layers.
      scanned: whether these are stacked, and the network scans over them.
      chunk: clients side by side.
      devices: of the mesh; 0 means no mesh.
      rounds: of a turn.
      turns: that are timed, after one that is not.
    """

    method: str = "fedavg"
    population: int = 10_000
    cohort: int = 10
    width: int = 295
    depth: int = 1
    scanned: bool = False
    chunk: int = 1
    devices: int = 0
    rounds: int = 1
    turns: int = 3

    @property
    def parameters(self) -> int:
        """Number of parameters of the network."""
        ends = FEATURES * self.width + self.width * CLASSES + CLASSES
        return ends + self.width + self.depth * (self.width + 1) * self.width


class Planned(NamedTuple):
    """A point, and where it stands.

    Attributes:
      sweep: what is varied.
      series: the curve.
      x: its value.
      point: what is run.
    """

    sweep: str
    series: str
    x: int
    point: Point


def planned() -> list[Planned]:
    """All points, those of a sweep one after the other."""
    found = []
    for cohort in COHORTS:
        point = Point(cohort=cohort, rounds=math.ceil(1_000 / cohort))
        found.append(Planned("clients", "gradax", cohort, point))
    for cohort in (1_000, 10_000):
        found.append(
            Planned("clients", "by hand", cohort, Point("by hand", cohort=cohort, turns=1))
        )
    for method, population in itertools.product(("fedavg", "scaffold"), POPULATIONS):
        point = Point(method, population, width=32, rounds=300)
        found.append(Planned("population", method, population, point))
    for width in WIDTHS:
        point = Point(population=1_000, width=width)
        point = dataclasses.replace(point, rounds=max(1, 3_000_000 // point.parameters))
        found.append(Planned("model", "fedavg", point.parameters, point))
    for chunk in CHUNKS:
        point = Point(cohort=1_000, chunk=chunk, turns=2)
        found.append(Planned("chunk", "fedavg", chunk, point))
    side_by_side = Point(population=640, cohort=64, chunk=64, rounds=5)
    found.append(Planned("devices", "no mesh", 1, side_by_side))
    for devices in DEVICES:
        point = dataclasses.replace(side_by_side, devices=devices)
        found.append(Planned("devices", "mesh", devices, point))
    for depth, scanned in itertools.product(DEPTHS, (False, True)):
        point = Point(population=100, width=64, depth=depth, scanned=scanned, turns=1)
        found.append(Planned("depth", "scanned" if scanned else "unrolled", depth, point))
    return found
