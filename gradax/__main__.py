"""The command line: ``gradax list``, ``show``, ``simulate``, ``compare``, ``refine``, ``bench``."""

import argparse
import inspect
import re
import sys
from collections.abc import Sequence

from gradax import _bench_command, _compare_command, _refine_command, _simulate_command, catalogue
from gradax._compilation_cache import use_compilation_cache


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: arguments without the program's name; those of the process by default.

    Returns:
      Exit code: 0, or 2 after an error, which is printed to the standard error; that of the
      benchmarks, 1 if something became slower, after ``bench``.

    Examples:
      >>> main(["list", "--package", "optimizers", "--kind", "producer"])  # doctest: +ELLIPSIS
      optimizers/estimators
        sam_gradient                           Replaces the gradient by ...
      0
    """
    arguments = _parser().parse_args(argv)
    try:
        use_compilation_cache()
        return arguments.command(arguments) or 0
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"gradax: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradax",
        description="Optimization methods from the literature as optax transformations.",
        epilog="Start with: gradax list; gradax show fedspeed; "
        "gradax simulate fedspeed --clients 100 --alpha 0.3 --rounds 50 --plot out.png",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list the methods of the catalogue")
    listing.add_argument("--package", choices=("optimizers", "schedules", "federated"))
    listing.add_argument("--kind", help="such as alias, algorithm or schedule")
    listing.set_defaults(command=_list)

    show = commands.add_parser("show", help="explain one method and its arguments")
    show.add_argument("method", help="name in the catalogue")
    show.set_defaults(command=_show)

    simulate = commands.add_parser(
        "simulate",
        help="train on many clients or nodes, on packaged data",
        description="Simulates a federated or decentralized method on packaged data.",
        epilog="Examples: 'gradax simulate fedspeed --clients 100 --alpha 0.3 --plot out.png'; "
        "'gradax simulate monna --nodes 20 --attackers 4 --attack alie --rounds 200'.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _simulate_command.add_arguments(simulate)
    simulate.set_defaults(command=_simulate_command.run)

    compare = commands.add_parser(
        "compare",
        help="compare federated algorithms over several seeds",
        description="Runs federated algorithms on the same data from several seeds, and reports "
        "mean and spread.",
        epilog="Example: gradax compare fedavg fedspeed scaffold --alpha 0.1 --seeds 3 "
        "--plot out.png",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _compare_command.add_arguments(compare)
    compare.set_defaults(command=_compare_command.run)

    refine = commands.add_parser(
        "refine",
        help="make a learning-rate schedule from the gradient norms of a run",
        description="Computes the refined schedule of recorded gradient norms. Record them with "
        "schedules.record_gradient_norms(num_steps), first in the chain, and save them as JSON.",
        epilog="Example: gradax refine run.json --norm l1 --out table.json",
    )
    _refine_command.add_arguments(refine)
    refine.set_defaults(command=_refine_command.run)

    bench = commands.add_parser(
        "bench",
        help="run the benchmarks of a checkout, or compare two runs of them",
        prefix_chars="\0",
        add_help=False,
    )
    _bench_command.add_arguments(bench)
    bench.set_defaults(command=_bench_command.run)
    return parser


def _list(arguments: argparse.Namespace) -> None:
    kinds = None if arguments.kind is None else frozenset({arguments.kind})
    entries = catalogue.entries(arguments.package, kinds)
    if not entries:
        raise ValueError(f"list: no method of kind {arguments.kind!r} there.")
    room = None
    for entry in entries:
        if (entry.package, entry.room) != room:
            room = entry.package, entry.room
            print("/".join(room))
        print(f"  {entry.name:<39}{_plain(entry.summary)}")


def _plain(text: str) -> str:
    """Takes the markup out of a line of a docstring."""
    return re.sub(r":\w+:`([^`]*)`", r"\1", text).replace("``", "")


def _show(arguments: argparse.Namespace) -> None:
    entry = catalogue.get(arguments.method)
    print(f"{entry.public_name}{_signature(entry)}\n")
    facts = {
        "kind": entry.kind,
        "room": f"{entry.package}/{entry.room}",
        "needs": ", ".join(entry.needs) or "gradients only",
        "paper": str(entry.paper),
        "read": entry.paper.link,
        "from": entry.reexport_of,
    }
    for name, fact in facts.items():
        if fact:
            print(f"  {name + ':':<8}{fact}")
    print(f"\n{inspect.getdoc(entry.factory)}")


def _signature(entry: catalogue.Entry) -> str:
    signature = inspect.signature(entry.factory)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


if __name__ == "__main__":
    sys.exit(main())
