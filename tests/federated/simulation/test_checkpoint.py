"""Checkpoints: complete or absent, bit-exact, and refused by any other run."""

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType

from gradax import federated
from gradax.federated.simulation import _simulate
from tests.federated.simulation.killed_run import KINDS, ROUNDS, noisy, run
from tests.federated.simulation.problems import assert_same_bits

ROOT = pathlib.Path(__file__).parents[3]


@functools.cache
def uninterrupted(rounds=ROUNDS, kind="noisy"):
    return run(rounds=rounds, segment=50, **KINDS[kind]())


def assert_same_run(found, expected):
    assert_same_bits(found.params, expected.params)
    assert_same_bits(found.state, expected.state)
    assert found.history.columns == expected.history.columns
    measured = [name for name in found.history.columns if name != "seconds"]
    assert {"round", "loss", "num_active", "bytes_up", "bytes_down"} <= set(measured)
    for name in measured:
        assert found.history.column(name) == expected.history.column(name)


def saved_rounds(directory):
    """Rounds whose checkpoint is complete."""
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def on_disk(directory):
    paths = sorted(directory.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


# Going on --------------------------------------------------------------------------------


def test_goes_on_bit_by_bit_from_a_checkpoint_written_after_any_round(tmp_path):
    for rounds in range(1, 6):
        result = run(tmp_path / "run", rounds)
    assert_same_run(result, uninterrupted(5))
    assert saved_rounds(tmp_path / "run") == [4, 5]  # older ones are not kept
    assert_same_run(run(tmp_path / "run", 5), uninterrupted(5))  # there is nothing left to do


@pytest.mark.parametrize("kind", ["asynchronous", "returning"])
def test_clocks_and_who_is_late_are_saved_too(kind, tmp_path):
    for rounds in (4, 30):
        result = run(tmp_path, rounds, segment=10, **KINDS[kind]())
    assert_same_run(result, uninterrupted(30, kind))
    assert "time" in result.history.columns
    assert jax.tree.leaves(result.state.cohort)


def test_segments_and_chunks_may_change_on_the_way(tmp_path):
    run(tmp_path, 3, segment=2)
    result = run(tmp_path, 5, segment=5)
    assert_same_run(result, uninterrupted(5))
    chunked = run(tmp_path, 7, chunk=2)
    np.testing.assert_allclose(chunked.params, uninterrupted(7).params, rtol=1e-5)


def test_on_a_mesh_too(tmp_path):
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,))
    run(tmp_path, 2, mesh=mesh)
    resumed, whole = run(tmp_path, 4, mesh=mesh), run(rounds=4, mesh=mesh)
    assert_same_run(resumed, whole)
    trace = resumed.state.clients.inner[1][0].trace
    assert trace.sharding.spec == jax.P("devices")


def test_a_history_with_nan_is_kept(tmp_path):
    diverged = lambda x, batch: jnp.nan * jnp.mean(x - batch)
    run(tmp_path, 2, loss_fn=diverged, segment=2)
    assert np.isnan(run(tmp_path, 2, loss_fn=diverged).history.column("loss")).all()


# Being killed ----------------------------------------------------------------------------


def test_a_segment_is_saved_before_the_next_one_begins(tmp_path, monkeypatch):
    complete = []

    class Watched(_simulate.Checkpoints):
        def save(self, state, rows):
            super().save(state, rows)
            complete.append(saved_rounds(tmp_path)[-1])

    monkeypatch.setattr(_simulate, "Checkpoints", Watched)
    run(tmp_path, 5, segment=2)
    assert complete == [2, 4, 5]


def is_started(directory):
    return directory.exists()


def is_saving(directory):
    """In the middle of writing a checkpoint that is not the first one."""
    return len(saved_rounds(directory)) > 1 and any(
        not path.name.isdigit() for path in directory.iterdir()
    )


def is_beyond(round):
    return lambda directory: saved_rounds(directory)[-1:] > [round]


def program(directory, kind="noisy"):
    return [sys.executable, "-m", "tests.federated.simulation.killed_run", str(directory), kind]


