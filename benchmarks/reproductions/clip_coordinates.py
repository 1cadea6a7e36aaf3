"""Coordinate-wise clipping: flatter directions, longer steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import optimizers

from ._record import Reproduction

STEPS = 100
RATES = np.logspace(-4, 1, 41)
CURVATURE = np.r_[np.full(10, 1e3), np.ones(990)]
#: fraction -> sharpness of the first direction, lowest loss, its learning rate.
EXPECTED = {
    0.0: (999.83, 333.0, 1.8e-3),
    0.005: (999.50, None, None),
    0.01: (138.7, 3e-44, 0.42),
    0.02: (66.8, None, None),
    0.1: (32.8, 1e-18, 1.8),
    0.5: (16.2, 163.0, None),
    1.0: (10.99, None, None),
}


def measure(fraction):
    """Sharpness of the first direction, and the lowest loss over a grid of rates."""
    start = jnp.asarray(np.random.default_rng(0).normal(size=1000))
    value = lambda x: 0.5 * jnp.sum(CURVATURE * x**2)
    clip = optimizers.clip_coordinates(fraction)
    first, _ = clip.update(jax.grad(value)(start), clip.init(start))
    sharpness, _ = optimizers.directional_sharpness(jax.grad(value), start, first)

    def descend(rate):
        tx = optax.chain(clip, optax.scale_by_learning_rate(rate))

        def step(carry, _):
            x, state = carry
            updates, state = tx.update(jax.grad(value)(x), state, x)
            return (optax.apply_updates(x, updates), state), None

        return value(jax.lax.scan(step, (start, tx.init(start)), length=STEPS)[0][0])

    losses = np.asarray(jax.jit(jax.vmap(descend))(jnp.asarray(RATES)))
    best = int(np.nanargmin(losses))
    return float(sharpness), float(losses[best]), float(RATES[best])


def run() -> Reproduction:
    """A quadratic with ten steep directions, in double precision."""
    with jax.enable_x64(True):
        found = {fraction: measure(fraction) for fraction in EXPECTED}
    rows = [
        (
            f"{fraction:.1%}",
            *(x for pair in zip(EXPECTED[fraction], ours, strict=True) for x in pair),
        )
        for fraction, ours in found.items()
    ]
    sharpness, losses, rates = ({f: one[k] for f, one in found.items()} for k in range(3))
    near = lambda value, expected, tolerance: abs(value / expected - 1) <= tolerance
    # The figures have three digits or more.
    alike = [near(sharpness[f], one[0], 5e-3) for f, one in EXPECTED.items()]
    falling = list(sharpness.values())
    return Reproduction(
        name="clip_coordinates",
        title="Without a few steep coordinates, steps may be two hundred times longer",
        paper="on language models the directions of Adam have a lower directional sharpness than "
        "those of SGD, and clipping the largest coordinates lowers it and speeds up SGD "
        "([2306.00204](https://arxiv.org/abs/2306.00204)).",
        setup="a quadratic of 1,000 coordinates, ten with curvature 1,000 and the others with 1, "
        f"from a normal start (loss 3,258). {STEPS} steps of gradient descent with a fraction of "
        f"the coordinates clipped; the best of {RATES.size} learning rates, eight a decade.",
        expected="Expected figures are for the same start; their grid of rates was not recorded.",
        columns=(
            "clipped",
            "sharpness: expected",
            "gradax",
            "lowest loss: expected",
            "gradax",
            "learning rate: expected",
            "gradax",
        ),
        rows=rows,
        claims={
            "every sharpness agrees to 0.5 %": all(alike),
            "the more is clipped, the lower the sharpness": falling
            == sorted(falling, reverse=True),
            "with 1 % or 10 % clipped the loss ends over ten orders of magnitude lower": max(
                losses[0.01], losses[0.1]
            )
            <= 1e-10 * losses[0.0],
            "their best learning rates are over a hundred times longer": min(
                rates[0.01], rates[0.1]
            )
            >= 100 * rates[0.0],
            "with nothing or half clipped it ends within 10 % of the figure expected": all(
                near(losses[f], EXPECTED[f][1], 0.1) for f in (0.0, 0.5)
            ),
        },
    )


if __name__ == "__main__":
    run().save()
