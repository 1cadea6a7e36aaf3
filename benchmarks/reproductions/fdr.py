"""SGD that cuts its rate where fluctuation and dissipation balance, on softmax regression."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import schedules

from . import _digits
from ._record import Reproduction

SEEDS, EPOCHS, BATCH, L2, START = 3, 60, 10, 0.01, 0.5
OPTIMUM = 0.741057  # by a quasi-Newton method in double precision

#: rule -> rate at the start, threshold, cut, records, expected losses.
RULES = {
    "constant 0.5": (START, 0.0, 0.1, 1, "0.768, 0.773"),
    "constant 0.05": (0.05, 0.0, 0.1, 1, "0.7414, 0.7428"),
    "X = 0.01, Y = 0.1": (START, 0.01, 0.1, 1, "0.746, 0.756"),
    "X = 0.1, Y = 0.3": (START, 0.1, 0.3, 1, "0.74107, 0.74110"),
    "the same, every 10th record": (START, 0.1, 0.3, 10, None),
}
SLOW, QUICK, SPARSE = list(RULES)[2:]


def run() -> Reproduction:
    """Every rule with all seeds side by side."""
    parts = _digits.load()
    examples = {name: np.concatenate([part[name] for part in parts]) for name in ("x", "y")}
    epoch = len(examples["y"]) // BATCH // 10 * 10  # a multiple of every cadence
    network = _digits.Network((64, 10))
    zeros = jax.tree.map(jnp.zeros_like, network.init(jax.random.key(0)))
    loss = lambda params, batch: (
        network.loss(params, batch) + L2 / 2 * optax.tree.norm(params, squared=True)
    )

    @functools.partial(jax.jit, static_argnums=(0, 1, 2))
    def end(rule, epochs, seed):
        rate, threshold, decay, every, _ = RULES[rule]
        tx = schedules.fdr_sgd(
            rate, check_every=epoch, threshold=threshold, decay=decay, every=every
        )
        key = jax.random.key(seed)
        params, state = _digits.train(loss, tx, zeros, examples, BATCH, epochs * epoch, key)
        return loss(params, examples), state

    rows, losses, states = [], {}, {}
    for rule, (*_, expected) in RULES.items():
        ends = [end(rule, EPOCHS, seed) for seed in range(SEEDS)]
        losses[rule] = [float(value) for value, _ in ends]
        states[rule] = [state for _, state in ends]
        span = lambda name, rule=rule: sorted(float(getattr(s, name)) for s in states[rule])
        drops, rates = span("num_drops"), span("learning_rate")
        rows.append(
            (
                rule,
                expected,
                ", ".join(f"{value:.5f}" for value in losses[rule]),
                f"{drops[0]:.0f} to {drops[-1]:.0f}",
                f"{rates[0]:.3g} to {rates[-1]:.3g}",
            )
        )
    first = [float(end("constant 0.5", 1, seed)[1].last_ratio) for seed in range(SEEDS)]
    last = [float(state.last_ratio) for state in states["constant 0.5"]]
    mean = {rule: np.mean(values) for rule, values in losses.items()}
    near = lambda rule: max(losses[rule]) <= OPTIMUM + 2e-4
    return Reproduction(
        name="fdr",
        title="A rate that falls when training has become stationary",
        paper="on MNIST and CIFAR-10 the rate is cut by itself and matches a schedule made by hand "
        "([1810.00004](https://arxiv.org/abs/1810.00004)).",
        setup=f"all {len(examples['y'])} digits, softmax regression from zero, L2 penalty {L2}, "
        f"batches of {BATCH}, {EPOCHS} epochs, a check each epoch, {SEEDS} seeds; the loss on all "
        f"data at the end, whose least value is {OPTIMUM}. With a constant rate of 0.5 the ratio "
        f"of both means is {', '.join(f'{value:.2f}' for value in first)} after the first epoch "
        f"and {', '.join(f'{value:.3f}' for value in last)} after the last.",
        expected="Expected figures are of two other seeds.",
        columns=("rule", "expected losses", "gradax", "cuts", "last rate"),
        rows=rows,
        claims={
            "X = 0.1, Y = 0.3 ends within 0.0002 of the least loss with every seed": near(QUICK),
            "the order of mean losses is the expected one: X = 0.1, then constant 0.05, then "
            "X = 0.01, then constant 0.5": sorted(list(mean)[:4], key=mean.__getitem__)
            == [QUICK, "constant 0.05", SLOW, "constant 0.5"],
            "X = 0.1 makes 9 to 14 cuts, X = 0.01 makes 5 to 11": all(
                low <= state.num_drops <= high
                for rule, low, high in ((QUICK, 9, 14), (SLOW, 5, 11))
                for state in states[rule]
            ),
            "at a constant rate the ratio is negative after the first epoch, and within 0.1 of one "
            "after the last": max(first) < 0 and max(abs(x - 1) for x in last) < 0.1,
            "a tenth of the records does as well": near(SPARSE),
        },
        remark="With fewer records the means are noisier, and checks come near one less often.",
    )


if __name__ == "__main__":
    run().save()
