"""States of the clients on the host or in files: the same numbers, and little on the device."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradax import federated
from gradax.federated.simulation import _host_store
from gradax.federated.simulation._auto_chunk import needed_bytes
from gradax.federated.simulation._engine import Engine
from gradax.federated.simulation._host_rounds import HostRounds
from gradax.federated.simulation._host_store import HostStore
from gradax.federated.simulation._local import Batching, Objective
from tests.federated.simulation import killed_run, test_checkpoint
from tests.federated.simulation.problems import (
    NUM_CLIENTS,
    assert_close,
    assert_same_bits,
    simulate,
)
from tests.federated.simulation.test_placement import mesh


def assert_same_run(found, expected):
    test_checkpoint.assert_same_run(found, expected)
    for leaf in jax.tree.leaves(found.state.clients):
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        assert typed or type(leaf) is np.ndarray


# The same numbers ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_device():
    """Noise keys and momentum of each client's own; three of eight, so that some come again."""
    return killed_run.run(rounds=7, segment=7)


@pytest.mark.parametrize("segment", [1, 4])
@pytest.mark.parametrize("files", [False, True], ids=["memory", "files"])
def test_gives_the_same_bits(files, segment, on_device, tmp_path):
    where = tmp_path / "states" if files else "host"
    found = killed_run.run(rounds=7, segment=segment, client_state=where)
    assert_same_run(found, on_device)
    names = [path.name for path in tmp_path.rglob("*.npy")]
    leaves = jax.tree.leaves(found.state.clients)
    assert sorted(names) == [f"clients_{number:03d}.npy" for number in range(len(leaves) * files)]
    for name in names:
        on_disk = np.load(tmp_path / "states" / name)
        leaf = leaves[int(name[-7:-4])]
        if isinstance(leaf, np.ndarray):
            np.testing.assert_array_equal(on_disk, leaf)


def test_goes_on_from_either_place_in_the_other(on_device, tmp_path):
    state = None
    for rounds, where in ((2, "host"), (3, "device"), (5, tmp_path), (6, "host"), (7, "host")):
        result = killed_run.run(rounds=rounds, segment=7, client_state=where, state=state)
        state = result.state
    assert_same_bits(result.params, on_device.params)
    assert_same_bits(result.state, on_device.state)


def test_a_new_run_in_a_directory_leaves_the_old_result_alone(on_device, tmp_path):
    old = killed_run.run(rounds=7, segment=7, client_state=tmp_path)
    killed_run.run(rounds=2, segment=2, client_state=tmp_path)
    assert_same_bits(old.state, on_device.state)


def test_a_draw_by_losses_waits_for_the_new_parameters():
    cohort = federated.client_curriculum(
        lambda count: 4 + count // 3, num_clients=NUM_CLIENTS, size=3
    )
    assert cohort.uses_losses
    options = {"cohort": cohort, "segment": 3}
    run = lambda where: simulate(federated.scaffold(0.1), client_state=where, **options)
    assert_same_run(run("host"), run("device"))


def test_nobody_leaves_no_trace_even_if_lanes_outnumber_clients():
    ids = np.full((3, 10), NUM_CLIENTS)
    ids[0, [3, 6]], ids[2, [0, 8]] = (3, 0), (0, 7)
    cohort = federated.scheduled_cohort(NUM_CLIENTS, ids)
    run = lambda **options: simulate(federated.scaffold(0.1), rounds=3, cohort=cohort, **options)
    assert_same_run(run(client_state="host", chunk=3), run(chunk=3))


@pytest.mark.parametrize("size", [4, 3])
def test_on_a_mesh(size):
    options = {"cohort": size, "mesh": mesh(), "rounds": 3, "segment": 2}
    found = simulate(federated.scaffold(0.1), client_state="host", **options)
    expected = simulate(federated.scaffold(0.1), **options)
    assert_close(found.params, expected.params)
    assert_close(found.state.clients, expected.state.clients)


def test_with_all_that_looks_at_a_run():
    options = {
        "rounds": 4,
        "segment": 2,
        "record": ("trace",),
        "evaluate": lambda read: {"gap": read[0] - read[1]},
        "evaluate_clients": lambda read, batch: {"far": read[0] - batch[0]},
        "readout": lambda state: (state.params, state.clients.inner[1][0].trace.mean()),
    }
    found, expected = killed_run.run(client_state="host", **options), killed_run.run(**options)
    assert_same_run(found, expected)
    assert {"trace", "gap", "client_far"} <= set(found.history.columns)


# Checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("places", [("host", "device"), ("device", "files"), ("files", "files")])
def test_a_checkpoint_may_be_read_into_another_place(places, on_device, tmp_path):
    there = {"device": "device", "host": "host", "files": tmp_path / "states"}
    for rounds, place in zip((3, 7), places, strict=True):
        result = killed_run.run(tmp_path / "run", rounds, segment=4, client_state=there[place])
    test_checkpoint.assert_same_run(result, on_device)


