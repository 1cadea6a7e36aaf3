"""``gradax refine``: from the gradient norms of a run to the schedule of the next."""

import argparse
import json
import pathlib
from typing import Any

from gradax import schedules


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``gradax refine``.

    Args:
      parser: where to add them.
    """
    parser.add_argument(
        "run",
        type=pathlib.Path,
        help="JSON file with the gradient norms, one per update: a list, or an object with a list "
        "grad_norms",
    )
    parser.add_argument(
        "--norm",
        choices=("l2", "l1", "precond"),
        default="l2",
        help="what was recorded: l2 for SGD (the default), l1 for the likes of Adam",
    )
    parser.add_argument(
        "--smoothing",
        type=float,
        default=0.1,
        help="width of the running median, as a fraction of the run [0.1]",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="where to write the table, for schedules.load_schedule_table [RUN.schedule.json]",
    )


def run(arguments: argparse.Namespace) -> None:
    """Refines, writes the table and prints what it looks like.

    Args:
      arguments: parsed arguments.

    Raises:
      ValueError: if the file holds no gradient norms, or the norms cannot be used.
    """
    norms = _read(arguments.run)
    table = schedules.refine_schedule(norms, norm=arguments.norm, smoothing=arguments.smoothing)
    out = arguments.out or arguments.run.with_suffix(".schedule.json")
    schedules.save_schedule_table(out, table)
    peak = int(table.argmax())
    print(f"{out}: {len(table)} steps, from {table[0]:.3f} of the peak")
    print(f"peak at step {peak} ({peak / len(table):.0%} of the run)")
    print("use it: schedules.refined_schedule(peak_value, schedules.load_schedule_table(path))")


def _read(path: pathlib.Path) -> Any:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"refine: {path} is not a JSON file.") from error
    norms = content.get("grad_norms") if isinstance(content, dict) else content
    numbers = isinstance(norms, list) and all(isinstance(x, int | float) for x in norms)
    if not numbers:
        raise ValueError(f"refine: {path} must hold a list of numbers, or one named grad_norms.")
    return norms
