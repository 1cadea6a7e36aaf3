"""Which optimizer? Each trains three small networks on real data, at its best learning rate.

`python benchmarks/which_optimizer.py` runs all of them in about ten minutes on two cores, and
`python benchmarks/which_optimizer.py muon adam` some of them; results of the others stay. Each
optimizer runs over a grid of six rates, then, at the one with the least validation loss, from six
other starts. Results go to `results/which_optimizer.json`, pictures to `docs/_static`.
"""

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import _federated
import _measure
import _text
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

import gradax
from gradax import federated, optimizers, schedules

RESULTS = _measure.RESULTS / "which_optimizer.json"
DOCS = _measure.FOLDER.parent / "docs"
PICTURES, TABLE = DOCS / "_static", DOCS / "guides" / "which_optimizer_table.md"

#: Runs in a batch: rates of a grid, then starts at the best rate.
LANES = 6
#: Places of a curve.
POINTS = 20

Examples = dict[str, np.ndarray]


class Task(NamedTuple):
    """A network, its examples, and how long it trains.

    Attributes:
      title: for tables and pictures.
      model: returns logits.
      train: ``{"x": [n, ...], "y": int[n, ...]}``.
      validation: what rates are chosen on.
      test: what is reported.
      batch_size: examples of a step.
      num_steps: a multiple of :data:`POINTS`.
    """

    title: str
    model: nn.Module
    train: Examples
    validation: Examples
    test: Examples
    batch_size: int
    num_steps: int

    def logits(self, params: Any, x: jax.Array) -> jax.Array:
        """Computes the logits of a batch."""
        return self.model.apply({"params": params}, x)

    def loss(self, params: Any, batch: Examples) -> jax.Array:
        """Mean cross entropy of a batch."""
        logits = self.logits(params, batch["x"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    def accuracy(self, params: Any, batch: Examples) -> jax.Array:
        """Share of the labels that get the greatest logit."""
        return jnp.mean(jnp.argmax(self.logits(params, batch["x"]), axis=-1) == batch["y"])

    def batches(self, seed: int) -> np.ndarray:
        """Indices of all batches, ``[POINTS, steps, batch_size]``, each epoch in a new order."""
        size, count = len(self.train["y"]), self.num_steps * self.batch_size
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count]
        return order.reshape(POINTS, -1, self.batch_size).astype(np.int32)


class Perceptron(nn.Module):
    """784-64-64-10."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10, name="head")(x)


class ConvolutionalNetwork(nn.Module):
    """Two 3x3 convolutions with 8 and 16 channels, each with a 2x2 maximum, and one layer."""

    @nn.compact
    def __call__(self, x):
        x = x[..., None]
        for channels in (8, 16):
            # XLA's convolution is an order of magnitude slower inside loops on CPU.
            as_products = lambda images, kernel, *_, **__: _federated.im2col_convolution(
                images, kernel
            )
            x = nn.Conv(channels, (3, 3), conv_general_dilated=as_products)(x)
            count, height, width, _ = x.shape
            x = x.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))
            x = nn.relu(x)
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


class Block(nn.Module):
    """Attention with two heads and a perceptron, each behind a norm and beside a detour."""

    @nn.compact
    def __call__(self, x):
        width, inputs = x.shape[-1], nn.LayerNorm()(x)
        heads = (*x.shape[:2], 2, width // 2)
        parts = (nn.Dense(width, name=name)(inputs) for name in ("query", "key", "value"))
        seen = jax.nn.dot_product_attention(
            *(part.reshape(heads) for part in parts), is_causal=True
        )
        x = x + nn.Dense(width, name="out")(seen.reshape(x.shape))
        inner = nn.relu(nn.Dense(4 * width, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(width, name="down")(inner)


class Transformer(nn.Module):
    """Two blocks, 32 wide, that predict the next character from those before it."""

    width: int = 32

    @nn.compact
    def __call__(self, x):
        symbols, draw = len(_text.ALPHABET), nn.initializers.normal(0.02)
        x = nn.Embed(symbols, self.width, name="symbol_embedding")(x) + self.param(
            "place_embedding", draw, (x.shape[1], self.width)
        )
        for _ in range(2):
            x = Block()(x)
        return nn.Dense(symbols, name="head")(nn.LayerNorm()(x))


def image_task(title: str, model: nn.Module, batch_size: int, num_steps: int) -> Task:
    """Handwritten digits: 3,200 images to train on, 800 and 1,000 to validate and test."""
    digits = federated.data.load("mnist5k")
    part = lambda start, end: {name: leaf[start:end] for name, leaf in digits.train.items()}
    return Task(title, model, part(0, 3200), part(3200, 4000), digits.test, batch_size, num_steps)


def text_task(batch_size: int, num_steps: int, length: int = 32) -> Task:
    """Windows of a text, one behind the other; 512 each, from all over it, validate and test."""
    text = _text.load()
    count = (len(text.codes) - 1) // length
    order = np.random.default_rng(0).permutation(count)
    cut = lambda start: text.codes[start : start + count * length].reshape(count, length)[order]
    windows = {"x": cut(0), "y": cut(1)}
    part = lambda start, end: {name: leaf[start:end] for name, leaf in windows.items()}
    return Task(
        f"transformer on characters of {text.source}",
        Transformer(),
        part(0, count - 1024),
        part(count - 1024, count - 512),
        part(count - 512, count),
        batch_size,
        num_steps,
    )


TASKS: dict[str, Callable[[], Task]] = {
    "mlp": lambda: image_task("perceptron on digits", Perceptron(), 64, 500),
    "cnn": lambda: image_task("convolutional network on digits", ConvolutionalNetwork(), 32, 300),
    "transformer": lambda: text_task(16, 400),
}


class Contender(NamedTuple):
    """An optimizer, and the number of it that is tuned.

    Attributes:
      family: picture in which it stands.
      make: from the number, as a schedule that falls linearly to zero, or as it is.
      grid: of the number, :data:`LANES` values.
      tuned: name of the number.
    """

    family: str
    make: Callable[[Any], optax.GradientTransformation]
    grid: tuple[float, ...]
    tuned: str = "learning_rate"


def upwards(first: float, factor: float = 10**0.5) -> tuple[float, ...]:
    """A grid from `first` on, each value `factor` times the one before."""
    return tuple(float(f"{first * factor**power:.2g}") for power in range(LANES))


def labelled(first: Any, second: Any, rest: Any) -> Callable[[Any], Any]:
    """Labels leaves by layer: the first layer or block with embeddings, the second, the rest."""

    def label(path, leaf):
        del leaf
        top = path[0].key
        if top.startswith(("head", "LayerNorm")):
            return rest
        return second if top.endswith("_1") else first

    return lambda params: jax.tree_util.tree_map_with_path(label, params)


REFERENCE, ADAPTIVE, STEEPEST, MIRROR, COORDINATES = (
    "reference",
    "adaptive steps",
    "steepest descent in a norm",
    "mirror descent",
    "coordinates and noise",
)
FAMILIES = (ADAPTIVE, STEEPEST, MIRROR, COORDINATES)

#: How the references look, in every panel.
STYLES: dict[str, dict[str, Any]] = {
    "sgd": {"color": "black", "linestyle": "dashed", "label": "sgd"},
    "adam": {"color": "black", "label": "adam"},
}

MATRICES = optimizers.muon_dimension_numbers


def descend(*stages: optax.GradientTransformation, rate: Any) -> optax.GradientTransformation:
    """Chains stages that make a direction."""
    return optax.chain(*stages, optax.scale_by_learning_rate(rate))


#: What is compared. To add one, add a line: whatever `gradax.make_step` supplies may be used.
CONTENDERS = {
    "sgd": Contender(REFERENCE, lambda rate: optax.sgd(rate, momentum=0.9), upwards(3e-3)),
    "adam": Contender(REFERENCE, optax.adam, upwards(3e-4)),
    "adabelief": Contender(ADAPTIVE, optimizers.adabelief, upwards(3e-4)),
    "diffgrad": Contender(ADAPTIVE, optimizers.diffgrad, upwards(3e-4)),
    "adamp": Contender(ADAPTIVE, optimizers.adamp, upwards(3e-4)),
    "sgdp": Contender(ADAPTIVE, lambda rate: optimizers.sgdp(rate, momentum=0.9), upwards(3e-3)),
    "a2grad": Contender(
        ADAPTIVE,
        lambda smoothness: optimizers.a2grad("inc", smoothness),
        upwards(1.0, 4.0),
        tuned="smoothness",
    ),
    "l4_adam": Contender(ADAPTIVE, optimizers.l4_adam, upwards(0.02, 2.0), tuned="alpha"),
    "l4_momentum": Contender(ADAPTIVE, optimizers.l4_momentum, upwards(0.02, 2.0), tuned="alpha"),
    "adagrad_norm": Contender(ADAPTIVE, optimizers.adagrad_norm, upwards(0.03)),
    "momentum, scale_by_agvm": Contender(
        ADAPTIVE,
        lambda rate: descend(
            optax.trace(0.9),
            optimizers.scale_by_agvm(labelled("backbone", "neck", "head"), "backbone"),
            rate=rate,
        ),
        upwards(3e-3),
    ),
    "muon": Contender(
        STEEPEST,
        # With a common root mean square the rates of Adam suit the matrices as well.
        lambda rate: optimizers.muon(
            rate, muon_weight_dimension_numbers=MATRICES, consistent_rms=0.2
        ),
        upwards(1e-3),
    ),
    "drop_muon": Contender(
        STEEPEST,
        lambda rate: optimizers.drop_muon(
            rate,
            labelled(0, 1, 2),
            optimizers.cutoff_probs("uniform", 3),
            dimension_numbers=MATRICES,
            adam_learning_rate=lambda count: 0.1 * rate(count),
        ),
        upwards(1e-3),
    ),
    "muon_adam": Contender(
        STEEPEST,
        # A step of unit spectral norm is about ten times smaller than one of unit entries.
        lambda rate: optimizers.muon_adam(
            rate, lambda count: 0.1 * rate(count), dimension_numbers=MATRICES
        ),
        upwards(3e-3),
    ),
    "muon_signum": Contender(
        STEEPEST,
        lambda rate: optimizers.muon_signum(rate, dimension_numbers=MATRICES),
        upwards(3e-4),
    ),
    "signum": Contender(STEEPEST, optimizers.signum, upwards(1e-4)),
    "steepest_descent, global_l2": Contender(
        STEEPEST, lambda rate: optimizers.steepest_descent(rate, "global_l2"), upwards(3e-3)
    ),
    "steepest_descent, l2": Contender(
        STEEPEST, lambda rate: optimizers.steepest_descent(rate, "l2"), upwards(1e-3)
    ),
    "exponentiated_gradient": Contender(
        MIRROR, lambda rate: optimizers.exponentiated_gradient(rate, momentum=0.9), upwards(0.03)
    ),
    "adam, signed_exponentiate": Contender(
        MIRROR,
        lambda rate: optax.chain(
            optax.scale_by_adam(),
            optax.scale_by_learning_rate(rate),
            optimizers.signed_exponentiate(),
        ),
        upwards(3e-3),
    ),
    "hypentropy": Contender(
        MIRROR, lambda rate: optimizers.hypentropy(rate, beta=0.1), upwards(0.1)
    ),
    "eg_plus_minus": Contender(
        MIRROR,
        lambda rate: optimizers.eg_plus_minus(rate, total=100.0, group="row"),
        upwards(1e-4),
    ),
    "optimistic_mirror_descent": Contender(
        MIRROR, optimizers.optimistic_mirror_descent, upwards(0.01)
    ),
    "composite_mirror_descent": Contender(
        MIRROR,
        lambda rate: optimizers.composite_mirror_descent(rate, prox=optimizers.prox_l1(1e-4)),
        upwards(0.01),
    ),
    "momentum, clip_coordinates": Contender(
        COORDINATES,
        lambda rate: descend(optax.trace(0.9), optimizers.clip_coordinates(0.1), rate=rate),
        upwards(0.01),
    ),
    "adam, clip_coordinates": Contender(
        COORDINATES,
        lambda rate: descend(optax.scale_by_adam(), optimizers.clip_coordinates(0.5), rate=rate),
        upwards(1e-3),
    ),
    "block_coordinate_descent": Contender(
        COORDINATES,
        lambda rate: optimizers.block_coordinate_descent("gs", smoothness=1.0, learning_rate=rate),
        upwards(0.03),
    ),
    "add_noise, momentum": Contender(
        COORDINATES,
        # A hundredth of the least variance of the paper: noise grows with the number of weights.
        lambda rate: optax.chain(optax.add_noise(1e-4, 0.55, 0), optax.sgd(rate, momentum=0.9)),
        upwards(3e-3),
    ),
}


class Bench:
    """A task, and what all optimizers share on it: starts, batches, the judging of parameters.

    Args:
      task: what is trained.
      cores: devices among which the runs are divided.
    """

    def __init__(self, task: Task, cores: int):
        self.task = task
        devices = max(count for count in range(1, cores + 1) if LANES % count == 0)
        automatic = (jax.sharding.AxisType.Auto,)
        self._mesh = jax.make_mesh(
            (devices,), ("lanes",), automatic, devices=jax.devices()[:devices]
        )
        self._examples = jax.tree.map(jnp.asarray, task.train)
        self._start = jax.jit(lambda key: task.model.init(key, task.train["x"][:1])["params"])
        self._judge = jax.jit(self._losses)

    def _losses(self, params):
        return {
            "validation_loss": self.task.loss(params, self.task.validation),
            "test_loss": self.task.loss(params, self.task.test),
            "test_accuracy": self.task.accuracy(params, self.task.test),
        }

    def program(self, contender: Contender) -> Callable[..., Any]:
        """Compiles :data:`LANES` runs, each a scan; they take turns on each device.

        Side by side, by `vmap`, they would be no faster on CPU, and compile longer.
        """
        one = functools.partial(train, self.task, contender)

        def all_runs(numbers, starts, batches, examples):
            lane = lambda run: one(*run, examples)
            return jax.lax.map(lane, (numbers, starts, batches))

        lanes, whole = jax.P("lanes"), jax.P()
        specs = (lanes, lanes, lanes, whole)
        divided = jax.shard_map(
            all_runs, mesh=self._mesh, in_specs=specs, out_specs=lanes, check_vma=False
        )
        return jax.jit(divided)

    def run(self, program: Callable[..., Any], numbers: Any, seeds: Any) -> dict[str, np.ndarray]:
        """Trains once for each number and seed; returns curves and how the parameters do."""
        starts = [self._start(jax.random.key(seed)) for seed in seeds]
        batches = np.stack([self.task.batches(seed) for seed in seeds])
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
        outcome = program(jnp.array(numbers), stacked, batches, self._examples)
        training, params = jax.tree.map(np.asarray, outcome)
        lane = lambda place: jax.tree.map(lambda leaf: leaf[place], params)
        judged = [self._judge(lane(place)) for place in range(LANES)]
        found = {name: np.stack([one[name] for one in judged]) for name in judged[0]}
        return found | {"training_loss": training}


def train(
    task: Task,
    contender: Contender,
    number: jax.Array,
    params: Any,
    batches: jax.Array,
    examples: dict[str, jax.Array],
) -> tuple[jax.Array, Any]:
    """One run; returns mean losses up to each place of the curve, and parameters."""
    rate = number
    if contender.tuned == "learning_rate":
        shape = schedules.linear_decay_schedule(1.0, task.num_steps)
        rate = lambda count: number * shape(count)
    tx = contender.make(rate)
    step = gradax.make_step(task.loss, tx)

    def one(carry, index):
        batch = {name: leaf[index] for name, leaf in examples.items()}
        params, state, metrics = step(*carry, batch)
        return (params, state), metrics["loss"]

    def stretch(carry, indices):
        carry, losses = jax.lax.scan(one, carry, indices)
        return carry, jnp.mean(losses)

    (params, _), training = jax.lax.scan(stretch, (params, tx.init(params)), batches)
    return training, params


def tune(bench: Bench, contender: Contender) -> dict[str, Any]:
    """Finds the best number of the grid, and trains with it from other starts."""
    began = time.perf_counter()
    program = bench.program(contender)
    grid = bench.run(program, contender.grid, [0] * LANES)["validation_loss"]
    best = int(np.argmin(np.where(np.isfinite(grid), grid, np.inf)))
    runs = bench.run(program, [contender.grid[best]] * LANES, range(1, LANES + 1))
    return {
        "family": contender.family,
        "tuned": contender.tuned,
        "grid": list(contender.grid),
        "grid_validation_loss": _digits(grid),
        "best": contender.grid[best],
        "best_at_edge": best in (0, LANES - 1),
        "training_loss": _digits(np.median(runs["training_loss"], axis=0)),
        "training_loss_least": _digits(np.min(runs["training_loss"], axis=0)),
        "training_loss_greatest": _digits(np.max(runs["training_loss"], axis=0)),
        "test_loss": _digits(runs["test_loss"]),
        "test_accuracy": _digits(runs["test_accuracy"]),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _spread(values: list[float | None]) -> str:
    finite = [value for value in values if value is not None]
    diverged = f", {LANES - len(finite)} diverged" if len(finite) < LANES else ""
    return (_measure.spread(finite) if finite else "none") + diverged


def _digits(values: np.ndarray) -> list[float | None]:
    """Four digits are enough; JSON knows no infinity."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def main() -> None:
    """Runs what was asked for, and draws all results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="optimizer", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--draw", action="store_true", help="only draw the saved results")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CONTENDERS):
        parser.error(f"no optimizer {', '.join(sorted(unknown))}; there are {list(CONTENDERS)}")
    if not arguments.draw:
        cores = _measure.one_device_per_core()
        for name in arguments.tasks:
            compare(name, Bench(TASKS[name](), cores), arguments.names or list(CONTENDERS))
    saved = json.loads(RESULTS.read_text())
    for name, task in saved["tasks"].items():
        draw(task, PICTURES / f"which_optimizer_{name}.svg")
    TABLE.write_text(table(saved["tasks"]))


def compare(task_name: str, bench: Bench, names: list[str]) -> None:
    """Runs some optimizers on a task and renews their results."""
    task, found = bench.task, {}
    for name in names:
        found[name] = tune(bench, CONTENDERS[name])
        one = found[name]
        print(
            f"{task_name:12} {name:28} best {one['best']:<8} "
            f"{'(edge of the grid) ' if one['best_at_edge'] else ''}"
            f"test loss {_spread(one['test_loss'])}, "
            f"accuracy {_spread(one['test_accuracy'])}, {one['seconds']} s",
            flush=True,
        )
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"tasks": {}}
    before = saved["tasks"].get(task_name, {}).get("optimizers", {})
    merged = before | found
    saved["tasks"][task_name] = {
        "title": task.title,
        "batch_size": task.batch_size,
        "steps": [task.num_steps // POINTS * (place + 1) for place in range(POINTS)],
        "optimizers": {name: merged[name] for name in CONTENDERS if name in merged},
    }
    saved["command"] = "python benchmarks/which_optimizer.py"
    saved["versions"] = _measure.versions(("jax", "jaxlib", "optax", "flax", "gradax"))
    saved["machine"] = _measure.machine()
    RESULTS.write_text(json.dumps(saved, indent=1) + "\n")


def draw(task: dict[str, Any], path: pathlib.Path) -> None:
    """Draws curves, a panel for each family, and beside them what the test says."""
    found = task["optimizers"]
    figure = Figure(figsize=(13, 8.5), layout="constrained", facecolor="white")
    left, right = figure.subfigures(1, 2, width_ratios=(1.9, 1))
    panels = left.subplots(2, 2, sharex=True, sharey=True).flat
    for panel, family in zip(panels, FAMILIES, strict=True):
        _draw_curves(panel, task, family)
    left.supxlabel("step")
    left.supylabel("training loss, median of the starts")
    left.suptitle(task["title"])
    _draw_test(right.subplots(), found)
    path.parent.mkdir(exist_ok=True)
    # Without a date and random names, the same results make the same file.
    with matplotlib.rc_context({"svg.hashsalt": "which_optimizer", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def table(tasks: dict[str, Any]) -> str:
    """Writes a row for each optimizer: size of its state, and how it does on each task."""
    titles = [f"{name}: best, test loss" for name in tasks]
    rows = [["optimizer", "tuned", "state", *titles], ["---"] * (3 + len(tasks))]
    for name, contender in CONTENDERS.items():
        cells = [_cell(task["optimizers"][name]) for task in tasks.values()]
        rows.append([f"`{name}`", contender.tuned, f"{_state_size(contender):.1f}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _cell(one: dict[str, Any]) -> str:
    losses = [np.inf if loss is None else loss for loss in one["test_loss"]]
    lost = f", {sum(np.isinf(losses))} of {LANES} diverged" if np.isinf(losses).any() else ""
    edge = " (edge)" if one["best_at_edge"] else ""
    return f"{one['best']:g}{edge}, {np.median(losses):.3g}{lost}"


def _state_size(contender: Contender) -> float:
    """Size of the state over that of the parameters, of the perceptron."""
    params = jax.eval_shape(Perceptron().init, jax.random.key(0), jnp.zeros((1, 784)))["params"]
    tx = contender.make(optax.constant_schedule(1.0) if contender.tuned == "learning_rate" else 1.0)
    sizes = [
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for tree in (jax.eval_shape(tx.init, params), params)
    ]
    return sizes[0] / sizes[1]


def _draw_curves(panel: Axes, task: dict[str, Any], family: str) -> None:
    shades = iter(matplotlib.colormaps["tab10"].colors)
    for name, one in task["optimizers"].items():
        if one["family"] not in (family, REFERENCE):
            continue
        style = STYLES.get(name) or {"color": next(shades), "label": name}
        curves = [one[f"training_loss{end}"] for end in ("", "_least", "_greatest")]
        median, least, greatest = (np.array(curve, float) for curve in curves)
        panel.plot(task["steps"], median, **style)
        panel.fill_between(task["steps"], least, greatest, color=style["color"], alpha=0.1, lw=0)
    panel.set_title(family)
    _scale(panel.yaxis, panel.set_yscale)
    panel.legend(fontsize="x-small", handlelength=1.2, framealpha=0.6)


def _scale(axis: Axis, set_scale: Callable[[str], None]) -> None:
    """Makes an axis logarithmic if it is long, with ticks like 0.2 and 0.5."""
    low, high = axis.get_data_interval()
    if high > 3 * low:
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _draw_test(panel: Axes, found: dict[str, Any]) -> None:
    """A line for each optimizer from the least to the greatest test loss, best on top."""
    middle = lambda name: np.median(
        np.nan_to_num(np.array(found[name]["test_loss"], float), nan=np.inf)
    )
    order = sorted((name for name in found if np.isfinite(middle(name))), key=middle, reverse=True)
    for place, name in enumerate(order):
        losses = [loss for loss in found[name]["test_loss"] if loss is not None]
        color = "black" if name in STYLES else "tab:blue"
        panel.plot([min(losses), max(losses)], [place, place], color=color)
        panel.plot(middle(name), place, "o", color=color)
    panel.set_yticks(range(len(order)), order)
    _scale(panel.xaxis, panel.set_xscale)
    panel.set_xlabel("test loss")
    panel.grid(axis="x", which="both", alpha=0.3)


if __name__ == "__main__":
    main()
