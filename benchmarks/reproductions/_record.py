"""What a reproduction leaves behind: a JSON file, a printed table, a section of the docs page."""

import dataclasses
import importlib.metadata
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reproductions"
PAGE = ROOT / "docs" / "reproductions.md"

#: Modules of this folder, in the order of the page.
ORDER = (
    "diffgrad",
    "sgdp",
    "a2grad",
    "l4",
    "agvm",
    "gradient_noise",
    "muon",
    "drop_muon",
    "margins",
    "gradient_direction",
    "clip_coordinates",
    "block_coordinate_descent",
    "exponentiated_gradient",
    "normalized_lr_gd",
    "optimistic_mirror_descent",
    "last_iterate",
    "composite_mirror_descent",
    "cbo",
    "linear_decay",
    "refined",
    "fdr",
    "stability_cap",
    "temperature_sampling",
    "allocation",
    "alternating",
    "rmt_scaling",
    "adaptive_batch",
    "absa",
    "sgd_temperature",
    "coreset",
    "bandits",
    "fedspeed_partial",
    "federated_family",
    "fedamd_anchors",
    "rerce_fed",
    "client_curriculum",
    "gossip_bias",
    "dadao",
    "monna",
    "dfedsam",
    "econtrol",
    "just_one_byte",
    "gradient_coding",
    "async_federated",
    "async_digits",
    "masha",
    "dice_sgd",
    "diff2",
)


@dataclasses.dataclass
class Reproduction:
    """One experiment.

    Attributes:
      name: of the module.
      title: of the section.
      paper: what the paper reports.
      setup: what was run here.
      expected: where the expected figures come from, and how closely they can be met.
      columns: heads of the table.
      rows: cells, strings and numbers.
      claims: statement -> whether the run bears it out.
      remark: what a reader should know about the outcome.
    """

    name: str
    title: str
    paper: str
    setup: str
    expected: str
    columns: Sequence[str]
    rows: list[Sequence[Any]]
    claims: Mapping[str, bool]
    remark: str = ""

    def save(self) -> None:
        """Writes the JSON file, prints the section and renews the page."""
        claims = [{"says": says, "holds": bool(holds)} for says, holds in self.claims.items()]
        rows = [[_plain(cell) for cell in row] for row in self.rows]
        packages = ("gradax", "jax", "optax", "numpy")
        saved = dataclasses.asdict(self) | {
            "columns": list(self.columns),
            "rows": rows,
            "claims": claims,
            "command": f"python -m benchmarks.reproductions.{self.name}",
            "versions": {package: importlib.metadata.version(package) for package in packages},
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(saved, indent=1) + "\n")
        print(_section(saved))
        write_page()


def write_page() -> None:
    """Puts the docs page together from the saved results."""
    paths = [RESULTS / f"{name}.json" for name in ORDER]
    saved = [json.loads(path.read_text()) for path in paths if path.exists()]
    summary = [[f"[{one['title']}](#{_anchor(one['title'])})", _count(one)] for one in saved]
    sections = "\n".join(_section(one) for one in saved)
    PAGE.write_text(
        f"{_PREFACE}\n{_table(['experiment', 'claims that hold'], summary)}\n{sections}"
    )


_PREFACE = """\
# Reproductions

Small experiments with the methods of gradax: minutes of a laptop instead of days of a cluster.
They show the effect that a paper is about, not the paper's own figures. *Expected* figures come
from independent runs of the same small experiment, made before the method was written here; where
their data, starting points or random draws were not recorded, order and size can be compared and
digits cannot. *gradax* is what the command printed. Claims were written down before the run; the
few that were added after a first one say so.

`python -m benchmarks.reproductions` runs everything (extra `data`), and writes this page from the
results in `benchmarks/results/reproductions/`; nothing on it is copied by hand.
"""


def _section(saved: dict[str, Any]) -> str:
    broken = [claim["says"] for claim in saved["claims"] if not claim["holds"]]
    verdict = f"**Does not hold in full:** {_count(saved)} claims." if broken else "**It holds.**"
    marks = [
        f"- {'yes' if claim['holds'] else '**no**'}: {claim['says']}" for claim in saved["claims"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in saved["versions"].items())
    lines = [
        f"## {saved['title']}\n",
        f"The paper: {saved['paper']}\n",
        f"Here: {saved['setup']} {saved['expected']}\n",
        _table(saved["columns"], saved["rows"]),
        f"{' '.join(filter(None, (verdict, saved['remark'])))}\n",
        *marks,
        f"\n`{saved['command']}` ({versions})\n",
    ]
    return "\n".join(lines)


def _count(saved: dict[str, Any]) -> str:
    holding = sum(claim["holds"] for claim in saved["claims"])
    return f"{holding} of {len(saved['claims'])}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_show, cells))} |" for cells in lines) + "\n"


def _show(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _plain(cell: Any) -> Any:
    """NumPy and JAX scalars as Python floats, the rest as it is."""
    return cell if isinstance(cell, str | int | None) else float(cell)


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")
