"""Which norm's margin does each optimizer maximize? A homogeneous network on digits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import gradax
from gradax import optimizers
from gradax.optimizers import norms

from ._record import Reproduction

EXAMPLES, HIDDEN, DEGREE, STEPS, EVERY = 400, 64, 3, 6000, 20

#: Norms of the two layers; the parts are combined by their maximum.
NORMS = {
    "l2": "global_l2",
    "linf": "linf",
    "spectral": "spectral",
    "hybrid": {"w1": "spectral", "w2": "linf"},
}

#: optimizer -> the norm it belongs to.
OWN = {
    "normalized GD": "l2",
    "Signum": "linf",
    "Adam": "linf",
    "Muon": "spectral",
    "Muon-Signum": "hybrid",
}

#: optimizer -> margins in the norms, in their order.
EXPECTED = {
    "normalized GD": (8.9e-3, 1.35, 0.135, 0.256),
    "Signum": (1.6e-3, 36.2, 8.9e-3, 8.9e-3),
    "Adam": (3.2e-3, 38.2, 2.7e-2, 2.7e-2),
    "Muon": (1.4e-3, 0.45, 0.179, 0.179),
    "Muon-Signum": (2.3e-3, 1.98, 5.6e-3, 0.896),
}


def decay(first: float) -> optax.Schedule:
    """Rates whose sum is infinite and that fall fast enough for the theory."""
    return lambda count: first * (count + 1.0) ** -0.8


def rivals(spectral: norms.Norm = norms.spectral) -> dict[str, optax.GradientTransformation]:
    """The five optimizers; ``spectral`` says how matrices are orthogonalized."""
    descent = optimizers.steepest_descent
    return {
        "normalized GD": descent(decay(0.3), "global_l2"),
        "Signum": descent(decay(0.02), "linf"),
        # Without a stability constant, but for a guard against division by zero.
        "Adam": optax.adam(decay(0.02), b1=0.9, b2=0.99, eps=1e-30),
        "Muon": descent(decay(0.1), spectral),
        "Muon-Signum": descent(decay(0.1), {"w1": spectral, "w2": "linf"}),
    }


def examples() -> tuple[np.ndarray, np.ndarray]:
    """Images as rows in [0, 1], and 1 for odd digits, -1 for even ones."""
    digits = load_digits()
    return digits.data[:EXAMPLES] / 16, np.where(digits.target[:EXAMPLES] % 2, 1.0, -1.0)


def init() -> dict[str, np.ndarray]:
    """Two layers without biases."""
    rng = np.random.default_rng(0)
    return {
        "w1": 0.1 * rng.normal(size=(64, HIDDEN)),
        "w2": 0.1 * rng.normal(size=(HIDDEN, 1)),
    }


def outputs(params: Any, x: Any) -> jax.Array:
    """A network that grows with the third power of its parameters, smoothly."""
    return (jax.nn.relu(x @ params["w1"]) ** 2 @ params["w2"])[:, 0]


def loss_fn(params: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logistic loss; the monitor takes the margins."""
    x, y = batch
    margins = y * outputs(params, x)
    return jnp.mean(jax.nn.softplus(-margins)), {"margins": margins}


class Outcome(NamedTuple):
    """Where a run led.

    Attributes:
      params: after the last step.
      loss: there.
      alignments: norm -> how nearly stationary the parameters are there.
      margins: norm -> normalized margin before every step, renewed on a cadence.
    """

    params: dict[str, np.ndarray]
    loss: float
    alignments: dict[str, float]
    margins: dict[str, np.ndarray]


def train(tx: optax.GradientTransformation, num_steps: int = STEPS) -> Outcome:
    """Trains on all examples at once, in double precision."""
    with jax.enable_x64(True):
        batch, params = jax.tree.map(jnp.asarray, (examples(), init()))
        tx = optax.chain(optimizers.monitor_margins(NORMS, DEGREE, every=EVERY), tx)
        step = gradax.make_step(loss_fn, tx)

        def body(carry, _):
            params, state, _ = step(*carry, batch)
            return (params, state), optax.tree.get(state, "normalized_margins")

        @jax.jit
        def run(params):
            (params, _), record = jax.lax.scan(body, (params, tx.init(params)), length=num_steps)
            (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
            aligned = {
                name: optimizers.kkt_alignment(grads, params, norm) for name, norm in NORMS.items()
            }
            return params, loss, aligned, record

        return Outcome(*jax.tree.map(np.asarray, run(params)))


def run() -> Reproduction:
    """Trains the five optimizers and compares their last margins."""
    found = {name: train(tx) for name, tx in rivals().items()}
    last = np.array([[one.margins[norm][-1] for norm in NORMS] for one in found.values()])
    winners = [list(found)[row] for row in last.argmax(axis=0)]
    expected = np.array(list(EXPECTED.values()))
    best = last.max(axis=0) / expected.max(axis=0)
    aligned = {name: one.alignments[OWN[name]] for name, one in found.items()}
    others = [
        max(found[rival].alignments[norm] for rival in found if OWN[rival] != norm)
        for norm in OWN.values()
    ]
    return Reproduction(
        name="margins",
        title="Each optimizer maximizes the margin in its own norm",
        paper="on smooth homogeneous networks steepest descent in a norm, and Adam in the maximum "
        "norm, go to stationary points of the margin problem in that norm; on MNIST each "
        "optimizer reaches the largest margin in its own "
        "([2602.16340](https://arxiv.org/abs/2602.16340)).",
        setup=f"the first {EXAMPLES} digits, odd or even, a squared-relu network 64-{HIDDEN}-1 "
        f"without biases, all examples at once, {STEPS} steps with rates falling like t^-0.8, "
        "double precision; the smallest margin over the norm to the third power. *Hybrid* is the "
        "larger of the spectral norm of the first layer and the maximum norm of the second. "
        "*Aligned* is the alignment of minus the gradient with the parameters in the optimizer's "
        "own norm, 1 at a stationary point.",
        expected="Expected figures come from other initial weights: their order and size count.",
        columns=(
            "optimizer",
            *(f"{norm}: {what}" for norm in NORMS for what in ("expected", "here")),
            "aligned",
        ),
        rows=[
            (
                name,
                *(cell for pair in zip(EXPECTED[name], row, strict=True) for cell in pair),
                aligned[name],
            )
            for name, row in zip(found, last, strict=True)
        ],
        claims={
            "all five classify all examples": bool((last > 0).all()),
            "in every norm the largest margin is that of its own optimizer (Adam and Signum "
            "share one)": [OWN[name] for name in winners] == list(NORMS),
            "the largest margin in every norm is within a factor of two of the expected one": bool(
                ((best > 0.5) & (best < 2)).all()
            ),
            "every optimizer is better aligned in its own norm than those of other norms": all(
                own > other for own, other in zip(aligned.values(), others, strict=True)
            ),
        },
        remark="Muon's margin in the maximum norm is ten times the expected one, all other figures "
        "are within a quarter.",
    )


if __name__ == "__main__":
    run().save()
