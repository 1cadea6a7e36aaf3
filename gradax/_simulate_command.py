"""``gradax simulate``: a method of the catalogue on packaged data, from the command line."""

import argparse
import inspect
import pathlib
from typing import Any

import jax
import numpy as np

from gradax import _optional, _simulate_dadao, federated
from gradax._tasks import Task, classification
from gradax.catalogue import Entry, get

GRAPHS = (
    "complete",
    "ring",
    "star",
    "path",
    "grid",
    "torus",
    "erdos_renyi",
    "exponential",
    "one_peer_exponential",
)
ATTACKS = {
    "sign_flip": federated.attacks.sign_flip,
    "foe": federated.attacks.inner_product,
    "alie": federated.attacks.a_little_is_enough,
    "gaussian": federated.attacks.gaussian,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command.

    Args:
      parser: of the command.
    """
    parser.add_argument("method", help="name in the catalogue, such as fedavg or monna")
    data = parser.add_argument_group("data and model")
    data.add_argument("--data", default="digits", help="digits, mnist5k or fashion_mnist")
    data.add_argument(
        "--alpha", type=float, help="Dirichlet concentration of the labels; even split if absent"
    )
    data.add_argument(
        "--hidden",
        type=int,
        nargs="*",
        help="widths of layers; 64, or none where a method is convex",
    )
    who = parser.add_argument_group("participants")
    who.add_argument("--clients", "--nodes", type=int, default=100, help="how many there are")
    who.add_argument("--cohort", type=int, help="clients drawn per round; 10 or all, if fewer")
    who.add_argument("--graph", choices=GRAPHS, default="ring", help="who talks to whom")
    who.add_argument("--attack", choices=sorted(ATTACKS), help="what dishonest nodes send")
    who.add_argument("--attackers", type=int, default=0, help="how many nodes are dishonest")
    work = parser.add_argument_group("training")
    work.add_argument("--rounds", type=int, help="50; of dadao 150 units of time")
    work.add_argument("--batch-size", type=int, default=20)
    work.add_argument("--steps", type=int, default=20, help="local steps of a round")
    work.add_argument("--learning-rate", type=float, default=0.1)
    work.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other argument of the method, such as --set rho=0.05; see gradax show METHOD",
    )
    work.add_argument("--seed", type=int, default=0)
    run = parser.add_argument_group("the run")
    run.add_argument("--segment", type=int, default=5, help="rounds between two evaluations")
    run.add_argument("--chunk", type=int, help="clients computed side by side")
    run.add_argument("--checkpoint", help="directory to save to and to go on from")
    run.add_argument("--history", help="write the metrics of all rounds, as JSON lines")
    run.add_argument("--plot", help="write a picture of accuracy against rounds and megabytes")
    run.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> None:
    """Simulates and reports.

    Args:
      arguments: parsed options.

    Raises:
      ValueError: if an option cannot work.
    """
    entry = get(arguments.method)
    task, options = PLANS.get(entry.name, _plan)(entry, arguments)
    has_server = isinstance(options["algorithm"], federated.Algorithm)
    honest = arguments.clients - arguments.attackers
    result = federated.simulate(
        **options,
        params=task.params,
        evaluate=_evaluation(task, has_server, honest),
        chunk=arguments.chunk,
        key=arguments.seed,
        checkpoint=arguments.checkpoint,
        progress=not arguments.quiet,
        title=entry.name,
    )
    _report(entry, result.history, arguments)


def _plan(entry: Entry, arguments: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    """The task, and arguments of ``simulate``."""
    algorithm = _build(entry, arguments)
    hidden = [64] if arguments.hidden is None else arguments.hidden
    task = classification(arguments.data, hidden, arguments.seed)
    has_server = isinstance(algorithm, federated.Algorithm)
    return task, {
        "algorithm": algorithm,
        "loss_fn": task.loss_fn,
        "data": _split(task, arguments),
        "rounds": 50 if arguments.rounds is None else arguments.rounds,
        "cohort": _cohort(arguments) if has_server else None,
        "batch_size": arguments.batch_size,
        "num_steps": arguments.steps if has_server else 1,
        "segment": arguments.segment,
    }


def _plan_dadao(entry: Entry, arguments: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    if arguments.attackers or arguments.attack:
        raise ValueError(f"simulate: {entry.name} has no --attackers; monna does, for instance.")
    given = dict(_assignment(text) for text in arguments.set)
    adjacency = _adjacency(arguments.graph, arguments.clients, arguments.seed)
    return _simulate_dadao.plan(arguments, adjacency, given, lambda task: _split(task, arguments))


#: Methods that a learning rate and a mixing matrix do not describe.
PLANS = {"dadao": _plan_dadao}


def _build(entry: Entry, arguments: argparse.Namespace) -> Any:
    """Makes the method from the options that its factory knows."""
    if entry.package != "federated" or entry.kind not in ("algorithm", "alias", "final"):
        raise ValueError(
            f"simulate: {entry.name!r} is a {entry.kind} of gradax.{entry.package}, not a "
            "federated or decentralized method; 'gradax list --package federated' names those."
        )
    known = inspect.signature(entry.factory).parameters
    given: dict[str, Any] = {"learning_rate": arguments.learning_rate}
    if "mixing" in known:
        given["mixing"] = _mixing(arguments.graph, arguments.clients, arguments.seed)
    if arguments.attackers or arguments.attack:
        given |= _dishonest(entry, known, arguments)
    given |= dict(_assignment(text) for text in arguments.set)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"simulate: {entry.name} takes no {', '.join(unknown)}; it takes {', '.join(known)}."
        )
    return entry.make(**given)


def _dishonest(entry: Entry, known: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    if "f" not in known or "attack" not in known:
        raise ValueError(f"simulate: {entry.name} has no --attackers; monna does, for instance.")
    if not 0 < arguments.attackers < arguments.clients:
        raise ValueError(
            f"simulate: --attackers must lie in [1, {arguments.clients}), "
            f"got {arguments.attackers}."
        )
    given: dict[str, Any] = {"f": arguments.attackers}
    if arguments.attack:
        given["attack"] = ATTACKS[arguments.attack]
        given["key"] = arguments.seed
    return given


def _mixing(graph: str, nodes: int, seed: int) -> np.ndarray:
    topology = federated.topology
    if graph.endswith("exponential"):
        return getattr(topology, graph)(nodes)
    return topology.metropolis_weights(_adjacency(graph, nodes, seed))


def _adjacency(graph: str, nodes: int, seed: int) -> np.ndarray:
    topology = federated.topology
    if graph.endswith("exponential"):
        raise ValueError(f"simulate: --graph {graph} has no edges in both directions.")
    if graph == "erdos_renyi":  # twice as dense as where graphs become connected
        density = min(1.0, 2 * np.log(max(nodes, 2)) / nodes)
        return topology.erdos_renyi(nodes, density, seed)
    if graph in ("grid", "torus"):
        rows = max(k for k in range(1, int(nodes**0.5) + 1) if nodes % k == 0)
        return getattr(topology, graph)(rows, nodes // rows)
    return getattr(topology, graph)(nodes)


def _assignment(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"simulate: --set takes NAME=VALUE, got {text!r}.")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    words = {"true": True, "false": False, "none": None}
    return name, words.get(value.lower(), value)


def _split(task: Task, arguments: argparse.Namespace) -> federated.data.ClientData:
    labels, clients = np.asarray(task.dataset.train["y"]), arguments.clients
    if arguments.alpha is None:
        parts = federated.data.partition_iid(len(labels), clients, seed=arguments.seed)
    else:
        parts = federated.data.partition_dirichlet(
            labels, clients, arguments.alpha, min_size=1, seed=arguments.seed
        )
    return federated.data.padded(task.dataset.train, parts)


def _cohort(arguments: argparse.Namespace) -> int:
    return min(10, arguments.clients) if arguments.cohort is None else arguments.cohort


def _evaluation(task: Task, has_server: bool, honest: int) -> Any:
    """Test accuracy, of peers the mean over the honest nodes."""
    if has_server:
        return lambda params: {"accuracy": task.accuracy(params)}

    def evaluate(params):
        first = jax.tree.map(lambda x: x[:honest], params)
        return {"accuracy": jax.lax.map(task.accuracy, first).mean()}

    return evaluate


def _report(entry: Entry, history: federated.History, arguments: argparse.Namespace) -> None:
    megabytes = [history.total(f"bytes_{way}") / 1e6 for way in ("up", "down")]
    print(
        f"{entry.name}: test accuracy {history.last('accuracy'):.3f} after {len(history)} "
        f"{'events' if entry.name == 'dadao' else 'rounds'}, "
        f"{megabytes[0]:.1f} MB up, {megabytes[1]:.1f} MB down, "
        f"{history.total('seconds'):.1f} s"
    )
    if arguments.history:
        history.to_json(arguments.history)
        print(f"metrics: {arguments.history}")
    if arguments.plot:
        _plot(entry, history, pathlib.Path(arguments.plot))
        print(f"figure: {arguments.plot}")


def _plot(entry: Entry, history: federated.History, path: pathlib.Path) -> None:
    figures = _optional.load("matplotlib.figure", "plot", "--plot")
    figure = figures.Figure(figsize=(9, 3.5), layout="constrained")
    for ax, against in zip(figure.subplots(1, 2), ("round", "bytes_up"), strict=True):
        history.plot("accuracy", against, ax=ax, marker=".", label=entry.name)
        ax.legend()
    figure.savefig(path, dpi=150)
