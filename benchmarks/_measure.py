"""What the benchmarks share: one thread, contestants in turns, medians, JSON and tables.

Only the standard library is imported here, so that every environment can use it. A benchmark
makes a :class:`Report` and saves it; `RESULTS.md` is put together from the saved reports.
"""

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from _figures import Goal as Goal
from _figures import Ratio as Ratio

FOLDER = pathlib.Path(__file__).resolve().parent
#: Where results are written: here, unless a trial run asks for another folder.
OUTPUT = pathlib.Path(os.environ.get("GRADAX_BENCH_OUTPUT", FOLDER))
RESULTS = OUTPUT / "results"
TABLES = OUTPUT / "RESULTS.md"

#: Order of the sections of RESULTS.md.
ORDER = (
    "optimizer_step",
    "torch_step",
    "muon",
    "drop_muon",
    "monitors",
    "fdr",
    "batch_step",
    "coreset",
    "federated_rounds_fedjax",
    "federated_rounds_pfl",
    "federated_rounds_flower",
    "federated_startup",
    "chunk_of_one",
    "dadao_events",
    "sparse_gossip",
    "robust_rules",
    "compressors",
    "lowering",
    "scaling",
    "import_time",
)


#: Flags under which XLA's CPU backend computes on one thread.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

Clock = Callable[[], float]


def one_thread() -> None:
    """Keeps this process on one core. Call it before JAX makes its first array.

    XLA sizes its thread pool by the cores it may use, so one core means one thread, and CPU
    time is then the same as work done, whatever else the machine is doing.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()


def one_device_per_core() -> int:
    """Shows XLA every core as a device of its own. Call it before JAX makes its first array.

    Returns:
      The number of cores.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    flag = f"--xla_force_host_platform_device_count={cores}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    return cores


def take_turns(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Clock = time.process_time,
) -> dict[str, list[float]]:
    """Times the contestants one after the other, `rounds` times over.

    Each runs once untimed first. The order is rotated from round to round, so that nobody
    always runs behind the same neighbour.

    Args:
      contestants: name -> a call that returns when its work is done.
      rounds: number of timed calls of each.
      clock: seconds; CPU time of the process unless told otherwise.

    Returns:
      Name -> seconds of each round.
    """
    names = list(contestants)
    for name in names:
        contestants[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                start = clock()
                contestants[name]()
                times[name].append(clock() - start)
    finally:
        gc.enable()
    return times


def ratios(times: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Divides times by the reference's times of the same rounds."""
    return [a / b for a, b in zip(times, reference, strict=True)]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Writes a median and the least and greatest value, `0.42 (0.40-0.47)`."""
    show = lambda value: f"{value:#.{digits}g}".rstrip(".")
    return f"{show(statistics.median(values))} ({show(min(values))}-{show(max(values))})"


def count_copies(hlo: str) -> int:
    """Counts `copy` instructions on arrays of more than one element in a compiled program.

    Args:
      hlo: the text of the compiled module.

    Returns:
      How many there are.
    """
    # Such as: %copy.1 = f32[256,768]{1,0} copy(%x)
    shapes = re.findall(r"\[([\d,]*)\](?:\{[^}]*\})? copy\(", hlo)
    return sum(any(int(extent) > 1 for extent in shape.split(",") if extent) for shape in shapes)


@dataclasses.dataclass
class Report:
    """One section of RESULTS.md and everything behind it.

    Attributes:
      name: of the JSON file.
      title: of the section.
      method: paragraphs on what was measured and how to read it.
      command: what was run.
      packages: distributions whose versions matter.
      tables: `{"title", "columns", "rows"}`, cells as they are printed.
      goals: what was aimed at.
      ratios: what else can be compared with another run; saved together with the goals.
      samples: raw figures, for whoever wants other statistics.
      peer_versions: of a peer that runs in an environment of its own.
    """

    name: str
    title: str
    method: list[str]
    command: str
    packages: Sequence[str]
    tables: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    goals: list[Goal] = dataclasses.field(default_factory=list)
    ratios: list[Ratio] = dataclasses.field(default_factory=list)
    samples: dict[str, Any] = dataclasses.field(default_factory=dict)
    peer_versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Adds a table."""
        cells = [[str(cell) for cell in row] for row in rows]
        self.tables.append({"title": title, "columns": list(columns), "rows": cells})

    def ratio(self, what: str, values: Sequence[float]) -> None:
        """Records a ratio that has no goal, for other runs to compare with; smaller is better."""
        self.ratios.append(Ratio.of(what, values))

    def save(self) -> None:
        """Writes the JSON file, prints the section, and renews RESULTS.md."""
        saved = dataclasses.asdict(self) | {
            "ratios": self._compared(),
            "versions": versions(self.packages),
            "machine": machine(),
        }
        saved["packages"] = list(self.packages)
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(saved, indent=1) + "\n")
        print(_section(saved))
        render()

    def _compared(self) -> list[dict[str, Any]]:
        """Goals and ratios alike, each under a name of its own."""
        fields = [field.name for field in dataclasses.fields(Ratio)]
        every = [*self.goals, *self.ratios]
        names = [one.what for one in every]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{self.name}: recorded more than once: {sorted(twice)}.")
        return [{name: getattr(one, name) for name in fields} for one in every]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Looks up the installed versions, Python's first."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in packages}


def machine() -> dict[str, Any]:
    """Describes the machine without naming it."""
    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 1),
    }


