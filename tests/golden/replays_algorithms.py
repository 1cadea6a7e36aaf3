"""Replays of the algorithms with a server that keep or tell more than a model.

All clients run side by side through ``as_transformation``; constants are traced, so the cases of
one shape share one compilation.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

Case = dict[str, Any]


def _quadratic(params, rows):
    gap = params["x"] - rows["a"]
    return gap @ rows["H"] @ gap / 2


def _softmax_regression(params, rows):
    logits = rows["X"] @ params["w"].T + params["b"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, rows["y"]))


_LOSSES = {"quadratic": _quadratic, "softmax_regression": _softmax_regression}


def _rate(hp):
    return lambda round: hp["local_learning_rate"] * hp.get("lr_decay", 1.0) ** round


def _local(hp):
    """Local SGD with weight decay."""
    decay = optax.add_decayed_weights(hp["weight_decay"])
    return optax.chain(decay, federated.scale_by_round_rate(_rate(hp)))


def _server(hp):
    return optax.sgd(hp["global_learning_rate"])


def _by_mean_gradient(hp):
    return federated.scaffold(_rate(hp), server=_server(hp))


def _by_displacement(hp):
    return federated.scaffold(_rate(hp), "displacement", client=_local(hp), server=_server(hp))


def _fedamd(hp):
    anchors = lambda round: hp["anchors"][round - 1]
    return federated.fedamd(hp["local_learning_rate"], anchors, _server(hp))


_ALGORITHMS: dict[str, Callable[[Case], federated.Algorithm]] = {
    "scaffold": _by_mean_gradient,
    "scaffold_displacement": _by_displacement,
    "feddyn": lambda hp: federated.feddyn(client=_local(hp), prox_weight=hp["lamb"]),
    "fedcm": lambda hp: federated.fedcm(
        _rate(hp), hp["alpha"], client=_local(hp), server=_server(hp)
    ),
    "fedsam": lambda hp: federated.fedsam(client=_local(hp), rho=hp["rho"], server=_server(hp)),
    "mofedsam": lambda hp: federated.mofedsam(
        _rate(hp), hp["rho"], hp["alpha"], client=_local(hp), server=_server(hp)
    ),
    "fedamd": _fedamd,
}


@functools.cache
def _player(method: str, kind: str) -> Callable:
    """Parameters after every round, of all clients alike."""

    def play(hp, rows, batches, active, params):
        tx = federated.as_transformation(_ALGORITHMS[method](hp))

        def client(rows, client_id, active):
            gradient = jax.grad(_LOSSES[kind])

            def grad_fn(params, *_, batch=None):
                block = batch is not None and batch.size > 0
                return gradient(params, jax.tree.map(lambda x: x[batch], rows) if block else rows)

            def one(carry, active):
                params, state = carry
                extras = {"grad_fn": grad_fn, "full_grad_fn": grad_fn, "client_id": client_id}
                updates, state = tx.update(
                    params, state, params, active=active, batches=batches, **extras
                )
                params = optax.apply_updates(params, updates)
                return (params, state), params

            return jax.lax.scan(one, (params, tx.init(params)), active)[1]

        ids = jnp.arange(active.shape[1])
        return jax.vmap(client, (0, 0, 1), axis_name="clients")(rows, ids, active)

    return jax.jit(play)


def _mask(ids_per_round, num_clients):
    return np.array([np.isin(np.arange(num_clients), ids) for ids in ids_per_round])


def _arrays(tree, names):
    to_array = lambda x: jnp.asarray(x, jnp.int32 if np.asarray(x).dtype.kind == "i" else float)
    return {name: to_array(tree[name]) for name in names if name in tree}


def _replay(method: str, case: Case, batches, active, hp):
    problem = case["problem"]
    rows = _arrays(problem, ("H", "a", "X", "y"))
    params = _arrays(case["params0"], ("x", "w", "b"))
    paths = _player(method, problem["kind"])(hp, rows, batches, active, params)
    path = jax.tree.map(lambda x: np.asarray(x[0]), paths)
    return [{name: path[name][t] for name in case["params0"]} for t in range(len(active))]


def _numbers(hp):
    return {name: float(x) for name, x in hp.items() if isinstance(x, float)}


def _recorded(method: str, case: Case) -> dict:
    hp = case["hyperparams"]
    active = _mask(hp["active_clients_per_round"], hp["num_clients"])
    batches = jnp.zeros((hp["local_steps"], 0), jnp.int32)  # every step uses all rows
    with jax.enable_x64(True):
        return {"params": _replay(method, case, batches, active, _numbers(hp))}


def _scaffold(case: Case) -> dict:
    """Without weight decay both ways to renew a control are the recorded one."""
    first, second = (_recorded(m, case) for m in ("scaffold", "scaffold_displacement"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), first, second)
    return second


def _with_anchors(case: Case) -> dict:
    hp, rows = case["hyperparams"], len(case["problem"]["y"][0])
    everybody = np.ones((1, hp["num_clients"]), bool)  # the round of the first bullseyes
    active = _mask(hp["active_clients_per_round"], hp["num_clients"])
    blocks = np.arange(rows).reshape(-1, hp["minibatch"])
    batches = jnp.asarray(blocks[np.arange(hp["local_steps"]) % len(blocks)])
    anchors = jnp.asarray(_mask(hp["anchor_clients_per_round"], hp["num_clients"]))
    with jax.enable_x64(True):
        played = np.concatenate([everybody, active])
        path = _replay("fedamd", case, batches, played, _numbers(hp) | {"anchors": anchors})
    return {"params": path[1:]}


REPLAYS: dict[str, Callable[[Case], dict]] = {
    "scaffold": _scaffold,
    "fedamd": _with_anchors,
    **{
        method: functools.partial(_recorded, method)
        for method in ("feddyn", "fedcm", "fedsam", "mofedsam")
    },
}

TOLERANCES: dict[str, float] = dict.fromkeys(REPLAYS, 1e-10)
