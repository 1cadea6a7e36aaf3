"""The example on private forecasts: the recorded epsilons, and a small run."""

import numpy as np
import pytest

from examples import dp_time_series as example
from gradax import federated


@pytest.mark.parametrize(
    ("batch_size", "noise", "classic", "tight"),
    [
        (5, 35, 0.06507, 0.0509),
        (5, 70, 0.03992, 0.0248),
        (10, 140, 0.03573, 0.0164),
        (5, 500, 0.03171, 0.0083),
    ],
)
def test_the_epsilons_of_the_paper(batch_size, noise, classic, tight):
    spent = batch_size / 3120, noise, 100 * 3120 // batch_size, 1e-7
    assert example.classic_epsilon(*spent) == pytest.approx(classic, abs=5e-5)
    assert federated.dp_epsilon(*spent) == pytest.approx(tight, abs=1e-4)


def test_windows_hold_the_six_half_hours_before():
    counts = example.make_counts()
    assert counts.shape == (3456, 6)
    training, test = example.split(counts, np.ones(6))
    assert (len(training.y), len(test.y)) == (3114, 336)
    np.testing.assert_allclose(training.x[5, :, :6], counts[5:11], rtol=1e-6)
    np.testing.assert_allclose(training.y[5], counts[11], rtol=1e-6)


def test_private_forecasts_beat_persistence(capsys):
    errors = example.main(["--steps", "120"])
    assert errors["not private"] < errors["noise on gradients"] < errors["persistence"]
    assert errors["noise on counts"] < errors["persistence"]
    assert "epsilon" in capsys.readouterr().out
