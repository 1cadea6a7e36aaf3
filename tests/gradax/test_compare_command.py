"""``gradax compare`` on a few rounds of small data."""

import argparse
import csv
import json

import numpy as np
import pytest

from gradax import _compare_command, federated
from gradax.__main__ import main

SMALL = ["--clients", "6", "--cohort", "2", "--rounds", "2", "--steps", "1", "--segment", "1"]
SMALL += ["--hidden", "--seeds", "2", "--alpha", "0.5"]


def test_compares_two_methods_and_writes_everything(tmp_path, capsys):
    names = {kind: tmp_path / f"out.{kind}" for kind in ("png", "csv")}
    arguments = ["compare", "fedavg", "fedamd", *SMALL, "--decay", "0.9", "--target", "0.01"]
    arguments += ["--set", "fedavg.weighting=uniform", "--plot", str(names["png"])]
    arguments += ["--table", str(names["csv"]), "--histories", str(tmp_path / "runs")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "accuracy, 2 seeds" in out
    assert "rounds to 0.01" in out
    assert names["png"].read_bytes().startswith(b"\x89PNG")
    with open(names["csv"], newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["method"] for row in table} == {"fedavg", "fedamd"}
    files = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert files == ["fedamd-0.jsonl", "fedamd-1.jsonl", "fedavg-0.jsonl", "fedavg-1.jsonl"]
    first = federated.History.from_json(tmp_path / "runs" / "fedamd-0.jsonl")
    assert first.column("num_active") == [6, 2]  # everybody is an anchor first
    runs = [federated.History.from_json(tmp_path / "runs" / name) for name in files[2:]]
    mean = np.mean([run.last("accuracy") for run in runs])
    shown = next(float(row["accuracy"]) for row in table if row["method"] == "fedavg")
    assert shown == pytest.approx(mean)
    assert runs[0].column("loss") != runs[1].column("loss")


def test_tables_have_other_forms():
    row = {"method": "fedavg", "runs": 3, "accuracy": 0.5, "accuracy_std": 0.25}
    row |= {"megabytes_up": 1.0, "megabytes_down": 2.0, "seconds": 3.0, "rounds_to_target": None}
    options = argparse.Namespace(seeds=3, target=0.9)
    heads, line, cells = _compare_command._written([row], ".md", options).splitlines()
    assert heads == "| method | accuracy, 3 seeds | rounds to 0.9 | MB up | MB down | seconds |"
    assert line == "| --- | --- | --- | --- | --- | --- |"
    assert cells == "| fedavg | 0.500 +- 0.250 | - | 1.0 | 2.0 | 3.0 |"
    assert json.loads(_compare_command._written([row], ".jsonl", options)) == row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["monna"], "'monna' is no federated algorithm with a learning rate"),
        (["rerce_fed"], "'rerce_fed' is no federated algorithm with a learning rate"),
        (["fedavg", "fedavg"], "a method occurs twice"),
        (["fedavg", "--set", "rho=1"], "--set takes METHOD.NAME=VALUE"),
        (["fedavg", "--set", "fedprox.rho=1"], "--set takes METHOD.NAME=VALUE"),
        (["fedavg", "--set", "fedavg.rho=1"], "fedavg takes no rho"),
        (["fedavgg"], "did you mean"),
        (["fedavg", "--seeds", "0", "--quiet"], "--seeds must be an integer >= 1"),
    ],
)
def test_errors_are_one_line_and_exit_with_two(arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("gradax: error: ")
    assert message in printed.err
