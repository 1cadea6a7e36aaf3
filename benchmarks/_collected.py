"""Results of several benchmarks in one file, and the figures that are read from such files."""

import datetime
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import _measure

#: What a collected file says of itself.
FORM = "gradax benchmarks 1"

Report = Mapping[str, Any]

_RATIO = {"what", "median", "least", "greatest", "turns", "better"}


def collect(
    reports: Mapping[str, Report], seconds: Mapping[str, float], failed: list[str]
) -> dict[str, Any]:
    """Puts saved reports together.

    Args:
      reports: name -> what `_measure.Report.save` wrote.
      seconds: name -> what the benchmark took, whether it ended well or not.
      failed: names of those that did not.

    Returns:
      What is written to one file, with versions and machine.
    """
    installed: dict[str, str] = {}
    for report in reports.values():
        installed |= report["peer_versions"] | report["versions"]
    return {
        "form": FORM,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": installed,
        "machine": _measure.machine(),
        "seconds": dict(seconds),
        "failed": failed,
        "reports": dict(reports),
    }


def load(path: pathlib.Path) -> dict[str, Report]:
    """Reads a collected file, or one benchmark's results.

    Args:
      path: the file.

    Returns:
      Name -> report.

    Raises:
      ValueError: if it is neither.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as results: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not results of benchmarks.")
    form = content.get("form")
    if form is None:
        reports = {content.get("name"): content}
    elif form == FORM:
        reports = content.get("reports")
    else:
        raise ValueError(f"{path}: its form must be {FORM!r}, got {form!r}.")
    if not isinstance(reports, dict) or not all(map(_is_report, reports.items())):
        raise ValueError(
            f"{path}: not results of benchmarks, or from a version that recorded no ratios: "
            "run them again."
        )
    return reports


def _is_report(item: tuple[Any, Any]) -> bool:
    name, report = item
    if not isinstance(name, str) or not isinstance(report, dict):
        return False
    kinds = {"ratios": list, "goals": list}
    kinds |= dict.fromkeys(("versions", "peer_versions", "machine"), dict)
    return all(isinstance(report.get(key), kind) for key, kind in kinds.items()) and all(
        isinstance(ratio, dict) and ratio.keys() >= _RATIO for ratio in report["ratios"]
    )


def ratios(reports: Mapping[str, Report]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Goes through all figures, each with its benchmark's name."""
    for name, report in reports.items():
        for ratio in report["ratios"]:
            yield name, ratio


def shown(ratio: Mapping[str, Any]) -> str:
    """Writes a figure as the tables do, `0.42 (0.40-0.47)`, or `0.42` if it was taken once."""
    values = [ratio["least"], ratio["median"], ratio["greatest"]]
    return _measure.spread(values) if ratio["turns"] > 1 else f"{ratio['median']:.3g}"


def markdown(collected: Mapping[str, Any]) -> str:
    """Writes a page of a collected file: every figure, and its goal if it has one."""
    reports, about = collected["reports"], collected["machine"]
    goals = {(n, g["what"]): g for n, report in reports.items() for g in report["goals"]}
    rows = []
    for name, ratio in ratios(reports):
        goal = goals.get((name, ratio["what"]))
        met = ["", ""] if goal is None else [goal["limit"], "yes" if goal["met"] else "**no**"]
        rows.append([name, ratio["what"], shown(ratio), *met])
    table = _measure.markdown_table(["benchmark", "what", "ratio", "goal", "met"], rows)
    taken = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in collected["seconds"].items())
    lines = [
        "# Benchmarks\n",
        "Median (least-greatest) of the turns; below 1 is faster than the peer.\n",
        table,
        f"- Date: {collected['date']}",
        f"- Versions: {', '.join(map(' '.join, collected['versions'].items()))}",
        f"- Machine: {about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB, "
        f"{about['system']}",
        f"- Time: {taken}",
    ]
    if collected["failed"]:
        lines.append(f"- Failed: {', '.join(collected['failed'])}")
    return "\n".join(lines) + "\n"