def test_files_of_a_killed_run_are_not_gone_on_from(on_device, tmp_path):
    """They may be ahead of the last checkpoint by some rounds, or hold half of a round."""
    saved, files = tmp_path / "run", tmp_path / "states"
    script = (
        "from tests.federated.simulation.killed_run import run; "
        f"run({str(saved)!r}, 10**6, segment=2, client_state={str(files)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=test_checkpoint.ROOT)
    deadline = time.monotonic() + 200
    try:
        while not test_checkpoint.saved_rounds(saved)[-1:] >= [4]:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    begun = test_checkpoint.saved_rounds(saved)[-1]
    for path in files.iterdir():  # the worst that could be in them
        path.write_bytes(b"\xff" * path.stat().st_size)
    result = killed_run.run(saved, begun + 3, segment=2, client_state=files)
    assert_same_run(result, killed_run.run(rounds=begun + 3, segment=50))


# Memory ----------------------------------------------------------------------------------

D = 1000


def many(num_clients, size=8):
    """SCAFFOLD on ``num_clients`` clients with one number each."""
    numbers = np.arange(num_clients, dtype=np.float32) / num_clients
    clients = federated.data.padded(numbers, list(np.arange(num_clients)[:, None]))
    engine = Engine(
        algorithm=federated.scaffold(0.1),
        objective=Objective.of(lambda x, batch: jnp.mean((x - batch[:, None]) ** 2), None),
        batching=Batching.plan(clients, 1, 2, None, replace=False),
        num_clients=num_clients,
        cohort=federated.uniform_cohort(num_clients, size),
        chunk=1,
    )
    shapes = jax.eval_shape(engine.init, jnp.zeros(D), jax.random.key(0))
    return engine, shapes, clients


def test_memory_of_a_round_does_not_depend_on_the_number_of_clients():
    needed = []
    for number in (2000, 20000):
        engine, shapes, clients = many(number)
        rounds = HostRounds(engine, HostStore(shapes.clients))
        on_device = sum(leaf.nbytes for leaf in jax.tree.leaves(clients))
        needed.append(needed_bytes(rounds.lower(shapes, clients, 1).compile()) - on_device)
    assert needed[0] == needed[1] < 50 * D * 4


def test_twenty_thousand_clients_with_a_thousand_parameters(monkeypatch, tmp_path):
    """80 MB of control variates; no array of the device is that large, not even at first."""
    made, original = [], _host_store.init_participants

    def watched(tx, params, ids):
        made.append(len(ids))
        return original(tx, params, ids)

    monkeypatch.setattr(_host_store, "init_participants", watched)
    monkeypatch.setattr(_host_store, "_BLOCK", 4 * D * 3000)
    _, _, clients = many(20000)
    run = lambda where: federated.simulate(
        federated.scaffold(0.1),
        lambda x, batch: jnp.mean((x - batch[:, None]) ** 2),
        jnp.zeros(D),
        clients,
        rounds=3,
        cohort=8,
        batch_size=1,
        num_steps=2,
        client_state=where,
    )
    found = run(tmp_path)
    assert {path.stat().st_size // 10**6 for path in tmp_path.iterdir()} == {80}
    assert made == [3000]  # traced once; the device makes no more at a time
    expected = run("device")
    assert_same_bits(found.params, expected.params)
    assert_same_bits(found.state, expected.state)


def test_first_states_in_blocks_are_those_made_at_once(monkeypatch):
    monkeypatch.setattr(_host_store, "_BLOCK", 200)
    found = killed_run.run(rounds=1, client_state="host").state.clients
    assert_same_bits(found, killed_run.run(rounds=1).state.clients)


def test_a_client_without_state_needs_no_store(tmp_path):
    found = simulate(federated.fedavg(0.1), cohort=3, client_state=tmp_path)
    assert_same_run(found, simulate(federated.fedavg(0.1), cohort=3))
    assert not list(tmp_path.iterdir())


# Being refused ---------------------------------------------------------------------------


def test_peers_and_whole_rounds_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"'host' .* but peers have all their nodes in every round"
    ):
        simulate(optax.sgd(0.1), client_state="host", num_steps=1)
    with pytest.raises(ValueError, match="but without cohort= all clients take part"):
        simulate(federated.scaffold(0.1), client_state=tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file' is a file, not a directory"):
        simulate(federated.scaffold(0.1), cohort=3, client_state=tmp_path / "file")


def test_a_state_of_another_run_is_refused_before_files_are_touched(tmp_path):
    old = simulate(federated.scaffold(0.1), cohort=3, client_state=tmp_path)
    before = test_checkpoint.on_disk(tmp_path)
    with pytest.raises(ValueError, match="state= is of another run"):
        simulate(federated.fedspeed(0.1), cohort=3, client_state=tmp_path, state=old.state)
    assert test_checkpoint.on_disk(tmp_path) == before
