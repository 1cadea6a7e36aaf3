"""Replays of dfedsam.json: rounds of local SAM steps and gossip on quadratics, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

topology = federated.topology

Case = dict[str, Any]


def replay_dfedsam(case: Case) -> Case:
    """Parameters of all nodes after each round."""
    hp = case["hyperparams"]
    assert (hp["weights"], hp["eps"]) == ("metropolis", 1e-12)
    mixing = topology.metropolis_weights(getattr(topology, hp["topology"])(hp["n"]))
    tx = federated.dfedsam(
        hp["lr"], mixing, "nodes", hp["rho"], hp["gossip_steps"], momentum=hp["momentum"]
    )

    def node_round(x, state, Q, b):
        batches = jnp.zeros(hp["local_steps"])
        extras = {"batches": batches, "grad_fn": lambda y, batch: Q @ y - b}
        updates, state = tx.update(Q @ x - b, state, x, **extras)
        return optax.apply_updates(x, updates), state

    with jax.enable_x64(True):
        Q, b = (jnp.asarray(case["problem"][name], jnp.float64) for name in ("Q", "b"))
        x = jnp.asarray(case["params0"]["x"], jnp.float64)
        play, state = jax.jit(jax.vmap(node_round, axis_name="nodes")), jax.vmap(tx.init)(x)
        path = []
        for _ in case["params"]:
            x, state = play(x, state, Q, b)
            path.append({"x": np.asarray(x).tolist()})
    return {"params": path}


REPLAYS = {"dfedsam": replay_dfedsam}

#: Relative, in float64.
TOLERANCES = {"dfedsam": 1e-10}
