"""Replays of the golden files of single optimizers, through the public interface."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from gradax import optimizers


def _trajectory(tx: optax.GradientTransformation, case: dict, dtype: Any = np.float64) -> dict:
    """Parameters after each of the recorded gradients."""
    arrays = lambda tree: {name: jnp.asarray(value, dtype) for name, value in tree.items()}

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, trajectory = arrays(case["params0"]), []
    state = tx.init(params)
    for grads in case["grads"]:
        params, state = step(params, state, arrays(grads))
        trajectory.append({name: np.asarray(value, np.float64) for name, value in params.items()})
    return {"params": trajectory}


def adabelief(case: dict) -> dict:
    with jax.enable_x64(True):
        hp = dict(case["hyperparams"])
        return _trajectory(optimizers.adabelief(hp.pop("lr"), eps_root=hp["eps"], **hp), case)


def _eps_before_bias_correction(hp: dict) -> optax.GradientTransformation:
    """The reference's form: its eps, seen after bias correction, changes with the count."""
    decayed = hp["weight_decay"]

    def eps(count):
        return hp["eps"] / jnp.sqrt(1 - hp["b2"] ** (count + 1.0))

    def build(eps):
        return optimizers.diffgrad(hp["lr"], hp["b1"], hp["b2"], eps, decayed)

    return optax.inject_hyperparams(build)(eps=eps)


def diffgrad(case: dict) -> dict:
    with jax.enable_x64(True):
        hp = dict(case["hyperparams"])
        assert hp.pop("eps_placement") == "paper"
        out = _trajectory(optimizers.diffgrad(hp.pop("lr"), **hp), case)
        if "params_eps_reference" in case:
            reference = _trajectory(_eps_before_bias_correction(case["hyperparams"]), case)
            out["params_eps_reference"] = reference["params"]
        return out


def adamp(case: dict) -> dict:
    with jax.enable_x64(True):
        hp = dict(case["hyperparams"])
        return _trajectory(optimizers.adamp(hp.pop("lr"), **hp), case)


def sgdp(case: dict) -> dict:
    with jax.enable_x64(True):
        hp = dict(case["hyperparams"])
        return _trajectory(optimizers.sgdp(hp.pop("lr"), **hp), case)
