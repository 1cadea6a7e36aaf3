"""Runs killed at random moments, again and again: the end must be that of a run left alone.

`python -m benchmarks.killed_runs --kills 20` takes some minutes, nearly all of which is the start
of processes. It prints a line per kind of run, writes `results/killed_runs.json` and fails unless
every bit is equal.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from tests.federated.simulation import killed_run, test_checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "killed_runs.json"


def kill_once(kind: str, directory: pathlib.Path, after: int, delay: float) -> int:
    """Starts the run as a process and kills it some time after a round; returns what was saved."""
    command = [sys.executable, "-m", killed_run.__name__, str(directory), kind]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(directory.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while test_checkpoint.saved_rounds(directory)[-1:] <= [after]:
        if process.poll() is not None:
            raise RuntimeError(f"{kind}: the run ended before it could be killed")
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"{kind}: the run ended before it could be killed")
    return test_checkpoint.saved_rounds(directory)[-1]


def kill_often(kind: str, kills: int, seed: int) -> list[int]:
    """Kills one run many times, lets it end, and compares; returns where it was killed."""
    rng = random.Random(seed)
    moments = sorted(rng.sample(range(1, killed_run.ROUNDS - 5), kills))
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "run"
        # Up to a round and its checkpoint: in the middle of either.
        saved = [kill_once(kind, directory, after, rng.uniform(0, 0.04)) for after in moments]
        found = killed_run.run(directory, **killed_run.KINDS[kind]())
    test_checkpoint.assert_same_run(found, test_checkpoint.uninterrupted(kind=kind))
    return saved


def main() -> None:
    """All kinds of runs, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report = {"rounds": killed_run.ROUNDS, "seed": arguments.seed, "killed after round": {}}
    for kind in killed_run.KINDS:
        saved = kill_often(kind, arguments.kills, arguments.seed)
        report["killed after round"][kind] = saved
        print(f"{kind}: killed {len(saved)} times, after rounds {saved}; every bit is equal")
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
