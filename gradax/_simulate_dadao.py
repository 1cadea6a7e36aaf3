"""``gradax simulate dadao``: softmax regression with a penalty, whose constants are known."""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _validate, federated
from gradax._tasks import Task, classification

#: Strength of the penalty unless ``--set strong_convexity=`` says otherwise.
_PENALTY = 0.02
#: Units of time unless ``--rounds`` says otherwise.
_DURATION = 150


def plan(
    arguments: argparse.Namespace, adjacency: np.ndarray, given: dict[str, Any], split: Any
) -> tuple[Task, dict[str, Any]]:
    """Derives everything that the method must be told, and prints it.

    One unit of time, in which each node makes a gradient step on average, stands for a round.

    Args:
      arguments: parsed options.
      adjacency: who talks to whom.
      given: arguments of the method from ``--set``; only ``strong_convexity`` is free.
      split: makes the clients' data from a task.

    Returns:
      The task, and arguments of ``simulate``.

    Raises:
      ValueError: if an option does not fit.
    """
    duration = _DURATION if arguments.rounds is None else arguments.rounds
    for name, value in (("rounds", duration), ("segment", arguments.segment)):
        _validate.integer("simulate", name, value, at_least=1)
    nodes, mu = arguments.clients, given.pop("strong_convexity", _PENALTY)
    if arguments.hidden:
        raise ValueError("simulate: dadao needs a convex loss; leave out --hidden.")
    if given:
        names = ", ".join(given)
        raise ValueError(f"simulate: for dadao only strong_convexity can be set, got {names}.")
    if nodes < 2 or adjacency.shape != (nodes, nodes):
        raise ValueError("simulate: dadao needs two nodes or more.")
    task = _with_penalty(classification(arguments.data, [], arguments.seed), mu)
    data = split(task)
    smoothness = _smoothness(data) + mu
    topology = federated.topology
    pairs = topology.edges(adjacency)
    rates = topology.optimal_edge_rates(pairs, nodes)
    chi1, chi2 = topology.graph_chi(pairs, rates, nodes)
    events = federated.dadao_events(arguments.seed, pairs, rates, nodes, duration=float(duration))
    print(
        f"dadao: strong convexity {mu:g} (penalty), smoothness {smoothness:.4g} (of the data), "
        f"chi1 {chi1:.4g}, chi2 {chi2:.4g}, {rates.sum():.4g} exchanges and {nodes} gradients per "
        f"unit of time; {len(events.times) - 1} events in {duration} units"
    )
    per_unit = len(events.times) / duration
    return task, {
        "algorithm": federated.dadao(mu, smoothness, None, chi1, "nodes", chi2=chi2),
        "loss_fn": None,
        "grad_fn": jax.grad(task.loss_fn),
        "data": data,
        "rounds": len(events.times),
        "cohort": federated.dadao_cohort(events, nodes),
        "batch_size": None,
        "num_steps": 1,
        "segment": max(1, round(arguments.segment * per_unit)),
        "readout": lambda s: federated.dadao_params(s.params, s.aggregate, mu, smoothness),
    }


def _with_penalty(task: Task, strength: float) -> Task:
    """Adds half the squared norm of all parameters, which makes the loss strongly convex."""

    def loss_fn(params, batch):
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return task.loss_fn(params, batch) + strength / 2 * squares

    return task._replace(loss_fn=loss_fn)


def _smoothness(data: Any) -> float:
    """The greatest of the nodes: softmax is 1/2-smooth, so half of the largest eigenvalue."""
    largest = 0.0
    for x, count in zip(np.asarray(data.arrays["x"]), np.asarray(data.counts), strict=True):
        rows = x[:count].reshape(count, -1).astype(np.float64)
        rows = np.append(rows, np.ones((count, 1)), axis=1)  # the bias
        largest = max(largest, np.linalg.norm(rows, ord=2) ** 2 / count)
    return largest / 2
