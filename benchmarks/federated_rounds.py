"""FedAvg rounds of gradax against FedJAX, pfl-research or Flower: same networks, data, schedule."""

import argparse
import functools
import sys
import time
from typing import Any

import _by_hand
import _federated
import _federated_peers
import _measure
import _simulation
import environments
import jax

from gradax import federated

TASK = """\
100 clients with 100 synthetic 28x28 examples each in 62 classes; 10 clients a round, 5 epochs in
batches of 20, plain SGD, mean weighted by examples, all from the same parameters. *MLP* is
784-200-200-62, *CNN* two 5x5 convolutions with 16 and 32 channels, each with a 2x2 maximum, and
one layer. *Loss* is the mean training loss of the model after the same number of rounds: evidence
that all did the same work. gradax runs `gradax.federated.simulate`, one segment a turn."""

FEDJAX = """\
Both in one process, one thread, CPU time. FedJAX calls `jax.tree_map`, which JAX no longer has; the
benchmark puts it back. On the CNN each has the convolution that suits it: FedJAX steps outside
of loops and uses XLA's, gradax scans and uses one written as matrix products, since XLA's is an
order of magnitude slower inside loops on CPU. *By hand* is FedAvg written out in forty lines of
JAX, without a library: what the arithmetic costs on this machine."""

PFL = """\
pfl-research 0.6 with its PyTorch models and `SimulatedBackend` in a process of its own, on the same
core; it waits while gradax has its turn. One thread each, CPU time of the two processes. It takes a
client's batches in the same order in every epoch, where the others shuffle. On the CNN each has the
convolution that suits it, as against FedJAX."""

FLOWER = """\
Wall time, since Flower's clients are processes. Both use every core: Flower trains one client in a
worker process per core, gradax spreads the cohort over a `mesh` of one CPU device per core, with
its defaults. Flower's clients run the same JAX code, compiled once per worker: *step by step*, a
call for every batch, as Flower's examples and FedJAX do, or *one scan* over all local steps, which
leaves the simulator's own cost. Flower waits between its turns; starting it and its first turns
are not counted."""

#: Largest time over the peer's.
LIMITS = {
    "FedJAX": {"MLP": 0.6, "CNN": 0.9},
    "by hand": {"MLP": 1.1, "CNN": 1.1},
    "pfl-research": {"MLP": 0.35, "CNN": 0.9},
    "Flower": {"MLP": 0.1},
}

#: Rounds of a turn.
ROUNDS = {"MLP": 10, "CNN": 2}


def main() -> None:
    """Measures against one peer."""
    peers = {"fedjax": against_fedjax, "pfl": against_pfl, "flower": against_flower}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=tuple(peers))
    parser.add_argument("--turns", type=int, default=7, help="turns of each contestant")
    arguments = parser.parse_args()
    peers[arguments.peer](arguments.turns)


def against_fedjax(turns: int) -> None:
    """Both in this process, on one thread."""
    _measure.one_thread()
    packages = ("jax", "jaxlib", "gradax", "fedjax", "dm-haiku")
    report = _report("fedjax", "FedJAX", FEDJAX, turns, packages)
    theirs = {"MLP": _federated.mlp(), "CNN": _federated.cnn(_federated.xla_convolution)}
    rows = []
    for title, network in networks().items():
        rounds = ROUNDS[title]
        ours = simulation(network, rounds, turns + 1)
        peer = _federated_peers.FedJax(theirs[title], rounds)
        by_hand = _by_hand.ByHand(network, rounds)
        runs = {"gradax": ours.turn, "FedJAX": peer.turn, "by hand": by_hand.turn}
        times = _measure.take_turns(runs, turns)
        losses = {"gradax": training_loss(network, ours), "FedJAX": peer.finish()}
        losses["by hand"] = _federated.training_loss(network, by_hand.finish())
        rows += _rows(report, title, times, losses, rounds)
    report.table("", ("", "CPU ms a round", "gradax over it", "loss"), rows)
    report.save()


