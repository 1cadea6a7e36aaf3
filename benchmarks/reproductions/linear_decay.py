"""Schedules of the learning rate for softmax regression on digits, each with its best rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import schedules

from . import _digits
from ._record import Reproduction

SEEDS, STEPS, BATCH = 3, 600, 4
RATES = 2.0 ** np.arange(-4, 6, 0.5)

#: final training loss.
EXPECTED = {
    "constant": 0.183,
    "stepwise": 0.167,
    "1 / sqrt(t)": 0.150,
    "cosine": 0.117,
    "linear": 0.110,
}


def run() -> Reproduction:
    """All rates and seeds of a schedule side by side; the rate with the best mean counts."""
    examples, _ = _digits.load()
    network = _digits.Network((64, 10))
    zeros = jax.tree.map(jnp.zeros_like, network.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(0), SEEDS)

    def mean_loss(schedule, rate):
        def one(key):
            tx = optax.sgd(schedules.scale_schedule(schedule, rate))
            params, _ = _digits.train(network.loss, tx, zeros, examples, BATCH, STEPS, key)
            return network.loss(params, examples)

        return jnp.mean(jax.vmap(one)(keys))

    rows, final = [], {}
    for name, schedule in _digits.usual_schedules(STEPS).items():
        losses = jax.jit(jax.vmap(lambda rate, s=schedule: mean_loss(s, rate)))(RATES)
        best = _digits.inner_best(losses)
        final[name] = float(losses[best])
        rows.append((name, float(RATES[best]), EXPECTED[name], final[name]))
    order = sorted(final, key=final.__getitem__)
    return Reproduction(
        name="linear_decay",
        title="Linear decay beats other schedules",
        paper="linear decay to zero matches or beats cosine, stepwise and other usual schedules on "
        "ten deep-learning problems and language models "
        "([2310.07831](https://arxiv.org/abs/2310.07831)).",
        setup=f"digits, softmax regression from zero, batches of {BATCH}, {STEPS} steps of SGD; "
        f"the final training loss, mean of {SEEDS} seeds, each schedule with the best of "
        f"{len(RATES)} learning rates, a factor sqrt(2) apart. *Stepwise* divides by "
        "ten at 30, 60 and 90 %.",
        expected="Expected figures come from another draw of batches and another grid of rates.",
        columns=("schedule", "best rate", "expected loss", "gradax"),
        rows=rows,
        claims={
            "linear is the best of all": order[0] == "linear",
            "linear and cosine are the two best": set(order[:2]) == {"linear", "cosine"},
            "constant is the worst of all": order[-1] == "constant",
            "the order is the expected one": order[::-1] == list(EXPECTED),
        },
    )


if __name__ == "__main__":
    run().save()
