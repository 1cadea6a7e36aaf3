"""Step time of gradax optimizers against the same methods in pytorch_optimizer."""

import functools
import json
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import _measure
import _peer
import _trees
import environments
import jax
import numpy as np
import optax
from optimizer_step import TREES

from gradax import optimizers


class Pair(NamedTuple):
    """A method here and there.

    Attributes:
      make: by gradax.
      method: class of pytorch_optimizer.
      arguments: of the class.
      default: form that the class chooses by itself on CPU.
    """

    make: Callable[[], optax.GradientTransformation]
    method: str
    arguments: dict[str, Any]
    default: str


PAIRS = {
    "diffgrad": Pair(lambda: optimizers.diffgrad(1e-3), "DiffGrad", {"lr": 1e-3}, "foreach"),
    "adamp": Pair(lambda: optimizers.adamp(1e-3), "AdamP", {"lr": 1e-3}, "loop"),
    "sgdp": Pair(
        lambda: optimizers.sgdp(1e-3, momentum=0.9), "SGDP", {"lr": 1e-3, "momentum": 0.9}, "loop"
    ),
    # The peer has one step size for each leaf, the paper one for each element.
    "a2grad": Pair(
        lambda: optimizers.a2grad("uni", per_leaf_norm=True),
        "A2Grad",
        {"variant": "uni"},
        "foreach",
    ),
}

FORMS = {"loop": {"foreach": False}, "foreach": {"foreach": True}}
LIMIT = 0.6

METHOD = """\
A step of gradax is `tx.update` and `optax.apply_updates` in one jitted function that donates
parameters and state; a step of the peer is `optimizer.step()` with gradients in place, once leaf by
leaf (*loop*) and once with torch's operations on lists of tensors (*foreach*), neither of them
compiled. float32, no weight decay. The peer runs in a process of its own, on the same core, and
waits while gradax has its turn. One goal is against the form that the peer chooses by itself,
*foreach* for `diffgrad` and `a2grad` and *loop* for the others, and one against the faster form.

*Difference* is the distance between both parameters over the distance that the peer's have moved,
after the first turn from the same start with the same gradients: evidence that both do the same
work. pytorch_optimizer adds `eps` before the bias correction, which shows where gradients are
tiny, and counts the steps of A2Grad from one, the paper from zero. Kernels have their outputs on
the last axis here and on the first one there.

One thread each, CPU time of the two processes."""


