"""The modules of the benchmarks, which are scripts and import each other by their bare names."""

import argparse
import contextlib
import importlib
import pathlib
import sys
from collections.abc import Iterator

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@contextlib.contextmanager
def imported(*names: str) -> Iterator[argparse.Namespace]:
    """Imports modules; their folder is on the path only meanwhile."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield argparse.Namespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in names:
            del sys.modules[name]
