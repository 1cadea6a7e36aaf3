"""The command line, as a newcomer uses it."""

import json

import numpy as np
import pytest

from gradax import catalogue, federated, schedules
from gradax.__main__ import main

SMALL = ["--clients", "8", "--rounds", "4", "--steps", "2", "--segment", "2", "--hidden", "8"]


def test_list_names_every_method_once(capsys):
    assert main(["list"]) == 0
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[0] == " "]
    assert printed == [entry.name for entry in catalogue.entries()]


def test_list_can_be_narrowed(capsys):
    assert main(["list", "--package", "schedules", "--kind", "schedule"]) == 0
    out = capsys.readouterr().out
    assert "linear_decay_schedule" in out
    assert "fedavg" not in out


def test_show_gives_signature_paper_and_docstring(capsys):
    assert main(["show", "fedspeed"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("gradax.federated.fedspeed(learning_rate=None, rho=0.1")
    assert "arXiv 2302.10429" in out
    assert "server_rule" in out


@pytest.mark.parametrize("method", ["fedavg", "fedspeed", "decentralized_sgd"])
def test_simulate_reports_and_draws(method, tmp_path, capsys):
    plot, history = tmp_path / "out.png", tmp_path / "run.jsonl"
    arguments = ["simulate", method, *SMALL, "--alpha", "0.5", "--quiet"]
    assert main([*arguments, "--plot", str(plot), "--history", str(history)]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert len(federated.History.from_json(history)) == 4


@pytest.mark.parametrize("graph", ["torus", "erdos_renyi", "one_peer_exponential"])
def test_simulate_knows_graphs(graph, capsys):
    arguments = ["simulate", "decentralized_sgd", *SMALL, "--quiet", "--graph", graph]
    assert main(arguments) == 0
    assert "decentralized_sgd: test accuracy" in capsys.readouterr().out


def test_simulate_derives_the_constants_of_dadao(tmp_path, capsys):
    history = tmp_path / "run.jsonl"
    arguments = ["simulate", "dadao", "--nodes", "6", "--graph", "grid", "--rounds", "4"]
    arguments += ["--segment", "2", "--set", "strong_convexity=0.1", "--quiet"]
    assert main([*arguments, "--history", str(history)]) == 0
    out = capsys.readouterr().out
    assert "strong convexity 0.1 (penalty), smoothness 5.955" in out
    assert "6 gradients per unit of time" in out
    assert "dadao: test accuracy" in out
    rows = federated.History.from_json(history)
    assert 10 < rows.total("num_active") / 4 < 24  # 6 gradients and twice about 7 exchanges
    assert len(rows.column("accuracy")) >= 2


def test_simulate_takes_arguments_of_the_method(capsys):
    arguments = ["simulate", "fedavg", *SMALL, "--quiet", "--set", "weighting=uniform"]
    assert main(arguments) == 0
    assert "fedavg: test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "attack", "options"),
    [
        ("monna", "alie_search", []),
        ("monna", "label_flip", []),
        ("fedavg", "learned_mimic", ["--aggregate", "bucketing+nnm+trimmed_mean"]),
        ("fedavg", "foe_search", ["--aggregate", "bucketing+median", "--compress", "topk:0.01"]),
    ],
)
def test_simulate_bears_attackers(method, attack, options, tmp_path, capsys):
    history = tmp_path / "run.jsonl"
    arguments = ["simulate", method, *SMALL, "--attackers", "1", "--attack", attack, *options]
    assert main([*arguments, "--quiet", "--history", str(history)]) == 0
    assert f"{method}: test accuracy" in capsys.readouterr().out
    run = federated.History.from_json(history)
    assert run.column("num_active") == [8.0] * 4
    if "--compress" in options:
        assert run.last("bytes_up") < 0.05 * run.last("bytes_down")


def test_a_rule_bears_what_breaks_the_mean(tmp_path):
    accuracy, history = {}, tmp_path / "run.jsonl"
    for aggregate in ("mean", "median"):
        arguments = ["simulate", "fedavg", *SMALL, "--steps", "20", "--learning-rate", "0.3"]
        arguments += ["--attackers", "3", "--attack", "foe", "--aggregate", aggregate, "--quiet"]
        assert main([*arguments, "--history", str(history)]) == 0
        accuracy[aggregate] = federated.History.from_json(history).last("accuracy")
    assert accuracy["median"] > accuracy["mean"] + 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "fedspeedy"], "did you mean 'fedspeed'"),
        (["list", "--kind", "nonsense"], "no method of kind 'nonsense'"),
        (["simulate", "diffgrad"], "of gradax.optimizers"),
        (["simulate", "fedavg", "--learning-rate", "-1"], "learning_rate must lie in"),
        (["simulate", "fedavg", "--cohort", "20", "--clients", "10"], "number of clients, 10"),
        (["simulate", "fedavg", "--set", "foo=1"], "fedavg takes no foo"),
        (["simulate", "fedavg", "--set", "foo"], "NAME=VALUE"),
        (["simulate", "decentralized_sgd", "--attackers", "3"], "no --attackers"),
        (["simulate", "fedavg", "--attackers", "100"], "--attackers must lie in [1, 100), got 100"),
        (["simulate", "fedavg", "--attackers", "3", "--cohort", "9"], "leave out --cohort"),
        (["simulate", "fedavg", "--aggregate", "krum+nnm"], "--aggregate takes one of mean,"),
        (["simulate", "fedavg", "--compress", "topk"], "compress: expected one of topk:FRACTION"),
        (
            ["simulate", "monna", "--compress", "sign"],
            "monna has no server and takes no --compress",
        ),
        (["simulate", "scaffold", "--compress", "sign", "--quiet"], "messages with parts"),
        (["simulate", "dadao", "--aggregate", "krum"], "dadao has no server"),
        (["simulate", "monna", "--attack", "alie"], "--attackers must lie in"),
        (["simulate", "dadao", "--hidden", "8"], "leave out --hidden"),
        (["simulate", "dadao", "--graph", "exponential"], "no edges in both directions"),
        (["simulate", "dadao", "--nodes", "1"], "two nodes or more"),
        (["simulate", "dadao", "--set", "chi1=2"], "only strong_convexity can be set, got chi1"),
        (["simulate", "dadao", "--attackers", "2"], "dadao has no --attackers"),
        (["simulate", "dadao", "--rounds", "0"], "rounds must be an integer >= 1"),
        (["simulate", "fedavg", "--rounds", "0"], "rounds must be an integer >= 1"),
        (["simulate", "fedavg", "--data", "nowhere", "--quiet"], "nowhere"),
    ],
)
def test_errors_are_one_line_and_exit_with_two(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("gradax: error: ")
    assert message in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("named", [True, False])
def test_refine_writes_the_table_that_the_library_computes(named, tmp_path, capsys):
    norms, run = [2.0, 1.0, 1.0, 2.0], tmp_path / "run.json"
    run.write_text(json.dumps({"grad_norms": norms} if named else norms))
    out = tmp_path / "table.json" if named else tmp_path / "run.schedule.json"
    options = ["--out", str(out)] if named else []
    assert main(["refine", str(run), "--smoothing", "0", *options]) == 0
    assert "4 steps, from 0.450 of the peak" in capsys.readouterr().out
    expected = schedules.refine_schedule(norms, smoothing=0.0)
    np.testing.assert_array_equal(schedules.load_schedule_table(out), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "is not a JSON file"),
        ('{"norms": [1, 2]}', "must hold a list of numbers, or one named grad_norms"),
        ("[1, 0]", "gradient norms must be positive and finite; got 0.0 at step 1"),
    ],
)
def test_refine_says_what_is_wrong_with_a_file(content, message, tmp_path, capsys):
    run = tmp_path / "run.json"
    run.write_text(content)
    assert main(["refine", str(run)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [run]
