"""Softmax regression from random directions, one byte per machine, sample and step."""

import jax
import jax.numpy as jnp
import numpy as np

from gradax import federated

from . import _digits
from ._record import Reproduction

RATE, STEPS, BATCH, SEED = 0.03, 1500, 32, 0

#: machines and samples -> test accuracy with numbers and with bytes.
EXPECTED = {(1, 1): (0.869, 0.870), (4, 1): (0.913, 0.917), (8, 4): (0.924, 0.924)}


def train(machines: int, samples: int, quantize: bool):
    """The result of a run in which every machine holds an equal share of the digits."""
    examples, _ = _digits.load()
    network = _digits.Network((64, 10))
    parts = federated.partition_iid(len(examples["y"]), machines, seed=SEED)
    tx = federated.just_one_byte(
        RATE, "nodes", num_samples=samples, quantize=quantize, key=SEED, log_length=STEPS
    )
    return federated.simulate(
        tx,
        network.loss,
        network.init(jax.random.key(SEED)),
        federated.data.padded(examples, parts),
        key=SEED,
        **{"rounds": STEPS, "batch_size": BATCH, "num_steps": samples, "segment": STEPS},
    )


def accuracy(params) -> float:
    """Test accuracy of the first machine."""
    _, test = _digits.load()
    first = jax.tree.map(lambda x: x[0], params)
    return float(_digits.Network((64, 10)).accuracy(first, jax.tree.map(jnp.asarray, test)))


def alike(result) -> bool:
    """Whether all machines and a replay of the bytes end equal, bit by bit."""
    start = _digits.Network((64, 10)).init(jax.random.key(SEED))
    replayed = federated.replay_bytes(start, federated.byte_log(result.state), SEED, RATE)
    equal = jax.tree.map(lambda x, y: bool((x == y).all()), result.params, replayed)
    return all(jax.tree.leaves(equal))


def run() -> Reproduction:
    """Three fleets, with numbers and with bytes."""
    rows, reached, same = [], {}, []
    for fleet, expected in EXPECTED.items():
        for quantize, figure in zip((False, True), expected, strict=True):
            result = train(*fleet, quantize)
            reached[fleet, quantize] = accuracy(result.params)
            same.append(alike(result))
            sent = result.history.column("bytes_up")[0]
            kind = "bytes" if quantize else "float32"
            rows.append((*fleet, kind, sent, figure, reached[fleet, quantize]))
    gaps = [abs(reached[fleet, True] - reached[fleet, False]) for fleet in EXPECTED]
    rising = all(np.diff([reached[fleet, True] for fleet in EXPECTED]) > 0)
    return Reproduction(
        name="just_one_byte",
        title="One byte is enough to follow a random direction",
        paper="a proof of concept, fine-tuning of language models with one byte per gradient "
        "([2306.10015](https://arxiv.org/abs/2306.10015)).",
        setup=f"digits, softmax regression of 650 parameters, batches of {BATCH}, rate {RATE}, "
        f"{STEPS} steps; every machine holds an equal share of the examples. Test accuracy of one "
        "run each.",
        expected="Expected figures come from other draws.",
        columns=("machines", "samples", "sent", "bytes per step", "expected", "gradax"),
        rows=rows,
        claims={
            "bytes end within 0.02 of the numbers themselves": max(gaps) <= 0.02,
            "more directions per step end higher": rising,
            "all machines, and a replay of what was sent, end equal bit by bit": all(same),
        },
    )


if __name__ == "__main__":
    run().save()
