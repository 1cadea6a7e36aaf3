"""Replays of the golden files of adaptive methods, through the public interface.

A replay takes one case of its file and returns what the case records. Layouts of the recorded
weights are those of the reference: ``(out, in)`` where it says torch, ``(in, out)`` elsewhere.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from trajectories import Case, arrays, trajectory

from gradax import optimizers


def replay_adabelief(case: Case) -> Case:
    """The authors' package; its eps stands in both places."""
    with jax.enable_x64(True):
        hp = dict(case["hyperparams"])
        tx = optimizers.adabelief(hp.pop("lr"), eps_root=hp["eps"], **hp)
        return {"params": trajectory(tx, case)}


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
            "params": trajectory(build(eps), case),
            "params_eps_reference": trajectory(optax.inject_hyperparams(build)(before), case),
        }


def _replay_projected(build: Callable[..., optax.GradientTransformation], case: Case) -> Case:
    """Trajectory, and in which steps which leaf was projected: where delta makes a difference."""
    hp = dict(case["hyperparams"])
    rate, delta = hp.pop("lr"), hp.pop("delta")
    with jax.enable_x64(True):
        tx, never = (build(rate, delta=value, **hp) for value in (delta, 0.0))
        params, steps, projected = arrays(case["params0"]), [], []
        state = tx.init(params)
        for number, grads in enumerate(case["grads"], start=1):
            without, _ = never.update(arrays(grads), state, params)
            updates, state = tx.update(arrays(grads), state, params)
            params = optax.apply_updates(params, updates)
            steps.append(params)
            differ = lambda name, a=updates, b=without: bool((a[name] != b[name]).any())
            projected += [[number, name] for name in grads if differ(name)]
        return {"params": steps, "projected_steps": projected}


def replay_adamp(case: Case) -> Case:
    """The authors' code."""
    return _replay_projected(optimizers.adamp, case)


def replay_sgdp(case: Case) -> Case:
    """The authors' code with Nesterov's momentum, an independent one without."""
    return _replay_projected(optimizers.sgdp, case)


REPLAYS: dict[str, Callable[[Case], Case]] = {
    "adabelief": replay_adabelief,
    "adamp": replay_adamp,
    "diffgrad": replay_diffgrad,
    "sgdp": replay_sgdp,
}

TOLERANCES: dict[str, float | Callable[[Case], float]] = {
    name: lambda case: case["tolerance"] for name in REPLAYS
}
