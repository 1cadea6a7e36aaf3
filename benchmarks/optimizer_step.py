"""Step time of gradax optimizers against optax.adam, per byte that a step has to move."""

import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import _measure
import _trees
import jax
import jax.numpy as jnp
import optax

from gradax import optimizers


class Contender(NamedTuple):
    """An optimizer and the bytes per parameter that a step cannot avoid to move."""

    make: Callable[[], optax.GradientTransformation]
    bytes_moved: int
    judged: bool = True


def agvm() -> optax.GradientTransformation:
    """Momentum with AGVM in its dearest form: the scales are renewed in every step."""

    def first_leaf_and_others(params):
        leaves, tree = jax.tree.flatten(params)
        return tree.unflatten(["anchor", *["others"] * (len(leaves) - 1)])

    scales = optimizers.scale_by_agvm(first_leaf_and_others, "anchor", every=1)
    return optax.chain(optax.trace(0.9), scales, optax.scale(-1e-3))


def clipped() -> optax.GradientTransformation:
    """Momentum with its largest coordinates cut off."""
    return optax.chain(optax.trace(0.9), optimizers.clip_coordinates(0.1), optax.scale(-1e-3))


# float32, four bytes a word. What is elementwise reads gradient, parameter and state and writes
# parameter and state. What needs a sum over a leaf or the tree before it can write a parameter
# reads twice what depends on the sum, and nothing else:
# - adamp, sgdp: parameter and moments.
# - a2grad per leaf: the gradient; the mean gradient can be renewed on the way to the sum.
# - l4: the moments, renewed on the way to the inner product.
# - agvm: reads both halves, for three inner products; no word twice.
# - adagrad_norm: the gradient. global_l2: the momentum.
# - eg_plus_minus: the gradient and both parts, for the mass.
# - clip_coordinates: the momentum, once for the order statistic if that could be had in one pass
#   (it takes 31), and once to cut. So its figure is no measure of waste, and it has no goal.
CONTENDERS = {
    "optax.adam": Contender(lambda: optax.adam(1e-3), 28, judged=False),
    "optax.sgd, momentum": Contender(lambda: optax.sgd(1e-3, momentum=0.9), 20, judged=False),
    "signum": Contender(lambda: optimizers.signum(1e-3), 20),
    "adabelief": Contender(lambda: optimizers.adabelief(1e-3), 28),
    "diffgrad": Contender(lambda: optimizers.diffgrad(1e-3), 36),
    "adamp": Contender(lambda: optimizers.adamp(1e-3), 40),
    "sgdp": Contender(lambda: optimizers.sgdp(1e-3, momentum=0.9), 28),
    "a2grad, uni": Contender(lambda: optimizers.a2grad("uni"), 36),
    "a2grad, exp": Contender(lambda: optimizers.a2grad("exp"), 44),
    "a2grad, uni per leaf": Contender(lambda: optimizers.a2grad("uni", per_leaf_norm=True), 32),
    "l4_adam": Contender(optimizers.l4_adam, 36),
    "l4_momentum": Contender(optimizers.l4_momentum, 24),
    "scale_by_agvm, momentum": Contender(agvm, 28),
    "adagrad_norm": Contender(lambda: optimizers.adagrad_norm(1e-3), 16),
    "steepest_descent, linf": Contender(lambda: optimizers.steepest_descent(1e-3, "linf"), 20),
    "steepest_descent, global_l2": Contender(
        lambda: optimizers.steepest_descent(1e-3, "global_l2"), 24
    ),
    "exponentiated_gradient": Contender(
        lambda: optimizers.exponentiated_gradient(1e-3, momentum=0.9), 20
    ),
    "hypentropy": Contender(lambda: optimizers.hypentropy(1e-3), 12),
    # A mass that the start fits into, and a rate that makes exponents of about a thousandth.
    "eg_plus_minus": Contender(lambda: optimizers.eg_plus_minus(1e-7, total=1e7), 40),
    "composite_mirror_descent, l1": Contender(
        lambda: optimizers.composite_mirror_descent(1e-3, prox=optimizers.prox_l1(1e-4)), 12
    ),
    "optimistic_mirror_descent": Contender(lambda: optimizers.optimistic_mirror_descent(1e-3), 20),
    "clip_coordinates, momentum": Contender(clipped, 28, judged=False),
}

TREES = {
    "one matrix": _trees.matrix,
    "residual network": _trees.residual_network,
    "transformer": _trees.transformer,
}

PEER, LIMIT, COMPILE_LIMIT = "optax.adam", 1.1, 2.0

#: The tree whose compile time has a goal.
MANY_LEAVES = "residual network"

METHOD = """\
A step is `tx.update` and `optax.apply_updates` in one jitted function that donates parameters and
state, in float32. *Ratio* is the time over that of `optax.adam` in the same turn; *scaled* divides
it further by bytes moved over Adam's 28. Bytes moved are the fewest that a step of the method can
read and write: gradient, parameter and state once each, and twice whatever depends on a norm, an
inner product or a mass of the whole leaf or tree. *Copies* counts `copy` instructions on arrays in
the compiled step, each one more pass over a leaf; *temporaries* is the scratch memory of the step
in units of the tree. *Compile* is the time to trace, lower and compile the step, once, over that
of `optax.adam`. `adabelief` and `signum` are optax's own, re-exported. `scale_by_agvm` gets its two
gradients ready-made and renews its scales in every step, instead of every tenth;
`clip_coordinates` reads the momentum 31 times to find an exact order statistic, and is only
reported.

One thread, CPU time of the process. Temporaries cost more than their traffic: the C library gives
large ones back to the system after every step, and they return as fresh pages; whether it does
may differ from run to run, which shows most with one leaf."""


