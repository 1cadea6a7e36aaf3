"""Which rule bears which attack? Every rule against every attack, on equal and uneven data.

`python benchmarks/robustness_matrix.py` trains all of them in less than a quarter of an hour on
two cores, `python benchmarks/robustness_matrix.py krum monna` some; results of the others stay.
Twenty clients, of which one or four attack, train a small perceptron on handwritten digits. Results
go to `results/robustness_matrix.json`, a table to `docs/guides/robust_matrix.md` and a picture to
`docs/_static`.
"""

import argparse
import functools
import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import _measure
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from matplotlib.figure import Figure

from gradax import federated
from gradax._dishonest import RULES
from gradax.federated import attacks, rules

RESULTS = _measure.RESULTS / "robustness_matrix.json"
DOCS = _measure.FOLDER.parent / "docs"
TABLE = DOCS / "guides" / "robust_matrix.md"
PICTURE = DOCS / "_static" / "robustness_matrix.svg"

NODES, ATTACKERS = 20, (1, 4)
WIDTHS = (64, 16, 10)
NUM_STEPS, BATCH_SIZE, RATE, MOMENTUM = 100, 25, 0.5, 0.9
#: How uneven the labels are: Dirichlet concentration, or an even split.
SPLITS: dict[str, float | None] = {"iid": None, "Dirichlet 0.3": 0.3}

QUICK_COMPILATION = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"

Rule = Callable[..., Any]
partial = functools.partial


class Contender(NamedTuple):
    """A rule, and where it stands.

    Attributes:
      rule: `rule(rows, f)`, what attackers search against.
      make: `make(f)`, the member of a node's chain; by default the rule as an aggregate.
      rate: learning rate.
      on: whether momenta travel ("updates") or models, of nodes without a server.
    """

    rule: Rule
    make: Callable[[int], optax.GradientTransformation] | None = None
    rate: float = RATE
    on: str = "updates"

    def mixing(self, f: int) -> optax.GradientTransformation:
        """What combines the messages."""
        if self.make is not None:
            return self.make(f)
        return federated.robust_aggregate(lambda rows: self.rule(rows, f), "nodes")


def behind(pre: Rule, rule: Rule) -> Contender:
    """A rule behind a pre-aggregator that draws nothing."""
    return Contender(lambda rows, f: rule(pre(rows, f), f))


def in_buckets(rule: Rule, s: int = 2) -> Contender:
    """A rule on averages of random pairs; attackers search with one order of their own."""
    order = np.random.default_rng(0).permutation(NODES)
    buckets = partial(rules.bucketing, s=s)

    def make(f):
        return federated.robust_aggregate(lambda rows: rule(rows, f), "nodes", (buckets,), key=0)

    return Contender(lambda rows, f: rule(buckets(rows, perm=order), f), make)


def majority(rows: jax.Array, f: int) -> jax.Array:
    """The majority vote of signs on rows."""
    del f
    return jax.tree.map(lambda leaf: jnp.sign(jnp.sign(leaf).sum(axis=0)), rows)


def clipped(rows: jax.Array, f: int, tau: float) -> jax.Array:
    """Clipping around the median: attackers do not know the centre, which has a history."""
    return rules.centered_clipping(rows, tau=tau, center=rules.median(rows, f))


TAU = 0.5
PLAIN: dict[str, Rule] = {name: rule for name, rule in RULES.items() if name != "mean"}
MIXED = ("median", "trimmed_mean", "krum", "geometric_median", "caf")

