"""Replays of MASHA with recorded coins, and recorded coordinates for random ones."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

Case = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedCoordinates(federated.Compressor):
    """Keeps the coordinates that were recorded for a call and a node, times d / k."""

    indices: np.ndarray

    is_unbiased = True

    def init(self, tree):
        del tree
        return jnp.zeros([], jnp.int32)

    def compress(self, key, tree, state=()):
        del key
        mine = jnp.asarray(self.indices)[state, federated.axis.index("nodes")]
        kept = jnp.zeros_like(tree["z"]).at[mine].set(tree["z"].size / mine.size)
        return {"z": kept * tree["z"]}, state + 1

    def bits(self, like):
        return 0 * len(like)


def _make(case: Case) -> optax.GradientTransformation:
    hp = case["hyperparams"]
    if hp["method"] == "masha1":
        factory, compressor = federated.masha1, RecordedCoordinates(np.array(case["indices"]))
    else:
        factory, compressor = federated.masha2, federated.top_k(k=hp["k_dev"])
    return factory(hp["gamma"], compressor, "nodes", tau=hp["tau"])


def _operator(problem: Case, lam: float) -> Callable[[Any], Any]:
    """The field of a bilinear game of one node."""
    A, a, b = problem["A"], problem["a"], problem["b"]

    def operator(params):
        x, y = jnp.split(params["z"], 2)
        return {"z": jnp.concatenate([A @ y + a + lam * x, -A.T @ x - b + lam * y])}

    return operator


def replay_masha(case: Case) -> Case:
    """The three points of every step, at the first node, and what is remembered at the end."""
    with jax.enable_x64(True):
        tx, lam = _make(case), case["problem"]["lam"]
        games = {name: jnp.array(case["problem"][name]) for name in ("A", "a", "b")}
        start = {"z": jnp.array(case["params0"]["z"])}

        def step(carry, coin, game):
            (params, state), field, points = carry, _operator(game, lam), []

            def operator(params):
                points.append(params["z"])
                return field(params)

            updates, state = tx.update(field(params), state, params, grad_fn=operator, refresh=coin)
            params = optax.apply_updates(params, updates)
            w = jnp.where(state.pending, params["z"], state.snapshot["z"])
            return (params, state), {"z": params["z"], "w": w, "z_half": points[0]}

        def run(game):
            body = lambda carry, coin: step(carry, coin, game)
            return jax.lax.scan(body, (start, tx.init(start)), jnp.array(case["coins"]))

        (_, state), path = jax.jit(jax.vmap(run, axis_name="nodes"))(games)
        path = {name: np.asarray(leaf) for name, leaf in path.items()}
        replayed = {"params": [{name: path[name][0, k] for name in path} for k in range(20)]}
        if "final_state" in case:
            replayed["final_state"] = {"e_dev": np.asarray(state.error["z"])}
    return replayed


REPLAYS: dict[str, Callable[[Case], Case]] = {"masha": replay_masha}

TOLERANCES: dict[str, float] = {"masha": 1e-10}
