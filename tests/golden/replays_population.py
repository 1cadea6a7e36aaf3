"""Replays of the golden file of consensus-based optimization, with the recorded draws."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import optimizers

Case = dict[str, Any]


def _rastrigin(v):
    return jnp.sum(v**2) + 2.5 * jnp.sum(1 - jnp.cos(2 * jnp.pi * v))


def _ackley(v):
    radius = jnp.sqrt(jnp.mean(v**2))
    waves = jnp.mean(jnp.cos(2 * jnp.pi * v))
    return -20 * jnp.exp(-0.2 * radius) - jnp.exp(waves) + jnp.e + 20


_FUNCTIONS = {"Rastrigin": _rastrigin, "Ackley": _ackley}


def replay_cbo(case: Case) -> Case:
    """Losses and consensus before each step, and the particles after it."""
    hp, loss = case["hyperparams"], _FUNCTIONS[case["problem"]["function"]]

    def step(x, state, noise):
        tx, value = optimizers.cbo(**hp, sampler=lambda key, shape, dtype: noise), loss(x)
        updates, state = tx.update(None, state, x, value=value)
        x = optax.apply_updates(x, updates)
        return (x, state), (value, state.consensus, x)

    def body(carry, noise):
        return jax.vmap(step, axis_name="population")(*carry, noise)

    with jax.enable_x64(True):
        x, noise = (jnp.asarray(rows) for rows in (case["params0"]["particles"], case["noise"]))
        start = x, jax.vmap(optimizers.cbo(**hp).init)(x)
        losses, consensus, path = jax.jit(lambda: jax.lax.scan(body, start, noise)[1])()
    assert (np.ptp(consensus, axis=1) == 0).all()  # all individuals alike
    return {
        "losses_before_step": losses.tolist(),
        "consensus": consensus[:, 0].tolist(),
        "params": [{"particles": x.tolist()} for x in path],
    }


REPLAYS: dict[str, Callable[[Case], Case]] = {"cbo": replay_cbo}

#: In float64.
TOLERANCES: dict[str, float] = {"cbo": 1e-12}
