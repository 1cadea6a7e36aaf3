"""What became slower or faster between two runs of the benchmarks."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import _collected
import _measure

#: A change of the median by less than this share is none.
TOLERANCE = 0.1

VERDICTS = SLOWER, FASTER, SAME = "slower", "faster", "same"


class Change(NamedTuple):
    """A figure in both runs.

    Attributes:
      benchmark: its benchmark.
      what: what is measured.
      old: record of the earlier run.
      new: record of the later one.
      share: by which it became worse; negative if better.
      verdict: `slower`, `faster` or `same`.
    """

    benchmark: str
    what: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    share: float
    verdict: str


def changes(
    old: Mapping[str, _collected.Report],
    new: Mapping[str, _collected.Report],
    tolerance: float = TOLERANCE,
) -> list[Change]:
    """Judges every figure that both runs have.

    Args:
      old: reports of the earlier run.
      new: reports of the later one.
      tolerance: share by which a median may change.

    Returns:
      A change for each of them; those that became slower first.

    Raises:
      ValueError: if the runs have no figure in common.
    """
    before = {(name, ratio["what"]): ratio for name, ratio in _collected.ratios(old)}
    found = [
        _change(name, before[name, ratio["what"]], ratio, tolerance)
        for name, ratio in _collected.ratios(new)
        if (name, ratio["what"]) in before
    ]
    if not found:
        raise ValueError("compare: the two results have no figure in common.")
    return sorted(found, key=lambda change: VERDICTS.index(change.verdict))


def _change(
    benchmark: str, old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float
) -> Change:
    less, more = (old, new) if old["better"] == "lower" else (new, old)
    share = _share(less["median"], more["median"])
    overlap = old["least"] <= new["greatest"] and new["least"] <= old["greatest"]
    verdict = SLOWER if share > 0 else FASTER
    if overlap or abs(share) <= tolerance:
        verdict = SAME
    return Change(benchmark, old["what"], old, new, share, verdict)


def _share(less: float, more: float) -> float:
    """By how much the second is greater than the first, as a share of it."""
    if less == more:
        return 0.0
    return (more - less) / abs(less) if less else math.copysign(math.inf, more)


def table(found: list[Change]) -> str:
    """Writes changes as Markdown."""
    columns = ["benchmark", "what", "old", "new", "worse by", "verdict"]
    return _measure.markdown_table(columns, map(_row, found))


def _row(change: Change) -> list[str]:
    ratios = _collected.shown(change.old), _collected.shown(change.new)
    verdict = f"**{change.verdict}**" if change.verdict == SLOWER else change.verdict
    return [change.benchmark, change.what, *ratios, f"{change.share:+.1%}", verdict]


def caveats(
    old: Mapping[str, _collected.Report], new: Mapping[str, _collected.Report]
) -> Iterator[str]:
    """Says what speaks against comparing: other machines, other versions, figures of one run only.

    gradax's own version is what the comparison is about, so it may differ.
    """
    for name in sorted(old.keys() & new.keys()):
        before, after = _circumstances(old[name]), _circumstances(new[name])
        for what in sorted(before.keys() | after.keys()):
            if before.get(what) != after.get(what):
                yield f"{name}: {what} was {before.get(what)}, is {after.get(what)}"
    for title, these, others in (("old", old, new), ("new", new, old)):
        known = {(name, ratio["what"]) for name, ratio in _collected.ratios(others)}
        alone = [
            f"{name}: {ratio['what']}"
            for name, ratio in _collected.ratios(these)
            if name in others and (name, ratio["what"]) not in known
        ]
        if alone:
            yield f"only in the {title} results: {'; '.join(alone)}"


def _circumstances(report: _collected.Report) -> dict[str, Any]:
    installed = {
        f"{kind}{package}": version
        for kind, versions in (("", report["versions"]), ("peer's ", report["peer_versions"]))
        for package, version in versions.items()
        if package != "gradax"
    }
    machine = {key: value for key, value in report["machine"].items() if key != "load_average"}
    return installed | machine
