"""Benign oscillation: too large a learning rate lets a weak feature be learned.

    python examples/benign_oscillation.py --plot benign_oscillation.png

A model with two weights explains the target 1 by a strong feature V = 1 and a weak one U = 0.2:

    f = (w_v V)^2 + (w_u U)^2,    loss = (f - 1)^2 / 2.

Gradient descent with a small rate fits the target with the strong feature alone, and stops. The
curvature there is 4, so that a rate above 2 / 4 cannot stop: the fit of the strong feature
oscillates, its mean error stays positive, and the weak weight grows until the two share the
target and the valley is flat enough. (Lu, Wu, Yang and Zou, Benign Oscillation of Stochastic
Gradient Descent with Large Learning Rates, https://arxiv.org/abs/2310.17074, on images; this is
the smallest model in which it happens.)

The last line shows the price of a stability cap: it takes the oscillation away, and what is
learned from it.
"""

import argparse
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _optional, optimizers, schedules

FEATURES = jnp.array([1.0, 0.2])  # strong, weak
RATES = (0.01, 0.1, 0.3, 0.45, 0.52, 0.6, 0.7)
STEPS = 4000


class Run(NamedTuple):
    """What a run shows: contributions to f before each update, and the top eigenvalue at its end.

    ``strong`` and ``weak`` have the shape ``[steps]``.
    """

    strong: np.ndarray
    weak: np.ndarray
    sharpness: float

    @property
    def spread(self) -> float:
        """How far f still moves, in the second half of the run."""
        f = (self.strong + self.weak)[len(self.weak) // 2 :]
        return float(np.std(f))


def loss_fn(weights: jax.Array) -> jax.Array:
    return 0.5 * (jnp.sum((weights * FEATURES) ** 2) - 1.0) ** 2


def train(learning_rate: float, capped: bool = False, steps: int = STEPS) -> Run:
    """Gradient descent from two equal, small weights."""
    grad_fn = jax.grad(loss_fn)
    cap = schedules.cap_by_stability(learning_rate) if capped else optax.identity()
    tx = optax.with_extra_args_support(optax.chain(optax.sgd(learning_rate), cap))

    def step(carry, _):
        weights, state = carry
        updates, state = tx.update(grad_fn(weights), state, weights, grad_fn=grad_fn)
        return (optax.apply_updates(weights, updates), state), (weights * FEATURES) ** 2

    weights = jnp.array([0.1, 0.1])
    carry = (weights, tx.init(weights))
    (weights, _), path = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))(carry)
    sharpness, _ = optimizers.hessian_top_eigenvalue(grad_fn, weights, num_iters=50)
    strong, weak = np.asarray(path).T
    return Run(strong, weak, float(sharpness))


def draw(runs: dict[str, Run], path: str) -> None:
    """Saves what the weak feature contributes, step by step."""
    module = _optional.load("matplotlib.figure", "plot", "examples/benign_oscillation.py --plot")
    figure = module.Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, run in runs.items():
        axes.semilogy(1 + np.arange(len(run.weak)), run.weak, label=name)
    axes.set(xscale="log", xlabel="step", ylabel="contribution of the weak feature")
    axes.legend(title="learning rate", fontsize="small")
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> dict[str, Run]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--plot", metavar="PATH", help="save a figure")
    options = parser.parse_args(arguments)
    runs = {f"{rate:g}": train(rate, steps=options.steps) for rate in RATES}
    runs["0.7, capped"] = train(0.7, capped=True, steps=options.steps)
    print("learning rate   weak feature   f moves by   sharpness   2 / rate")
    for name, run in runs.items():
        limit = 2 / float(name.partition(",")[0])
        print(
            f"{name:13s} {run.weak[-1]:14.5f} {run.spread:12.4f} {run.sharpness:11.3f} "
            f"{limit:10.2f}"
        )
    if options.plot:
        draw(runs, options.plot)
    return runs


if __name__ == "__main__":
    main()
