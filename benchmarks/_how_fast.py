"""The tables of the guide "How fast is it", from the saved results of all benchmarks."""

import json
import re
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import _measure

#: A trial run leaves the site alone.
_DOCS = _measure.FOLDER.parent / "docs"
_HOME = _DOCS if _measure.OUTPUT == _measure.FOLDER else _measure.OUTPUT
PICTURES, TABLE = _HOME / "_static", _HOME / "guides" / "how_fast_table.md"


class Peer(NamedTuple):
    """Figures that compare gradax with one peer.

    Attributes:
      report: name of the saved report.
      what: what is compared.
      peer: with whom.
      pattern: a regular expression that finds the figures by their names.
    """

    report: str
    what: str
    peer: str
    pattern: str


PEERS = (
    Peer("federated_rounds_fedjax", "FedAvg rounds, perceptron", "FedJAX", r"MLP.* over FedJAX"),
    Peer("federated_rounds_fedjax", "FedAvg rounds, CNN", "FedJAX", r"CNN.* over FedJAX"),
    Peer("federated_rounds_pfl", "FedAvg rounds, perceptron", "pfl-research", r"MLP.* over pfl"),
    Peer("federated_rounds_pfl", "FedAvg rounds, CNN", "pfl-research", r"CNN.* over pfl"),
    Peer("federated_rounds_flower", "FedAvg rounds, perceptron", "Flower", r"MLP.* over Flower"),
    Peer("federated_startup", "start and 100 rounds", "FedJAX", r"wall time.* over FedJAX"),
    Peer("federated_startup", "start and 100 rounds", "pfl-research", r"wall time.* over pfl"),
    Peer("federated_startup", "start and 100 rounds", "Flower", r"wall time.* over Flower"),
    Peer("robust_rules", "robust rules", "ByzFL, NumPy", r"time over ByzFL's numpy"),
    Peer("robust_rules", "robust rules", "ByzFL, torch", r"time over ByzFL's torch"),
    Peer("coreset", "coresets", "apricot-select", r"time over apricot"),
    Peer("muon", "Muon", "`optax.contrib.muon`", r"^(direction|step): ratio"),
    Peer("torch_step", "optimizer steps", "pytorch_optimizer", r"over the faster form"),
    Peer("optimizer_step", "optimizer steps", "`optax.adam`, per byte", r"scaled by bytes"),
    Peer("compressors", "top k", "`lax.top_k`", r"over `lax.top_k`"),
)


def write(exponents: Sequence[Sequence[str]]) -> None:
    """Writes the file that the guide includes, part by part.

    Args:
      exponents: rows of what, of, against, exponent.
    """
    peers = _measure.markdown_table(("what", "peer", "ratio of time", "goals met"), peer_rows())
    fits = _measure.markdown_table(("what", "of", "against", "exponent"), exponents)
    goals = _measure.markdown_table(("goal", "limit", "measured", "met"), _goal_rows("scaling"))
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    parts = {"peers": peers, "exponents": fits, "goals": goals}
    text = "".join(f"% begin {name}\n\n{part}\n% end {name}\n\n" for name, part in parts.items())
    TABLE.write_text(text)


def peer_rows() -> list[list[str]]:
    """A row for each peer that has been measured."""
    return [_peer_row(peer, found) for peer in PEERS if (found := _report(peer.report))]


def _report(name: str) -> dict[str, Any] | None:
    path = _measure.RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _peer_row(peer: Peer, report: dict[str, Any]) -> list[str]:
    chosen = [goal for goal in report["goals"] if re.search(peer.pattern, goal["what"])]
    if not chosen:
        raise ValueError(f"{peer.report}: no goal is named like {peer.pattern!r}.")
    medians = sorted(goal["median"] for goal in chosen)
    show = lambda value: f"{value:.2g}"
    ratio = show(medians[0])
    if len(medians) > 1:
        ratio = f"{show(statistics.median(medians))} ({show(medians[0])}-{show(medians[-1])})"
    met = sum(goal["met"] for goal in chosen)
    return [peer.what, peer.peer, ratio, f"{met} of {len(chosen)}"]


def _goal_rows(name: str) -> list[list[str]]:
    goals = (_report(name) or {"goals": []})["goals"]
    show = lambda goal: f"{goal['median']:.3g}"
    return [
        [goal["what"], goal["limit"], show(goal), "yes" if goal["met"] else "**no**"]
        for goal in goals
    ]
