"""Simulation of federated rounds: one engine, scanned inside one jit."""

from ._client_evaluation import ClientEvaluation as ClientEvaluation
from ._comparison import MeanCurve as MeanCurve
from ._comparison import compare_runs as compare_runs
from ._comparison import mean_curve as mean_curve
from ._comparison import plot_runs as plot_runs
from ._engine import SimState as SimState
from ._history import History as History
from ._seeds import simulate_seeds as simulate_seeds
from ._simulate import SimResult as SimResult
from ._simulate import simulate as simulate