CONTENDERS = {
    "mean": Contender(rules.mean),
    **{name: Contender(rule) for name, rule in PLAIN.items()},
    "weiszfeld": Contender(rules.weiszfeld),
    "centered_clipping": Contender(
        partial(clipped, tau=TAU), lambda f: federated.centered_clipping("nodes", TAU)
    ),
    "sign_majority_vote": Contender(
        majority, lambda f: federated.sign_majority_vote("nodes"), rate=0.01
    ),
    **{f"nnm + {name}": behind(rules.nnm, PLAIN[name]) for name in MIXED},
    **{f"bucketing + {name}": in_buckets(PLAIN[name]) for name in MIXED},
    "arc + trimmed_mean": behind(rules.arc, rules.trimmed_mean),
    "monna": Contender(
        rules.nearest_neighbor_average,
        lambda f: federated.nearest_neighbor_average(f, "nodes"),
        on="models",
    ),
}


def gaussian() -> attacks.StatefulAttack:
    """Noise with a count in place of a key, so that it may stand in a branch."""

    def update(honest, count):
        key = jax.random.fold_in(jax.random.key(0), count)
        return attacks.gaussian(honest, key), count + 1

    return attacks.StatefulAttack(lambda message: jnp.zeros([], jnp.int32), update)


def forgetful(attack: Callable[..., Any]) -> attacks.StatefulAttack:
    """An attack without a memory."""
    return attacks.StatefulAttack(lambda message: (), lambda honest, _: (attack(honest), ()))


