"""Replays of the golden trajectories of federated algorithms, through ``simulate``."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated


def _quadratic(params, batch):
    """Mean of ``(x - a)' H (x - a) / 2`` over the rows of a batch; each client has one row."""
    gap = params["x"] - batch["a"]
    return jnp.mean(jnp.einsum("ni,nij,nj->n", gap, batch["H"], gap)) / 2


def _softmax_regression(params, batch):
    logits = batch["X"] @ params["w"].T + params["b"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))


def _linear_regression(params, batch):
    return jnp.mean((batch["X"] @ params["w"] + params["b"] - batch["y"]) ** 2) / 2


_LOSSES: dict[str, Callable] = {
    "quadratic": _quadratic,
    "softmax_regression": _softmax_regression,
    "linear_regression": _linear_regression,
}


def _clients(problem):
    """The examples of all clients; a quadratic counts as one example."""
    rows = {name: problem[name] for name in ("H", "a", "X", "y") if name in problem}
    if problem["kind"] == "quadratic":
        rows = {name: [[part] for part in parts] for name, parts in rows.items()}
    rows = {name: [np.asarray(part) for part in parts] for name, parts in rows.items()}
    sizes = [len(part) for part in next(iter(rows.values()))]
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return federated.data.padded({name: np.concatenate(v) for name, v in rows.items()}, parts)


def _cohort(hp, num_clients):
    """The recorded cohorts, filled up with nobody, and the recorded weights."""
    active = hp["active_clients_per_round"]
    size = max(map(len, active))
    ids = np.array([[*row, *[num_clients] * (size - len(row))] for row in active])
    counts = hp.get("example_counts")
    lane = {} if counts is None else {"weight": np.array([*counts, 0.0])[ids]}
    return federated.scheduled_cohort(num_clients, ids, lane)


def _trajectory(case, algorithm):
    """Parameters after every round."""
    hp, clients = case["hyperparams"], _clients(case["problem"])
    leaf = lambda node: not isinstance(node, dict)
    history = federated.simulate(
        algorithm,
        _LOSSES[case["problem"]["kind"]],
        jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), case["params0"], is_leaf=leaf),
        clients,
        rounds=len(hp["active_clients_per_round"]),
        cohort=_cohort(hp, clients.num_clients),
        batch_size=None,
        num_steps=hp["local_steps"],
        segment=1,
        evaluate=lambda params: params,
    ).history
    names = list(case["params0"])
    return {"params": [{name: row[name] for name in names} for row in history.rows]}


def _local(hp):
    """Local SGD of the recorded runs: weight decay, and a rate that decays over the rounds."""
    rate = hp["local_learning_rate"]
    schedule = lambda round: rate * jnp.asarray(hp.get("lr_decay", 1.0)) ** round
    return optax.chain(
        optax.add_decayed_weights(hp.get("weight_decay", 0.0)),
        federated.scale_by_round_rate(schedule),
    )


def _fedavg(case):
    hp = case["hyperparams"]
    server = optax.sgd(hp["global_learning_rate"])
    algorithm = federated.fedavg(client=_local(hp), server=server, weighting="uniform")
    return _trajectory(case, algorithm)


def _fedopt_weighted(case):
    hp = case["hyperparams"]
    server = getattr(optax, hp["server_optimizer"])(**hp["server_kwargs"])
    algorithm = federated.fedavg(client=_local(hp), server=server, weighting=hp["weighting"])
    return _trajectory(case, algorithm)


def _fedadam(case):
    hp = case["hyperparams"]
    algorithm = federated.fedadam(
        client=_local(hp),
        server_learning_rate=hp["global_learning_rate"],
        b1=hp["beta1"],
        b2=hp["beta2"],
        eps=hp["epsilon"],
        initial_accumulator_value=0.0,
        weighting="uniform",
    )
    return _trajectory(case, algorithm)


def _fedprox(case):
    hp = case["hyperparams"]
    server = optax.sgd(hp["global_learning_rate"])
    algorithm = federated.fedprox(
        client=_local(hp), prox_weight=hp["lamb"], server=server, weighting="uniform"
    )
    return _trajectory(case, algorithm)


def _fedspeed(case):
    hp = case["hyperparams"]
    algorithm = federated.fedspeed(
        client=_local(hp),
        rho=hp["rho"],
        merge=hp["alpha"],
        prox_weight=hp["lamb"],
        server_rule=hp["server_rule"],
    )
    return _trajectory(case, algorithm)


def _in_float64(replay):
    def run(case):
        with jax.enable_x64(True):
            return replay(case)

    return run


REPLAYS: dict[str, Callable[[dict], dict]] = {
    name: _in_float64(replay)
    for name, replay in {
        "fedavg": _fedavg,
        "fedopt_weighted": _fedopt_weighted,
        "fedadam_server": _fedadam,
        "fedprox": _fedprox,
        "fedspeed": _fedspeed,
    }.items()
}
