"""The example on benign oscillation: a weak feature is learned beyond the limit of stability."""

import pytest

from examples import benign_oscillation as example


@pytest.fixture(scope="module")
def runs():
    return {rate: example.train(rate) for rate in (0.3, 0.52, 0.7)}


def test_a_large_rate_learns_the_weak_feature(runs):
    assert runs[0.3].weak[-1] == pytest.approx(0.00050, abs=1e-5)
    assert runs[0.52].weak[-1] == pytest.approx(0.035, abs=1e-3)
    assert runs[0.7].weak[-1] == pytest.approx(0.30, abs=1e-2)
    assert runs[0.7].weak[-1] > 100 * runs[0.3].weak[-1]


def test_it_oscillates_only_beyond_the_limit(runs):
    assert runs[0.3].spread < 1e-6
    assert runs[0.52].spread > 0.05
    assert runs[0.3].sharpness == pytest.approx(4.0, rel=1e-2)
    assert runs[0.7].sharpness < 2 / 0.7  # it has found a flatter place


def test_the_cap_takes_it_away():
    capped = example.train(0.7, capped=True)
    assert capped.spread < 1e-6
    assert capped.weak[-1] < 1e-3


def test_prints_and_draws(tmp_path, capsys):
    path = tmp_path / "figure.png"
    runs = example.main(["--steps", "20", "--plot", str(path)])
    assert len(runs) == len(example.RATES) + 1
    assert "0.7, capped" in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")
