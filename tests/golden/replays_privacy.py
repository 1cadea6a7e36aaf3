"""Replays of dp_accounting.json, dice_sgd.json and diff2.json.

The files record the noise itself; where it enters a recursion, the recorded numbers stand in for
those that the method would draw.
"""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated
from gradax.federated.privacy import _diff2

Case = dict[str, Any]


def replay_dp_accounting(case: Case) -> Case:
    """Epsilons by both accountants, or calibrated noise."""
    rows = []
    for row in case["rows"]:
        rate, rounds, delta = (row[k] for k in ("sampling_probability", "steps", "delta"))
        if case["name"] == "calibration":
            target = row["target_epsilon"]
            found = federated.calibrate_noise(target, rate, rounds, delta)
            rows.append({"noise_multiplier_rdp": found})
            continue
        arguments = rate, row["noise_multiplier"], rounds, delta
        rows.append(
            {f"epsilon_{kind}": federated.dp_epsilon(*arguments, kind) for kind in ("rdp", "pld")}
        )
    return {"rows": rows}


def replay_dice_sgd(case: Case) -> Case:
    """Parameters and error after each batch; the noise is added to what is emitted."""
    hp = case["hyperparams"]
    with jax.enable_x64(True):
        X, y = (jnp.asarray(case["problem"][name], float) for name in ("X", "y"))
        noise, x = jnp.asarray(hp["noise_on_mean"], float), jnp.asarray(case["params0"]["x"], float)
        tx = federated.dice_aggregate(hp["clip_grad"], hp["clip_error"], 0.0, key=0)

        def step(carry, seen):
            (x, state), (batch, noise) = carry, seen
            rows = (X[batch] @ x - y[batch])[:, None] * X[batch]
            v, state = tx.update(x, state, x, per_example_grads=rows)
            x = x - hp["learning_rate"] * (v + noise)
            return (x, state), (x, state.error)

        batches = jnp.asarray(hp["batches"])
        play = jax.jit(lambda carry: jax.lax.scan(step, carry, (batches, noise))[1])
        path, errors = play((x, tx.init(x)))
        return {
            "params": [{"x": x} for x in np.asarray(path).tolist()],
            "error_state": np.asarray(errors).tolist(),
        }


def replay_diff2(case: Case) -> Case:
    """Parameters, estimate and radius of the workers, which hold a lane each."""
    hp = case["hyperparams"]
    clips = hp["clip_gradient"], hp["clip_difference"]
    noise = hp["noise_multiplier_gradient"], hp["noise_multiplier_difference"]
    tx = federated.diff2(
        hp["learning_rate"], *clips, *noise, hp["restart_every"], key=0, axis_name="nodes"
    ).aggregate
    with jax.enable_x64(True):
        X, y = (jnp.asarray(case["problem"][name], float) for name in ("X", "y"))
        x = jnp.asarray(case["params0"]["x"], float)
        draws = jnp.asarray(hp["standard_normal_draws"], float)

        def loss(x, row, label):
            z = row @ x
            penalty = 0.1 * jnp.sum(x**2 / (1 + x**2))
            return jnp.logaddexp(0.0, z) - label * z + penalty

        def worker(X, y):
            grads = lambda x: jax.vmap(jax.grad(loss), (None, 0, 0))(x, X, y)

            def step(carry, draw):
                x, state = carry
                radius = []

                def recorded(key, tree, stddev):
                    del key
                    return tree + stddev * draw

                def remembered(rows, bound):
                    radius.append(bound)
                    return clipped_sum(rows, bound)

                clipped_sum = _diff2.clipped_sum
                with (
                    mock.patch.object(_diff2, "add_normal", recorded),
                    mock.patch.object(_diff2, "clipped_sum", remembered),
                ):
                    updates, state = tx.update(x, state, x, per_example_grad_fn=grads)
                x = optax.apply_updates(x, updates)
                return (x, state), (x, optax.tree_utils.tree_get(state, "estimate"), radius[0])

            return jax.lax.scan(step, (x, tx.init(x)), draws)[1]

        path, estimate, radius = jax.jit(jax.vmap(worker, axis_name="nodes"))(X, y)
        return {
            "params": [{"x": x} for x in np.asarray(path[0]).tolist()],
            "estimator": np.asarray(estimate[0]).tolist(),
            "clip_radius": np.asarray(radius[0]).tolist(),
        }


REPLAYS = {
    "dp_accounting": replay_dp_accounting,
    "dice_sgd": replay_dice_sgd,
    "diff2": replay_diff2,
}

#: Relative: the search for the noise ends at a millionth.
TOLERANCES = {"dp_accounting": 1e-6}
