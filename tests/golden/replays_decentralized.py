"""Replays of the golden files of decentralized and robust training.

A replay takes one case of its file and returns what the case records, computed through the
public interface in float64, with the nodes as lanes of ``jax.vmap(axis_name="nodes")``.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

attacks, rules, topology = federated.attacks, federated.rules, federated.topology

Case = dict[str, Any]


# --- gossip.json ----------------------------------------------------------------------------


def replay_gossip(case: Case) -> Case:
    """Graphs and matrices, or trajectories of decentralized descent on quadratics."""
    return _replay_trajectory(case) if "problem" in case else _replay_matrices(case)


def _replay_matrices(case):
    hp = case["hyperparams"]
    if hp["topology"] == "exponential":
        return {"expected": _exponential(hp["n"])}
    graph = _graph(case)
    weights = {
        "metropolis": topology.metropolis_weights(graph),
        "laplacian_1_over_dmax_plus_1": topology.laplacian_weights(graph),
        "best_constant": topology.best_constant_weights(graph),
    }
    weights |= {f"lazy_{name}": topology.lazy(matrix) for name, matrix in weights.items()}
    described = {name: _describe(weights[name]) for name in case["expected"]}
    return {"adjacency": graph.tolist(), "expected": described}


def _exponential(n):
    peers = topology.one_peer_exponential(n)
    product = functools.reduce(np.matmul, peers)
    return {
        "static": _describe(topology.exponential(n)),
        "one_peer": peers.tolist(),
        "one_peer_product_is_mean": bool(np.allclose(product, 1.0 / n, atol=1e-12)),
    }


def _describe(matrix):
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix)))
    return {
        "W": matrix.tolist(),
        "lambda2": float(moduli[-2]),
        "spectral_gap": topology.spectral_gap(matrix),
    }


def _graph(case):
    hp = case["hyperparams"]
    name = hp["topology"]
    if name in ("grid", "torus"):
        return getattr(topology, name)(hp["rows"], hp["cols"])
    if name == "erdos_renyi":
        return np.asarray(case["adjacency"])  # another generator drew it
    return getattr(topology, name)(hp["n"])


def _mixing(case):
    hp = case["hyperparams"]
    if hp["weights"] == "one_peer_exponential":
        return topology.one_peer_exponential(hp["n"])
    if hp["weights"] in ("exponential", "static_exponential"):
        return topology.exponential(hp["n"])
    name = hp["weights"].removeprefix("lazy_").partition("_1_over")[0]
    matrix = getattr(topology, f"{name.removesuffix('_weights')}_weights")(_graph(case))
    return topology.lazy(matrix) if hp["weights"].startswith("lazy_") else matrix


def _replay_trajectory(case):
    rate, mixing = case["hyperparams"]["lr"], _mixing(case)
    tx = {
        "dpsgd_mix_then_step": lambda: federated.decentralized_sgd(rate, mixing, "nodes"),
        "dpsgd_step_then_mix": lambda: federated.decentralized_sgd(
            rate, mixing, "nodes", order="atc"
        ),
        "gradient_tracking_aug": lambda: federated.gradient_tracking(rate, mixing, "nodes"),
        "gradient_tracking_diging": lambda: federated.gradient_tracking(
            rate, mixing, "nodes", order="cta"
        ),
    }[case["hyperparams"]["algorithm"]]
    with jax.enable_x64(True):
        problem = [jnp.asarray(case["problem"][name], jnp.float64) for name in ("Q", "b")]
        start = jnp.asarray(case["params0"]["x"], jnp.float64)
        path = _descend(tx(), start, *problem, len(case["params"]))
    return {"params": [{"x": x.tolist()} for x in path]}


def _descend(tx, x, Q, b, num_steps):
    """Parameters of all nodes after each step on the losses x' Q_i x / 2 - b_i' x."""

    def node_step(x, state, Q, b):
        updates, state = tx.update(Q @ x - b, state, x)
        return optax.apply_updates(x, updates), state

    step, state = jax.jit(jax.vmap(node_step, axis_name="nodes")), jax.vmap(tx.init)(x)
    path = []
    for _ in range(num_steps):
        x, state = step(x, state, Q, b)
        path.append(np.asarray(x))
    return path


# --- monna.json -----------------------------------------------------------------------------

_ATTACKS = {
    "sign_flipping": (attacks.sign_flip, None),
    "ipm": (attacks.inner_product, "tau"),
    "alie": (attacks.a_little_is_enough, "tau"),
    "mimic": (attacks.mimic, "k"),
}


def _attack(name, factor=None):
    function, parameter = _ATTACKS[name]
    if parameter is None or factor is None:
        return function
    return functools.partial(function, **{parameter: int(factor) if parameter == "k" else factor})


def replay_monna(case: Case) -> Case:
    """MoNNA on quadratics; the rows of the attackers are filled with zeros and ignored."""
    hp = case["hyperparams"]
    f, honest = hp["f"], hp["n"] - hp["f"]
    lies = []
    if hp["attack"] not in (None, "none"):
        attack = _attack(hp["attack"], hp["attack_factor"])
        lies = [federated.inject_attack(attack, f, "nodes", on="models")]
    tx = optax.chain(
        optax.ema(hp["beta"], debias=False),
        optax.scale_by_learning_rate(hp["lr"]),
        *lies,
        federated.nearest_neighbor_average(f, "nodes"),
    )

    def padded(rows):
        rows = jnp.asarray(rows, jnp.float64)
        return jnp.concatenate([rows, jnp.zeros((f, *rows.shape[1:]), rows.dtype)])

    with jax.enable_x64(True):
        problem = [padded(case["problem"][name]) for name in ("Q", "b")]
        path = _descend(tx, padded(case["params0"]["x"]), *problem, len(case["params"]))
    return {"params": [{"x": x[:honest].tolist()} for x in path]}


# --- byz_attacks.json -----------------------------------------------------------------------


def replay_byz_attacks(case: Case) -> Case:
    """What the last participant sends after ``inject_attack``, for every attack of the case."""
    hp = case["hyperparams"]
    with jax.enable_x64(True):
        honest = jnp.asarray(case["honest"], jnp.float64)
        sent = {
            name: _lie(_named_attack(name, hp, honest), honest, hp) for name in case["expected"]
        }
    return {"expected": sent}


def _named_attack(name, hp, honest):
    """Reads ``alie_tau1.5``, ``mimic_2``, ``opt_ipm_vs_trimmed_mean`` and the like."""
    searched = re.fullmatch(r"opt_(\w+)_vs_(\w+)", name)
    if searched:
        attack, rule = _ATTACKS[searched[1]][0], getattr(rules, searched[2])
        search = {key: hp[key] for key in ("evals", "start", "delta", "ratio")}
        tau = attacks.search_factor(attack, rule, honest, hp["f"], **search)
        return functools.partial(attack, tau=tau)
    kind, _, factor = name.rpartition("_")
    if kind in _ATTACKS:
        return _attack(kind, float(factor.removeprefix("tau")))
    return _attack(name)


def _lie(attack, honest, hp):
    tx = federated.inject_attack(attack, hp["f"], "nodes")
    rows = jnp.concatenate([honest, jnp.zeros((hp["f"], *honest.shape[1:]), honest.dtype)])
    send = lambda update: tx.update(update, tx.init(update))[0]
    return np.asarray(jax.jit(jax.vmap(send, axis_name="nodes"))(rows)[-1]).tolist()


REPLAYS: dict[str, Callable[[Case], Case]] = {
    "byz_attacks": replay_byz_attacks,
    "gossip": replay_gossip,
    "monna": replay_monna,
}

#: In float64.
TOLERANCES: dict[str, float] = dict.fromkeys(REPLAYS, 1e-10)
