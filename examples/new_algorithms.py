"""Write a federated algorithm of your own: three of them, in a few lines each.

    python examples/new_algorithms.py --rounds 50

An algorithm is three chains: what a client does, how messages are combined, what the server
does. Each of the three below replaces one part: FedExP the message and the server, a majority
vote the aggregate, exact diffusion does without a server. All run in ``federated.simulate``, in
chunks or over devices, because every chain speaks for one participant.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated
from gradax.federated import topology

# 1. FedExP: the server takes longer steps when the clients disagree -----------------------


class Sent(NamedTuple):
    """A message of two parts; an aggregate averages both."""

    displacement: Any
    squared_norm: Any


def with_squared_norm() -> optax.GradientTransformation:
    """Last member of a client: what it sends is its displacement and the square of its length."""

    def update(updates, state, params=None):
        del params
        return Sent(updates, optax.tree.norm(updates, squared=True)), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def extrapolate(eps: float = 1e-3) -> optax.GradientTransformation:
    """First member of a server, which receives minus the mean message."""

    def update(updates, state, params=None):
        del params
        mean_square = -updates.squared_norm
        square_of_mean = optax.tree.norm(updates.displacement, squared=True)
        rate = jnp.maximum(1.0, mean_square / (2 * (square_of_mean + eps)))
        return optax.tree.scale(rate, updates.displacement), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def fedexp(learning_rate: float, eps: float = 1e-3) -> federated.Algorithm:
    """FedExP (Jhunjhunwala et al., 2023, arXiv 2301.09604)."""
    return federated.Algorithm(
        client=optax.chain(federated.local_steps(optax.sgd(learning_rate)), with_squared_norm()),
        aggregate=federated.average("clients", "uniform"),
        server=optax.chain(extrapolate(eps), optax.sgd(1.0)),
    )


# 2. A majority vote of signs: an aggregate that streams -----------------------------------


def majority(axis_name: str = "clients") -> federated.SumAggregate:
    """The sign that most participants agree on, coordinate by coordinate."""

    def partial(message, **extras):
        del extras
        return 1.0, jax.tree.map(jnp.sign, message)

    def finish(votes, voters, state, params=None, **extras):
        del voters, params, extras
        return jax.tree.map(jnp.sign, votes), state

    return federated.SumAggregate(optax.init_empty_state, partial, finish, axis_name)


def majority_vote(learning_rate: float, server_learning_rate: float) -> federated.Algorithm:
    """Clients train, vote on a direction, and the server takes one step of a fixed length."""
    return federated.Algorithm(
        client=federated.local_steps(optax.sgd(learning_rate)),
        aggregate=majority("clients"),
        server=optax.sgd(server_learning_rate),
    )


# 3. Exact diffusion: peers, in two members of a chain -------------------------------------


class ExactDiffusionState(NamedTuple):
    """What a node remembers: whether it has moved yet, and where its last step led."""

    first: jax.Array
    half: optax.Params


def correct_diffusion() -> optax.GradientTransformation:
    """Takes out of a step what the last exchange has put in; stands before ``gossip``."""

    def init(params):
        return ExactDiffusionState(jnp.array(True), optax.tree.zeros_like(params))

    def update(updates, state, params):
        correct = lambda u, x, half: jnp.where(state.first, u, u + x - half)
        corrected = jax.tree.map(correct, updates, params, state.half)
        half = optax.apply_updates(params, updates)
        return corrected, ExactDiffusionState(jnp.array(False), half)

    return optax.GradientTransformation(init, update)


def exact_diffusion(learning_rate: float, mixing: np.ndarray) -> optax.GradientTransformation:
    """Exact diffusion (Yuan et al., 2017, arXiv 1702.05122): gossip without its bias."""
    mix = federated.gossip(topology.lazy(mixing), "nodes")
    return optax.chain(optax.sgd(learning_rate), correct_diffusion(), mix)


# A problem to try them on: linear regression, every client with a truth of its own --------


def make_problem(num_clients: int = 8, dim: int = 20, seed: int = 0):
    """Clients' data, and the weights that are best for all together."""
    rng = np.random.default_rng(seed)
    truths = rng.normal(size=dim) + 0.3 * rng.normal(size=(num_clients, dim))
    x = rng.normal(size=(num_clients, 10, dim)) * rng.uniform(0.3, 1.5, (num_clients, 1, 1))
    y = np.einsum("cnd,cd->cn", x, truths)
    examples = {"x": x.reshape(-1, dim), "y": y.reshape(-1)}
    best = np.linalg.lstsq(examples["x"], examples["y"])[0]
    examples = jax.tree.map(lambda leaf: leaf.astype(np.float32), examples)
    parts = np.split(np.arange(num_clients * 10), num_clients)
    return federated.data.padded(examples, parts), best.astype(np.float32)


def loss_fn(weights: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """Half the mean squared error."""
    return jnp.mean((batch["x"] @ weights - batch["y"]) ** 2) / 2


def distance(algorithm, rounds: int, num_steps: int) -> float:
    """How far from the best weights a run ends; of peers, the farthest one."""
    clients, best = make_problem()
    result = federated.simulate(
        algorithm,
        loss_fn,
        jnp.zeros_like(best),
        clients,
        rounds,
        batch_size=None,
        num_steps=num_steps,
        segment=rounds,
    )
    return float(jnp.max(jnp.linalg.norm(result.params - best, axis=-1)))


def main() -> None:
    """Prints how far each algorithm, and its plain relative, is from the optimum."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    ring = topology.metropolis_weights(topology.ring(8))
    gossip = optax.chain(optax.sgd(0.2), federated.gossip(topology.lazy(ring), "nodes"))
    runs = {
        "FedAvg": (federated.fedavg(0.02, weighting="uniform"), 5),
        "FedExP": (fedexp(0.02), 5),
        "majority vote": (majority_vote(0.02, 0.05), 5),
        "gossip": (gossip, 1),
        "exact diffusion": (exact_diffusion(0.2, ring), 1),
    }
    for name, (algorithm, num_steps) in runs.items():
        print(f"{name:16s} {distance(algorithm, rounds, num_steps):.2e} from the optimum")


if __name__ == "__main__":
    main()