def main() -> None:
    """Measures every contender on every tree."""
    arguments = _measure.arguments(__doc__, rounds=3)
    _measure.one_thread()
    report = _measure.Report(
        name="optimizer_step",
        title="Optimizer step",
        method=[METHOD],
        command=f"python benchmarks/optimizer_step.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "optax", "gradax"),
    )
    found = {
        title: measure(report, title, shapes(), arguments.rounds) for title, shapes in TREES.items()
    }
    for name in (name for name, contender in CONTENDERS.items() if contender.judged):
        slowest = max((tree[name].scaled for tree in found.values()), key=statistics.median)
        copies = sum(tree[name].copies for tree in found.values())
        compiling = found[MANY_LEAVES][name].compiling
        report.goals += [
            _measure.Goal.at_most(f"{name}: scaled by bytes, worst of the trees", slowest, LIMIT),
            _measure.Goal.at_most(f"{name}: copies, all trees", [copies], 0),
            _measure.Goal.at_most(
                f"{name}: compile time, {MANY_LEAVES}", [compiling], COMPILE_LIMIT
            ),
        ]
    report.save()


class Found(NamedTuple):
    """What was found about an optimizer on a tree.

    Attributes:
      scaled: ratios to the peer over ratios of bytes, one a turn.
      copies: `copy` instructions in the compiled step.
      compiling: ratio to the peer's time.
    """

    scaled: list[float]
    copies: int
    compiling: float


def measure(report: _measure.Report, title: str, shapes: dict, rounds: int) -> dict[str, Found]:
    """Adds one tree's table to the report; returns what was found about each optimizer."""
    size = sum(map(math.prod, shapes.values()))
    steps = max(1, round(3e7 / size))
    grads, other = (_trees.normal(shapes, seed=seed, scale=1e-3) for seed in (1, 2))
    given = grads, jnp.ones([]), (grads, other)
    # The first program of a process takes longer to compile.
    prepare(CONTENDERS[PEER].make(), shapes, given, steps)
    prepared = {n: prepare(one.make(), shapes, given, steps) for n, one in CONTENDERS.items()}
    times = _measure.take_turns({name: one.run for name, one in prepared.items()}, rounds)

    rows, found = [], {}
    for name, contender in CONTENDERS.items():
        ratio = _measure.ratios(times[name], times[PEER])
        scaled = [value * 28 / contender.bytes_moved for value in ratio]
        if name != PEER:
            report.ratio(f"{name}, {title}: over {PEER}", ratio)
        compiled, seconds = prepared[name].compiled, prepared[name].seconds
        found[name] = Found(
            scaled, _measure.count_copies(compiled.as_text()), seconds / prepared[PEER].seconds
        )
        temporaries = compiled.memory_analysis().temp_size_in_bytes
        rows.append(
            [
                name,
                contender.bytes_moved,
                _measure.spread([1e3 * seconds / steps for seconds in times[name]]),
                _measure.spread(ratio),
                _measure.spread(scaled),
                found[name].copies,
                f"{temporaries / 4 / size:.1f}",
                f"{found[name].compiling:.2f}",
            ]
        )
    columns = (
        "optimizer",
        "bytes / parameter",
        "ms a step",
        "ratio",
        "scaled",
        "copies",
        "temporaries",
        "compile",
    )
    report.table(
        f"*{title}*: {len(shapes)} leaves, {size / 1e6:.1f} M parameters; "
        f"`{PEER}` compiles in {prepared[PEER].seconds:.2f} s",
        columns,
        rows,
    )
    report.samples[title] = {
        "steps_per_turn": steps,
        "seconds": times,
        "compile_seconds": {name: one.seconds for name, one in prepared.items()},
    }
    return found


class Prepared(NamedTuple):
    """A compiled step.

    Attributes:
      run: makes some steps.
      compiled: the program.
      seconds: of CPU time that it took to trace, lower and compile.
    """

    run: Callable[[], None]
    compiled: Any
    seconds: float


def prepare(
    tx: optax.GradientTransformation, shapes: dict, given: tuple[Any, ...], steps: int
) -> Prepared:
    """Compiles a donating step; `given` are gradient, loss, and gradients on halves of a batch."""
    tx = optax.with_extra_args_support(tx)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads, value, halves):
        extras = {"value": value, "half_grads": lambda params: halves}
        updates, state = tx.update(grads, state, params, **extras)
        return optax.apply_updates(params, updates), state

    params = _trees.normal(shapes, seed=0, scale=0.02)
    state = jax.tree.map(jnp.copy, tx.init(params))  # no two fields of one buffer: they are donated
    began = time.process_time()
    compiled = step.lower(params, state, *given).compile()
    seconds = time.process_time() - began
    place = [params, state]

    def run():
        for _ in range(steps):
            place[:] = compiled(*place, *given)
        jax.block_until_ready(place)

    return Prepared(run, compiled, seconds)


if __name__ == "__main__":
    main()
