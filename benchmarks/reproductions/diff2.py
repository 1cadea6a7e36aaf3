"""DIFF2 beside DP-GD at equal epsilon, both tuned on a coarse grid."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

from . import _digits
from ._record import Reproduction

ROUNDS, SEEDS, DELTA, EPSILONS = 60, 3, 1e-5, (0.1, 0.3, 1.0)
RATES, CLIPS, SLOPES, PERIODS = (1.0, 3.0, 10.0, 30.0, 100.0), (0.1, 1.0), (0.05, 0.25), (5, 20)


def digits():
    """Is a digit 5 or more? Rows of norm at most one, with a constant feature."""
    train, test = _digits.load()
    x, y = (np.concatenate([train[name], test[name]]) for name in ("x", "y"))
    return _unit(x), (y >= 5).astype(np.float32)


def synthetic(examples: int = 20_000, dimension: int = 20):
    """Normal features and labels from a logistic model."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, dimension))
    odds = 3 * x @ rng.normal(size=dimension) / np.sqrt(dimension)
    return _unit(x), (rng.random(examples) < 1 / (1 + np.exp(-odds))).astype(np.float32)


def _unit(x):
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(2,))
def losses(x, y, restart_every, settings, noise):
    """Final mean losses, one for each setting (rate, two clipping norms, seed)."""

    def grads(w):
        return (jax.nn.sigmoid(x @ w) - y)[:, None] * x

    def one(setting):
        rate, clip, slope, seed = setting
        key = jax.random.key(seed.astype(jnp.int32))
        tx = optax.chain(
            federated.private_gradient_difference(clip, slope, *noise, restart_every, key),
            optax.scale(-rate),
        )

        def step(carry, _):
            w, state = carry
            updates, state = tx.update(w, state, w, per_example_grad_fn=grads)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.zeros(x.shape[1])
        (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=ROUNDS)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(x @ w, y))

    return jax.lax.map(one, settings)


def tuned(data, restart_every: int | None, z: float | None) -> float:
    """Mean loss over the seeds of the best setting; ``z`` would do for a single round."""
    slopes = SLOPES if restart_every != 1 else SLOPES[:1]
    grid = np.array(list(itertools.product(RATES, CLIPS, slopes, range(SEEDS))), np.float32)
    starts = -(-ROUNDS // restart_every) if restart_every else 1
    if z is None:
        noise = (0.0, 0.0)
    elif restart_every == 1:
        noise = (z * ROUNDS**0.5, 0.0)
    else:  # half of the budget for the starts, half for the differences
        noise = z * (2 * starts) ** 0.5, z * (2 * (ROUNDS - starts)) ** 0.5
    found = np.asarray(losses(*data, restart_every, grid, noise)).reshape(-1, SEEDS)
    return float(np.nanmin(found.mean(axis=1)))


def run() -> Reproduction:
    """Both methods, two problems, three epsilons."""
    rows, ratios, ours = [], [], {}
    for name, data in (("digits", digits()), ("synthetic", synthetic())):
        data = tuple(map(jnp.asarray, data))
        for epsilon in (*EPSILONS, None):
            z = epsilon and federated.calibrate_noise(epsilon, 1.0, 1, DELTA, "pld")
            plain = tuned(data, 1, z)
            difference = min(tuned(data, every, z) for every in (*PERIODS, None))
            ours[name, epsilon] = plain, difference
            rows.append((name, "none" if epsilon is None else epsilon, plain, difference))
            if epsilon:
                ratios.append(difference / plain)
    worse = lambda name, which: ours[name, 0.1][which] >= ours[name, 1.0][which]
    return Reproduction(
        name="diff2",
        title="DIFF2 beside DP-GD",
        paper="differences of gradients need less noise: a better rate in the number of examples, "
        "and lower losses than DP-GD on five data sets at epsilon 3 and 5 "
        "([2302.03884](https://arxiv.org/abs/2302.03884)).",
        setup=f"Logistic regression on 1,797 digits (65 dimensions) and on 20,000 generated rows "
        f"(21 dimensions), all examples in each of {ROUNDS} rounds, delta {DELTA}; training loss "
        f"of the best of {len(RATES)} rates, {len(CLIPS)} norms, {len(SLOPES)} norms of "
        f"differences and 3 periods, mean of {SEEDS} seeds. No price is paid for the tuning.",
        expected="An earlier run of this kind had DIFF2 tie or lose at epsilon 0.1 to 1.",
        columns=("problem", "epsilon", "DP-GD", "DIFF2"),
        rows=rows,
        claims={
            "without noise both find the same loss to 1 %": all(
                abs(ours[name, None][1] / ours[name, None][0] - 1) < 0.01
                for name in ("digits", "synthetic")
            ),
            "more noise does not help either of them": all(
                worse(name, which) for name in ("digits", "synthetic") for which in (0, 1)
            ),
            "DIFF2 is lower than DP-GD in at least half of the private cases": np.mean(
                np.array(ratios) < 1
            )
            >= 0.5,
        },
        remark="Rates above 10 were added after a first run, whose best rates lay at the edge. In "
        "that run DIFF2 was lower in half of the private cases.",
    )


if __name__ == "__main__":
    run().save()