class Torch(_peer.Peer):
    """The peer's contestants, in their own environment and process.

    Args:
      arrays: `params/<name>` and `grads/<name>`.
      steps: of a turn.
    """

    def __init__(self, arrays: dict[str, np.ndarray], steps: int):
        super().__init__("torch", "_torch_peer.py", ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
        path = self.folder / "arrays.npz"
        np.savez(path, **arrays)
        contestants = {
            f"{name},{form}": {"method": pair.method, "arguments": pair.arguments | options}
            for name, pair in PAIRS.items()
            for form, options in FORMS.items()
        }
        self.ask(json.dumps({"optimizers": contestants, "arrays": str(path), "steps": steps}))

    def turn(self, name: str, form: str) -> None:
        """Lets the peer make its steps."""
        self.seconds += float(self.ask(f"{name},{form}"))

    def params(self, name: str, form: str) -> dict[str, np.ndarray]:
        """Fetches the parameters of a contestant."""
        path = self.folder / "params.npz"
        self.ask(f"save {name},{form} {path}")
        with np.load(path) as archive:
            return dict(archive)


class Gradax:
    """A contestant of this process.

    Args:
      tx: the optimizer.
      params: start.
      grads: gradients of every step.
      steps: of a turn.
    """

    def __init__(
        self, tx: optax.GradientTransformation, params: Any, grads: Any, steps: int
    ) -> None:
        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(lambda leaf: leaf.copy(), params)
        self._place, self._grads, self._steps = [params, jax.jit(tx.init)(params)], grads, steps
        self._step = step

    def turn(self) -> None:
        """Makes its steps."""
        for _ in range(self._steps):
            self._place[:] = self._step(*self._place, self._grads)
        jax.block_until_ready(self._place)

    def params(self) -> dict[str, np.ndarray]:
        """Returns the parameters."""
        return jax.tree.map(np.asarray, self._place[0])


def main() -> None:
    """Measures every pair on every tree."""
    arguments = _measure.arguments(__doc__, rounds=4)
    _measure.one_thread()
    report = _measure.Report(
        name="torch_step",
        title="Optimizer step against PyTorch",
        method=[METHOD],
        command=f"python benchmarks/torch_step.py --rounds {arguments.rounds}",
        packages=("jax", "jaxlib", "optax", "gradax"),
        peer_versions=environments.versions("torch", ("torch", "pytorch_optimizer")),
    )
    for title, shapes in TREES.items():
        measure(report, title, shapes(), arguments.rounds)
    report.save()


def measure(
    report: _measure.Report, title: str, shapes: dict[str, tuple[int, ...]], rounds: int
) -> None:
    """Adds one tree's table and goals to the report."""
    size = sum(map(math.prod, shapes.values()))
    steps = max(1, round(3e7 / size))
    params = _trees.normal(shapes, seed=0, scale=0.02)
    grads = _trees.normal(shapes, seed=1, scale=1e-3)
    start = {name: np.asarray(leaf) for name, leaf in params.items()}
    arrays = {f"params/{name}": leaf for name, leaf in start.items()}
    arrays |= {f"grads/{name}": np.asarray(leaf) for name, leaf in grads.items()}
    with Torch(arrays, steps) as torch:
        ours = {name: Gradax(one.make(), params, grads, steps) for name, one in PAIRS.items()}
        differences = {name: difference(ours[name], torch, name, start) for name in PAIRS}
        runs: dict[str, Callable[[], None]] = {}
        for name in PAIRS:
            runs[name] = ours[name].turn
            for form in FORMS:
                runs[f"{name},{form}"] = functools.partial(torch.turn, name, form)
        times = _measure.take_turns(runs, rounds, clock=torch.clock)

    milliseconds = lambda name: _measure.spread([1e3 * value / steps for value in times[name]])
    rows = []
    for name in PAIRS:
        ratios = {form: _measure.ratios(times[name], times[f"{name},{form}"]) for form in FORMS}
        # Ours over the faster form is the greater ratio.
        against = {"default": ratios[PAIRS[name].default]}
        against["faster"] = max(ratios.values(), key=statistics.median)
        report.goals += [
            _measure.Goal.at_most(f"{name}, {title}: over the {form} form", ratio, LIMIT)
            for form, ratio in against.items()
        ]
        cells = [milliseconds(name), *(milliseconds(f"{name},{form}") for form in FORMS)]
        cells += [_measure.spread(ratio) for ratio in ratios.values()]
        rows.append([name, *cells, f"{differences[name]:.1g}"])
    columns = ("optimizer", "gradax, ms", "loop, ms", "foreach, ms")
    columns += ("over loop", "over foreach", "difference")
    report.table(f"*{title}*: {len(shapes)} leaves, {size / 1e6:.1f} M parameters", columns, rows)
    report.samples[title] = {"steps_per_turn": steps, "seconds": times}


def difference(ours: Gradax, torch: Torch, name: str, start: dict[str, np.ndarray]) -> float:
    """Makes the first turn on both sides; says how far apart they end."""
    ours.turn()
    torch.turn(name, "loop")
    mine, theirs = ours.params(), torch.params(name, "loop")
    distance = lambda a, b: math.sqrt(sum(float(np.sum((a[k] - b[k]) ** 2)) for k in a))
    return distance(mine, theirs) / distance(theirs, start)


if __name__ == "__main__":
    main()
