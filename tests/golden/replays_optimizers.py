"""Replays of the golden files of single optimizers, through the public interface.

A replay takes one case of its file and returns what the case records. Layouts of the recorded
weights are those of the reference: ``(out, in)`` where it says torch, ``(in, out)`` elsewhere.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from gradax import optimizers

Case = dict[str, Any]


def _arrays(tree: Case, dtype: Any = np.float64) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, dtype) for name, value in tree.items()}


def _trajectory(tx: optax.GradientTransformation, case: Case, dtype: Any = np.float64) -> list:
    """Parameters after each of the recorded gradients."""

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, trajectory = _arrays(case["params0"], dtype), []
    state = tx.init(params)
    for grads in case["grads"]:
        params, state = step(params, state, _arrays(grads, dtype))
        trajectory.append({name: np.asarray(value, np.float64) for name, value in params.items()})
    return trajectory


def replay_adabelief(case: Case) -> Case:
    """The authors' package; its eps stands in both places."""
    with jax.enable_x64(True):
        hp = dict(case["hyperparams"])
        tx = optimizers.adabelief(hp.pop("lr"), eps_root=hp["eps"], **hp)
        return {"params": _trajectory(tx, case)}


def replay_diffgrad(case: Case) -> Case:
    """Both placements of eps: after bias correction (the paper) and before (the authors' code)."""
    hp = dict(case["hyperparams"])
    if hp.pop("eps_placement") != "paper":
        raise ValueError("eps_placement: params are expected to follow the paper.")
    rate, eps = hp.pop("lr"), hp.pop("eps")
    # Before bias correction, eps counts as divided by the root of the correction of its step.
    before = lambda count: eps / jnp.sqrt(1 - hp["b2"] ** (count + 1.0))
    build = lambda eps: optimizers.diffgrad(rate, eps=eps, **hp)
    with jax.enable_x64(True):
        return {
            "params": _trajectory(build(eps), case),
            "params_eps_reference": _trajectory(optax.inject_hyperparams(build)(before), case),
        }


def _replay_projected(build: Callable[..., optax.GradientTransformation], case: Case) -> Case:
    """Trajectory, and in which steps which leaf was projected: where delta makes a difference."""
    hp = dict(case["hyperparams"])
    rate, delta = hp.pop("lr"), hp.pop("delta")
    with jax.enable_x64(True):
        tx, never = (build(rate, delta=value, **hp) for value in (delta, 0.0))
        params, trajectory, projected = _arrays(case["params0"]), [], []
        state = tx.init(params)
        for number, grads in enumerate(case["grads"], start=1):
            without, _ = never.update(_arrays(grads), state, params)
            updates, state = tx.update(_arrays(grads), state, params)
            params = optax.apply_updates(params, updates)
            trajectory.append(params)
            differ = lambda name, a=updates, b=without: bool((a[name] != b[name]).any())
            projected += [[number, name] for name in grads if differ(name)]
        return {"params": trajectory, "projected_steps": projected}


def replay_adamp(case: Case) -> Case:
    """The authors' code."""
    return _replay_projected(optimizers.adamp, case)


def replay_sgdp(case: Case) -> Case:
    """The authors' code with Nesterov's momentum, an independent one without."""
    return _replay_projected(optimizers.sgdp, case)


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
            return {"params": _trajectory(_muon_of_optax(hp), case)}
        narrow = _narrow(case)
        tx = _muon_of_reference(hp, narrow)
        return {"params": _trajectory(tx, case, np.float32 if narrow else np.float64)}


def _muon_tolerance(case: Case) -> float:
    """In bfloat16 a share of the way gone, which is seen relative to the parameters here."""
    if not _narrow(case):
        return 1e-9
    first, last = case["params0"], case["params"][-1]
    gone = max(np.linalg.norm(np.subtract(last[name], first[name])) for name in first)
    return 3e-2 * float(gone / max(np.abs(value).max() for value in last.values()))


REPLAYS: dict[str, Callable[[Case], Case]] = {
    "adabelief": replay_adabelief,
    "adamp": replay_adamp,
    "diffgrad": replay_diffgrad,
    "muon": replay_muon,
    "sgdp": replay_sgdp,
}

TOLERANCES: dict[str, float | Callable[[Case], float]] = {
    "adabelief": lambda case: case["tolerance"],
    "adamp": lambda case: case["tolerance"],
    "diffgrad": lambda case: case["tolerance"],
    "muon": _muon_tolerance,
    "sgdp": lambda case: case["tolerance"],
}
