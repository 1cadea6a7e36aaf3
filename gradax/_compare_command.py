"""``gradax compare``: federated algorithms beside each other, over several seeds."""

import argparse
import inspect
import json
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np

from gradax import _optional, _simulate_command, _validate, federated
from gradax._tasks import Task, classification
from gradax.catalogue import Entry, get


class Setting(NamedTuple):
    """What a method is run with unless the command line says otherwise.

    Attributes:
      arguments: of its factory.
      rate: its learning rate, as a multiple of ``--learning-rate``.
      everybody_first: whether all clients take part in the first round.
    """

    arguments: dict[str, Any] = {}  # noqa: RUF012  (a NamedTuple default, never mutated)
    rate: float = 1.0
    everybody_first: bool = False


#: Constants that suited small image tasks with uneven clients; not tuned to any one data set.
SETTINGS = {
    "fedprox": Setting({"prox_weight": 0.1}),
    "feddyn": Setting({"prox_weight": 0.1}),
    "fedcm": Setting({"alpha": 0.1}),
    "fedsam": Setting({"rho": 0.05}),
    "mofedsam": Setting({"rho": 0.05, "alpha": 0.1}),
    "fedspeed": Setting({"rho": 0.1, "prox_weight": 0.1}),
    # Along a recursion of stale gradients only small steps are stable.
    "fedamd": Setting({"anchor_schedule": 0.5}, rate=0.25, everybody_first=True),
    "fedadam": Setting({"server_learning_rate": 0.03}),
    "fedyogi": Setting({"server_learning_rate": 0.03}),
    "fedadagrad": Setting({"server_learning_rate": 0.1}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command.

    Args:
      parser: of the command.
    """
    parser.add_argument("methods", nargs="+", help="names in the catalogue, such as fedavg")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every method")
    data = parser.add_argument_group("data and model")
    data.add_argument("--data", default="digits", help="digits, mnist5k or fashion_mnist")
    data.add_argument(
        "--alpha", type=float, help="Dirichlet concentration of the labels; even split if absent"
    )
    data.add_argument("--hidden", type=int, nargs="*", default=[64], help="widths of layers")
    who = parser.add_argument_group("participants")
    who.add_argument("--clients", type=int, default=100, help="how many there are")
    who.add_argument("--cohort", type=int, help="clients drawn per round; 10 or all, if fewer")
    work = parser.add_argument_group("training")
    work.add_argument("--rounds", type=int, default=50)
    work.add_argument("--batch-size", type=int, default=20)
    work.add_argument("--steps", type=int, default=20, help="local steps of a round")
    work.add_argument("--learning-rate", type=float, default=0.1)
    work.add_argument("--decay", type=float, default=1.0, help="factor of the rate per round")
    work.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="an argument of a method, such as --set fedspeed.rho=0.05; see gradax show METHOD",
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--segment", type=int, default=5, help="rounds between two evaluations")
    run.add_argument("--chunk", type=int, help="clients computed side by side")
    run.add_argument(
        "--side-by-side", type=int, help="seeds computed together; what fits if absent"
    )
    run.add_argument("--target", type=float, help="accuracy whose first round is reported")
    run.add_argument("--plot", help="write a figure of accuracy against rounds and megabytes")
    run.add_argument("--table", help="write the table: .csv, .md, or JSON lines")
    run.add_argument("--histories", help="write all histories as JSON lines, one file a run")
    run.add_argument("--quiet", action="store_true", help="print the table only")


def run(arguments: argparse.Namespace) -> None:
    """Runs every method and reports.

    Args:
      arguments: parsed options.

    Raises:
      ValueError: if an option cannot work.
    """
    _validate.integer("compare", "--seeds", arguments.seeds, at_least=1)
    if len(set(arguments.methods)) < len(arguments.methods):
        raise ValueError(f"compare: a method occurs twice in {' '.join(arguments.methods)}.")
    algorithms = {name: _build(get(name), arguments) for name in arguments.methods}
    tasks = {
        seed: classification(arguments.data, arguments.hidden, seed)
        for seed in range(arguments.seeds)
    }
    splits = {seed: _split(task, seed, arguments) for seed, task in tasks.items()}
    runs: dict[str, list[federated.History]] = {}
    for name, algorithm in algorithms.items():
        began = time.perf_counter()
        runs[name] = _play(name, algorithm, tasks, splits, arguments)
        if not arguments.quiet:
            final = np.mean([history.last("accuracy") for history in runs[name]])
            seconds = time.perf_counter() - began
            print(
                f"{name}: {final:.3f} after {arguments.rounds} rounds, {seconds:.0f} s", flush=True
            )
    _report(runs, arguments)


def _build(entry: Entry, arguments: argparse.Namespace) -> federated.Algorithm:
    known = inspect.signature(entry.factory).parameters
    if entry.kind != "algorithm" or "learning_rate" not in known:
        raise ValueError(
            f"compare: {entry.name!r} is no federated algorithm with a learning rate; "
            "'gradax list --kind algorithm' names those."
        )
    setting = SETTINGS.get(entry.name, Setting())
    given = {**setting.arguments, **_set(entry.name, arguments)}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"compare: {entry.name} takes no {', '.join(unknown)}; it takes {', '.join(known)}."
        )
    if "learning_rate" not in given:
        given["learning_rate"] = _rate(arguments.learning_rate * setting.rate, arguments.decay)
    return entry.make(**given)


def _rate(start: float, decay: float) -> Any:
    return start if decay == 1.0 else lambda round: start * decay**round


def _set(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``--set`` gives to a method."""
    given = {}
    for text in arguments.set:
        owner, dot, rest = text.partition(".")
        if not dot or owner not in arguments.methods:
            raise ValueError(f"compare: --set takes METHOD.NAME=VALUE of a method, got {text!r}.")
        if owner == method:
            name, value = _simulate_command.assignment(rest)
            given[name] = value
    return given


def _split(task: Task, seed: int, arguments: argparse.Namespace) -> federated.data.ClientData:
    labels, clients = np.asarray(task.dataset.train["y"]), arguments.clients
    if arguments.alpha is None:
        parts = federated.data.partition_iid(len(labels), clients, seed=seed)
    else:
        parts = federated.data.partition_dirichlet(
            labels, clients, arguments.alpha, min_size=1, seed=seed
        )
    return federated.data.padded(task.dataset.train, parts)


def _play(name, algorithm, tasks, splits, arguments) -> list[federated.History]:
    """Histories of one method, one for each seed; seeds differ in split, start and draws."""
    cohort = min(10, arguments.clients) if arguments.cohort is None else arguments.cohort
    results = federated.simulate_seeds(
        algorithm,
        tasks[0].loss_fn,
        lambda seed: tasks[seed].params,
        splits.__getitem__,
        arguments.rounds,
        cohort,
        seeds=arguments.seeds,
        side_by_side=arguments.side_by_side,
        everybody_first=SETTINGS.get(name, Setting()).everybody_first,
        batch_size=arguments.batch_size,
        num_steps=arguments.steps,
        evaluate=lambda params: {"accuracy": tasks[0].accuracy(params)},
        segment=arguments.segment,
        chunk=arguments.chunk,
    )
    return [result.history for result in results]


def _report(runs: dict[str, list[federated.History]], arguments: argparse.Namespace) -> None:
    table = federated.compare_runs(runs, target=arguments.target)
    print(_text(table, arguments))
    if arguments.table:
        path = pathlib.Path(arguments.table)
        path.write_text(_written(table, path.suffix, arguments))
        print(f"table: {path}")
    if arguments.histories:
        folder = pathlib.Path(arguments.histories)
        folder.mkdir(parents=True, exist_ok=True)
        for name, histories in runs.items():
            for seed, history in enumerate(histories):
                history.to_json(folder / f"{name}-{seed}.jsonl")
        print(f"histories: {folder}")
    if arguments.plot:
        _plot(runs, pathlib.Path(arguments.plot))
        print(f"figure: {arguments.plot}")


def _cells(table: list[dict[str, Any]], arguments: argparse.Namespace) -> list[list[str]]:
    """Heads and rows as text."""
    heads = ["method", f"accuracy, {arguments.seeds} seeds"]
    heads += [] if arguments.target is None else [f"rounds to {arguments.target:g}"]
    rows = [[*heads, "MB up", "MB down", "seconds"]]
    for row in table:
        cells = [row["method"], f"{row['accuracy']:.3f} +- {row['accuracy_std']:.3f}"]
        if arguments.target is not None:
            reached = row["rounds_to_target"]
            cells.append("-" if reached is None else str(reached))
        sizes = [f"{row[f'megabytes_{way}']:.1f}" for way in ("up", "down")]
        rows.append([*cells, *sizes, f"{row['seconds']:.1f}"])
    return rows


def _text(table, arguments) -> str:
    rows = _cells(table, arguments)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *aligned]))
    return "\n".join(lines)


def _written(table, suffix: str, arguments) -> str:
    if suffix == ".csv":
        lines = [",".join(table[0]), *(",".join(map(str, row.values())) for row in table)]
    elif suffix == ".md":
        heads, *rows = _cells(table, arguments)
        lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    else:
        lines = [json.dumps(row) for row in table]
    return "".join(f"{line}\n" for line in lines)


def _plot(runs: dict[str, list[federated.History]], path: pathlib.Path) -> None:
    figures = _optional.load("matplotlib.figure", "plot", "--plot")
    figure = figures.Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for ax, against in ((left, "round"), (right, "bytes_up")):
        federated.plot_runs(runs, "accuracy", against, ax=ax)
    right.set_ylabel("")
    left.get_legend().remove()
    # The climb of the first rounds would leave little room for the differences.
    curves = [federated.mean_curve(histories).mean for histories in runs.values()]
    lowest = min(curve[len(curve) // 4 :].min() for curve in curves)
    left.set_ylim(bottom=lowest - 0.03)
    figure.savefig(path, dpi=110)
