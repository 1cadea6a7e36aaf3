"""FedAvg from the start of a process: imports, data, compilation and rounds, against every peer."""

import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import _federated
import _federated_peers
import _measure
import environments

ROUNDS = 100

#: Seconds after which a process counts as hung.
TIMEOUT = 400

METHOD = f"""\
A fresh process each time, from its start to its end: imports, data, compilation, {ROUNDS} rounds,
and the mean training loss as evidence. The task is that of the rounds above with the perceptron.
gradax, FedJAX and pfl-research have one core and one thread each; Flower has every core, since its
clients are processes. *Warm cache* is gradax with JAX's persistent compilation cache, filled by an
earlier process; the others compile everything. CPU time of Flower's processes is not to be had: it
does not wait for all of them. Flower's clients train in one jitted scan."""


class Contestant(NamedTuple):
    """A process to be timed.

    Attributes:
      command: what starts it; the last line that it prints ends with the loss.
      told: its standard input.
      environment: additional variables.
      cores: on which it may run.
    """

    command: list[str]
    told: str
    environment: dict[str, str]
    cores: set[int]


class Run(NamedTuple):
    """What a process took.

    Attributes:
      wall: seconds on the wall.
      cpu: seconds of CPU time, of processes that were waited for.
      loss: mean training loss at the end.
    """

    wall: float
    cpu: float
    loss: float


def main() -> None:
    """Starts every contestant some times, in turns."""
    turns = _measure.arguments(__doc__, rounds=2).rounds
    every_core = os.sched_getaffinity(0)
    _measure.one_thread()
    report = _measure.Report(
        name="federated_startup",
        title="Federated rounds with start-up",
        method=[METHOD],
        command=f"python benchmarks/federated_startup.py --rounds {turns}",
        packages=("jax", "jaxlib", "gradax", "fedjax"),
        peer_versions=environments.versions("pfl", ("pfl", "torch"))
        | environments.versions("flower", ("flwr", "ray")),
    )
    with tempfile.TemporaryDirectory() as folder:
        contestants = prepare(pathlib.Path(folder), every_core)
        run(contestants[WARM])  # fills the cache
        runs: dict[str, list[Run]] = {name: [] for name in contestants}
        for _ in range(turns):
            for name, contestant in contestants.items():
                runs[name].append(run(contestant))
    fill(report, runs)
    report.save()


COLD, WARM, FLOWER = "gradax", "gradax, warm cache", "Flower"


def prepare(folder: pathlib.Path, every_core: set[int]) -> dict[str, Contestant]:
    """Lists the contestants; their files lie in a folder."""
    this_core = os.sched_getaffinity(0)
    no_cache = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    script = lambda who: [sys.executable, str(_measure.FOLDER / "_startup.py"), who, str(ROUNDS)]
    pfl = [environments.python("pfl"), str(_measure.FOLDER / "_pfl_peer.py")]
    pfl_told = f"{_federated_peers.pfl_task('MLP', _federated.mlp(), folder)}\n{ROUNDS}\nloss\n"
    flower = _federated_peers.flower_command(ROUNDS, 1, ROUNDS)
    flower_environment = no_cache | _federated_peers.FLOWER_ENVIRONMENT
    return {
        COLD: Contestant(script("gradax"), "", no_cache, this_core),
        WARM: Contestant(script("gradax"), "", cache, this_core),
        "FedJAX": Contestant(script("fedjax"), "", no_cache, this_core),
        "pfl-research": Contestant(pfl, pfl_told, one_thread, this_core),
        FLOWER: Contestant(flower, "scan\n", flower_environment, every_core),
    }


def run(contestant: Contestant) -> Run:
    """Runs one process."""
    used = lambda: resource.getrusage(resource.RUSAGE_CHILDREN)
    os.sched_setaffinity(0, contestant.cores)  # the process inherits it
    before, began = used(), time.perf_counter()
    ended = subprocess.run(
        contestant.command,
        input=contestant.told,
        env=os.environ | contestant.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    wall, after = time.perf_counter() - began, used()
    if ended.returncode:
        raise RuntimeError(f"{contestant.command} failed:\n{ended.stderr[-4000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, float(re.findall(r"[\d.]+$", ended.stdout, re.MULTILINE)[-1]))


def fill(report: _measure.Report, runs: dict[str, list[Run]]) -> None:
    """Adds the table, goals against the peers, and samples."""
    walls = {name: [one.wall for one in several] for name, several in runs.items()}
    cpus = {name: [one.cpu for one in several] for name, several in runs.items() if name != FLOWER}
    rows = []
    for name, several in runs.items():
        cells = []
        for kind, seconds in {"wall": walls, "CPU": cpus}.items():
            if name not in seconds:
                cells += ["-", "-"]
                continue
            ratio = _measure.ratios(seconds[COLD], seconds[name])
            cells += [_measure.spread(seconds[name]), _measure.spread(ratio)]
            if name == WARM:
                warm = _measure.ratios(seconds[WARM], seconds[COLD])
                report.ratio(f"{kind} time, {WARM}, over {COLD}", warm)
            elif name != COLD:
                what = f"{kind} time, {COLD} over {name}"
                report.goals.append(_measure.Goal.at_most(what, ratio, 1.0))
        rows.append([name, *cells, f"{several[-1].loss:.3f}"])
    columns = ("", "wall, s", "gradax over it", "CPU time, s", "gradax over it", "loss")
    report.table(f"*{ROUNDS} rounds*", columns, rows)
    report.samples = {"wall seconds": walls, "CPU seconds": cpus}


if __name__ == "__main__":
    main()
