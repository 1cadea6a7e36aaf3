"""Rates far beyond stability, with and without the cap, on a small network."""

import jax
import jax.numpy as jnp
import optax

from gradax import optimizers, schedules

from . import _digits
from ._record import Reproduction

IMAGES, STEPS = 200, 400

#: rate, whether it is capped; expected loss, None for not finite.
RUNS = (
    (0.1, False, 0.147),
    *((rate, False, None) for rate in (0.4, 0.8, 3.0)),
    *((rate, True, 0.189) for rate in (0.8, 3.0)),
)


def run() -> Reproduction:
    """Six runs of gradient descent."""
    train, _ = _digits.load()
    x, y = jnp.asarray(train["x"][:IMAGES]), jax.nn.one_hot(train["y"][:IMAGES], 10)
    network = _digits.Network((64, 32, 10), jnp.tanh)
    start = network.init(jax.random.key(0))
    loss = lambda params: jnp.mean(jnp.sum((network.logits(params, x) - y) ** 2, axis=-1)) / 2
    grad_fn = jax.grad(loss)

    def descend(rate, capped):
        cap = schedules.cap_by_stability(rate) if capped else optax.identity()
        tx = optax.with_extra_args_support(optax.chain(optax.sgd(rate), cap))

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
            return (optax.apply_updates(params, updates), state), None

        carry = (start, tx.init(start))
        params = jax.jit(lambda: jax.lax.scan(step, carry, length=STEPS)[0][0])()
        sharpness, _ = optimizers.hessian_top_eigenvalue(grad_fn, params, num_iters=100)
        return float(loss(params)), float(sharpness)

    rows, ends = [], {}
    for rate, capped, expected in RUNS:
        ends[rate, capped] = end, sharpness = descend(rate, capped)
        finite = bool(jnp.isfinite(end))
        rows.append(
            (
                rate,
                "yes" if capped else "no",
                expected if expected else "not finite",
                end if finite else "not finite",
                sharpness if finite else None,
            )
        )
    edge = ends[0.1, False][1] * 0.1
    ends = {key: value for key, (value, _) in ends.items()}
    return Reproduction(
        name="stability_cap",
        title="The stability cap keeps runs with too large a rate",
        paper="gradient descent on networks sharpens the loss until its top eigenvalue lingers at "
        "2 / rate ([2103.00065](https://arxiv.org/abs/2103.00065)). That an eigenvalue measured "
        "every ten steps can hold the rate below that is our experiment.",
        setup=f"{IMAGES} digits, a tanh network 64-32-10, squared loss, gradient descent on all of "
        f"them, {STEPS} steps; the cap with its defaults.",
        expected="Expected figures are for another start and other images.",
        columns=("rate", "capped", "expected loss", "gradax", "sharpness"),
        rows=rows,
        claims={
            "at rate 0.1 the sharpness is within a tenth of 2 / rate": abs(edge - 2) < 0.2,
            "rates of 0.4 and more do not stay finite without the cap": not any(
                bool(jnp.isfinite(ends[rate, False])) for rate in (0.4, 0.8, 3.0)
            ),
            "under the cap rates of 0.8 and 3 end within a hundredth of each other": abs(
                ends[0.8, True] / ends[3.0, True] - 1
            )
            < 0.01,
            "the capped runs end below half the loss at the start": max(
                ends[0.8, True], ends[3.0, True]
            )
            < float(loss(start)) / 2,
        },
    )


if __name__ == "__main__":
    run().save()
