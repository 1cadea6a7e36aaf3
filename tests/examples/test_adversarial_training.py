"""The example on adversarial training: the opponent is held back, the network learns."""

import jax.numpy as jnp
import pytest

from examples import adversarial_training as example
from gradax import optimizers


def test_masha_plays(capsys):
    outcome = example.main(["--rounds", "80", "--methods", "MASHA"])["MASHA"]
    assert outcome.clean > 0.8
    assert 0.1 < outcome.attacked < outcome.clean
    # Messages of 9 bits a number, and a tenth of them in full.
    full = 80 * 8 * 4 * (64 * 32 + 32 + 32 * 10 + 10 + 640) / 1e6
    assert outcome.megabytes == pytest.approx((9 / 32 + 0.1) * full, rel=0.2)
    assert capsys.readouterr().out.count("\n") == 2


def test_the_opponent_stays_within_reach():
    z = optimizers.MinMax(jnp.ones(2), jnp.array([-1.0, 0.01, 1.0]))
    kept = example.within_reach(z)
    assert kept.min is z.min
    limit = example.RADIUS / example.REACH
    assert kept.max.tolist() == pytest.approx([-limit, 0.01, limit])


def test_every_way_to_play_can_be_built():
    assert tuple(example.methods(0.1)) == example.METHODS