def kill_when(moment, directory, cache, kind="noisy"):
    """Starts the run as a process and kills it at a moment; returns what was seen by then."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    process = subprocess.Popen(
        program(directory, kind), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not moment(directory):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    seen = saved_rounds(directory)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return seen


def test_a_killed_run_loses_at_most_the_segment_it_was_in(tmp_path):
    directory = tmp_path / "run"
    for moment in (is_started, is_saving, is_beyond(12)):
        seen = kill_when(moment, directory, tmp_path / "cache")
        assert saved_rounds(directory)[-1:] >= seen[-1:]
    assert 12 < saved_rounds(directory)[-1] < ROUNDS
    assert_same_run(run(directory, segment=50), uninterrupted())


def test_a_killed_asynchronous_run_goes_on_bit_by_bit(tmp_path):
    """The script benchmarks/killed_runs.py kills runs of every kind twenty times."""
    directory = tmp_path / "run"
    kill_when(is_beyond(3), directory, tmp_path / "cache", "asynchronous")
    assert 3 < saved_rounds(directory)[-1] < ROUNDS
    found = run(directory, segment=50, **KINDS["asynchronous"]())
    assert_same_run(found, uninterrupted(kind="asynchronous"))


# Being refused ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_another_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "run"
    run(directory, 2)
    return directory


OTHERS = {
    "another algorithm": (
        {"algorithm": federated.fedspeed(0.1)},
        "belongs to another run:\n  client",
    ),
    "another rate": ({"algorithm": noisy(0.2)}, r"=-0\.1\).* there.*=-0\.2\).* here"),
    "another server": (
        {"algorithm": noisy()._replace(server=optax.sgd(1.0, momentum=0.4))},
        "belongs to another run:\n  server",
    ),
    "another seed": ({"key": 1}, "belongs to another run:\n  key"),
    "another cohort": ({"cohort": 4}, "belongs to another run:\n  cohort"),
    "other batches": ({"num_steps": 3}, "num_steps=2.* there.*num_steps=3.* here"),
}


@pytest.mark.parametrize(("options", "sentence"), OTHERS.values(), ids=OTHERS)
def test_another_run_is_refused_and_nothing_is_touched(options, sentence, of_another_run):
    before = on_disk(of_another_run)
    with pytest.raises(ValueError, match=rf"(?s)simulate: the checkpoint in .*{sentence}"):
        run(of_another_run, 4, **options)
    assert on_disk(of_another_run) == before


UNREADABLE = "the checkpoint of round 2 in .* cannot be read; without its folder the run goes on"


def truncated(saved, directory, pattern):
    """A copy of a saved run in which some files end too early, and what is on the disk then."""
    shutil.copytree(saved, directory)
    for path in directory.glob(pattern):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return on_disk(directory)


@pytest.mark.parametrize("pattern", ["2/run/metadata", "2/state/_METADATA"])
def test_a_truncated_checkpoint_is_refused_and_an_older_one_can_be_used(
    pattern, of_another_run, tmp_path
):
    directory = tmp_path / "run"
    before = truncated(of_another_run, directory, pattern)
    with pytest.raises(ValueError, match=UNREADABLE):
        run(directory, 4)
    assert on_disk(directory) == before
    shutil.rmtree(directory / "2")
    assert_same_run(run(directory, 5), uninterrupted(5))


def test_whatever_is_damaged_no_other_numbers_are_read(tmp_path):
    """Each file in turn ends too early, has another bit or is lost."""
    script = [sys.executable, "-m", "tests.federated.simulation.damaged_checkpoint", str(tmp_path)]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {outcome for *_, outcome in found} == {"same", "refused"}, found
    outcomes = {(damage, name): outcome for damage, name, outcome in found}
    assert outcomes["none", ""] == "same"
    assert outcomes["numbers of another state", "3/state"] == "refused"
    for damage in ("cut", "flip", "lost"):
        assert outcomes[damage, "3/run/metadata"] == "refused"
        assert "refused" in {
            outcome
            for (kind, name), outcome in outcomes.items()
            if kind == damage and re.match(r"3/state/(ocdbt.process_0/)?d/", name)
        }


def test_a_checkpoint_without_checksums_is_refused(tmp_path, monkeypatch):
    save = ocp.args.JsonSave
    unsealed = lambda run: save({name: run[name] for name in ("description", "history")})
    with monkeypatch.context() as patch:
        patch.setattr(ocp.args, "JsonSave", unsealed)
        run(tmp_path, 2)
    with pytest.raises(ValueError, match=r"it has no checksums"):
        run(tmp_path, 4)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_is_no_directory(name, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match=r"checkpoint='.*/file' is a file, not a directory"):
        run(tmp_path / name, 1)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("items", ["a tree", "named items"])
def test_a_checkpoint_of_another_program_is_refused(items, tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        if items == "a tree":
            manager.save(3, args=ocp.args.StandardSave({"weights": jnp.zeros(2)}))
        else:
            manager.save(3, args=ocp.args.Composite(run=ocp.args.JsonSave({"steps": 3})))
    before = on_disk(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be read|belongs to another run"):
        run(tmp_path, 4)
    assert on_disk(tmp_path) == before


def test_a_state_and_a_saved_run_contradict_each_other(tmp_path):
    state = run(tmp_path, rounds=2).state
    with pytest.raises(ValueError, match="not both"):
        run(tmp_path, rounds=4, state=state)
