"""Replays of the golden file of Drop-Muon: the active layers are given, not drawn."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from trajectories import Case, arrays

from gradax import optimizers


def _law(case: Case) -> Callable[[jax.Array], jax.Array]:
    """A law under which the recorded layers take part for certain, and no others."""
    layers = range(len(case["hyperparams"]["layers"]))
    table = jnp.array([[k in active for k in layers] for active in case["active_layers"]])
    return lambda count: table[jnp.minimum(count, len(table) - 1)].astype(jnp.float32)


def _momentum(state: optax.OptState) -> dict[str, np.ndarray]:
    """Momentum of all layers, each of which has the state of one matrix."""
    is_ours = lambda node: isinstance(node, optimizers.OrthogonalizedMomentumState)
    nodes = [node for node in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(node)]
    return {
        name: np.asarray(leaf)
        for node in nodes
        for name, leaf in node.mu.items()
        if isinstance(leaf, jax.Array)
    }


def replay_drop_muon(case: Case) -> Case:
    """Parameters and momentum after each gradient."""
    hp = case["hyperparams"]
    with jax.enable_x64(True):
        tx = optimizers.drop_muon(
            hp["lr"],
            {name: number for number, name in enumerate(hp["layers"])},
            _law(case),
            law="independent",
            momentum=hp["beta"],
            step=hp["step"],
            orthogonalizer="svd",
            scale="none",
        )
        update, params = jax.jit(tx.update), arrays(case["params0"])
        state, steps, momenta = tx.init(params), [], []
        for grads in case["grads"]:
            updates, state = update(arrays(grads), state, params)
            params = optax.apply_updates(params, updates)
            steps.append({name: np.asarray(value) for name, value in params.items()})
            momenta.append(_momentum(state))
    return {"params": steps, "momentum": momenta}


REPLAYS: dict[str, Callable[[Case], Case]] = {"drop_muon": replay_drop_muon}
