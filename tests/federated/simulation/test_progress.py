"""The progress bar of a run."""

from gradax import federated
from gradax.federated.simulation._progress import progress_bar
from tests.federated.simulation.problems import simulate


def test_draws_nothing_unless_asked(capsys):
    with progress_bar(False, "rounds", 0, 3) as report:
        report(1, "loss 1")
    assert capsys.readouterr().out == ""


def test_a_run_says_how_far_it_is_and_how_well_it_does(capsys):
    simulate(federated.fedavg(0.1), rounds=2, segment=1, progress=True, title="training")
    shown = capsys.readouterr().out
    assert "training" in shown
    assert "2/2" in shown
    assert "loss" in shown