def render() -> None:
    """Puts RESULTS.md together from the saved reports."""
    reports = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    names = [name for name in ORDER if name in reports]
    sections = [_section(reports[name]) for name in names]
    goals = [
        [f"[{reports[name]['title']}](#{_anchor(reports[name]['title'])})", *_goal_cells(goal)]
        for name in names
        for goal in reports[name]["goals"]
    ]
    summary = markdown_table(["benchmark", "what", "goal", "median", "met"], goals)
    TABLES.write_text(f"{_PREFACE}\n{summary}\n" + "\n".join(sections))


_PREFACE = """\
# Side by side with peers

This page is written by the benchmarks themselves (`make bench` runs them all); the raw figures are
in `benchmarks/results/`. Contestants take turns within a run; a ratio divides figures of the same
turn, and stands as median (least-greatest). Below 1 is faster than the peer.
"""


def _section(saved: Mapping[str, Any]) -> str:
    lines = [f"\n## {saved['title']}\n", *(f"{text}\n" for text in saved["method"])]
    for table in saved["tables"]:
        title = [f"{table['title']}\n"] if table["title"] else []
        lines += [*title, markdown_table(table["columns"], table["rows"])]
    if saved["goals"]:
        lines.append(
            markdown_table(["goal", "limit", "median", "met"], map(_goal_cells, saved["goals"]))
        )
    about = saved["machine"]
    installed = _versions(saved["versions"])
    if saved.get("peer_versions"):
        installed += f"; the peer in its own environment: {_versions(saved['peer_versions'])}"
    lines += [
        f"- Command: `{saved['command']}`",
        f"- Versions: {installed}",
        f"- Machine: {about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB, "
        f"{about['system']}, no GPU used; load average at the end {about['load_average']}",
    ]
    return "\n".join(lines) + "\n"


def _versions(of: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in of.items())


def _goal_cells(goal: Mapping[str, Any]) -> list[str]:
    return [
        goal["what"],
        goal["limit"],
        f"{goal['median']:.3g}",
        "yes" if goal["met"] else "**no**",
    ]


def markdown_table(columns: Sequence[str], rows: Any) -> str:
    """Writes a table; cells are strings."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def arguments(description: str, rounds: int) -> argparse.Namespace:
    """Reads the command line that all benchmarks have.

    Args:
      description: what the benchmark does.
      rounds: turns by default.

    Returns:
      A namespace with `rounds`.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each contestant")
    return parser.parse_args()
