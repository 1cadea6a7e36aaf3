"""Several seeds in one program give what each gives alone."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated
from gradax.federated.simulation import _seeds
from tests.federated.simulation.problems import (
    EXAMPLES,
    PADDED,
    PARAMS,
    PARTS,
    assert_close,
    loss_fn,
    simulate,
)

SCAFFOLD = federated.scaffold(0.1)
SETTING = {"batch_size": 2, "num_steps": 2, "segment": 2}


def evaluate(params):
    return {"norm": jnp.abs(params["b"])}


def play(algorithm, data=PADDED, rounds=4, **options):
    arguments = {"params": PARAMS, "cohort": 3, **SETTING, **options}
    return federated.simulate_seeds(
        algorithm, loss_fn, data=data, rounds=rounds, evaluate=evaluate, **arguments
    )


def split(seed):
    """Another layout for each seed, with rows of another length."""
    sizes = (3, 3, 3, 3, 3, 3, 3, 3) if seed else (4, 2, 3, 4, 1, 4, 2, 4)
    parts = np.split(np.arange(24), np.cumsum(sizes)[:-1])
    return federated.data.padded(EXAMPLES, parts)


@functools.cache
def alone(seed):
    return simulate(SCAFFOLD, cohort=3, segment=2, key=seed, evaluate=evaluate)


@pytest.mark.parametrize("side_by_side", [None, 1])
def test_every_seed_gives_what_it_gives_alone(side_by_side):
    results = play(SCAFFOLD, seeds=(5, 2), side_by_side=side_by_side)
    for seed, result in zip((5, 2), results, strict=True):
        assert_close(result.params, alone(seed).params)
        assert_close(result.state.clients, alone(seed).state.clients)
        ours, theirs = result.history, alone(seed).history
        assert ours.columns == theirs.columns
        for name in ("round", "num_active", "bytes_up", "bytes_down"):
            assert ours.column(name) == theirs.column(name)
        np.testing.assert_allclose(ours.column("loss"), theirs.column("loss"), rtol=1e-5)
        np.testing.assert_allclose(ours.column("norm"), theirs.column("norm"), rtol=1e-5)


def test_seeds_that_do_not_fit_go_in_groups(monkeypatch):
    sizes, played = [], _seeds._Group.play

    def play_group(self, params, keys, *arguments):
        sizes.append(len(keys))
        return played(self, params, keys, *arguments)

    monkeypatch.setattr(_seeds._Group, "play", play_group)
    monkeypatch.setattr(_seeds, "_ROOM", 100)  # bytes; a run's parameters take 16
    results = play(federated.fedavg(0.1), rounds=2, seeds=7)
    assert sizes == [6, 1]
    assert len({float(result.params["b"]) for result in results}) == 7


def test_seeds_may_differ_in_start_and_split():
    start = lambda seed: {"w": np.float32([seed, 1.0, 0.0]), "b": np.float32(seed)}
    # One batch of everything: the drawn order of a client's examples does not matter.
    options = {"batch_size": None, "cohort": None}
    results = play(federated.fedavg(0.1), split, params=start, seeds=(1, 0), **options)
    for seed, result in zip((1, 0), results, strict=True):
        alone = simulate(
            federated.fedavg(0.1), split(seed), params=start(seed), segment=2, key=seed, **options
        )
        assert_close(result.params, alone.params)


def test_everybody_may_take_part_in_the_first_round():
    algorithm, rounds = federated.fedavg(0.1), {"rounds": 3, "segment": 2}
    (result,) = play(algorithm, seeds=1, everybody_first=True, **rounds)
    assert result.history.column("num_active") == [8, 3, 3]
    first = simulate(algorithm, rounds=1)
    after = simulate(algorithm, cohort=3, state=first.state, **rounds)
    assert_close(result.params, after.params)


def test_bad_input_is_refused():
    fedavg = federated.fedavg(0.1)
    for options, message in (
        ({"seeds": 0}, "seeds must be an integer >= 1"),
        ({"seeds": ()}, "seeds must hold at least one seed"),
        ({"side_by_side": 0}, "side_by_side must be an integer >= 1"),
        ({"rounds": 0}, "rounds must be an integer >= 1"),
        ({"cohort": federated.uniform_cohort(5, 2)}, "draws from 5 clients, the data have 8"),
        (
            {"data": lambda seed: federated.data.padded(EXAMPLES, PARTS[: 8 - seed])},
            "must have the same layout",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            play(fedavg, **options)
    with pytest.raises(TypeError, match="data must be ClientData"):
        play(fedavg, EXAMPLES)
