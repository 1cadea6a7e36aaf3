"""Facility-location coresets against apricot-select, and of 50,000 points."""

import json
import multiprocessing
import resource
import time
from typing import Any

import _measure
import _peer
import environments
import numpy as np

from gradax import schedules

SIZE, BUDGET, WIDTH, CLASSES = 1000, 100, 64, 10
OPTIMIZERS = ("lazy", "naive", "two-stage")
#: What is chosen from: points, classes, candidates drawn at each choice.
LARGE = {
    "10 classes": (50_000, CLASSES, None),
    "one class, 23 candidates drawn": (50_000, 1, 23),
    "one class": (20_000, 1, None),
}

METHOD = f"""\
Mixtures of 50 Gaussians with {WIDTH} features; a tenth of the points is chosen. apricot-select and
`facility_location` get the same matrix of similarities of {SIZE:,} points in float64, the largest
distance minus the distances, which apricot-select does not have to compute itself
(`metric="precomputed"`). It has a lazy greedy optimizer, a plain one (*naive*), and one that
changes from this to that (*two-stage*, its default); numba has compiled them before. It runs in a
process of its own, on the same core, and waits while gradax has its turn. *Same choice* asks for
the same points in the same order.

`gradax.schedules.gradient_coreset` then computes the distances too, from features in float32, each
case once in a process of its own. *Peak memory* is that of the process with JAX and the data.

One thread, CPU time of the processes; *wall* also has what else the machine does."""


def points(size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features in float32 and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(size) % CLASSES
    centres = rng.normal(size=(CLASSES, 5, WIDTH))
    features = centres[labels, rng.integers(5, size=size)] + rng.normal(size=(size, WIDTH))
    return features.astype(np.float32), labels if classes > 1 else np.zeros(size, int)


class Apricot(_peer.Peer):
    """The peer, in its own environment and process.

    Args:
      similarity: matrix of similarities.
    """

    def __init__(self, similarity: np.ndarray):
        super().__init__("apricot", "_apricot_peer.py", ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"))
        path = self.folder / "similarity.npy"
        np.save(path, similarity)
        self.ask(json.dumps({"similarity": str(path), "budget": BUDGET}))

    def turn(self, optimizer: str) -> dict[str, Any]:
        """Lets the peer choose."""
        answer = json.loads(self.ask(optimizer))
        self.seconds += answer["seconds"]
        return answer


def against_peer(report: _measure.Report, rounds: int) -> None:
    """Adds the table of both on one matrix, and its goals."""
    features, _ = points(SIZE, 1)
    squares = np.sum((features[:, None] - features[None]) ** 2, axis=-1, dtype=np.float64)
    similarity = np.sqrt(squares.max()) - np.sqrt(squares)
    with Apricot(similarity) as peer:
        ours = schedules.facility_location(similarity, BUDGET)
        theirs = {name: peer.turn(name) for name in OPTIMIZERS}
        runs = {"gradax": lambda: schedules.facility_location(similarity, BUDGET)}
        runs |= {name: (lambda name=name: peer.turn(name)) for name in OPTIMIZERS}
        times = _measure.take_turns(runs, rounds, clock=peer.clock)
    objective = float(ours.gains.sum())
    rows = [["gradax", _measure.spread(times["gradax"]), "1", f"{objective:.6f}", "-"]]
    for name, one in theirs.items():
        ratio = _measure.ratios(times["gradax"], times[name])
        same = "yes" if one["indices"] == ours.indices.tolist() else "no"
        cells = [_measure.spread(times[name]), _measure.spread(ratio)]
        rows.append([f"apricot, {name}", *cells, f"{one['objective']:.6f}", same])
        report.goals.append(_measure.Goal.at_most(f"time over apricot's, {name}", ratio, 1.0))
        quality = [objective / one["objective"]]
        report.goals.append(
            _measure.Goal.at_least(f"objective over apricot's, {name}", quality, 1 - 1e-9)
        )
    columns = ("who", "CPU time, s", "gradax over it", "objective", "same choice")
    report.table(f"*{BUDGET} of {SIZE:,} points, similarities given*", columns, rows)
    report.samples["seconds"] = times


def choose(size: int, classes: int, sample_size: int | None, answer: Any) -> None:
    """Chooses a tenth of the points and sends what it took."""
    features, labels = points(size, classes)
    draws = {} if sample_size is None else {"sample_size": sample_size, "key": 0}
    wall, began = time.perf_counter(), time.process_time()
    coreset = schedules.gradient_coreset(features, size // 10, labels, **draws)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    answer.send((seconds, time.perf_counter() - wall, peak, float(coreset.gains.sum())))


def large(report: _measure.Report) -> None:
    """Adds the table of what 50,000 points cost, and its goals."""
    rows, context = [], multiprocessing.get_context("spawn")
    for name, (size, classes, sample_size) in LARGE.items():
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=choose, args=(size, classes, sample_size, theirs))
        process.start()
        theirs.close()
        seconds, wall, peak, _ = ours.recv()
        process.join()
        row = [f"{size // 10:,} of {size:,}", name, f"{seconds:.1f}", f"{wall:.1f}", f"{peak:.2f}"]
        rows.append(row)
        report.samples[name] = {"cpu_seconds": seconds, "wall_seconds": wall, "peak_gib": peak}
        if size == 50_000:
            report.goals.append(_measure.Goal.at_most(f"{row[0]}, {name}: s", [wall], 60))
            report.goals.append(_measure.Goal.at_most(f"{row[0]}, {name}: GiB", [peak], 2))
    columns = ("points", "how", "CPU time, s", "wall, s", "peak memory, GiB")
    report.table(f"*{WIDTH} features, distances computed*", columns, rows)


def main() -> None:
    """Measures the peer first, then the large sets."""
    arguments = _measure.arguments(__doc__, rounds=2)
    _measure.one_thread()
    report = _measure.Report(
        name="coreset",
        title="Coresets",
        method=[METHOD],
        command=f"python benchmarks/coreset.py --rounds {arguments.rounds}",
        packages=("numpy", "jax", "gradax"),
        peer_versions=environments.versions("apricot", ("apricot-select", "numba", "numpy")),
    )
    against_peer(report, arguments.rounds)
    large(report)
    report.save()


if __name__ == "__main__":
    main()
