"""A run of `gradax.federated.simulate` as a contestant that waits for its turns."""

import threading
from collections.abc import Sequence
from typing import Any

import _federated_task
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from gradax import federated

#: Arguments of `simulate` for the schedule that all federated contestants share.
SCHEDULE: dict[str, Any] = {
    "cohort": _federated_task.COHORT,
    "batch_size": _federated_task.BATCH,
    "num_epochs": _federated_task.EPOCHS,
}


class Simulation:
    """A simulation in a thread of its own, which stops after every segment.

    `evaluate`, which `simulate` calls between segments, does the waiting: so what is timed is
    the public function as users call it, compiled once.

    Args:
      algorithm: as for `simulate`, like what follows.
      loss_fn: loss.
      params: start.
      data: clients.
      rounds: of one turn.
      turns: in all.
      **options: further arguments of `simulate`.
    """

    def __init__(
        self,
        algorithm: federated.Algorithm,
        loss_fn: Any,
        params: Any,
        data: Any,
        *,
        rounds: int,
        turns: int,
        **options: Any,
    ):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._params: Any = None

        def play():
            self._go.acquire()
            try:
                result = federated.simulate(
                    algorithm,
                    loss_fn,
                    params,
                    data,
                    rounds=rounds * turns,
                    segment=rounds,
                    evaluate=self._evaluate,
                    **options,
                )
                self._params = result.params
            except BaseException as error:  # handed to whoever waits for the turn
                self._error = error
                self._done.release()

        self._thread = threading.Thread(target=play, daemon=True)
        self._thread.start()

    def _evaluate(self, params):
        first = jax.tree.leaves(params)[0].ravel()[0]
        return {"turn": io_callback(self._wait, jax.ShapeDtypeStruct((), jnp.float32), first)}

    def _wait(self, _):
        self._done.release()
        self._go.acquire()
        return np.float32(0)

    def turn(self) -> None:
        """Plays one segment."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error

    def finish(self) -> Any:
        """Lets the run end after its last turn; returns the parameters."""
        self._go.release()
        self._thread.join()
        return self._params


def client_data(clients: Sequence[dict[str, np.ndarray]]) -> Any:
    """Lays clients with equally many examples out as `simulate` takes them."""
    examples = {name: np.concatenate([one[name] for one in clients]) for name in clients[0]}
    owners = np.split(np.arange(len(examples["y"])), len(clients))
    return federated.data.padded(examples, owners)
