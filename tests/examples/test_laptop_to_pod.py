"""The example of the guide on devices and processes: the same result wherever it runs."""

import jax
import numpy as np

from examples import laptop_to_pod as example


def test_a_cut_model_learns_the_same(capsys):
    whole = example.main(["--rounds", "2"])
    cut = example.main(["--rounds", "2", "--model", "2"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        whole.params,
        cut.params,
    )
    assert "a device holds (64, 64) of (64, 128)" in capsys.readouterr().out
    assert cut.history.last("loss_test") < 2.5
