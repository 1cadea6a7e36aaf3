"""Steps whose batch size changes without compiling again, against steps compiled for one size."""

import itertools

import _measure
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradax
from gradax import schedules

WIDTHS, SIZE, CAPACITY = (784, 512, 512, 10), 128, 16
NUMBERS = (1, 4, CAPACITY)
EXAMPLES = 8192

METHOD = f"""\
A perceptron of {"-".join(map(str, WIDTHS))} units, Adam, float32, micro-batches of {SIZE} examples.
*Fixed* is `gradax.make_step` compiled for a batch of that very size. *Any size* is
`gradax.make_batch_step`, compiled once for up to {CAPACITY} micro-batches and told how many to use;
*controlled* is the same with `schedules.adaptive_batch_size` in the step, at a moment at which it
does not test (between tests, or at the largest batch). *Testing* is when it does, with the
gradients of single examples; *statistics* are those of the micro-batches alone. The ratio is time
per example over that of the fixed step of the same turn."""


def main() -> None:
    """Measures the steps at three batch sizes."""
    arguments = _measure.arguments(__doc__, rounds=3)
    _measure.one_thread()
    report = _measure.Report(
        name="batch_step",
        title="A step for every batch size",
        method=[METHOD, "One thread, CPU time of the process."],
        command=f"python benchmarks/batch_step.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "optax", "gradax"),
    )
    start, steps, compilations = prepare()
    for number in NUMBERS:
        runs = {name: run(start, step, number) for name, step in steps.items()}
        times = _measure.take_turns(runs, arguments.rounds)
        rows = []
        for name, seconds in times.items():
            ratio = _measure.ratios(seconds, times["fixed"])
            microseconds = [1e6 * second / EXAMPLES for second in seconds]
            rows.append([name, _measure.spread(microseconds), _measure.spread(ratio)])
            what = f"{name}, batch {number * SIZE}: time per example over that of a fixed step"
            if number == CAPACITY and name in ("any size", "controlled"):
                report.goals.append(_measure.Goal.at_most(what, ratio, 1.1))
            elif name != "fixed":
                report.ratio(what, ratio)
        columns = ("step", "us / example", "ratio")
        report.table(f"*batches of {number * SIZE}*", columns, rows)
        report.samples[str(number)] = {"seconds": times}
    what = "any size: compilations for all batch sizes"
    report.goals.append(_measure.Goal.at_most(what, [compilations()], 1))
    report.save()


def run(start, step, number: int):
    """A call that makes steps of one batch size, for always as many examples in all."""
    place = [start()]

    def call():
        for _ in range(EXAMPLES // (number * SIZE)):
            place[0] = step(place[0], number)
        jax.block_until_ready(place)

    return call


def prepare():
    """The first state, steps ``(state, micro-batches) -> state``, and what counts compilations."""
    rng = np.random.default_rng(0)
    shapes = list(itertools.pairwise(WIDTHS))
    weights = [rng.normal(size=shape, scale=shape[0] ** -0.5) for shape in shapes]
    batches = {
        "x": jnp.asarray(rng.random((CAPACITY, SIZE, WIDTHS[0]), np.float32)),
        "y": jnp.asarray(rng.integers(WIDTHS[-1], size=(CAPACITY, SIZE), dtype=np.int32)),
    }
    flat = {
        number: {name: x[:number].reshape(-1, *x.shape[2:]) for name, x in batches.items()}
        for number in NUMBERS
    }

    def loss(params, batch):
        x = batch["x"]
        for matrix in params[:-1]:
            x = jax.nn.relu(x @ matrix)
        logits = x @ params[-1]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    tx = optax.adam(1e-3)

    def start():
        params = [jnp.asarray(matrix, jnp.float32) for matrix in weights]
        return params, jax.jit(tx.init)(params)

    fixed = gradax.make_step(loss, tx)
    free = gradax.make_batch_step(loss, tx)
    watched = gradax.make_batch_step(loss, tx, statistics="micro_batches")
    controller = schedules.adaptive_batch_size(
        initial_batch_size=SIZE, max_batch_size=SIZE * CAPACITY, multiple_of=SIZE
    )
    controlled = gradax.make_batch_step(loss, tx, controller=controller)

    def at(number, due):
        # NumPy, lest the making of these scalars be measured too.
        return controller.init()._replace(batch_size=np.int32(number * SIZE), due=np.bool_(due))

    idle = {number: at(number, False) for number in NUMBERS}
    due = {number: at(number, True) for number in NUMBERS}

    steps = {
        "fixed": lambda state, number: fixed(*state, flat[number])[:2],
        "any size": lambda state, number: free(*state, batches, number)[:2],
        "controlled": lambda state, number: controlled(*state, idle[number], batches)[:2],
        "testing": lambda state, number: controlled(*state, due[number], batches)[:2],
        "statistics": lambda state, number: watched(*state, batches, number)[:2],
    }
    return start, steps, free._cache_size


if __name__ == "__main__":
    main()
