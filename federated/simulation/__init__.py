"""Simulation of federated rounds: one engine, scanned inside one jit."""

from ._engine import SimState as SimState
from ._history import History as History
from ._simulate import SimResult as SimResult
from ._simulate import simulate as simulate
