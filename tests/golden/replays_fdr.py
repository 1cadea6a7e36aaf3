"""Replay of the golden file of the fluctuation-dissipation schedule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from trajectories import Case

from gradax import schedules


def fdr_schedule(case: Case) -> Case:
    """Params, rates and checks of a noisy quadratic.

    The mean of the left observable comes from the ratio that the state keeps, that of the right
    one from a list of all observables.
    """
    hp, problem = dict(case["hyperparams"]), case["problem"]
    with jax.enable_x64(True):
        h, c, noise = (jnp.asarray(problem[name]) for name in ("h", "c", "noise"))
        tx = schedules.fdr_sgd(**hp)
        mu, nu = hp["momentum"], hp["dampening"]

        @jax.jit
        def step(theta, state, noise):
            grads = h * (theta - c) + noise
            updates, new = tx.update(grads, state, theta)
            velocity = new.velocity if mu else (1 - nu) * grads
            pair = schedules.fdr_observables(
                theta, grads, velocity, new.learning_rate, momentum=mu, dampening=nu
            )
            return optax.apply_updates(theta, updates), new, pair

        theta = jnp.asarray(case["params0"]["theta"])
        state, params, rates, checks, records = tx.init(theta), [], [], [], []
        for number, draw in enumerate(noise, start=1):
            drops = int(state.num_drops)
            theta, state, pair = step(theta, state, draw)
            params.append({"theta": np.asarray(theta)})
            rates.append(float(state.learning_rate))
            records.append(float(pair[1]))
            if number % hp["check_every"]:
                continue
            right = float(np.mean(records[len(records) // 2 :]))
            checks.append(
                {
                    "step": number,
                    "since_reset": len(records),
                    "mean_OL": right * float(state.last_ratio),
                    "mean_OR": right,
                    "fired": int(state.num_drops) > drops,
                }
            )
            records = [] if checks[-1]["fired"] else records
        return {"params": params, "outputs": {"learning_rate_used": rates, "checks": checks}}


REPLAYS: dict[str, Callable[[Case], Case]] = {"fdr_schedule": fdr_schedule}
