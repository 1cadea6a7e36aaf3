"""Replays of the golden files on bandits, through the public interface.

Draws come from recorded uniform numbers: the action in the state is put in place of the drawn one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gradax import schedules


def _recorded(state, uniform):
    """The state with the arm that a recorded uniform number chooses."""
    action = int(np.argmax(uniform < np.cumsum(state.probs)))
    return state._replace(action=jnp.array(action, jnp.int32)), action


def tsallis_inf(case):
    """Probabilities, arms and costs of every round."""
    hp, inputs = case["hyperparams"], case["inputs"]
    rows = {"probs": [], "actions": [], "costs": []}
    with jax.enable_x64(True):
        bandit = schedules.tsallis_inf(hp["grid"], cost_offset=hp["cost_offset"])
        update, state = jax.jit(bandit.update), bandit.init(0)
        for uniform, costs in zip(inputs["uniforms"], inputs["cost_table"], strict=True):
            state, action = _recorded(state, uniform)
            rows["probs"].append(np.asarray(state.probs))
            rows["actions"].append(action)
            rows["costs"].append(costs[action])
            state = update(state, float(costs[action]))
    return {"outputs": rows}


def cheb_cb(case):
    """Probabilities, arms, predictions and costs of every round, and what was made of them.

    The recorded range of costs begins at zero in every round but the last.
    """
    hp, inputs = case["hyperparams"], case["inputs"]
    names = ("probs", "actions", "predicted", "costs", "eta", "scale")
    rows = {name: [] for name in names}
    low, high = hp["context_low"], hp["context_high"]
    make = functools.partial(schedules.cheb_cb, hp["grid"], hp["num_features"], low, high)
    contexts = inputs["contexts"]
    with jax.enable_x64(True):
        bandit = make()
        update, state = jax.jit(bandit.update), bandit.init(0, contexts[0])
        for t, costs in enumerate(inputs["cost_table"]):
            state, action = _recorded(state, inputs["uniforms"][t])
            place = 2 * (contexts[t] - low) / (high - low) - 1
            series = np.polynomial.chebyshev.chebval(place, state.theta[action])
            rows["probs"].append(np.asarray(state.probs))
            rows["actions"].append(action)
            rows["predicted"].append(series)
            rows["costs"].append(costs[action])
            last = t + 1 == hp["horizon"]
            following = contexts[t if last else t + 1]
            state = (make(pad_min=False).update if last else update)(
                state, costs[action], following
            )
            rows["eta"].append(float(state.eta))
            rows["scale"].append(float(state.scale))
    return {"outputs": rows}


REPLAYS = {"tsallis_inf": tsallis_inf, "cheb_cb": cheb_cb}
