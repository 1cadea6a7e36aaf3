"""What four devices exchange in a round, read off the compiled programs."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from benchmarks import _hlo, _rounds

PROBLEM = _rounds.Problem.of((16, 8, 4))
MODEL = sum(leaf.nbytes for leaf in jax.tree.leaves(PROBLEM.params))
LEAVES = len(PROBLEM.params)
#: Less than the smallest leaf: weights, counts, losses.
LITTLE = 31


# Name -> collectives of a round of one's own. A leaf is gathered at once; sums and counts are
# reduced, at most one after the other where one depends on the other.
OWN_LOOP = {
    "FedAvg": {"all-reduce": 1},
    "FedSpeed": {"all-reduce": 2},
    "SCAFFOLD": {"all-reduce": 2},
    "EControl": {"all-reduce": 2},
    "trimmed mean": {"all-gather": LEAVES + 1},
    "MoNNA": {"all-gather": LEAVES + 1},
    "gossip, ring": {"all-gather": LEAVES + 2},
}


@functools.cache
def simulated(name, **chunked):
    algorithm, options = _rounds.ALGORITHMS[name]("clients"), _rounds.OPTIONS.get(name, {})
    traced = _rounds.simulated(algorithm, PROBLEM, mesh=_rounds.mesh(), **options, **chunked)
    return traced.lower().compile().as_text()


@functools.cache
def in_a_loop(name):
    traced = _rounds.in_a_loop(_rounds.ALGORITHMS[name]("devices"), PROBLEM)
    return traced.lower().compile().as_text()


def large(hlo, in_loops=False):
    """Collectives that move more than a few numbers."""
    return [one for one in _hlo.exchanged(hlo, in_loops=in_loops) if one.nbytes > LITTLE]


@pytest.mark.parametrize(
    ("name", "models"), [("FedAvg", 1), ("FedSpeed", 1), ("SCAFFOLD", 2), ("EControl", 1)]
)
def test_sharded_round_reduces_its_sums_once_and_gathers_only_what_it_records(name, models):
    counts = _hlo.collectives(simulated(name))
    assert set(counts) <= {"all-reduce", "all-gather"}
    sums = [one for one in large(simulated(name)) if one.opcode == "all-reduce"]
    assert len(sums) == 1
    assert models * MODEL <= sums[0].nbytes <= models * MODEL + LITTLE
    # What was seen of each lane, for the history.
    gathered = [one for one in large(simulated(name)) if one.opcode == "all-gather"]
    assert all(one.nbytes == 4 * _rounds.CLIENTS for one in gathered)
    assert counts["all-gather"] <= 2


def test_chunks_of_a_sharded_round_are_added_once():
    """Each device carries the sum of its own lanes; chunks exchange examples only."""
    text = simulated("FedAvg", chunk=_rounds.DEVICES)
    models = lambda found: [one for one in found if MODEL <= one.nbytes <= MODEL + LITTLE]
    assert len(models(large(text))) == 1
    assert not models(large(text, in_loops=True))


def test_sharded_rule_gathers_every_message_once():
    counts = _hlo.collectives(simulated("trimmed mean"))
    assert set(counts) <= {"all-reduce", "all-gather"}
    assert len([one for one in large(simulated("trimmed mean")) if one.nbytes > 64]) == LEAVES
    everybody = _rounds.CLIENTS * MODEL
    assert everybody <= _hlo.collective_bytes(simulated("trimmed mean")) <= everybody + 4 * LITTLE


@pytest.mark.parametrize(("name", "gathers"), [("gossip, ring", LEAVES), ("MoNNA", None)])
def test_sharded_peers_gather_models(name, gathers):
    counts = _hlo.collectives(simulated(name))
    assert set(counts) <= {"all-reduce", "all-gather"}
    if gathers is not None:
        everybody = _rounds.CLIENTS * MODEL
        assert everybody <= _hlo.collective_bytes(simulated(name)) <= everybody + 4 * LITTLE
        assert len([one for one in large(simulated(name)) if one.nbytes > 64]) == gathers


@pytest.mark.parametrize("name", OWN_LOOP)
def test_local_steps_of_a_sharded_round_move_nothing(name):
    # EControl looks for its largest entries in a loop, whose end all devices agree on.
    assert not large(simulated(name), in_loops=True)
    expected = {"all-reduce": 2} if name == "EControl" else {}
    assert _hlo.collectives(simulated(name), in_loops=True) == expected


@pytest.mark.parametrize("name", OWN_LOOP)
def test_collectives_of_a_round_under_shard_map(name):
    assert _hlo.collectives(in_a_loop(name)) == OWN_LOOP[name]
    assert not _hlo.collectives(in_a_loop(name), in_loops=True)


def test_a_collective_inside_a_loop_is_found():
    def block(x):
        total = jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.psum(x, "devices") / 4, x)
        return jax.lax.all_gather(total, "devices")

    spec = PartitionSpec("devices")
    sharded = jax.shard_map(
        block, mesh=_rounds.mesh(), in_specs=spec, out_specs=spec, check_vma=False
    )
    text = jax.jit(sharded).lower(jnp.ones(8)).compile().as_text()
    assert _hlo.collectives(text) == {"all-gather": 1, "all-reduce": 1}
    assert _hlo.collectives(text, in_loops=True) == {"all-reduce": 1}
    assert _hlo.collective_bytes(text) == 4 * 8 + 4 * 2


@pytest.mark.parametrize("name", ["FedAvg", "MoNNA"])
def test_compiled_rounds_call_no_python(name):
    assert _hlo.host_calls(simulated(name)) == []
