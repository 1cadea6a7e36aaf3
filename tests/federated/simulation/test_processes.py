"""Several processes on the loopback interface play the run of one, and outlive a death."""

import functools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.federated import test_agreement
from tests.federated.simulation.process_run import (
    FATAL,
    MORE,
    ROUNDS,
    N,
    fedspeed,
    monna,
    summary,
)
from tests.federated.simulation.test_checkpoint import saved_rounds

pytestmark = pytest.mark.xdist_group("processes")
ROOT = pathlib.Path(__file__).parents[3]
SECONDS = 280


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment():
    """One device each; compiled as the other tests are."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    return os.environ | cache | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}


def launch(processes, directory, plan):
    """Runs the processes; when one fails the others are ended, as launchers do.

    Returns:
      Exit codes, and what the processes wrote.
    """
    port, logs = free_port(), [directory / f"{plan}-{i}.log" for i in range(processes)]
    children = []
    try:
        for number, log in enumerate(logs):
            script = [sys.executable, "-m", "tests.federated.simulation.process_run"]
            words = [str(number), str(processes), str(port), str(directory), plan]
            with log.open("w") as stream:
                children.append(
                    subprocess.Popen(
                        script + words, cwd=ROOT, env=environment(), stdout=stream, stderr=stream
                    )
                )
        deadline = time.monotonic() + SECONDS
        while any(child.poll() is None for child in children):
            failed = any(child.poll() not in (None, 0) for child in children)
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        codes = [child.poll() for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    return codes, "\n".join(log.read_text() for log in logs)


def play(processes, directory, plan):
    """Runs the processes, once more if another program took the port meanwhile."""
    codes, text = launch(processes, directory, plan)
    if "already in use" in text:
        codes, text = launch(processes, directory, plan)
    files = [directory / f"{plan}-{number}.json" for number in range(processes)]
    assert all(file.exists() for file in files), (codes, text)
    return codes, text, [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(place):
    return play(2, place, "die")


@pytest.fixture(scope="module")
def four(place):
    return play(4, place, "run")


@functools.cache
def alone(name):
    return summary({"fedspeed": fedspeed, "monna": monna}[name]())


def assert_same(found, expected):
    assert found["params"].keys() == expected["params"].keys()
    for name, value in expected["params"].items():
        np.testing.assert_allclose(found["params"][name], value, rtol=2e-5, atol=1e-6)
    assert len(found["history"]) == len(expected["history"])
    for ours, theirs in zip(found["history"], expected["history"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["fedspeed", "monna"])
@pytest.mark.parametrize("processes", ["two", "four"])
def test_every_process_returns_what_a_single_one_does(processes, name, request):
    found = request.getfixturevalue(processes)[2]
    for process in found:
        assert process[name] == found[0][name]
    assert_same(found[0][name], alone(name))


@pytest.mark.parametrize("name", MORE)
def test_two_processes_agree_with_participants_side_by_side(name, two):
    expected = test_agreement.simulated(name, "side by side").params
    for process in two[2]:
        for ours, theirs in zip(process[name], jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("processes", ["two", "four"])
def test_every_process_holds_its_own_clients_only(processes, request):
    found = request.getfixturevalue(processes)[2]
    for process in found:
        assert process["own rows"] == process["own states"] == [N // len(found)]


def test_only_the_first_process_prints_and_writes(place, four):
    codes, text, found = four
    assert codes[1] == -signal.SIGKILL  # after all the rest
    assert [process["exit code"] for process in found] == [0] * 4
    assert text.count("fedavg: test accuracy") == 1
    written = sorted(path.name for path in place.glob("command-run-*"))
    assert written == ["command-run-0.jsonl"]


@pytest.mark.parametrize(
    ("what", "sentences"),
    {
        "other params": ["must play the same run, but differ in start"] * 2,
        "other seed": ["must play the same run, but differ in key"] * 2,
        "missing client": [
            r"the data of processes \[1\] were refused there",
            "4 clients belong to this process, got 3",
        ],
        "saved by one": ["checkpoint= needs a mesh of the devices of all"] * 2,
    }.items(),
)
def test_what_differs_is_refused_by_all(what, sentences, two):
    for process, sentence in zip(two[2], sentences, strict=True):
        assert re.search(sentence, process[what]), process[what]


def test_a_mesh_of_its_own_devices_leaves_a_process_alone(two):
    for process in two[2]:
        assert_same(process["alone"], alone("fedspeed"))


def test_a_killed_process_costs_one_segment(place, two, four):
    for name, codes in (("fedspeed", two[0]), ("monna", four[0])):
        assert codes[1] == -signal.SIGKILL
        assert saved_rounds(place / name)[-1] == FATAL - 1
    codes, text, found = play(2, place, "resume")
    assert codes == [0, 0], text
    for process in found:
        assert process["same bits"]
        assert_same(process["fedspeed"], alone("fedspeed"))
        # Two processes went on from what four had saved.
        assert_same(process["monna"], summary(monna(rounds=ROUNDS, segment=1)))
    assert saved_rounds(place / "fedspeed")[-1] == saved_rounds(place / "monna")[-1] == ROUNDS
    # A single process can go on from what several have saved.
    assert_same(summary(fedspeed(checkpoint=place / "fedspeed")), alone("fedspeed"))
    more = summary(fedspeed(rounds=ROUNDS + 1, checkpoint=place / "fedspeed"))
    assert_same(more, summary(fedspeed(rounds=ROUNDS + 1)))
