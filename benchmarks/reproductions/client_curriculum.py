"""Federated digits with easy clients first: the mechanics work, the gain does not appear."""

import jax
import jax.numpy as jnp
import numpy as np

from gradax import federated, schedules

from . import _digits
from ._record import Reproduction

CLIENTS, COHORT, ROUNDS, LAST, SEEDS = 20, 5, 60, 10, 5
EXAMPLES, BATCH, LOCAL_STEPS, RATE = 64, 16, 10, 0.1

#: accuracy in the last ten rounds, on uneven clients.
EXPECTED = {
    "no curriculum": (0.915, 0.008),
    "random": (0.908, 0.010),
    "curriculum": (0.887, 0.008),
    "anti": (0.917, 0.010),
}


def cohort(name: str) -> federated.Cohort:
    """Pacing is linear, from a fifth of the clients to all after 0.8 of the run."""
    if name == "no curriculum":
        return federated.uniform_cohort(CLIENTS, COHORT)
    pacing = schedules.pacing_schedule(
        "linear", 0.8, 0.2, num_steps=ROUNDS * COHORT, num_items=CLIENTS
    )
    return federated.client_curriculum(pacing, name, num_clients=CLIENTS, size=COHORT)


def play(name: str, seed: int):
    """History of a run."""
    examples, test = _digits.load()
    network = _digits.Network((64, 32, 10))
    sizes = np.full(CLIENTS, EXAMPLES)
    parts = federated.partition_client_dirichlet(examples["y"], sizes, 0.1, seed=seed)
    return federated.simulate(
        federated.fedavg(RATE),
        network.loss,
        network.init(jax.random.key(seed)),
        federated.data.padded(examples, parts),
        rounds=ROUNDS,
        cohort=cohort(name),
        batch_size=BATCH,
        num_steps=LOCAL_STEPS,
        segment=1,
        evaluate=lambda params: {
            "accuracy": network.accuracy(params, jax.tree.map(jnp.asarray, test))
        },
        key=seed,
    )


def run() -> Reproduction:
    """Five seeds, each with its own split."""
    rows, mean, pools, finals = [], {}, [], []
    for name, (expected, spread) in EXPECTED.items():
        results = [play(name, seed) for seed in range(SEEDS)]
        late = [np.mean(result.history.column("accuracy")[-LAST:]) for result in results]
        mean[name] = float(np.mean(late))
        rows.append((name, f"{expected} ± {spread}", f"{mean[name]:.3f} ± {np.std(late):.3f}"))
        if name == "curriculum":
            pools = [int(result.state.cohort.pool_size) for result in results]
            finals = [result.history.column("num_active") for result in results]
    return Reproduction(
        name="client_curriculum",
        title="Easy clients first: no gain on a small problem",
        paper="to take clients, and examples within clients, in the order of increasing loss helps "
        "the more the more uneven the clients are "
        "([2212.12712](https://arxiv.org/abs/2212.12712)).",
        setup=f"digits, {CLIENTS} clients of {EXAMPLES} examples, classes by Dirichlet(0.1), "
        f"{COHORT} clients a round, {ROUNDS} rounds, perceptron with 32 hidden units, "
        f"{LOCAL_STEPS} local steps of {RATE} on batches of {BATCH}. *Random* is the pacing alone. "
        f"Test accuracy, mean of the last {LAST} rounds and of {SEEDS} seeds ± deviation over "
        "the seeds.",
        expected="Expected figures come from other splits and local steps.",
        columns=("order", "expected", "gradax"),
        rows=rows,
        claims={
            "the curriculum is ahead of no curriculum, as in the paper": mean["curriculum"]
            > mean["no curriculum"],
            "the curriculum is ahead of its pacing in random order": mean["curriculum"]
            > mean["random"],
            "the reverse order is within 0.02 of no curriculum": abs(
                mean["anti"] - mean["no curriculum"]
            )
            < 0.02,
            "in the end the pool holds every client": all(pool == CLIENTS for pool in pools),
            "the first pool, smaller than a cohort, is one round of four": all(
                counts[0] == CLIENTS // 5 for counts in finals
            ),
        },
        remark="The last round of a pool may be smaller than a cohort, so that fewer updates are "
        f"made than the {ROUNDS * COHORT} for which the pacing was built, and it gets less far.",
    )


if __name__ == "__main__":
    run().save()
