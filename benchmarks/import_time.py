"""Import time: `import gradax` against `import optax`, in fresh interpreters, in turns."""

import os
import subprocess
import sys
import tempfile

import _measure

LIMIT = 0.2
METHOD = [
    "Each turn starts a fresh interpreter for `import optax` and one for `import gradax`, which "
    "imports optax as well. Seconds of CPU time inside the interpreter, without its start-up; byte "
    "code was compiled beforehand."
]


def seconds_of_import(module: str, byte_code: str) -> float:
    """CPU seconds of an import in a fresh interpreter, which keeps byte code in a folder."""
    clock = "time.process_time()"
    code = f"import time; start = {clock}; import {module}; print({clock} - start)"
    command = [sys.executable, "-c", code]
    kept = {"PYTHONPYCACHEPREFIX": byte_code, "PYTHONDONTWRITEBYTECODE": ""}
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | kept
    )
    return float(ended.stdout)


def main() -> None:
    rounds = _measure.arguments(__doc__, rounds=9).rounds
    seconds: dict[str, list[float]] = {"optax": [], "gradax": []}
    with tempfile.TemporaryDirectory() as folder:
        for module in seconds:  # compiles the byte code, fills the disk cache
            seconds_of_import(module, folder)
        for _ in range(rounds):
            for module, times in seconds.items():
                times.append(seconds_of_import(module, folder))
    more = [ours - theirs for ours, theirs in zip(seconds["gradax"], seconds["optax"], strict=True)]
    report = _measure.Report(
        name="import_time",
        title="Import time",
        method=METHOD,
        command=f"python benchmarks/import_time.py --rounds {rounds}",
        packages=["gradax", "optax", "jax"],
        samples=seconds,
    )
    rows = [[f"`import {module}`", _measure.spread(times)] for module, times in seconds.items()]
    report.table("", ["", "seconds"], [*rows, ["difference", _measure.spread(more)]])
    report.ratio("gradax over optax", _measure.ratios(seconds["gradax"], seconds["optax"]))
    report.goals.append(_measure.Goal.at_most("seconds more than optax", more, LIMIT))
    report.save()


if __name__ == "__main__":
    main()
