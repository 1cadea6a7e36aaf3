"""The command line, as a newcomer uses it."""

import pytest

from gradax import catalogue, federated
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


def test_simulate_takes_arguments_of_the_method(capsys):
    arguments = ["simulate", "fedavg", *SMALL, "--quiet", "--set", "weighting=uniform"]
    assert main(arguments) == 0
    assert "fedavg: test accuracy" in capsys.readouterr().out


def test_simulate_bears_attackers(capsys):
    arguments = ["simulate", "monna", *SMALL, "--attackers", "2", "--attack", "gaussian"]
    assert main([*arguments, "--quiet"]) == 0
    assert "monna: test accuracy" in capsys.readouterr().out


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
        (["simulate", "fedavg", "--attackers", "3"], "no --attackers"),
        (["simulate", "monna", "--attack", "alie"], "--attackers must lie in"),
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
