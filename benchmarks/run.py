"""Runs benchmarks, puts all results into one file, and says what became slower.

`make bench` runs all of them; `gradax bench` takes the same arguments. Exit code 1 if something
became slower than in the results of `--compare`, or if a benchmark failed; 2 if nothing could be
done.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import _collected
import _compare
import _measure
import environments


class Benchmark(NamedTuple):
    """What is run under a name.

    Attributes:
      script: with its arguments.
      seconds: about what it takes on two quiet cores, environments apart. All together stay under
        20 minutes.
      turns: option that sets the number of turns.
      peers: environments that it needs beside that in which all run.
      report: name of its results; that of the benchmark unless it has another.
    """

    script: list[str]
    seconds: int
    turns: str = "--rounds"
    peers: tuple[str, ...] = ()
    report: str = ""


#: Name -> benchmark, in the order in which they run.
BENCHMARKS = {
    "optimizer_step": Benchmark(["optimizer_step.py"], 100),
    "torch_step": Benchmark(["torch_step.py"], 62, peers=("torch",)),
    "muon": Benchmark(["muon.py"], 30),
    "drop_muon": Benchmark(["drop_muon.py"], 22),
    "monitors": Benchmark(["monitors.py"], 53),
    "fdr": Benchmark(["fdr.py"], 28),
    "batch_step": Benchmark(["batch_step.py"], 38),
    "coreset": Benchmark(["coreset.py"], 78, peers=("apricot",)),
    "robust_rules": Benchmark(["robust_rules.py"], 137, peers=("byzfl",)),
    "import_time": Benchmark(["import_time.py"], 13),
    "fedjax": Benchmark(
        ["federated_rounds.py", "fedjax"], 58, "--turns", report="federated_rounds_fedjax"
    ),
    "pfl": Benchmark(
        ["federated_rounds.py", "pfl"], 49, "--turns", ("pfl",), "federated_rounds_pfl"
    ),
    "flower": Benchmark(
        ["federated_rounds.py", "flower"], 29, "--turns", ("flower",), "federated_rounds_flower"
    ),
    "federated_startup": Benchmark(["federated_startup.py"], 150, peers=("pfl", "flower")),
    "chunk_of_one": Benchmark(["chunk_of_one.py"], 28),
    "dadao_events": Benchmark(["dadao_events.py"], 27),
    "sparse_gossip": Benchmark(["sparse_gossip.py"], 8),
    "compressors": Benchmark(["compressors.py"], 21),
    "lowering": Benchmark(["lowering.py"], 39),
    # Last: it also renews the tables of the guide "How fast is it?", from all results.
    "scaling": Benchmark(["scaling.py"], 172),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what was asked for; returns the exit code."""
    arguments = _arguments(argv)
    try:
        compared = [_collected.load(path) for path in arguments.compare]
        if len(compared) == 2:
            return report_changes(*compared, arguments.tolerance)
        out = arguments.out or _measure.FOLDER / "bench.json"
        out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the runs
        collected = run_all(arguments.names or list(BENCHMARKS), arguments.quick)
        write(collected, out)
        code = int(bool(collected["failed"]))
        for old in compared:
            code |= report_changes(old, collected["reports"], arguments.tolerance)
    except (ValueError, OSError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    return code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line, and refuses what does not go together."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {list(BENCHMARKS)}")
    if len(arguments.compare) > 2:
        parser.error("--compare takes one file, or two")
    if len(arguments.compare) == 2 and (arguments.names or arguments.quick or arguments.out):
        parser.error("--compare with two files runs nothing: NAMEs, --quick and --out have no use")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradax bench", description=f"Benchmarks: {', '.join(BENCHMARKS)}."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks; all unless given")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two turns each, to see that all run; leaves benchmarks/results as they are",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        type=pathlib.Path,
        metavar="JSON",
        help="earlier results to compare with, of --out or benchmarks/results; with a second file "
        "nothing is run and both are compared. Give NAMEs before it",
    )
    parser.add_argument(
        "--out",
        type=_json_path,
        metavar="JSON",
        help="where all results go, with a table in Markdown beside it (benchmarks/bench.json)",
    )
    parser.add_argument(
        "--tolerance",
        type=_share,
        default=_compare.TOLERANCE,
        help="share by which a ratio may change (%(default)s); changes within the spread of the "
        "turns are none either way",
    )
    return parser


def _json_path(text: str) -> pathlib.Path:
    if not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"must end in .json, got {text}")
    return pathlib.Path(text)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0 and finite, got {text}")
    return value


def report_changes(
    old: Mapping[str, _collected.Report], new: Mapping[str, _collected.Report], tolerance: float
) -> int:
    """Prints what changed; returns 1 if something became slower, else 0."""
    for caveat in _compare.caveats(old, new):
        print(f"warning: {caveat}", file=sys.stderr)
    found = _compare.changes(old, new, tolerance)
    count = lambda verdict: sum(change.verdict == verdict for change in found)
    print(_compare.table(found))
    print(", ".join(f"{count(verdict)} {verdict}" for verdict in _compare.VERDICTS))
    return int(count(_compare.SLOWER) > 0)


def run_all(names: Sequence[str], quick: bool) -> dict[str, Any]:
    """Runs some benchmarks one after the other; returns their results, collected."""
    if not environments.can_make("fedjax"):
        raise ValueError("the environment in which all benchmarks run could not be made.")
    peers = sorted({peer for name in names for peer in BENCHMARKS[name].peers})
    missing = {peer for peer in peers if not environments.can_make(peer)}
    reports, seconds, failed = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) if quick else _measure.OUTPUT
        for name in names:
            print(f"-- {name}", flush=True)
            began = time.perf_counter()
            possible = missing.isdisjoint(BENCHMARKS[name].peers)
            ended_well = possible and run(BENCHMARKS[name], quick, output)
            seconds[name] = round(time.perf_counter() - began, 1)
            print(f"-- {name}: {seconds[name]:.0f} s", flush=True)
            if ended_well:
                report = BENCHMARKS[name].report or name
                reports[report] = json.loads((output / "results" / f"{report}.json").read_text())
            else:
                failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all ran")
    return _collected.collect(reports, seconds, failed)


def run(benchmark: Benchmark, quick: bool, output: pathlib.Path) -> bool:
    """Runs one benchmark; says whether it ended well and in time."""
    command = [environments.python("fedjax"), *benchmark.script]
    # Compile times are measured too: not those of a cache that somebody has.
    variables = {"GRADAX_BENCH_OUTPUT": str(output), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = subprocess.Popen(
        [*command, *([benchmark.turns, "2"] if quick else [])],
        cwd=environments.FOLDER,
        env=os.environ | variables,
        start_new_session=True,  # so that its peers can be stopped with it
    )
    try:
        return process.wait(limit(benchmark)) == 0
    except subprocess.TimeoutExpired:
        print(f"stopped after {limit(benchmark):.0f} s")
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing was left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def limit(benchmark: Benchmark) -> float:
    """Seconds after which it counts as hung."""
    return 300 + 4 * benchmark.seconds


def write(collected: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes the collected file, and its table beside it."""
    path.write_text(json.dumps(collected, indent=1) + "\n")
    page = path.with_suffix(".md")
    page.write_text(_collected.markdown(collected))
    print(f"wrote {path} and {page}")


if __name__ == "__main__":
    sys.exit(main())
