"""Replays of DADAO, event by event through ``simulate``, and of the rates of edges."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradax import federated
from gradax.federated import topology

Case = dict[str, Any]
_KINDS = {"grad": 0, "edge": 1}
_FIELDS = ("x_tilde", "y", "y_tilde", "z", "z_tilde")


def _events(case: Case) -> federated.DadaoEvents:
    times = [event["t"] for event in case["events"]]
    kind = [_KINDS[event["kind"]] for event in case["events"]]
    i = [event["i"] for event in case["events"]]
    j = [event.get("j", event["i"]) for event in case["events"]]
    return federated.DadaoEvents(*map(np.array, ([0.0, *times], [2, *kind], [0, *i], [0, *j])))


def _loss(problem: Case, mu: float) -> Callable[[Any, Case], jax.Array]:
    """The loss of a node, whose only example is its whole problem."""

    def loss(x, batch):
        features, targets = batch["features"][0], batch["targets"][0]
        if problem["kind"] == "linear":
            return jnp.mean((features @ x - targets) ** 2)
        return jnp.mean(jax.nn.softplus(-targets * (features @ x))) + mu / 2 * x @ x

    return loss


def _make(case: Case, events: federated.DadaoEvents) -> Any:
    hp = case["hyperparams"]
    constants = hp["mu"], hp["L"], events, hp["chi1"]
    return federated.dadao(*constants, "nodes", chi2=hp["chi2"], x_tilde_init="zeros")


def replay_dadao(case: Case) -> Case:
    """Rows of the touched nodes right after every event: a segment of one round each."""
    hp, events, seen = case["hyperparams"], _events(case), []
    with jax.enable_x64(True):
        examples = {name: np.asarray(case["problem"][name]) for name in ("features", "targets")}
        data = federated.data.padded(examples, np.arange(hp["n"])[:, None])
        history = federated.simulate(
            _make(case, events),
            None,
            jnp.asarray(case["params0"]["x"], jnp.float64),
            data,
            rounds=len(events.times),
            cohort=federated.dadao_cohort(events, hp["n"]),
            batch_size=None,
            segment=1,
            grad_fn=jax.grad(_loss(case["problem"], hp["mu"])),
            readout=lambda state: {"x": state.params, **_variables(state.aggregate)},
            evaluate=lambda variables: variables,
            replicate=False,
        ).history
    for rows, event in zip(history.rows[1:], case["events"], strict=True):
        nodes = [event["i"], event["j"]] if event["kind"] == "edge" else [event["i"]]
        seen.append({name: [rows[name][node] for node in nodes] for name in ("x", *_FIELDS)})
    return {"after_event_rows": seen}


def _variables(state: federated.DadaoState) -> dict[str, jax.Array]:
    return {name: getattr(state, name) for name in _FIELDS}


def replay_edge_rates(case: Case) -> Case:
    """Totals of equal and of optimal rates, and the constants of given ones."""
    pairs, n = np.asarray(case["edges"]), case["n"]
    chi1, chi2 = topology.graph_chi(pairs, case["test_rates"], n)
    return {
        "uniform_total": float(topology.uniform_edge_rates(pairs, n).sum()),
        "optimal_total": float(topology.optimal_edge_rates(pairs, n).sum()),
        "chi1_of_test_rates": chi1,
        "chi2_of_test_rates": chi2,
    }


REPLAYS: dict[str, Callable[[Case], Case]] = {
    "dadao": replay_dadao,
    "edge_rates": replay_edge_rates,
}

#: The recorded optima come from a solver that is exact to about 1e-5.
TOLERANCES: dict[str, float] = {"dadao": 1e-10, "edge_rates": 1e-3}
