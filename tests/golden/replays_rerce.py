"""Replays of RERCE-Fed: recorded noise on the links, recorded schedules, local models as well."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

Case = dict[str, Any]


def recorded(name: str) -> optax.GradientTransformationExtraArgs:
    """A link that adds the noise that the extra of this name holds."""

    def update(updates, state, params=None, **extras):
        del params
        return updates + extras[name], state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def solver_of(case: Case) -> federated.LocalSolver:
    """The exact solver of a recorded problem; the factor of the data term is in the weights."""
    problem, hp = case["problem"], case["hyperparams"]
    return federated.least_squares_solver(
        problem["H"], problem["y"], hp["weight"] * hp["data_factor"]
    )


def replay(case: Case) -> dict:
    """Local models and aggregates after every round."""
    hp, size = case["hyperparams"], case["hyperparams"]["num_clients"]
    continual = hp["variant"] == "continual"
    with jax.enable_x64(True):
        solver = solver_of(case)
        algorithm = federated.rerce_fed(
            hp["rho"], solver, continual, uplink=recorded("up"), downlink=recorded("down")
        )
        tx, start = federated.as_transformation(algorithm), jnp.zeros(3)
        active = np.array([np.isin(np.arange(size), ids) for ids in hp["active_clients_per_round"]])
        if continual:  # everybody's first model is exchanged
            active[0] = True
        noise = np.array(hp["uplink_noise"]), np.array(hp["downlink_noise"])

        def client(client_id, active, up, down):
            def one(carry, seen):
                params, state = carry
                active, up, down = seen
                updates, state = tx.update(
                    params, state, params, active=active, client_id=client_id, up=up, down=down
                )
                params = optax.apply_updates(params, updates)
                admm = state.client[0]
                model = admm.model
                if continual:  # steps that nobody has heard of yet
                    missed = state.count - 1 - admm.memory.round
                    step = lambda _, x: solver.solve(
                        x,
                        solver.gradient(x, client_id=client_id) + hp["rho"] * admm.memory.vector,
                        hp["rho"],
                        client_id=client_id,
                    )
                    model = jax.lax.fori_loop(0, missed, step, model)
                return (params, state), (model, federated.rerce_params(state.shared))

            return jax.lax.scan(one, (start, tx.init(start)), (active, up, down))[1]

        over = jax.jit(jax.vmap(client, (0, 1, 1, 1), axis_name="clients"))
        models, means = over(jnp.arange(size), active, *noise)
    # Who was never there has computed nothing yet; the recording starts with the first models.
    started, first = np.cumsum(active, axis=0).T > 0, np.array(case["params0"]["x_i"])
    models = np.where(started[..., None], models, first[:, None])
    return {
        "params": [{"x_i": models[:, t]} for t in range(len(active))],
        "globals": np.asarray(means[0]),
    }


REPLAYS = {"rerce_fed": replay}
TOLERANCES = {"rerce_fed": 1e-10}
