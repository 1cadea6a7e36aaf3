"""Options for devices and processes; real processes meet in tests/federated/simulation."""

import socket
import threading

import jax
import pytest

from gradax import federated
from gradax.__main__ import main

SMALL = ["--clients", "8", "--rounds", "2", "--steps", "1", "--segment", "2", "--hidden", "4"]
COORDINATOR = ["--coordinator", "127.0.0.1:1"]


def refusal(capsys, *options):
    assert main(["simulate", "fedavg", *SMALL, "--quiet", *options]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (COORDINATOR, "--coordinator need --processes and --process-id"),
        (["--processes", "2", "--process-id", "0"], "--processes and --process-id need --coord"),
        (
            [*COORDINATOR, "--processes", "2", "--process-id", "2"],
            "--process-id must lie in [0, 2), got 2",
        ),
        ([*COORDINATOR, "--processes", "0", "--process-id", "0"], "--processes must be at least 1"),
        (
            ["--coordinator", "here", "--processes", "2", "--process-id", "0"],
            "--coordinator must be HOST:PORT, got 'here'",
        ),
        (
            [*COORDINATOR, "--processes", "2", "--process-id", "0", "--timeout", "0"],
            "--timeout must be at least 1, got 0",
        ),
        ([*COORDINATOR, "--distributed"], "--distributed finds out by itself"),
        (["--devices", "99"], f"--devices must be 'all' or a number up to {jax.device_count()}"),
        (["--devices", "3"], "must be a multiple of the number of devices, 3, got 8"),
    ],
)
def test_options_that_cannot_work_are_refused(options, sentence, capsys):
    assert sentence in refusal(capsys, *options)


def test_clients_are_spread_over_the_devices_that_are_asked_for(monkeypatch, capsys):
    seen = []

    def simulate(*arguments, mesh, **options):
        seen.append(mesh)
        raise ValueError("seen")

    monkeypatch.setattr(federated, "simulate", simulate)
    for number in ("2", "all"):
        assert "seen" in refusal(capsys, "--devices", number)
    assert [mesh.size for mesh in seen] == [2, jax.device_count()]


def test_a_coordinator_that_does_not_answer_is_named(capsys):
    with socket.socket() as nobody:  # bound, so that no other program listens there
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        options = ["--processes", "2", "--process-id", "1", "--timeout", "1"]
        sentence = f"nobody answers at --coordinator {address} after 1 s"
        assert sentence in refusal(capsys, "--coordinator", address, *options)


def test_processes_that_do_not_come_are_not_waited_for(monkeypatch, capsys):
    late = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: late.wait())
    options = [*COORDINATOR, "--processes", "2", "--process-id", "0", "--timeout", "1"]
    assert "2 processes did not come together within 1 s" in refusal(capsys, *options)
    late.set()


def test_where_there_is_no_cluster_advice_is_given(monkeypatch, capsys):
    def initialize(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    found = refusal(capsys, "--distributed")
    assert "cannot join the cluster: coordinator_address" in found
    assert "give --coordinator" in found
