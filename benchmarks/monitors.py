"""Training steps with a monitor in the chain against the bare chain."""

from collections.abc import Callable
from typing import NamedTuple

import _measure
import jax
import jax.numpy as jnp
import optax

import gradax
from gradax import optimizers

BATCH, WIDTHS = 128, (64, 256, 256, 10)
STEPS = 50  # a turn; a multiple of every cadence

Make = Callable[[int], optax.GradientTransformation]


class Contender(NamedTuple):
    """A monitor by its cadence, where it stands, and what is asked of it.

    Attributes:
      make: builds it, given the cadence.
      last: behind the optimizer, or before it.
      gradients: of the batch that a record may compute.
      limit: ratio aimed at with a record every ten steps.
    """

    make: Make
    last: bool
    gradients: int
    limit: float


MONITORS = {
    "update_ratio": Contender(optimizers.monitor_update_ratio, True, 0, 1.05),
    "effective_learning_rate": Contender(optimizers.monitor_effective_learning_rate, True, 0, 1.05),
    "directional_sharpness": Contender(
        lambda every: optimizers.monitor_directional_sharpness(every=every), True, 1, 1.3
    ),
    "gradient_direction, examples": Contender(optimizers.monitor_gradient_direction, False, 1, 2.0),
    "gradient_direction, one stream": Contender(
        lambda every: optimizers.monitor_gradient_direction(every, decay=0.9), False, 0, 1.1
    ),
}
CADENCES = (1, 10)
BARE = "no monitor"

METHOD = f"""\
A step is `gradax.make_step` with `optax.adam` on a perceptron of widths {WIDTHS} with relu and
cross entropy, a batch of {BATCH}, in float32; a turn is {STEPS} steps. *Ratio* is the time over
that of the chain without a monitor in the same turn. *Extra gradients* are evaluations of the loss
on the whole batch beyond one a step, counted while the compiled program ran; that of
`directional_sharpness` is differentiated along the update, and those of `gradient_direction` on
examples are {BATCH} gradients of one example each, of which memory has to hold every one.

A monitor costs a little between records too. What a branch reads has to lie in memory, so that XLA
no longer fuses the optimizer's update into the addition to the parameters; running means are
copied unless the step donates its state. In the branch nothing is shared with the gradient of the
step, which it is with a record at every step.

One thread, CPU time of the process."""


def chain(name: str, every: int) -> optax.GradientTransformation:
    """Adam with the monitor before or behind it."""
    if name == BARE:
        return optax.adam(1e-3)
    members = (optax.adam(1e-3), MONITORS[name].make(every))
    return optax.chain(*(members if MONITORS[name].last else members[::-1]))


def init(key: jax.Array) -> list[dict[str, jax.Array]]:
    """Weights of variance 2 / inputs."""
    draw = lambda key, rows, columns: jax.random.normal(key, (rows, columns)) * (2 / rows) ** 0.5
    keys = jax.random.split(key, len(WIDTHS) - 1)
    return [
        {"w": draw(key, rows, columns), "b": jnp.zeros(columns)}
        for key, rows, columns in zip(keys, WIDTHS, WIDTHS[1:], strict=False)
    ]


def loss_fn(params: list[dict[str, jax.Array]], batch: dict[str, jax.Array]) -> jax.Array:
    """Mean cross entropy."""
    x = batch["x"]
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    logits = x @ params[-1]["w"] + params[-1]["b"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))


def example_batch() -> dict[str, jax.Array]:
    """Random images with random labels."""
    keys = jax.random.split(jax.random.key(1))
    x = jax.random.normal(keys[0], (BATCH, WIDTHS[0]))
    return {"x": x, "y": jax.random.randint(keys[1], (BATCH,), 0, WIDTHS[-1])}


def prepare(tx: optax.GradientTransformation) -> Callable[[], None]:
    """Returns a call that makes the steps of a turn; the first one compiles."""
    step, batch = gradax.make_step(loss_fn, tx), example_batch()
    params = init(jax.random.key(0))
    place = [params, jax.jit(tx.init)(params)]

    def run():
        for _ in range(STEPS):
            place[:] = step(*place, batch)[:2]
        jax.block_until_ready(place)

    return run


def extra_gradients(tx: optax.GradientTransformation) -> float:
    """Counts evaluations of the loss per step beyond the first, in batches."""
    rows = []

    def counted(params, batch):
        jax.debug.callback(lambda x: rows.append(len(x)), batch["x"])
        return loss_fn(params, batch)

    step, params = gradax.make_step(counted, tx), init(jax.random.key(0))
    place = [params, tx.init(params)]
    for _ in range(10):
        place[:] = step(*place, example_batch())[:2]
    jax.effects_barrier()
    return round(sum(rows) / BATCH / 10 - 1, 6)


def main() -> None:
    """Measures every monitor at every cadence."""
    arguments = _measure.arguments(__doc__, rounds=5)
    _measure.one_thread()
    report = _measure.Report(
        name="monitors",
        title="Monitors",
        method=[METHOD],
        command=f"python benchmarks/monitors.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "optax", "gradax"),
    )
    contestants = [(name, every) for name in MONITORS for every in CADENCES]
    runs = {BARE: prepare(chain(BARE, 1))} | {
        contestant: prepare(chain(*contestant)) for contestant in contestants
    }
    times = _measure.take_turns(runs, arguments.rounds)
    milliseconds = lambda values: _measure.spread([1e3 * seconds / STEPS for seconds in values])
    rows = [[BARE, "-", "0", milliseconds(times[BARE]), "1"]]
    for name, every in contestants:
        ratio = _measure.ratios(times[name, every], times[BARE])
        extra = extra_gradients(chain(name, every))
        shown = milliseconds(times[name, every]), _measure.spread(ratio)
        rows.append([name, every, f"{extra:g}", *shown])
        contender, at_most = MONITORS[name], _measure.Goal.at_most
        what = f"{name}, every {every}"
        most = contender.gradients / every
        report.goals.append(at_most(f"{what}: extra gradients a step", [extra], most))
        if every == 10:
            report.goals.append(at_most(f"{what}: ratio of time", ratio, contender.limit))
        else:
            report.ratio(f"{what}: ratio of time", ratio)
    columns = ("monitor", "every", "extra gradients a step", "ms a step", "ratio")
    report.table("", columns, rows)
    report.samples["seconds"] = {str(name): seconds for name, seconds in times.items()}
    report.save()


if __name__ == "__main__":
    main()
