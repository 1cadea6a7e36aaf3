"""One run, one result: side by side, in chunks, over meshes, and in loops on 4 and 8 devices.

The reference is a simulation of all participants side by side on one device. Other placements
add in another order, so they agree to rounding; random draws are the same bits everywhere.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated, optimizers
from gradax.federated import topology
from gradax.testing._state import _no_shared_buffers
from tests.federated import placements
from tests.federated.simulation.problems import assert_close, assert_same_bits

SIZE, EXAMPLES, STEPS, ROUNDS = 16, 3, 2, 3
#: Strong convexity and smoothness of the losses, as DADAO is told.
MU, L = 1.0, 8.0
_RNG = np.random.default_rng(0)


def _normal(*shape):
    return jnp.asarray(_RNG.normal(size=shape), jnp.float32)


ROWS = {"x": _normal(SIZE * EXAMPLES, 4), "y": _normal(SIZE * EXAMPLES, 5)}
#: Where participants start: servers at the first point, peers each at its own.
STARTS = {"w": _normal(SIZE, 4, 5), "b": _normal(SIZE, 5)}
PARAMS = jax.tree.map(lambda leaf: leaf[0], STARTS)
#: Who holds which rows: all their own, or all the same ones.
APART = np.arange(SIZE * EXAMPLES).reshape(SIZE, EXAMPLES)
ALIKE = np.tile(APART[:1], (SIZE, 1))
EVENTS = federated.dadao_events(0, topology.edges(topology.ring(SIZE)), 1.0, SIZE, num_events=40)


def loss_fn(params, batch):
    """Ridge regression."""
    gaps = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return (jnp.mean(jnp.sum(gaps**2, axis=1)) + MU * optax.tree.norm(params, squared=True)) / 2


class Case(NamedTuple):
    """One algorithm.

    Attributes:
      simulated: from the name of the axis to the algorithm that is simulated.
      looped: the one that stands in a loop, if it is another.
      peers: whether everybody starts at a point of its own, and stays apart.
      rounds: how many.
      parts: rows of the data of each participant.
      options: of ``simulate``.
    """

    simulated: Callable[[Any], federated.Algorithm]
    looped: Callable[[Any], federated.Algorithm] | None = None
    peers: bool = False
    rounds: int = ROUNDS
    parts: np.ndarray = APART
    options: Mapping[str, Any] = {}


def fedspeed(axis_name, client=None):
    rate = 0.1 if client is None else None
    return federated.fedspeed(rate, prox_weight=0.1, client=client, axis_name=axis_name)


def noisy_fedspeed(axis_name):
    return fedspeed(axis_name, optax.chain(optax.add_noise(0.01, 0.0, key=3), optax.sgd(0.1)))


def monna(axis_name):
    drawing = {"num_responses": 12, "attack": federated.attacks.gaussian, "key": 5}
    return federated.peers(federated.monna(0.1, 3, axis_name, **drawing), axis_name)


def dadao(events, axis_name):
    return federated.peers(federated.dadao(MU, L, events, 0.4, axis_name), axis_name)


def econtrol(axis_name):
    uplink = federated.econtrol_uplink(federated.rand_k(0.3), eta=0.1, key=7)
    return federated.compressed_sgd(0.1, uplink, axis_name=axis_name)


def econtrol_of_workers(axis_name):
    tx = federated.econtrol(0.1, federated.rand_k(0.3), axis_name, eta=0.1, key=7)
    return federated.peers(tx, axis_name)


def cbo(axis_name):
    # A large alpha would blow the rounding of the losses up.
    return federated.peers(optimizers.cbo(alpha=1.0, key=9, axis_name=axis_name), axis_name)


def at_a_common_time(state):
    return federated.dadao_params(state.params, state.aggregate, MU, L)


CASES = {
    "fedspeed": Case(fedspeed),
    "monna": Case(monna, peers=True),
    # Simulated event by event: two lanes at a time, wherever the rows of the nodes lie. In a
    # loop all nodes go through the list in lock-step.
    "dadao": Case(
        functools.partial(dadao, None),
        functools.partial(dadao, EVENTS),
        peers=True,
        rounds=len(EVENTS.times),
        options={"cohort": federated.dadao_cohort(EVENTS, SIZE), "readout": at_a_common_time},
    ),
    # Simulated as clients and a server; in a loop every worker does the server's part too.
    "econtrol": Case(econtrol, econtrol_of_workers),
    "cbo": Case(cbo, peers=True, parts=ALIKE),
}

SIMULATED = {
    "side by side": lambda: {"chunk": SIZE},
    "chunks of 1": lambda: {"chunk": 1},
    "chunks of 3": lambda: {"chunk": 3},
    "mesh of 4": lambda: {"mesh": placements.make_mesh(4)},
    "mesh of 8": lambda: {"mesh": placements.make_mesh(8)},
    "mesh of 2 x 2": lambda: {"mesh": placements.make_mesh(2, 2)},
}
LOOPS = {
    "vmap": placements.vmap(SIZE),
    "pmap on 4": placements.pmap_of_vmap(4, SIZE // 4),
    "pmap on 8": placements.pmap_of_vmap(8, SIZE // 8),
    "shard_map on 4": placements.shard_map_of_vmap(4, SIZE // 4),
    "shard_map on 8": placements.shard_map_of_vmap(8, SIZE // 8),
}


def simulate(case, **options):
    """All of a participant's examples in every step, all rounds in one segment."""
    settings = {"batch_size": None, "num_steps": STEPS, "segment": case.rounds}
    settings |= {"replicate": False} if case.peers else {}
    algorithm = options.pop("algorithm", None) or case.simulated("participants")
    data = federated.data.padded(ROWS, case.parts)
    start = STARTS if case.peers else PARAMS
    settings |= {**case.options, **options}
    return federated.simulate(algorithm, loss_fn, start, data, case.rounds, **settings)


