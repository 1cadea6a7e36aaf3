"""What faulty participants send by accident: every rule stays within its bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax.federated import rules
from tests.federated.robust.test_rules import PRE, RULES

N, F, D = 11, 2, 4
FAULTS = {"nan": jnp.nan, "inf": jnp.inf, "-inf": -jnp.inf, "3e38": 3e38, "huge": -1e12}
HONEST = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
#: Rules whose coordinates stay within the range of the honest ones.
WITHIN = ("median", "trimmed_mean", "meamed")


def _stacks():
    """All faults, whole rows or one coordinate, of the first or of the first and the fifth."""
    names, stacks = [], []
    for name, value in FAULTS.items():
        for where in (slice(None), 1):
            for faulty in ([0], [0, 5]):
                rows = HONEST.copy()
                rows[faulty, where] = value
                names.append(f"{name} at {where} of {faulty}")
                stacks.append(rows)
    return names, jnp.asarray(np.stack(stacks))


NAMES, STACKS = _stacks()
FAULTY = [0, 5]
SURE = np.delete(HONEST, FAULTY, axis=0)  # honest in every stack


def _check(rows, name):
    centre = SURE.mean(axis=0)
    radius = np.linalg.norm(HONEST - centre, axis=1).max()
    for row, fault in zip(np.asarray(rows), NAMES, strict=True):
        assert np.isfinite(row).all(), fault
        if name in WITHIN:
            assert (row >= HONEST.min(axis=0) - 1e-6).all(), fault
            assert (row <= HONEST.max(axis=0) + 1e-6).all(), fault
        # Nothing that combines honest rows leaves the ball around them; a clipped row moves a
        # centre by tau / n at most in each of three moves.
        assert np.linalg.norm(row - centre) <= radius + 6 * F / N, fault


@pytest.mark.parametrize("name", [name for name in RULES if name != "mean"])
def test_a_rule_bears_faults(name):
    rule = RULES[name]
    idx = {"idx": 1} if name == "nearest_neighbor_average" else {}
    run = jax.jit(jax.vmap(lambda rows: rule(rows, F, **idx)))
    _check(run(STACKS), name)


@pytest.mark.parametrize("name", ["nnm", "arc", "clip_rows", "bucketing"])
def test_a_rule_behind_a_pre_aggregator_bears_faults(name):
    keyed = {"s": 2, "perm": tuple(range(N))}
    mix = (lambda rows, f: rules.bucketing(rows, **keyed)) if name == "bucketing" else PRE[name]
    run = jax.jit(jax.vmap(lambda rows: rules.trimmed_mean(mix(rows, F), F)))
    _check(run(STACKS), name)


def test_the_mean_bears_none():
    assert not np.isfinite(jax.vmap(rules.mean)(STACKS)[0]).all()
