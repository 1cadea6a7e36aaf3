"""The command ``gradax bench``: the benchmarks of a checkout."""

import argparse
import pathlib
import subprocess
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments, which are handed on: the checkout's script knows their meaning.

    Args:
      parser: the parser of the command, made with ``prefix_chars`` that nobody types and without
        help of its own, so that it takes everything as it stands.
    """
    parser.add_argument("arguments", nargs="*", help="as for benchmarks/run.py")


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmarks.

    Args:
      arguments: what :func:`add_arguments` declares.

    Returns:
      Exit code of the script: 0, 1 after a failure or if something became slower, or 2.

    Raises:
      ValueError: without a checkout.
    """
    command = [sys.executable, str(find_script()), *arguments.arguments]
    return subprocess.run(command, check=False).returncode


def find_script() -> pathlib.Path:
    """Looks for the benchmarks: above the working directory first, then beside the source tree.

    Returns:
      Path of ``benchmarks/run.py``.

    Raises:
      ValueError: if there is no checkout in either place.
    """
    here = pathlib.Path.cwd()
    for folder in (here, *here.parents, pathlib.Path(__file__).resolve().parents[1]):
        if _is_checkout(folder):
            return folder / "benchmarks" / "run.py"
    raise ValueError(
        f"bench: benchmarks are not installed with the package: run it in a checkout of gradax, "
        f"got {here}."
    )


def _is_checkout(folder: pathlib.Path) -> bool:
    """Not just any project that has benchmarks."""
    project = folder / "pyproject.toml"
    return (
        (folder / "benchmarks" / "run.py").is_file()
        and project.is_file()
        and 'name = "gradax"' in project.read_text(encoding="utf-8").splitlines()
    )