def lies(rule: Rule, f: int) -> dict[str, attacks.StatefulAttack]:
    """The attacks that replace messages."""
    search = partial(
        attacks.optimized, rule=rule, f=f, every=10, evals=16, delta=1.0, both_ways=True
    )
    return {
        "sign flip": forgetful(attacks.sign_flip),
        "FOE 0.1": forgetful(partial(attacks.inner_product, tau=0.1)),
        "FOE, searched": search(attacks.inner_product),
        "ALIE 1.5": forgetful(attacks.a_little_is_enough),
        "ALIE, searched": search(attacks.a_little_is_enough),
        "mimic": forgetful(attacks.mimic),
        "mimic, learned": attacks.learned_mimic(NUM_STEPS // 4),
        "noise": gaussian(),
    }


#: Attackers are honest, train honestly on wrong labels, or replace their messages.
ATTACKS = ("none", "label flip", *lies(rules.mean, 1))
FLIPPED, FIRST_LIE = 1, 2


def one_of(members: list[attacks.StatefulAttack], which: jax.Array) -> attacks.StatefulAttack:
    """Any of several attacks, chosen when the program runs."""

    def run(number, honest, states):
        vector, state = members[number].update(honest, states[number])
        return vector, (*states[:number], state, *states[number + 1 :])

    def update(honest, states):
        branches = [partial(run, number) for number in range(len(members))]
        return jax.lax.switch(which, branches, honest, states)

    return attacks.StatefulAttack(lambda message: tuple(m.init(message) for m in members), update)


def injected(contender: Contender, f: int, attack: jax.Array) -> optax.GradientTransformation:
    """Lets the last `f` nodes tell the lie of this number, if it is one."""
    members = list(lies(contender.rule, f).values())
    liars = one_of(members, jnp.maximum(attack - FIRST_LIE, 0))
    tx = federated.inject_attack(liars, f, "nodes", on=contender.on)

    def update(updates, state, params=None, **extra):
        sent, state = tx.update(updates, state, params, **extra)
        choose = lambda lie, own: jnp.where(attack >= FIRST_LIE, lie, own)
        return jax.tree.map(choose, sent, updates), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def chain(contender: Contender, f: int, attack: jax.Array) -> optax.GradientTransformation:
    """A node's optimizer: momentum, the lie of some, the rule."""
    momentum, rate = (
        optax.ema(MOMENTUM, debias=False),
        optax.scale_by_learning_rate(contender.rate),
    )
    lie, mix = injected(contender, f, attack), contender.mixing(f)
    if contender.on == "models":
        return optax.chain(momentum, rate, lie, mix)
    return optax.chain(momentum, lie, mix, rate)


def logits(params: Any, x: jax.Array) -> jax.Array:
    """A perceptron with one hidden layer."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def initial(seed: int) -> Any:
    """Its parameters at the start."""
    rng = np.random.default_rng(seed)
    sizes = itertools.pairwise(WIDTHS)
    return [
        {
            "w": jnp.asarray(rng.normal(size=size) * np.sqrt(2 / size[0]), jnp.float32),
            "b": jnp.zeros(size[1]),
        }
        for size in sizes
    ]


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross entropy."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y))


def train(
    contender: Contender, f: int, data: federated.data.Dataset, attack: jax.Array, batches: Any
) -> jax.Array:
    """One run; returns the mean test accuracy of the honest nodes.

    Args:
      contender: the rule.
      f: number of attackers.
      data: digits.
      attack: number of the attack.
      batches: `int[steps, nodes, batch]`, which examples.
    """
    tx = chain(contender, f, attack)
    x, y = (jnp.asarray(data.train[name]).reshape(-1, *shape) for name, shape in SHAPES)
    liar = jnp.arange(NODES) >= NODES - f
    flips = liar & (attack == FLIPPED)

    def node_step(params, state, index, flip):
        labels = jnp.where(flip, attacks.label_flip_targets(y[index], WIDTHS[-1]), y[index])
        grads = jax.grad(loss)(params, x[index], labels)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def step(carry, indices):
        return jax.vmap(node_step, axis_name="nodes")(*carry, indices, flips), None

    start = initial(0)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * NODES), start)
    (params, _), _ = jax.lax.scan(step, (params, jax.vmap(tx.init)(params)), batches)
    test_x, test_y = (jnp.asarray(data.test[name]).reshape(-1, *shape) for name, shape in SHAPES)
    right = jax.vmap(lambda p: jnp.mean(jnp.argmax(logits(p, test_x), axis=-1) == test_y))(params)
    return jnp.mean(right[: NODES - f])


SHAPES = (("x", WIDTHS[:1]), ("y", ()))


def draw_batches(labels: np.ndarray, alpha: float | None, seed: int) -> np.ndarray:
    """Splits the examples among the nodes; indices `[steps, nodes, batch]` of all batches."""
    if alpha is None:
        parts = federated.data.partition_iid(len(labels), NODES, seed=seed)
    else:
        parts = federated.data.partition_dirichlet(labels, NODES, alpha, min_size=5, seed=seed)
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(part, size=(NUM_STEPS, BATCH_SIZE)) for part in parts]
    return np.stack(drawn, axis=1).astype(np.int32)


class Bench:
    """What all rules share: data, batches and the devices among which the runs are divided.

    Args:
      cores: number of devices.
    """

    def __init__(self, cores: int):
        self.data = federated.data.load("digits")
        labels = np.asarray(self.data.train["y"])
        batches = [draw_batches(labels, alpha, seed=1) for alpha in SPLITS.values()]
        devices = max(count for count in range(1, cores + 1) if len(SPLITS) % count == 0)
        automatic = (jax.sharding.AxisType.Auto,)
        self._mesh = jax.make_mesh(
            (devices,), ("splits",), automatic, devices=jax.devices()[:devices]
        )
        self._batches = jnp.asarray(np.stack(batches))

    def run(self, contender: Contender, f: int) -> np.ndarray:
        """Accuracies `[splits, attacks]`; one compilation, the runs take turns on each device."""
        one = partial(train, contender, f, self.data)

        def block(batches):
            of_split = lambda own: jax.lax.map(
                lambda attack: one(attack, own), jnp.arange(len(ATTACKS))
            )
            return jax.lax.map(of_split, batches)

        spec = jax.P("splits")
        divided = jax.shard_map(
            block, mesh=self._mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
        return np.asarray(jax.jit(divided)(self._batches))


def measure(names: list[str]) -> None:
    """Runs some rules and renews their results."""
    # Programs are large and run for seconds: LLVM's optimization would cost more than it saves.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILATION}"
    bench = Bench(_measure.one_device_per_core())
    for name in names:
        cells, seconds, work = {}, time.perf_counter(), time.process_time()
        for f in ATTACKERS:
            accuracy = np.round(bench.run(CONTENDERS[name], f).astype(float), 3).tolist()
            cells[f"f = {f}"] = {
                split: dict(zip(ATTACKS, row, strict=True))
                for split, row in zip(SPLITS, accuracy, strict=True)
            }
            worst = ", ".join(f"{s} {min(r):.2f}" for s, r in zip(SPLITS, accuracy, strict=True))
            print(f"{name:28} f = {f}: worst {worst}", flush=True)
        seconds, work = time.perf_counter() - seconds, time.process_time() - work
        print(f"{name:28} {seconds:.1f} s, of the processors {work:.1f} s", flush=True)
        save(name, {"seconds": round(seconds, 1), "cpu_seconds": round(work, 1)} | cells)


def save(name: str, cells: dict[str, Any]) -> None:
    """Puts one rule's accuracies to those of the others."""
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rules": {}}
    merged = saved["rules"] | {name: cells}
    saved = {
        "command": "python benchmarks/robustness_matrix.py",
        "nodes": NODES,
        "steps": NUM_STEPS,
        "versions": _measure.versions(("jax", "jaxlib", "optax", "gradax")),
        "machine": _measure.machine(),
        "rules": {name: merged[name] for name in CONTENDERS if name in merged},
    }
    RESULTS.write_text(json.dumps(saved, indent=1) + "\n")


def table(accuracy: dict[str, Any]) -> str:
    """Worst and mean accuracy of every rule, and the worst attack."""
    columns = [(f"f = {f}", split) for f in ATTACKERS for split in SPLITS]
    head = " | ".join(f"{f}, {split}" for f, split in columns)
    lines = [f"| rule | {head} |", "| --- |" + " --- |" * len(columns)]
    for name, cells in accuracy.items():
        worst = []
        for f, split in columns:
            row = cells[f][split]
            attack = min(row, key=row.__getitem__)
            worst.append(f"{row[attack]:.2f} ({attack})")
        lines.append(f"| {name} | " + " | ".join(worst) + " |")
    return "\n".join(lines) + "\n"


def draw(accuracy: dict[str, Any]) -> None:
    """A panel for each number of attackers and split, a row for each rule."""
    matplotlib.rcParams["svg.hashsalt"] = "gradax"
    names = list(accuracy)
    figure = Figure(figsize=(12, 0.52 * len(names) + 2), layout="constrained")
    axes = figure.subplots(len(ATTACKERS), len(SPLITS), sharex=True, sharey=True)
    for row, f in zip(axes, ATTACKERS, strict=True):
        for ax, split in zip(row, SPLITS, strict=True):
            values = np.array([[accuracy[n][f"f = {f}"][split][a] for a in ATTACKS] for n in names])
            image = ax.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
            for (y, x), value in np.ndenumerate(values):
                color = "white" if value < 0.6 else "black"
                ax.text(x, y, f"{100 * value:.0f}", ha="center", va="center", size=8, color=color)
            labels = "equal data" if split == "iid" else f"labels by {split}"
            ax.set_title(f"{f} of {NODES} attack, {labels}", size=11)
            ax.set_yticks(range(len(names)), names, size=8)
            ax.set_xticks(range(len(ATTACKS)), ATTACKS, rotation=40, ha="right", size=9)
            ax.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="test accuracy of honest nodes", shrink=0.4)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """Runs what was asked for, and draws all results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="rule", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--draw", action="store_true", help="only draw the saved results")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CONTENDERS):
        parser.error(f"no rule {', '.join(sorted(unknown))}; there are {list(CONTENDERS)}")
    if not arguments.draw:
        measure(arguments.names or list(CONTENDERS))
    accuracy = json.loads(RESULTS.read_text())["rules"]
    TABLE.write_text(table(accuracy))
    draw(accuracy)


if __name__ == "__main__":
    main()
