"""The perceptron's informative weight: what temperature and the number of examples make of it."""

import itertools

import jax
import jax.numpy as jnp

from gradax import schedules

from ._record import Reproduction

DIMENSION, BATCH, MARGIN, MOST, SEEDS = 20, 4, 1.0, 2_000_000, 3
SIZES, TEMPERATURES = (64, 256, 1024), (2.0, 8.0)

#: temperature, number of examples -> informative weight, from one other draw.
EXPECTED = {
    (2.0, 64): 10.9,
    (2.0, 256): 28.7,
    (2.0, 1024): 125.0,
    (8.0, 64): 28.0,
    (8.0, 256): 65.7,
    (8.0, 1024): 252.0,
}


def train(key, size, temperature):
    """SGD on the hinge loss until it is zero; the informative weight, noise weight and steps."""
    at = lambda name: jax.random.fold_in(key, name)
    x = jax.random.normal(at(0), (size, DIMENSION))
    label = jnp.sign(x[:, 0])
    rate = schedules.constant_temperature_schedule(lambda count: BATCH, temperature)(0)

    def slack(w):
        return jnp.maximum(MARGIN - label * (x @ w) / jnp.sqrt(DIMENSION), 0.0)

    def body(carry):
        w, count = carry
        rows = jax.random.randint(jax.random.fold_in(at(1), count), (BATCH,), 0, size)
        short = slack(w)[rows] > 0
        pull = jnp.mean(jnp.where(short[:, None], label[rows, None] * x[rows], 0.0), axis=0)
        return w + rate * pull / jnp.sqrt(DIMENSION), count + 1

    unfinished = lambda carry: jnp.any(slack(carry[0]) > 0) & (carry[1] < MOST)
    w, count = jax.lax.while_loop(unfinished, body, (jnp.zeros(DIMENSION), 0))
    return w[0], jnp.linalg.norm(w[1:]), count


def run() -> Reproduction:
    """All sizes and temperatures, a few draws of the data each."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    rows, signal, noise, steps = [], {}, {}, {}
    for size in SIZES:
        over = jax.vmap(jax.vmap(train, (0, None, None)), (None, None, 0))
        found = jax.jit(over, static_argnums=1)(keys, size, jnp.array(TEMPERATURES))
        for number, temperature in enumerate(TEMPERATURES):
            at = temperature, size
            signal[at], noise[at], steps[at] = (float(part[number].mean()) for part in found)
            longest = int(found[2][number].max())
            rows.append((*at, EXPECTED[at], signal[at], noise[at], round(steps[at]), longest))
    rows.sort(key=lambda row: row[:2])
    grows = all(
        signal[t, a] < signal[t, b] for t in TEMPERATURES for a, b in itertools.pairwise(SIZES)
    )
    return Reproduction(
        name="sgd_temperature",
        title="SGD's temperature in a perceptron",
        paper="the informative weight of a perceptron trained to zero loss grows with temperature "
        "and with a power of the number of examples "
        "([2301.13703](https://arxiv.org/abs/2301.13703)).",
        setup=f"labels are the sign of the first of {DIMENSION} Gaussian inputs, hinge loss with "
        f"margin {MARGIN:g} on w x / sqrt({DIMENSION}), batches of {BATCH}, w = 0 at first, until "
        f"no example is short of the margin; means of {SEEDS} draws.",
        expected="Expected weights come from one other draw, whose scale of w may differ: compare "
        "the order.",
        columns=(
            "temperature",
            "examples",
            "expected weight",
            "informative weight",
            "noise weight",
            "steps",
            "most steps",
        ),
        rows=rows,
        claims={
            "the informative weight grows with the number of examples": grows,
            "the informative weight grows with temperature": all(
                signal[2.0, size] < signal[8.0, size] for size in SIZES
            ),
            "the noise weight grows with temperature": all(
                noise[2.0, size] < noise[8.0, size] for size in SIZES
            ),
            "from 64 to 1024 examples, signal grows at least three times as much as noise": all(
                signal[t, 1024] / signal[t, 64] > 3 * noise[t, 1024] / noise[t, 64]
                for t in TEMPERATURES
            ),
            "every run reaches zero loss": all(row[-1] < MOST for row in rows),
        },
        remark="In a first run with at most 200,000 steps the runs with 1024 examples did not end.",
    )


if __name__ == "__main__":
    run().save()
