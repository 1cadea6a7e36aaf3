"""Runs every benchmark in its environment and puts RESULTS.md together (`make bench`).

The environments are made the first time. A benchmark that fails is named at the end; the others'
results stand.
"""

import argparse
import subprocess
import sys
import time

import environments

#: Name -> script with its arguments, and the option that sets its number of turns.
BENCHMARKS = {
    "optimizer_step": (["optimizer_step.py"], "--rounds"),
    "torch_step": (["torch_step.py"], "--rounds"),
    "muon": (["muon.py"], "--rounds"),
    "drop_muon": (["drop_muon.py"], "--rounds"),
    "monitors": (["monitors.py"], "--rounds"),
    "fdr": (["fdr.py"], "--rounds"),
    "batch_step": (["batch_step.py"], "--rounds"),
    "coreset": (["coreset.py"], "--rounds"),
    "robust_rules": (["robust_rules.py"], "--rounds"),
    "import_time": (["import_time.py"], "--rounds"),
    "fedjax": (["federated_rounds.py", "fedjax"], "--turns"),
    "flower": (["federated_rounds.py", "flower"], "--turns"),
    "chunk_of_one": (["chunk_of_one.py"], "--rounds"),
    "dadao_events": (["dadao_events.py"], "--rounds"),
    "sparse_gossip": (["sparse_gossip.py"], "--rounds"),
    "compressors": (["compressors.py"], "--rounds"),
}
SECONDS = 900

#: Benchmarks whose peer has an environment of its own, beside that in which all run.
PEERS = {"torch_step": "torch", "coreset": "apricot", "flower": "flower", "robust_rules": "byzfl"}


def main() -> int:
    """Runs what was asked for; returns the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="two turns each, to see that all run")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {list(BENCHMARKS)}")
    names = arguments.names or list(BENCHMARKS)
    environments.make("fedjax")
    for name in PEERS.keys() & names:
        environments.make(PEERS[name])
    failed = [name for name in names if not run(name, arguments.quick)]
    print(f"failed: {', '.join(failed)}" if failed else "all ran; see benchmarks/RESULTS.md")
    return len(failed)


def run(name: str, quick: bool) -> bool:
    """Runs one benchmark; says whether it ended well and in time."""
    script, option = BENCHMARKS[name]
    command = [environments.python("fedjax"), *script, *([option, "2"] if quick else [])]
    print(f"-- {name}", flush=True)
    began = time.perf_counter()
    try:
        code = subprocess.run(command, cwd=environments.FOLDER, timeout=SECONDS).returncode
    except subprocess.TimeoutExpired:
        code = None
        print(f"{name}: stopped after {SECONDS} s")
    print(f"-- {name}: {time.perf_counter() - began:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
