"""The last iterate of the subgradient method on a function made to defeat it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import schedules

from ._record import Reproduction

#: number of steps -> f(last iterate) * sqrt(steps), by schedule.
EXPECTED = {
    "1 / sqrt(t)": {50: 0.231, 200: 0.296, 800: 0.360},
    "constant 1 / sqrt(T)": {50: 0.201, 200: 0.264, 800: 0.328},
    "linear": {50: 0.035, 200: 0.034, 800: 0.034},
}


def schedule(name: str, num_steps: int) -> optax.Schedule:
    """The step sizes that are compared."""
    if name == "linear":
        return schedules.last_iterate_linear_schedule(1.0, num_steps)
    if name == "1 / sqrt(t)":
        return schedules.last_iterate_inv_sqrt_schedule(1.0)
    return schedules.last_iterate_fixed_schedule(1.0, num_steps)


def planes(num_steps: int) -> np.ndarray:
    """Rows h_i of f(x) = max_i h_i x: plane i rises in the coordinates that came before it."""
    j = np.arange(1, num_steps + 1)
    rise = np.append(1 / (8 * (num_steps - j + 1)), 0.0)
    fall = np.sqrt(np.append(j, num_steps + 1)) / (2 * np.sqrt(num_steps))
    return np.tril(np.broadcast_to(rise, (num_steps + 1, num_steps + 1)), -1) - np.diag(fall)


def last_value(name: str, num_steps: int) -> float:
    """Value after the last step; of several highest planes the first gives the subgradient."""
    rows = jnp.asarray(planes(num_steps)[:, :num_steps])
    tx = optax.sgd(schedule(name, num_steps))

    def step(carry, _):
        x, state = carry
        values = rows @ x
        # The construction makes planes meet exactly; rounding must not decide who is first.
        first = jnp.argmax(values >= values.max() - 1e-12)
        updates, state = tx.update(rows[first], state, x)
        x = optax.projections.projection_l2_ball(optax.apply_updates(x, updates))
        return (x, state), None

    x = jnp.zeros(num_steps)
    (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), length=num_steps)
    return float(jnp.max(rows @ x))


def run() -> Reproduction:
    """Nine short runs in double precision."""
    rows, close, ours = [], [], {}
    with jax.enable_x64(True):
        for name, figures in EXPECTED.items():
            ours[name] = [last_value(name, steps) * np.sqrt(steps) for steps in figures]
            for (steps, expected), value in zip(figures.items(), ours[name], strict=True):
                rows.append((name, steps, expected, value))
                close.append(round(value, 3) == expected)
    linear = ours.pop("linear")
    return Reproduction(
        name="last_iterate",
        title="Linear decay spares the last iterate its logarithm",
        paper="for a known horizon a step that falls linearly to zero gives the last iterate the "
        "optimal rate, where other steps lose a factor that grows like log T "
        "([2312.08531](https://arxiv.org/abs/2312.08531), "
        "[2307.11134](https://arxiv.org/abs/2307.11134)).",
        setup="the maximum of T + 1 planes on the unit ball, whose oracle shows one plane "
        "after the other, from 0; the last value times sqrt(T).",
        expected="Expected figures are for the same function.",
        columns=("step size", "T", "expected", "gradax"),
        rows=rows,
        claims={
            "all nine figures agree in the decimals given": all(close),
            "with linear decay the figure does not grow with T": linear[-1] <= linear[0],
            "with the others it does": all(a < b < c for a, b, c in ours.values()),
        },
    )


if __name__ == "__main__":
    run().save()
