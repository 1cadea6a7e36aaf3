"""fdr_sgd and monitor_fdr against the same optimizer without them."""

import functools
from collections.abc import Callable

import _measure
import _trees
import jax
import jax.numpy as jnp
import monitors
import optax

from gradax import schedules

STEPS = 20  # a turn; a multiple of every cadence

SGD, ADAM = "optax.sgd, momentum", "optax.adam"
STEP = {
    SGD: lambda: optax.sgd(1e-3, momentum=0.9),
    "fdr_sgd": lambda: schedules.fdr_sgd(1e-3, momentum=0.9, check_every=100),
    "fdr_sgd, every=20": lambda: schedules.fdr_sgd(1e-3, momentum=0.9, check_every=100, every=20),
}
TRAINING = {
    ADAM: lambda: optax.adam(1e-3),
    "with monitor_fdr": lambda: optax.chain(optax.adam(1e-3), schedules.monitor_fdr(50)),
    "with monitor_fdr, every=10": lambda: optax.chain(
        optax.adam(1e-3), schedules.monitor_fdr(50, every=10)
    ),
}
LIMITS = {"fdr_sgd": 1.15, "fdr_sgd, every=20": 1.15, "with monitor_fdr, every=10": 1.1}

METHOD = f"""\
*Optimizer*: `tx.update` and `optax.apply_updates` in one jitted function that donates parameters
and state, on a residual network of 161 leaves and 11 million parameters in float32. *Training*:
`gradax.make_step` on a perceptron of widths {monitors.WIDTHS}, a batch of {monitors.BATCH}. A turn
is {STEPS} steps of the former and {monitors.STEPS} of the latter. *Copies* counts `copy`
instructions on arrays in the compiled step, each one a pass over a leaf.

A bare step of SGD with momentum moves five words a parameter. The observables of `fdr_sgd` read
three more, in passes of their own, since XLA's CPU backend does not add up a sum in the loop that
writes an array: that takes as long again as the bare step, and the goal is out of reach with a
record at every step, which is the default. `every=20` comes down to it (medians of four runs lay
between 1.11 and 1.21 while others used the machine); what that costs in accuracy is measured in the
reproductions. Beside a gradient neither is much.

One thread, CPU time of the process."""


def main() -> None:
    """Measures both groups in turns."""
    arguments = _measure.arguments(__doc__, rounds=15)
    _measure.one_thread()
    report = _measure.Report(
        name="fdr",
        title="Fluctuation and dissipation",
        method=[METHOD],
        command=f"python benchmarks/fdr.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "optax", "gradax"),
    )
    groups = {
        "Optimizer": (SGD, STEPS, {name: optimizer(make()) for name, make in STEP.items()}),
        "Training": (
            ADAM,
            monitors.STEPS,
            {name: (monitors.prepare(make()), None) for name, make in TRAINING.items()},
        ),
    }
    for title, (peer, steps, prepared) in groups.items():
        runs = {name: run for name, (run, _) in prepared.items()}
        times = _measure.take_turns(runs, arguments.rounds)
        rows = []
        for name, seconds in times.items():
            ratio = _measure.ratios(seconds, times[peer])
            milliseconds = _measure.spread([1e3 * t / steps for t in seconds])
            copies = prepared[name][1]
            shown = "-" if copies is None else copies
            rows.append([name, milliseconds, _measure.spread(ratio), shown])
            if name in LIMITS:
                goal = _measure.Goal.at_most(f"{name}: ratio to {peer}", ratio, LIMITS[name])
                report.goals.append(goal)
            elif name != peer:
                report.ratio(f"{name}: ratio to {peer}", ratio)
        report.table(title, ("", "ms a step", f"ratio to {peer}", "copies"), rows)
        report.samples[title] = {"seconds": times}
    report.save()


def optimizer(tx: optax.GradientTransformation) -> tuple[Callable[[], None], int]:
    """Returns a call that makes the steps of a turn, and the number of copies in a step."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    shapes = _trees.residual_network()
    params, grads = _trees.normal(shapes, 0, scale=0.02), _trees.normal(shapes, 1, scale=1e-3)
    place = [params, jax.tree.map(jnp.copy, tx.init(params))]
    compiled = step.lower(*place, grads).compile()

    def run():
        for _ in range(STEPS):
            place[:] = compiled(*place, grads)
        jax.block_until_ready(place)

    return run, _measure.count_copies(compiled.as_text())


if __name__ == "__main__":
    main()