@functools.cache
def simulated(name, way):
    return simulate(CASES[name], **SIMULATED[way]())


def play(case, placement, donate=True):
    """Parameters and states of all participants after a loop of one's own."""
    tx = federated.as_transformation((case.looped or case.simulated)(placement.axis_name))

    def step(params, state, batches):
        first = jax.tree.map(lambda leaf: leaf[0], batches)
        grad_fn = lambda x, *_, batch=first: jax.grad(loss_fn)(x, batch)
        extras = {"grad_fn": grad_fn, "batches": batches, "value": loss_fn(params, first)}
        updates, state = tx.update(grad_fn(params), state, params, **extras)
        return optax.apply_updates(params, updates), state

    step = placement.compile(step, donate_argnums=(0, 1) if donate else ())
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], SIZE, axis=0), PARAMS)
    # With copies of the batch for every local step.
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf[case.parts]] * STEPS, axis=1), ROWS)
    states = federated.init_participants(tx, PARAMS, jnp.arange(SIZE))
    params = jax.tree.map(jnp.copy, STARTS) if case.peers else repeated
    params, states, batches = placement.lay_out((params, states, batches))
    for _ in range(case.rounds):
        before = params, states
        params, states = jax.block_until_ready(step(params, states, batches))
        assert {leaf.is_deleted() for leaf in jax.tree.leaves(before)} == {donate}
    return placement.merge((params, states))


@functools.cache
def played(name, way):
    return play(CASES[name], LOOPS[way])


def keys_of(tree):
    """The bits of the random keys of all participants."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    keys = [leaf for leaf in jax.tree.leaves(tree) if is_key(leaf)]
    return [jax.random.key_data(leaf) for leaf in placements.on_one_device(keys)]


def own_states(result):
    """What participants keep; of clients, their aggregate is the server's."""
    peers = result.state.server == ()
    return (result.state.clients, result.state.aggregate) if peers else result.state.clients


@pytest.mark.parametrize("way", list(SIMULATED)[1:])
@pytest.mark.parametrize("name", CASES)
def test_a_simulation_agrees(name, way):
    found, expected = simulated(name, way), simulated(name, "side by side")
    assert_close(found.params, expected.params, rtol=1e-5)
    assert_same_bits(keys_of(own_states(found)), keys_of(own_states(expected)))