def against_pfl(turns: int) -> None:
    """pfl-research in a process of its own, on the same core."""
    _measure.one_thread()
    report = _report("pfl", "pfl-research", PFL, turns, ("jax", "jaxlib", "gradax"))
    report.peer_versions = environments.versions("pfl", ("pfl", "torch", "numpy"))
    rows = []
    for title, network in networks().items():
        rounds = ROUNDS[title]
        with _federated_peers.Pfl(title, network, rounds) as peer:
            ours = simulation(network, rounds, turns + 1)
            runs = {"gradax": ours.turn, "pfl-research": peer.turn}
            times = _measure.take_turns(runs, turns, clock=peer.clock)
            losses = {"gradax": training_loss(network, ours), "pfl-research": peer.finish()}
        rows += _rows(report, title, times, losses, rounds)
    report.table("", ("", "CPU ms a round", "gradax over it", "loss"), rows)
    report.save()


def against_flower(turns: int) -> None:
    """Flower in processes of its own; the clock on the wall."""
    cores = _measure.one_device_per_core()
    mesh = jax.make_mesh((cores,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    report = _report("flower", "Flower", FLOWER, turns, ("jax", "jaxlib", "gradax"))
    report.peer_versions = environments.versions("flower", ("flwr", "ray", "jax", "jaxlib"))
    rounds, network = 4, _federated.mlp()
    flower = _federated_peers.Flower(rounds, 2 * (turns + 1), judged=rounds * (turns + 1))
    ours = simulation(network, rounds, turns + 1, mesh=mesh)
    runs = {
        "gradax": ours.turn,
        "Flower, step by step": functools.partial(flower.turn, "steps"),
        "Flower, one scan": functools.partial(flower.turn, "scan"),
    }
    times = _measure.take_turns(runs, turns, clock=time.perf_counter)
    losses = {"gradax": training_loss(network, ours)}
    losses |= dict.fromkeys(tuple(runs)[1:], flower.finish())
    rows = _rows(report, "MLP", times, losses, rounds)
    report.table("", ("", "wall ms a round", "gradax over it", "loss"), rows)
    report.save()


def networks() -> dict[str, _federated.Network]:
    """Both networks, with the convolution that suits gradax."""
    return {"MLP": _federated.mlp(), "CNN": _federated.cnn(_federated.im2col_convolution)}


def simulation(
    network: _federated.Network, rounds: int, turns: int, **options: Any
) -> _simulation.Simulation:
    """The rounds by gradax."""
    return _simulation.Simulation(
        federated.fedavg(_federated.LEARNING_RATE),
        network.loss,
        network.init(jax.random.key(0)),
        _simulation.client_data(_federated.images()),
        rounds=rounds,
        turns=turns,
        **_simulation.SCHEDULE,
        **options,
    )


def training_loss(network: _federated.Network, ours: _simulation.Simulation) -> float:
    """Ends the run and judges its parameters."""
    return _federated.training_loss(network, ours.finish())


def _report(
    name: str, title: str, method: str, turns: int, packages: tuple[str, ...]
) -> _measure.Report:
    return _measure.Report(
        name=f"federated_rounds_{name}",
        title=f"Federated rounds against {title}",
        method=[TASK, method],
        command=f"python benchmarks/federated_rounds.py {name} --turns {turns}",
        packages=packages,
    )


def _rows(report, title, times, losses, rounds) -> list[list[str]]:
    report.samples[title] = {"rounds_per_turn": rounds, "seconds": times, "loss": losses}
    rows = []
    for name, seconds in times.items():
        ratio = _measure.ratios(times["gradax"], seconds)
        if name != "gradax":
            limit = LIMITS[name.partition(",")[0]][title]
            report.goals.append(_measure.Goal.at_most(f"{title}: gradax over {name}", ratio, limit))
        milliseconds = _measure.spread([1e3 * value / rounds for value in seconds])
        cells = (milliseconds, _measure.spread(ratio), f"{losses[name]:.3f}")
        rows.append([f"{title}, {name}", *cells])
    return rows


if __name__ == "__main__":
    sys.exit(main())
