"""Decentralized averaging with and without SAM, with one gossip step a round and with four."""

import jax
import jax.numpy as jnp
import numpy as np

from gradax import federated

from . import _digits
from ._record import Reproduction

NODES, ALPHA, LOCAL, RATE, ROUNDS, BATCH, SEEDS = 16, 0.3, 5, 0.2, 30, 32, 3
#: name -> radius, gossip steps.
METHODS = {
    "DFedAvg": (0.0, 1),
    "DFedSAM": (0.1, 1),
    "DFedAvg, Q = 4": (0.0, 4),
    "DFedSAM-MGS, Q = 4": (0.1, 4),
}

#: accuracy of the averaged model, mean accuracy of the nodes' models, consensus distance.
EXPECTED = {
    "DFedAvg": (0.892, 0.791, 1.07),
    "DFedSAM": (0.892, 0.791, 1.31),
    "DFedAvg, Q = 4": (0.909, 0.873, 0.10),
    "DFedSAM-MGS, Q = 4": (0.913, 0.874, 0.14),
}


def play(rho: float, gossip_steps: int, seed: int) -> tuple[float, float, float]:
    """One run; what the columns show."""
    train, test = _digits.load()
    network, test = _digits.Network((64, 32, 10)), jax.tree.map(jnp.asarray, test)
    parts = federated.partition_dirichlet(train["y"], NODES, ALPHA, min_size=10, seed=seed)
    ring = federated.topology.metropolis_weights(federated.topology.ring(NODES))

    def evaluate(rows):
        mean = jax.tree.map(lambda x: x.mean(axis=0), rows)
        apart = jax.tree.map(lambda x, m: jnp.sum((x - m) ** 2), rows, mean)
        return {
            "mean_model": network.accuracy(mean, test),
            "nodes": jnp.mean(jax.vmap(network.accuracy, (0, None))(rows, test)),
            "consensus": sum(jax.tree.leaves(apart)) / NODES,
        }

    history = federated.simulate(
        federated.dfedsam(RATE, ring, "nodes", rho, gossip_steps),
        network.loss,
        network.init(jax.random.key(seed)),
        federated.data.padded(train, parts),
        evaluate=evaluate,
        key=seed,
        **{"rounds": ROUNDS, "num_steps": LOCAL, "batch_size": BATCH, "segment": ROUNDS},
    ).history
    return tuple(history.last(name) for name in ("mean_model", "nodes", "consensus"))


def run() -> Reproduction:
    """Four methods on three splits."""
    ours = {
        name: np.mean([play(*arguments, seed) for seed in range(SEEDS)], axis=0)
        for name, arguments in METHODS.items()
    }
    columns = ("mean model", "nodes", "consensus distance")
    rows = [
        (name, *(cell for pair in zip(EXPECTED[name], ours[name], strict=True) for cell in pair))
        for name in METHODS
    ]
    once = np.array([ours["DFedAvg"], ours["DFedSAM"]])
    four = np.array([ours["DFedAvg, Q = 4"], ours["DFedSAM-MGS, Q = 4"]])
    return Reproduction(
        name="dfedsam",
        title="More gossip steps make nodes consistent",
        paper="with several gossip steps DFedSAM beats decentralized baselines on CIFAR by a few "
        "points and nearly closes the gap to federated averaging with SAM "
        "([2302.04083](https://arxiv.org/abs/2302.04083)).",
        setup=f"digits, {NODES} nodes on a ring, Dirichlet({ALPHA:g}) split, a network 64-32-10, "
        f"{LOCAL} local steps with batches of {BATCH} at rate {RATE}, {ROUNDS} rounds, mean of "
        f"{SEEDS} seeds; rho = 0.1 for SAM. Test accuracy of the averaged model, mean test "
        "accuracy of the nodes' own models, and their mean squared distance to the average.",
        expected="Expected figures come from other splits and starts.",
        columns=("method", *(head for name in columns for head in (f"{name}, expected", "gradax"))),
        rows=rows,
        claims={
            "four gossip steps raise the nodes' accuracy by 0.04 at least": np.min(
                four[:, 1] - once[:, 1]
            )
            >= 0.04,
            "they bring the nodes at least five times as close": np.min(once[:, 2] / four[:, 2])
            >= 5,
        },
        remark="What SAM adds is not visible at this scale.",
    )


if __name__ == "__main__":
    run().save()
