"""The peers' environments: one virtual environment each, beside the repository's own.

`python benchmarks/environments.py` makes what is missing; it is quick the second time.
"""

import pathlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parent
REQUIREMENTS = FOLDER / "requirements"

#: Each environment's steps: arguments of `pip install`.
STEPS: dict[str, list[list[str]]] = {
    "apricot": [["-r", str(REQUIREMENTS / "apricot.txt")]],
    "byzfl": [
        ["-r", str(REQUIREMENTS / "byzfl.txt")],
        ["--no-deps", "-r", str(REQUIREMENTS / "byzfl-no-deps.txt")],
    ],
    "fedjax": [
        ["-r", str(REQUIREMENTS / "fedjax.txt")],
        # In place, so that what is measured is the working tree.
        ["--no-deps", "-e", str(ROOT)],
    ],
    "flower": [
        ["-r", str(REQUIREMENTS / "flower.txt")],
        ["--no-deps", "-r", str(REQUIREMENTS / "flower-no-deps.txt")],
    ],
    "pfl": [["-r", str(REQUIREMENTS / "pfl.txt")]],
    "torch": [["-r", str(REQUIREMENTS / "torch.txt")]],
}


def folder(name: str) -> pathlib.Path:
    """Where an environment lies."""
    return ROOT / f".venv-bench-{name}"


def python(name: str) -> str:
    """The interpreter of an environment."""
    return str(folder(name) / "bin" / "python")


def make(name: str) -> None:
    """Makes an environment, unless it stands already with these requirements."""
    stamp, wanted = folder(name) / "made-from.txt", _wanted(name)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"making {folder(name).name} ...", flush=True)
    shutil.rmtree(folder(name), ignore_errors=True)
    venv.create(folder(name), with_pip=True)
    for step in STEPS[name]:
        subprocess.run([python(name), "-m", "pip", "install", "-q", *step], check=True)
    stamp.write_text(wanted)


def can_make(name: str) -> bool:
    """Makes an environment; says what went wrong if it cannot."""
    try:
        make(name)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{folder(name).name} could not be made: {error}", flush=True)
        return False
    return True


def versions(name: str, packages: Sequence[str]) -> dict[str, str]:
    """Asks an environment for the versions of some packages."""
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    command = [python(name), "-c", code, *packages]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(zip(packages, answer.split(), strict=True))


def _wanted(name: str) -> str:
    files = sorted(REQUIREMENTS.glob(f"{name}*.txt"))
    return sys.version + "".join(file.read_text() for file in files)


if __name__ == "__main__":
    for each in sys.argv[1:] or STEPS:
        make(each)
