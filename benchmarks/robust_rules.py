"""Robust rules on stacked rows against ByzFL's NumPy and torch forms."""

import functools
import json
from typing import Any

import _measure
import _peer
import environments
import jax
import numpy as np

from gradax.federated import rules

SHAPES = ((20, 100_000), (100, 100_000), (20, 1_000_000), (100, 1_000_000))
RULES = {
    "median": rules.median,
    "trimmed_mean": rules.trimmed_mean,
    "krum": rules.krum,
    "nnm": rules.nnm,
    "weiszfeld": rules.weiszfeld,
}
COORDINATES = ("median", "trimmed_mean")
FORMS = ("numpy", "torch")
#: The peer gathers (n, n - f, d) numbers: 32 GB.
TOO_LARGE = {("nnm", 100, 1_000_000)}
#: Largest time over the peer's, for each form.
LIMITS = {
    "median": {"numpy": 3.0, "torch": 1.0},
    "trimmed_mean": {"numpy": 3.0, "torch": 1.0},
    "krum": {"numpy": 0.2},
    "nnm": {"numpy": 0.2},
    "weiszfeld": {"numpy": 1.0, "torch": 1.0},
}
MEMORY_LIMIT = 2.5

METHOD = """\
Normal rows in float32, n of them with d coordinates, f = n / 5. gradax runs a jitted rule of
`gradax.federated.rules`; ByzFL runs its own in a process of its own, on the same core, and waits
while gradax has its turn. `weiszfeld` is the geometric median as ByzFL has it, three smoothed steps
from zero. *Difference* is the largest one between both results over the largest absolute value;
torch's median of an even number of rows is the lower middle one, so it is compared with NumPy's.
*Memory* is what XLA sets aside for input, output and in between, over the input.

At n = 100 and d = 10^6 ByzFL's NNM would gather 32 GB, so gradax runs alone there.

One thread each, CPU time of the processes."""


class ByzFL(_peer.Peer):
    """The peer, in its own environment and process."""

    def __init__(self):
        super().__init__("byzfl", "_byzfl_peer.py", ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"))

    def load(self, rows: np.ndarray) -> None:
        """Hands the rows over."""
        path = self.folder / "rows.npy"
        np.save(path, rows)
        self.ask(json.dumps({"load": str(path)}))
        path.unlink()

    def turn(self, rule: str, f: int, form: str) -> None:
        """Lets the peer run a rule."""
        self.seconds += float(self.ask(json.dumps({"rule": rule, "f": f, "form": form})))

    def result(self, rule: str, f: int) -> np.ndarray:
        """What the peer's NumPy form gives."""
        path = self.folder / "result.npy"
        self.ask(json.dumps({"rule": rule, "f": f, "form": "numpy", "save": str(path)}))
        return np.load(path)


def difference(ours: Any, theirs: np.ndarray) -> str:
    """The largest difference, relative to the largest value."""
    ours = np.asarray(ours)
    return f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.0e}"


def measure(report: _measure.Report, peer: ByzFL, n: int, d: int, rounds: int) -> None:
    """Adds the table of one shape and its goals."""
    f, lines = n // 5, []
    rows = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    peer.load(rows)
    stack = jax.numpy.asarray(rows)
    for name, rule in RULES.items():
        run = jax.jit(functools.partial(rule, f=f)).lower(stack).compile()
        memory = run.memory_analysis()
        taken = memory.argument_size_in_bytes + memory.output_size_in_bytes
        share = (taken + memory.temp_size_in_bytes) / memory.argument_size_in_bytes
        runs = {"gradax": lambda run=run: jax.block_until_ready(run(stack))}
        forms = () if (name, n, d) in TOO_LARGE else FORMS
        for form in forms:
            runs[form] = lambda name=name, form=form: peer.turn(name, f, form)
        times = _measure.take_turns(runs, rounds, clock=peer.clock)
        cells = [_measure.spread([1e3 * s for s in times["gradax"]])]
        for form in FORMS:
            ratio = _measure.ratios(times["gradax"], times[form]) if form in forms else None
            cells.append(_measure.spread(ratio) if ratio else "-")
            what = f"`{name}`, n = {n}, d = {d:,}: time over ByzFL's {form}"
            if ratio and form not in LIMITS[name]:
                report.ratio(what, ratio)
            elif ratio:
                report.goals.append(_measure.Goal.at_most(what, ratio, LIMITS[name][form]))
        if name in COORDINATES:
            what = f"`{name}`, n = {n}, d = {d:,}: memory over the input"
            report.goals.append(_measure.Goal.at_most(what, [share], MEMORY_LIMIT))
        same = difference(run(stack), peer.result(name, f)) if forms else "-"
        lines.append([f"`{name}`", *cells, same, f"{share:.2f}"])
        report.samples[f"{name} {n} {d}"] = times
    columns = ("rule", "gradax, ms", "over NumPy", "over torch", "difference", "memory")
    report.table(f"*n = {n}, d = {d:,}*", columns, lines)


def main() -> None:
    """Measures every rule at every shape."""
    arguments = _measure.arguments(__doc__, rounds=2)
    _measure.one_thread()
    report = _measure.Report(
        name="robust_rules",
        title="Robust rules",
        method=[METHOD],
        command=f"python benchmarks/robust_rules.py --rounds {arguments.rounds}",
        packages=("numpy", "jax", "gradax"),
        peer_versions=environments.versions("byzfl", ("byzfl", "torch", "numpy", "scipy")),
    )
    with ByzFL() as peer:
        for n, d in SHAPES:
            measure(report, peer, n, d, arguments.rounds)
            report.save()  # the last shape takes long


if __name__ == "__main__":
    main()
