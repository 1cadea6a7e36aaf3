"""A peer in its own environment and process, asked by lines and answering by lines."""

import os
import pathlib
import subprocess
import tempfile
import time

import _measure
import environments


class Peer:
    """A process that serves one contestant's turns.

    Args:
      environment: in which the script runs.
      script: in this folder.
      threads: environment variables that keep the peer on one thread.
    """

    def __init__(self, environment: str, script: str, threads: tuple[str, ...]):
        self.seconds = 0.0
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._temporary.name)
        self._process = subprocess.Popen(
            [environments.python(environment), str(_measure.FOLDER / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict.fromkeys(threads, "1"),
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._temporary.cleanup()

    def ask(self, line: str) -> str:
        """Sends a line, and waits for the answer."""
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        if answer := self._process.stdout.readline():
            return answer
        raise RuntimeError(f"the peer ended instead of answering {line[:40]!r}")

    def clock(self) -> float:
        """CPU seconds of this process, and those that the peer has spent on its turns."""
        return time.process_time() + self.seconds
