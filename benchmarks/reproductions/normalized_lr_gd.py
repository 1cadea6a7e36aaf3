"""Normalized LR+GD beside plain gradient descent: steps until no example is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

from gradax import optimizers

from ._record import Reproduction

#: data, examples -> method -> rate -> steps.
EXPECTED = {
    ("worst case", 100): {
        "normalized": {100: 2, 10: 2, 1: 11, 0.1: 110},
        "plain": {100: 31},
    },
    ("worst case", 1000): {
        "normalized": {100: 2, 10: 2, 1: 16, 0.1: 157},
        "plain": {100: 308},
    },
    ("worst case", 5000): {
        "normalized": {100: 2, 10: 2, 1: 19, 0.1: 189},
        "plain": {100: 1540},
    },
    ("digits", 357): {
        "normalized": {100: 67, 10: 52, 1: 75, 0.1: 179},
        "plain": {100: 69, 10: 92, 1: 278, 0.1: 2777},
    },
    ("digits, imbalanced", 184): {
        "normalized": {100: 6, 10: 6, 1: 6, 0.1: 30},
        "plain": {100: 9, 10: 9, 1: 48, 0.1: 488},
    },
}
MOST_STEPS = 5000


def worst_case(size):
    """Inputs times labels: one example on the other side of the plane that the rest suggests."""
    return np.array([[0.5, -1.0]] + [[0.5, 1.0]] * (size - 1))


def digits(threes=None):
    """Threes against eights with a constant column, inputs times labels."""
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x = np.concatenate([x / 16, np.ones((len(x), 1))], axis=1)
    return np.concatenate([x[y == 3][:threes], -x[y == 8]])


def steps_needed(tx, rows):
    """Number of updates from zero after which all margins are positive."""
    rows = jnp.asarray(rows)
    loss = lambda w: -jnp.mean(jax.nn.log_sigmoid(rows @ w))
    tx = optax.with_extra_args_support(tx)

    def step(carry):
        w, state, count = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w, margins=rows @ w)
        return optax.apply_updates(w, updates), state, count + 1

    unfinished = lambda carry: jnp.any(rows @ carry[0] <= 0) & (carry[2] < MOST_STEPS)
    w = jnp.zeros(rows.shape[1])
    return int(jax.jit(lambda: jax.lax.while_loop(unfinished, step, (w, tx.init(w), 0))[2])())


def bound(rows, rate, margin):
    """What the theorem promises."""
    radius = np.linalg.norm(rows, axis=1).max()
    return (radius**2 + 2 * np.log(2 * len(rows) - 1) / rate) / margin**2


def run() -> Reproduction:
    """Short runs from zero in double precision."""
    make = {"normalized": optimizers.normalized_lr_gd, "plain": optax.sgd}
    rows, exact, exact_digits, bounded, digit_counts = [], [], [], [], {}
    with jax.enable_x64(True):
        for (kind, size), methods in EXPECTED.items():
            threes = {"digits": None, "digits, imbalanced": 10}
            data = worst_case(size) if kind == "worst case" else digits(threes[kind])
            if len(data) != size:
                raise ValueError(f"{kind}: expected {size} examples, got {len(data)}")
            for method, figures in methods.items():
                for rate, expected in figures.items():
                    steps = steps_needed(make[method](float(rate)), data)
                    rows.append((kind, size, method, rate, expected, steps))
                    if kind == "worst case":
                        exact.append(steps == expected)
                        if method == "normalized":
                            bounded.append(steps <= bound(data, rate, margin=0.5))
                    else:
                        exact_digits.append(steps == expected)
                        digit_counts[kind, method, rate] = steps
    faster = [
        steps <= digit_counts[kind, "plain", rate]
        for (kind, method, rate), steps in digit_counts.items()
        if method == "normalized"
    ]
    return Reproduction(
        name="normalized_lr_gd",
        title="Normalized steps do not slow down with the number of examples",
        paper="logistic regression with huge steps is a batch perceptron, which a single "
        "example can hold up n times longer; divided by the mean probability of a mistake the "
        "gradient is free of that: Table 1 has 2, 2, 16 and 157 steps against 308, for 1,000 "
        "examples ([2412.08424](https://arxiv.org/abs/2412.08424)).",
        setup="steps from zero until all examples are classified, on the paper's worst case and "
        "on the threes and eights of digits (imbalanced: ten threes).",
        expected="Expected figures are the paper's for 1,000 examples, and of independent runs on "
        "the same data otherwise.",
        columns=("data", "examples", "method", "rate", "expected", "gradax"),
        rows=rows,
        claims={
            "on the worst case all counts are the expected ones": all(exact),
            "on digits all counts are the expected ones": all(exact_digits),
            "normalized steps stay within the theorem's bound": all(bounded),
            "on digits normalized steps need no more than plain ones of the same rate": all(faster),
        },
    )


if __name__ == "__main__":
    run().save()
