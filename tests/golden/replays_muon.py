"""Replays of the golden file of Muon, through the public interface."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers
from trajectories import Case, trajectory

from gradax import optimizers

#: Factors as the file writes them, and their names here.
_SCALES = {
    "sqrt(max(1,rows/cols))": "spectral",
    "sqrt(max(1,cols/rows))": "spectral",
    "match_rms_adamw": "rms",
}


def _narrow(case: Case) -> bool:
    """Whether the reference iterated in bfloat16, on float32 parameters."""
    return "float32 params" in case["hyperparams"]["note"]


def _muon_of_optax(hp: Case) -> optax.GradientTransformation:
    return optimizers.muon(bias_correction=True, **hp)


def _muon_of_reference(hp: Case, narrow: bool) -> optax.GradientTransformation:
    rows_are_outputs = hp["layout"].startswith("torch")
    dimensions = MuonDimensionNumbers(1, 0) if rows_are_outputs else MuonDimensionNumbers(0, 1)
    exact = hp.get("orthogonalizer", "").startswith("exact")
    optional = {name: hp[name] for name in ("ns_steps", "ns_coeffs", "eps") if name in hp}
    return optimizers.muon(
        hp["lr"],
        beta=hp["momentum"],
        nesterov=hp["nesterov"],
        weight_decay=hp["weight_decay"],
        orthogonalizer="svd" if exact else "ns5",
        scale=_SCALES[hp.get("scale") or hp["adjust_lr_fn"]],
        ns_dtype=jnp.bfloat16 if narrow else None,
        muon_weight_dimension_numbers=dimensions,
        **optional,
    )


def replay_muon(case: Case) -> Case:
    """The original, torch's, optax's, and the exact polar factor."""
    hp = {name: value for name, value in case["hyperparams"].items() if name != "note"}
    with jax.enable_x64(True):
        if "learning_rate" in hp:
            del hp["layout"]
            return {"params": trajectory(_muon_of_optax(hp), case)}
        narrow = _narrow(case)
        tx = _muon_of_reference(hp, narrow)
        return {"params": trajectory(tx, case, np.float32 if narrow else np.float64)}


def _muon_tolerance(case: Case) -> float:
    """In bfloat16 a share of the way gone, which is seen relative to the parameters here."""
    if not _narrow(case):
        return 1e-9
    first, last = case["params0"], case["params"][-1]
    gone = max(np.linalg.norm(np.subtract(last[name], first[name])) for name in first)
    return 3e-2 * float(gone / max(np.abs(value).max() for value in last.values()))


REPLAYS: dict[str, Callable[[Case], Case]] = {"muon": replay_muon}

TOLERANCES: dict[str, float | Callable[[Case], float]] = {"muon": _muon_tolerance}
