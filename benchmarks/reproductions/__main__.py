"""Runs all reproductions one after the other, or those that are named."""

import argparse
import importlib
import time

from ._record import ORDER


def main() -> None:
    """Runs, prints and saves; the docs page is renewed after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproductions", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(ORDER))
    names = parser.parse_args().names or ORDER
    if unknown := [name for name in names if name not in ORDER]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(ORDER)}")
    for name in names:
        began = time.perf_counter()
        importlib.import_module(f".{name}", __package__).run().save()
        print(f"{name}: {time.perf_counter() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
