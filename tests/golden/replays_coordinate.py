"""Replays of the golden files of coordinate rules, through the public interface."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from trajectories import Case, trajectory

from gradax import optimizers


def replay_clip_top_fraction(case: Case) -> Case:
    """Momentum, clipping, learning rate."""
    hp = case["hyperparams"]
    with jax.enable_x64(True):
        tx = optax.chain(
            optax.trace(hp["momentum"]),
            optimizers.clip_coordinates(hp["fraction"], hp["scope"]),
            optax.scale_by_learning_rate(hp["learning_rate"]),
        )
        return {"params": trajectory(tx, case)}


def replay_block_coordinate_descent(case: Case) -> Case:
    """Quadratics; D is the size of a block times the curvature of a coordinate."""
    problem = {name: np.array(case["problem"][name]) for name in ("H", "b")}
    hp = dict(case["hyperparams"])
    size = hp.get("block_size") or len(hp["blocks"][0])
    with jax.enable_x64(True):
        tx = optimizers.block_coordinate_descent(
            **hp, diagonal=size * np.diag(problem["H"]), hessian=problem["H"]
        )

        @jax.jit
        def step(x, state):
            updates, state = tx.update(problem["H"] @ x - problem["b"], state, x)
            return optax.apply_updates(x, updates), state

        x = jnp.asarray(case["params0"]["x"])
        state, selected, steps = tx.init(x), [], []
        for _ in case["params"]:
            x, state = step(x, state)
            last = np.asarray(state[0].last_block)
            selected.append(np.sort(last).tolist() if last.ndim else int(last))
            steps.append({"x": np.asarray(x)})
        return {"params": steps, "selected": selected}


REPLAYS: dict[str, Callable[[Case], Case]] = {
    "block_coordinate_descent": replay_block_coordinate_descent,
    "clip_top_fraction": replay_clip_top_fraction,
}

TOLERANCES: dict[str, float | Callable[[Case], float]] = {
    name: lambda case: case["tolerance"] for name in REPLAYS
}
