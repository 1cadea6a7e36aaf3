"""What replays of optimizers share: parameters after each of the recorded gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Case = dict[str, Any]


def arrays(tree: Case, dtype: Any = np.float64) -> dict[str, jax.Array]:
    """A recorded tree of one level as arrays."""
    return {name: jnp.asarray(value, dtype) for name, value in tree.items()}


def trajectory(tx: optax.GradientTransformation, case: Case, dtype: Any = np.float64) -> list:
    """Parameters after each of the recorded gradients."""

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, steps = arrays(case["params0"], dtype), []
    state = tx.init(params)
    for grads in case["grads"]:
        params, state = step(params, state, arrays(grads, dtype))
        steps.append({name: np.asarray(value, np.float64) for name, value in params.items()})
    return steps
