"""Options of commands that run as several processes, or on several devices of one."""

import argparse
import socket
import threading
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

#: Options that tell JAX who it is; all or none of them are given.
_TOLD = ("coordinator", "processes", "process_id")


def add_arguments(group: Any) -> None:
    """Declares the options.

    Args:
      group: of the command's parser.
    """
    group.add_argument(
        "--devices",
        metavar="N",
        help="spread the clients over N devices of this process, or over 'all'; several "
        "processes use all of theirs",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="start one of several processes, which meet here; process 0 runs on HOST",
    )
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=int, metavar="I", help="which this one is, from 0 on")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="instead, take all that from SLURM, Kubernetes, Open MPI or a TPU pod",
    )
    group.add_argument(
        "--timeout", type=int, default=300, help="seconds to wait for the other processes"
    )


def start(arguments: argparse.Namespace) -> bool:
    """Joins the other processes, if there are any; comes before any other use of JAX.

    Args:
      arguments: parsed options.

    Returns:
      Whether this process prints and writes for all.

    Raises:
      ValueError: if options contradict each other, or others do not come in time.
    """
    given = {name: getattr(arguments, name) for name in _TOLD}
    if arguments.distributed:
        if any(value is not None for value in given.values()):
            raise ValueError(
                "simulate: --distributed finds out by itself what --coordinator, --processes and "
                "--process-id say; give one or the other."
            )
        _join("the cluster", arguments.timeout)
    elif any(value is not None for value in given.values()):
        _check(given, arguments.timeout)
        if arguments.process_id:
            _wait_for(arguments.coordinator, arguments.timeout)
        _join(
            f"{arguments.processes} processes",
            arguments.timeout,
            coordinator_address=arguments.coordinator,
            num_processes=arguments.processes,
            process_id=arguments.process_id,
        )
    else:
        return True
    return jax.process_index() == 0


def mesh(arguments: argparse.Namespace) -> Mesh | None:
    """The devices that ``--devices`` asks for; ``None`` leaves it to ``simulate``.

    Args:
      arguments: parsed options.

    Returns:
      A mesh with one axis.

    Raises:
      ValueError: if there are not so many devices.
    """
    if arguments.devices is None:
        return None
    devices, number = jax.devices(), arguments.devices
    if number != "all" and jax.process_count() > 1:
        raise ValueError("simulate: several processes use all of their devices; no --devices.")
    if number != "all" and not (number.isdecimal() and 1 <= int(number) <= len(devices)):
        raise ValueError(
            f"simulate: --devices must be 'all' or a number up to {len(devices)}, the devices "
            f"that JAX finds, got {number!r}; XLA_FLAGS=--xla_force_host_platform_device_count=4 "
            "makes four of a CPU."
        )
    return Mesh(np.array(devices if number == "all" else devices[: int(number)]), ("clients",))


def _check(given: dict[str, Any], timeout: int) -> None:
    """Raises unless the options are whole and fit together."""
    option = lambda name: "--" + name.replace("_", "-")
    missing = [option(name) for name, value in given.items() if value is None]
    if missing:
        there = [option(name) for name, value in given.items() if value is not None]
        raise ValueError(f"simulate: {' and '.join(there)} need {' and '.join(missing)}.")
    host, _, port = given["coordinator"].rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"simulate: --coordinator must be HOST:PORT, got {given['coordinator']!r}."
        )
    if given["processes"] < 1:
        raise ValueError(f"simulate: --processes must be at least 1, got {given['processes']}.")
    if not 0 <= given["process_id"] < given["processes"]:
        raise ValueError(
            f"simulate: --process-id must lie in [0, {given['processes']}), got "
            f"{given['process_id']}."
        )
    if timeout < 1:
        raise ValueError(f"simulate: --timeout must be at least 1, got {timeout}.")


def _wait_for(coordinator: str, timeout: int) -> None:
    """Waits until process 0 listens; JAX would end the process without an exception."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"simulate: nobody answers at --coordinator {coordinator} after {timeout} s; "
                    f"does process 0 run there? ({error})"
                ) from error
            time.sleep(0.1)
        else:
            return


def _join(whom: str, timeout: int, **told: Any) -> None:
    """Initializes JAX, in a thread that can be given up, since JAX itself would abort."""
    failed: list[Exception] = []

    def initialize():
        try:
            jax.distributed.initialize(**told, initialization_timeout=timeout + 60)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise ValueError(f"simulate: {whom} did not come together within {timeout} s.")
    if failed:
        hint = "" if told else "; if there is no cluster to be found, give --coordinator"
        raise ValueError(f"simulate: cannot join {whom}: {failed[0]}{hint}") from failed[0]
