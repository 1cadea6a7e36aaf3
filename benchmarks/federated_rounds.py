"""FedAvg rounds of gradax against FedJAX or Flower, on the same networks, data and schedule."""

import argparse
import os
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any

import _federated
import _measure
import _simulation
import environments
import jax
import numpy as np

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
order of magnitude slower inside loops on CPU."""

FLOWER = """\
Wall time, since Flower's clients are processes. Both use every core: Flower trains one client in a
worker process per core, gradax spreads the cohort over a `mesh` of one CPU device per core, with
its defaults. Flower's clients run the same JAX code, compiled once per worker: *step by step*, a
call for every batch, as Flower's examples and FedJAX do, or *one scan* over all local steps, which
leaves the simulator's own cost. Flower waits between its turns; starting it and its first turns
are not counted."""


class FedJax:
    """The same rounds by FedJAX."""

    def __init__(self, network: _federated.Network, rounds: int):
        jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
        import fedjax

        clients = fedjax.InMemoryFederatedData(dict(enumerate(_federated.images())))
        self._algorithm = fedjax.algorithms.fed_avg.federated_averaging(
            lambda params, batch, key: jax.grad(network.loss)(params, batch),
            fedjax.optimizers.sgd(_federated.LEARNING_RATE),
            fedjax.optimizers.sgd(1.0),
            fedjax.ShuffleRepeatBatchHParams(
                batch_size=_federated.BATCH, num_epochs=_federated.EPOCHS
            ),
        )
        self._sampler = fedjax.client_samplers.UniformGetClientSampler(
            fd=clients, num_clients=_federated.COHORT, seed=0
        )
        self._rounds = rounds
        self._state = self._algorithm.init(network.init(jax.random.key(0)))

    def turn(self) -> None:
        """Plays some rounds."""
        for _ in range(self._rounds):
            self._state, _ = self._algorithm.apply(self._state, self._sampler.sample())
        jax.block_until_ready(self._state.params)

    def finish(self) -> dict[str, jax.Array]:
        """Returns the parameters."""
        return self._state.params


class Flower:
    """The same rounds by Flower's simulation, in its own environment and process.

    Clients train locally in one jitted scan or step by step, turn by turn as asked for. The loss
    is that of the model after `judged` rounds.
    """

    def __init__(self, rounds: int, turns: int, judged: int):
        script = pathlib.Path(__file__).with_name("_flower_server.py")
        numbers = map(str, (rounds, turns, judged))
        self._process = subprocess.Popen(
            [environments.python("flower"), str(script), *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_flower_environment(),
        )
        self._log: list[str] = []
        # Flower logs much; a pipe that nobody reads would fill and stop it.
        threading.Thread(target=self._read_log, daemon=True).start()
        self._wait_for("ready")

    def _read_log(self):
        self._log.extend(self._process.stderr)

    def _wait_for(self, word: str) -> str:
        for line in self._process.stdout:
            if line.startswith(f"turn: {word}"):
                return line
        raise RuntimeError(f"Flower ended before {word!r}:\n{''.join(self._log[-40:])}")

    def turn(self, form: str) -> None:
        """Lets Flower play some rounds."""
        self._process.stdin.write(f"{form}\n")
        self._process.stdin.flush()
        self._wait_for("done")

    def finish(self) -> float:
        """Waits for the end; returns the mean training loss."""
        loss = float(self._wait_for("loss").split()[-1])
        self._process.stdin.close()
        self._process.wait(timeout=120)
        return loss


def _flower_environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(pathlib.Path(__file__).parent),
        "XLA_FLAGS": _measure.ONE_THREAD,
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def main() -> None:
    """Measures against one peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=("fedjax", "flower"))
    parser.add_argument("--turns", type=int, default=9, help="turns of each contestant")
    arguments = parser.parse_args()
    {"fedjax": against_fedjax, "flower": against_flower}[arguments.peer](arguments.turns)


def against_fedjax(turns: int) -> None:
    """Both in this process, on one thread."""
    _measure.one_thread()
    report = _report("fedjax", FEDJAX, turns, ("jax", "jaxlib", "gradax", "fedjax", "dm-haiku"))
    networks = {
        "MLP": (_federated.mlp(), _federated.mlp(), 10, 0.65),
        "CNN": (
            _federated.cnn(_federated.im2col_convolution),
            _federated.cnn(_federated.xla_convolution),
            2,
            1.0,
        ),
    }
    rows = []
    for title, (ours, theirs, rounds, limit) in networks.items():
        contestants = {
            "gradax": simulation(ours, rounds, turns + 1),
            "FedJAX": FedJax(theirs, rounds),
        }
        runs = {name: one.turn for name, one in contestants.items()}
        times = _measure.take_turns(runs, turns, clock=time.process_time)
        losses = {name: training_loss(theirs, one.finish()) for name, one in contestants.items()}
        rows += _rows(report, title, times, losses, rounds, limit)
    report.table("", ("", "CPU ms a round", "gradax over it", "loss"), rows)
    report.save()


def against_flower(turns: int) -> None:
    """Flower in processes of its own; the clock on the wall."""
    cores = _measure.one_device_per_core()
    mesh = jax.make_mesh((cores,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    report = _report("flower", FLOWER, turns, ("jax", "jaxlib", "gradax"))
    report.peer_versions = environments.versions("flower", ("flwr", "ray", "jax", "jaxlib"))
    rounds, network = 4, _federated.mlp()
    flower = Flower(rounds, 2 * (turns + 1), judged=rounds * (turns + 1))
    ours = simulation(network, rounds, turns + 1, mesh=mesh)
    runs = {
        "gradax": ours.turn,
        "Flower, step by step": lambda: flower.turn("steps"),
        "Flower, one scan": lambda: flower.turn("scan"),
    }
    times = _measure.take_turns(runs, turns, clock=time.perf_counter)
    losses = {"gradax": training_loss(network, ours.finish())}
    losses |= dict.fromkeys(tuple(runs)[1:], flower.finish())
    rows = _rows(report, "MLP", times, losses, rounds, 0.12)
    report.table("", ("", "wall ms a round", "gradax over it", "loss"), rows)
    report.save()


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
        cohort=_federated.COHORT,
        batch_size=_federated.BATCH,
        num_epochs=_federated.EPOCHS,
        **options,
    )


def training_loss(network: _federated.Network, params: dict[str, jax.Array]) -> float:
    """Mean loss over all clients' examples."""
    loss = jax.jit(network.loss)
    return float(np.mean([loss(params, client) for client in _federated.images()]))


def _report(peer: str, method: str, turns: int, packages: tuple[str, ...]) -> _measure.Report:
    return _measure.Report(
        name=f"federated_rounds_{peer}",
        title=f"Federated rounds against {'FedJAX' if peer == 'fedjax' else 'Flower'}",
        method=[TASK, method],
        command=f"python benchmarks/federated_rounds.py {peer} --turns {turns}",
        packages=packages,
    )


def _rows(report, title, times, losses, rounds, limit) -> list[list[str]]:
    report.samples[title] = {"rounds_per_turn": rounds, "seconds": times, "loss": losses}
    rows = []
    for name, seconds in times.items():
        ratio = _measure.ratios(times["gradax"], seconds)
        if name != "gradax":
            report.goals.append(_measure.Goal.at_most(f"{title}: gradax over {name}", ratio, limit))
        milliseconds = _measure.spread([1e3 * value / rounds for value in seconds])
        cells = (milliseconds, _measure.spread(ratio), f"{losses[name]:.3f}")
        rows.append([f"{title}, {name}", *cells])
    return rows


if __name__ == "__main__":
    sys.exit(main())