@pytest.mark.parametrize("way", LOOPS)
@pytest.mark.parametrize("name", CASES)
def test_a_loop_agrees_with_the_simulation(name, way):
    case, expected = CASES[name], simulated(name, "side by side")
    params, states = played(name, way)
    if not case.peers:  # everybody holds the same bits
        assert_same_bits(params, jax.tree.map(lambda x: jnp.stack([x[0]] * SIZE), params))
        params = jax.tree.map(lambda x: x[0], params)
    assert_close(params, expected.params, rtol=1e-5)
    assert_same_bits(keys_of(states.client), keys_of(own_states(expected)))


def test_the_runs_go_somewhere():
    """Agreement of runs that stand still, or of participants without draws, would be none."""
    for name, case in CASES.items():
        result, start = simulated(name, "side by side"), STARTS if case.peers else PARAMS
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), result.params, start)
        assert min(jax.tree.leaves(moved)) > 0.01
        assert len(keys_of(own_states(result))) == (name in ("monna", "econtrol", "cbo"))


@pytest.mark.parametrize("way", ["pmap on 4", "shard_map on 8"])
def test_draws_within_local_steps_are_the_same_in_every_loop(way):
    case = Case(noisy_fedspeed)
    params, states = play(case, LOOPS[way])
    expected_params, expected_states = _noisy_on_lanes()
    assert_close(params, expected_params, rtol=1e-5)
    assert_same_bits(states.key, expected_states.key)


@functools.cache
def _noisy_on_lanes():
    return play(Case(noisy_fedspeed), LOOPS["vmap"])


# --- where the order of sums is the same ----------------------------------------------------


@pytest.mark.parametrize("name", ["fedspeed", "econtrol"])
def test_streamed_and_stacked_sums_have_the_same_bits(name):
    algorithm = CASES[name].simulated("participants")
    stacked = algorithm._replace(aggregate=optax.chain(algorithm.aggregate))
    result = simulate(CASES[name], algorithm=stacked, chunk=SIZE)
    assert_same_bits(result.params, simulated(name, "side by side").params)


@pytest.mark.parametrize("way", list(SIMULATED)[1:])
def test_events_have_the_same_bits_wherever_the_nodes_lie(way):
    found, expected = simulated("dadao", way), simulated("dadao", "side by side")
    assert_same_bits((found.params, found.state), (expected.params, expected.state))


@pytest.mark.parametrize("name", CASES)
def test_a_loop_without_donation_has_the_same_bits(name):
    kept = play(CASES[name], LOOPS["vmap"], donate=False)
    assert_same_bits(kept, played(name, "vmap"))


# --- devices and buffers --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["mesh of 8", "mesh of 2 x 2"])
@pytest.mark.parametrize("name", CASES)
def test_participants_are_spread_over_all_axes_of_a_mesh(name, way):
    state, mesh = simulated(name, way).state, SIMULATED[way]()["mesh"]
    rows = [state.clients, *([state.params, state.aggregate] if CASES[name].peers else [])]
    for leaf in jax.tree.leaves(rows):
        assert len(leaf.sharding.device_set) == mesh.size
        assert leaf.sharding.shard_shape(leaf.shape)[0] == SIZE // mesh.size


@pytest.mark.parametrize("way", ["side by side", "chunks of 3", "mesh of 2 x 2"])
@pytest.mark.parametrize("name", CASES)
def test_a_result_shares_no_buffer_and_the_callers_arrays_stay(name, way):
    result = simulated(name, way)
    given = {"params": PARAMS, "starts": STARTS, "rows": ROWS}
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    home = jax.devices()[0]
    of_home = lambda leaf: next(s.data for s in leaf.addressable_shards if s.device == home)
    mine = {"given": given, "params": result.params, "state": result.state}
    _no_shared_buffers(jax.tree.map(of_home, mine))
