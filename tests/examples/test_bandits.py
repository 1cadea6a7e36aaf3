"""The examples with bandits, at tiny sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import restart_bandit, sor_bandit


def textbook(matrix, target, omega):
    """Successive over-relaxation, entry by entry; returns the solution and its iterations."""
    x, count = np.zeros_like(target), 0
    while np.linalg.norm(target - matrix @ x) >= 1e-8 * np.linalg.norm(target):
        for i, row in enumerate(matrix):
            x[i] += omega * (target[i] - row @ x) / row[i]
        count += 1
    return x, count


@pytest.mark.parametrize("omega", [1.0, 1.4, 1.8])
def test_sor_is_the_textbook_s(omega):
    with jax.enable_x64(True):
        systems = sor_bandit.make_systems(1, 4)
        matrix = systems.laplacian + systems.offsets[0] * jnp.eye(16)
        x, count = sor_bandit.sor_solve(matrix, systems.targets[0], omega)
        expected, number = textbook(np.asarray(matrix), np.asarray(systems.targets[0]), omega)
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-9)
    assert int(count) == number


def test_sor_bandit_runs_small(tmp_path, capsys):
    figure = tmp_path / "sor.png"
    sizes = ["--systems", "60", "--side", "4", "--omegas", "4", "--features", "3"]
    runs = sor_bandit.main([*sizes, "--plot", str(figure)])
    assert figure.read_bytes().startswith(b"\x89PNG")
    mean = {name: costs.mean() for name, costs in runs.items()}
    assert all(costs.shape == (60,) for costs in runs.values())
    best = mean["best omega for each system"]
    for name in ("Tsallis-INF", "ChebCB"):
        assert best <= mean[name] < mean["any omega, drawn evenly"]
    assert "best fixed omega" in capsys.readouterr().out


def test_restart_bandit_runs_small(capsys):
    sizes = ["--restarts", "60", "--steps", "6", "--rates", "3"]
    fixed, losses, rates = restart_bandit.main(sizes)
    assert fixed.shape == (3, 6)
    assert losses.shape == rates.shape == (60,)
    np.testing.assert_allclose(sorted(set(rates.tolist())), [1e-4, 1e-2, 1.0], rtol=1e-5)
    assert losses[-20:].mean() < fixed.mean()
    assert "bandit, last third" in capsys.readouterr().out
