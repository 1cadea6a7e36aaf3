"""Replays of asynchronous servers: recorded schedules, weights and trajectories.

All cases share one compiled function: schedules are filled up with nobody, and constants are
traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

CLIENTS, STEPS, LOCAL_STEPS, VERSIONS = 5, 25, 3, 12

KINDS = {"FL": "sync", "Async": "async", "FedBuff": "fedbuff", "FedFix": "fedfix"}


@functools.cache
def _player():
    """Parameters after every step of the server."""

    def play(hp, rows, weights, starts, params):
        def client(rows, weight, starts):
            # Each lane knows its own weight, so that one compilation serves all cases.
            base = federated.async_server(
                1.0,
                num_versions=VERSIONS,
                client=optax.sgd(hp["rate"], momentum=hp["momentum"]),
                server=optax.sgd(hp["global_rate"]),
            )
            weighted = lambda u, s, p=None, **_: (jax.tree.map(lambda x: weight * x, u), s)
            scale = optax.GradientTransformationExtraArgs(optax.init_empty_state, weighted)
            tx = federated.as_transformation(base._replace(client=optax.chain(base.client, scale)))
            grad_fn = lambda params, *_, batch=None: {"x": rows["H"] @ (params["x"] - rows["a"])}
            extras = {"grad_fn": grad_fn, "batches": jnp.zeros(LOCAL_STEPS)}
            extras |= {"num_steps": hp["num_steps"]}

            def one(carry, step):
                params, state = carry
                start, number = step
                version = jnp.where(start < 0, number, start)
                updates, state = tx.update(
                    params, state, params, active=start >= 0, version=version, **extras
                )
                params = optax.apply_updates(params, updates)
                return (params, state), params

            steps = starts, jnp.arange(STEPS)
            return jax.lax.scan(one, (params, tx.init(params)), steps)[1]

        return jax.vmap(client, (0, 0, 1), axis_name="clients")(rows, weights, starts)

    return jax.jit(play)


def _padded(array, fill, shape):
    array = np.asarray(array)
    return np.pad(
        array,
        [(0, wanted - there) for wanted, there in zip(shape, array.shape, strict=True)],
        constant_values=fill,
    )


def _path(hp, problem, x0):
    starts = np.asarray(hp["server_schedule"])
    assert federated.AsyncSchedule.of_matrix(starts).num_versions <= VERSIONS
    rows = {
        "H": _padded(problem["H"], 0.0, (CLIENTS, 3, 3)),
        "a": _padded(problem["a"], 0.0, (CLIENTS, 3)),
    }
    numbers = {
        "rate": hp["local_learning_rate"],
        "momentum": hp["local_momentum"],
        "global_rate": hp["global_learning_rate"],
        "num_steps": hp["local_steps"],
    }
    weights = _padded(hp["aggregation_weights"], 0.0, (CLIENTS,))
    steps = _padded(starts, -1, (STEPS, CLIENTS))
    params = {"x": jnp.asarray(x0["x"], jnp.float64)}
    path = _player()(numbers, rows, weights, steps, params)["x"][0]
    return [{"x": np.asarray(x)} for x in path[: len(starts)]]


def _made_anew(hp):
    """The schedule and the weights, where they do not hang on how floats were rounded."""
    kind = KINDS[hp["scheme"]]
    given = {"fedbuff": "buffer_size", "fedfix": "window"}
    options = {given[kind]: hp["delta_t_or_buffer"]} if kind in given else {}
    steps = len(hp["server_schedule"])
    times, shares = hp["client_times"], hp["importance"]
    if hp["delta_t_or_buffer"] == 0.3:
        return {}  # 0.6 is two windows of 0.3, there it is three or two
    # The recorded scheduler compares floats as they come: no tolerance.
    schedule = federated.async_schedule(kind, times, steps, tolerance=0.0, **options)
    found = {"server_schedule": schedule.matrix()}
    if hp["policy"] == "weight" and kind != "fedbuff":
        weights = federated.unbiased_weights(kind, times, shares, **options)
        found["aggregation_weights"] = weights
    return found


def _async_federated(case):
    with jax.enable_x64(True):
        hp = case["hyperparams"]
        path = _path(hp, case["problem"], case["params0"])
        return {"params": path} | ({"hyperparams": found} if (found := _made_anew(hp)) else {})


REPLAYS = {"async_federated": _async_federated}
