"""Step time of gradax optimizers against optax.adam, per byte that a step has to move."""

import functools
import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import _measure
import _trees
import jax
import optax

import gradax


class Contender(NamedTuple):
    """An optimizer and the bytes per parameter that a step cannot avoid to move."""

    make: Callable[[], optax.GradientTransformation]
    bytes_moved: int
    ours: bool = True


# float32: read gradient, parameter and state, write parameter and state. AdamP and SGDP take
# norms and an inner product over a whole leaf before they can write it, so that they read
# parameter and moments a second time.
CONTENDERS = {
    "optax.adam": Contender(lambda: optax.adam(1e-3), 28, ours=False),
    "optax.sgd, momentum": Contender(lambda: optax.sgd(1e-3, momentum=0.9), 20, ours=False),
    "signum": Contender(lambda: gradax.optimizers.signum(1e-3), 20),
    "adabelief": Contender(lambda: gradax.optimizers.adabelief(1e-3), 28),
    "diffgrad": Contender(lambda: gradax.optimizers.diffgrad(1e-3), 36),
    "adamp": Contender(lambda: gradax.optimizers.adamp(1e-3), 40),
    "sgdp": Contender(lambda: gradax.optimizers.sgdp(1e-3, momentum=0.9), 28),
}

TREES = {
    "one matrix": _trees.matrix,
    "residual network": _trees.residual_network,
    "transformer": _trees.transformer,
}

PEER, LIMIT = "optax.adam", 1.1

METHOD = """\
A step is `tx.update` and `optax.apply_updates` in one jitted function that donates parameters and
state, in float32. *Ratio* is the time over that of `optax.adam` in the same turn; *scaled* divides
it further by bytes moved over Adam's 28. Bytes moved are the fewest that a step of the method can
read and write: gradient, parameter and state once each, and for `adamp` and `sgdp` parameter and
moments twice, since the projection needs norms over the whole leaf first. *Copies* counts `copy`
instructions on arrays in the compiled step, each one more pass over a leaf; *temporaries* is the
scratch memory of the step in units of the tree. `adabelief` and `signum` are optax's own,
re-exported.

One thread, CPU time of the process. Temporaries cost more than their traffic: the C library gives
large ones back to the system after every step, and they return as fresh pages; whether it does
may differ from run to run, which shows most with one leaf."""


def main() -> None:
    """Measures every contender on every tree."""
    arguments = _measure.arguments(__doc__, rounds=15)
    _measure.one_thread()
    report = _measure.Report(
        name="optimizer_step",
        title="Optimizer step",
        method=[METHOD],
        command=f"python benchmarks/optimizer_step.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "optax", "gradax"),
    )
    found = [measure(report, title, shapes(), arguments.rounds) for title, shapes in TREES.items()]
    for name in (name for name, contender in CONTENDERS.items() if contender.ours):
        slowest = max((tree[name][0] for tree in found), key=statistics.median)
        copies = sum(tree[name][1] for tree in found)
        goal = _measure.Goal.at_most(f"{name}: scaled by bytes, worst of the trees", slowest, LIMIT)
        report.goals += [goal, _measure.Goal.at_most(f"{name}: copies, all trees", [copies], 0)]
    report.save()


def measure(
    report: _measure.Report, title: str, shapes: dict, rounds: int
) -> dict[str, tuple[list[float], int]]:
    """Adds one tree's table to the report; returns scaled ratios and copies of each optimizer."""
    size = sum(map(math.prod, shapes.values()))
    steps = max(1, round(3e7 / size))
    runs, compiled = {}, {}
    for name, contender in CONTENDERS.items():
        runs[name], compiled[name] = prepare(contender.make(), shapes, steps)
    times = _measure.take_turns(runs, rounds)

    rows, found = [], {}
    for name, contender in CONTENDERS.items():
        ratio = _measure.ratios(times[name], times[PEER])
        scaled = [value * 28 / contender.bytes_moved for value in ratio]
        copies = _measure.count_copies(compiled[name].as_text())
        temporaries = compiled[name].memory_analysis().temp_size_in_bytes
        milliseconds = [1e3 * seconds / steps for seconds in times[name]]
        rows.append(
            [
                name,
                contender.bytes_moved,
                _measure.spread(milliseconds),
                _measure.spread(ratio),
                _measure.spread(scaled),
                copies,
                f"{temporaries / 4 / size:.1f}",
            ]
        )
        found[name] = scaled, copies
    columns = (
        "optimizer",
        "bytes / parameter",
        "ms a step",
        "ratio",
        "scaled",
        "copies",
        "temporaries",
    )
    report.table(f"*{title}*: {len(shapes)} leaves, {size / 1e6:.1f} M parameters", columns, rows)
    report.samples[title] = {"steps_per_turn": steps, "seconds": times}
    return found


def prepare(tx: optax.GradientTransformation, shapes: dict, steps: int):
    """Compiles a donating step; returns a call that makes `steps` of them, and the program."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = _trees.normal(shapes, seed=0, scale=0.02)
    grads = _trees.normal(shapes, seed=1, scale=1e-3)
    state = jax.jit(tx.init)(params)
    compiled = step.lower(params, state, grads).compile()
    place = [params, state]

    def run():
        for _ in range(steps):
            place[:] = compiled(*place, grads)
        jax.block_until_ready(place)

    return run, compiled


if __name__ == "__main__":
    main()
