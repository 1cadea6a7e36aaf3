"""Refuses notebooks that were committed with outputs; ``--fix`` strips them.

python .ci/notebooks.py [--fix] [NOTEBOOK ...]   (all of docs/notebooks by default)
"""

import argparse
import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "notebooks"


def stripped(notebook: dict) -> dict:
    """Returns the notebook without outputs, execution counts and traces of who ran it."""
    cells = []
    for cell in notebook["cells"]:
        cell = {**cell, "metadata": {k: v for k, v in cell["metadata"].items() if k == "tags"}}
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {**notebook, "cells": cells, "metadata": metadata}


def text_of(notebook: dict) -> str:
    """Writes a notebook as Jupyter does."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Checks or strips the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fix", action="store_true", help="strip instead of refusing")
    parser.add_argument("notebooks", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    refused = []
    for path in arguments.notebooks or sorted(FOLDER.glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        clean = stripped(notebook)
        if clean == notebook:
            continue
        refused.append(path)
        if arguments.fix:
            path.write_text(text_of(clean))
    if refused:
        names = ", ".join(path.name for path in refused)
        advice = "stripped" if arguments.fix else "run: python .ci/notebooks.py --fix"
        sys.exit(f"notebooks with outputs: {names} ({advice})")


if __name__ == "__main__":
    main()
