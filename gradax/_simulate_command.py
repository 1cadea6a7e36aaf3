"""``gradax simulate``: a method of the catalogue on packaged data, from the command line."""

import argparse
import contextlib
import inspect
import io
import pathlib
from typing import Any, Literal

import jax
import numpy as np

from gradax import (
    _compress_option,
    _dishonest,
    _optional,
    _processes,
    _simulate_dadao,
    federated,
)
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
    _dishonest.add_arguments(who)
    who.add_argument("--compress", metavar="KIND", help=f"with a server: {_compress_option.FORMS}")
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
    run.add_argument(
        "--chunk", type=_chunk, help="clients computed side by side; auto: as many as fit"
    )
    run.add_argument(
        "--client-state",
        default="device",
        metavar="PLACE",
        help="where states of clients are kept: device, host, or a directory for files",
    )
    run.add_argument("--checkpoint", help="directory to save to and to go on from")
    run.add_argument("--history", help="write the metrics of all rounds, as JSON lines")
    run.add_argument("--plot", help="write a picture of accuracy against rounds and megabytes")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    _processes.add_arguments(parser.add_argument_group("devices and processes"))


def _chunk(text: str) -> int | Literal["auto"]:
    """Reads ``auto`` or a number."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number or auto, got {text!r}") from None


def run(arguments: argparse.Namespace) -> None:
    """Simulates and reports.

    Args:
      arguments: parsed options.

    Raises:
      ValueError: if an option cannot work.
    """
    entry = get(arguments.method)
    leads = _processes.start(arguments)
    with contextlib.nullcontext() if leads else contextlib.redirect_stdout(io.StringIO()):
        history = _simulate(entry, arguments)
    if leads:
        _report(entry, history, arguments)


def _simulate(entry: Entry, arguments: argparse.Namespace) -> federated.History:
    task, options = PLANS.get(entry.name, _plan)(entry, arguments)
    has_server = _has_server(options["algorithm"])
    honest = arguments.clients - arguments.attackers
    return federated.simulate(
        **options,
        params=task.params,
        evaluate=_evaluation(task, has_server, honest),
        chunk=arguments.chunk,
        client_state=arguments.client_state,
        mesh=_processes.mesh(arguments),
        key=arguments.seed,
        checkpoint=arguments.checkpoint,
        progress=not arguments.quiet,
        title=entry.name,
    ).history


def _has_server(algorithm: Any) -> bool:
    return isinstance(algorithm, federated.Algorithm) and algorithm.server is not None


def _plan(entry: Entry, arguments: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    """The task, and arguments of ``simulate``."""
    algorithm = _build(entry, arguments)
    hidden = [64] if arguments.hidden is None else arguments.hidden
    task = classification(arguments.data, hidden, arguments.seed)
    has_server = _has_server(algorithm)
    return task, {
        "algorithm": algorithm,
        "loss_fn": task.loss_fn,
        "data": _dishonest.flip_labels(
            _split(task, arguments), task.dataset.num_classes, arguments
        ),
        "rounds": 50 if arguments.rounds is None else arguments.rounds,
        "cohort": _cohort(arguments) if has_server else None,
        "batch_size": arguments.batch_size,
        "num_steps": arguments.steps if isinstance(algorithm, federated.Algorithm) else 1,
        "segment": arguments.segment,
    }


def _plan_dadao(entry: Entry, arguments: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    _refuse_server_options(entry, arguments)
    if arguments.attackers or arguments.attack:
        raise ValueError(f"simulate: {entry.name} has no --attackers; monna does, for instance.")
    given = dict(assignment(text) for text in arguments.set)
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
    if entry.kind != "algorithm":
        _refuse_server_options(entry, arguments)
        given |= _of_dishonest_nodes(entry, known, arguments)
    given |= dict(assignment(text) for text in arguments.set)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"simulate: {entry.name} takes no {', '.join(unknown)}; it takes {', '.join(known)}."
        )
    made = entry.make(**given)
    if entry.kind != "algorithm":
        return made
    _dishonest.check(arguments)
    if arguments.compress:
        made = _compress_option.compress_messages(made, arguments.compress, arguments.seed)
    return _dishonest.with_server(made, arguments)


def _refuse_server_options(entry: Entry, arguments: argparse.Namespace) -> None:
    for option in ("aggregate", "compress"):
        if getattr(arguments, option) is not None:
            raise ValueError(f"simulate: {entry.name} has no server and takes no --{option}.")


def _of_dishonest_nodes(entry: Entry, known: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a method without a server that bears liars."""
    if not (arguments.attackers or arguments.attack):
        return {}
    if "f" not in known or "attack" not in known:
        raise ValueError(f"simulate: {entry.name} has no --attackers; monna does, for instance.")
    _dishonest.check(arguments)
    attack = _dishonest.attack_of(arguments, federated.rules.nearest_neighbor_average)
    return {"f": arguments.attackers, "attack": attack, "key": arguments.seed}


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


def assignment(text: str) -> tuple[str, Any]:
    """Reads ``NAME=VALUE``; the value is a number, a truth value, none, or a word."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"--set takes NAME=VALUE, got {text!r}.")
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
    if arguments.cohort is not None:
        return arguments.cohort
    return arguments.clients if arguments.attackers else min(10, arguments.clients)


def _evaluation(task: Task, has_server: bool, honest: int) -> Any:
    """Test accuracy, of peers the mean over the honest nodes."""
    if has_server:
        return lambda params: {"accuracy": task.accuracy(params)}

    def evaluate(params):
        first = jax.tree.map(lambda x: x[:honest], params)
        return {"accuracy": jax.lax.map(task.accuracy, first).mean()}

    return evaluate


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f}" if size >= 1e6 else f"{size / 1e6:.2g}"


def _report(entry: Entry, history: federated.History, arguments: argparse.Namespace) -> None:
    up, down = (_megabytes(history.total(f"bytes_{way}")) for way in ("up", "down"))
    print(
        f"{entry.name}: test accuracy {history.last('accuracy'):.3f} after {len(history)} "
        f"{'events' if entry.name == 'dadao' else 'rounds'}, "
        f"{up} MB up, {down} MB down, "
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
