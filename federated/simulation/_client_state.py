"""Where the states of the clients live, and the first state of a run with them."""

import functools
import os
from typing import Any

import jax
import optax

from ._device_rounds import device_rounds
from ._engine import Engine
from ._host_rounds import HostRounds
from ._host_store import HostStore
from ._state import SimState, check_state


class ClientStates:
    """The argument ``client_state`` of a run.

    Args:
      where: ``"device"``, ``"host"``, or a directory.
      engine: of the run.
      params: of the run.
      key: of the run.
      replicate: of the run.

    Raises:
      ValueError: if the states of this run cannot be kept there.
    """

    def __init__(
        self,
        where: str | os.PathLike,
        engine: Engine,
        params: optax.Params,
        key: Any,
        replicate: bool,
    ):
        self._init = functools.partial(engine.init, replicate=replicate)
        self._engine, self._given = engine, (params, key)
        self.shapes: SimState = jax.eval_shape(self._init, params, key)
        self._store: HostStore | None = None
        if where == "device":
            return
        for reason, holds in (
            ("peers have all their nodes in every round", engine.algorithm.server is None),
            ("without cohort= all clients take part in every round", engine.cohort is None),
            ("several processes share the clients", jax.process_count() > 1),
        ):
            if holds:
                raise ValueError(
                    f"simulate: client_state={os.fspath(where)!r} fetches a cohort's states for "
                    f"each round, but {reason}; leave client_state='device'."
                )
        directory = None if where == "host" else where
        self._store = HostStore(self.shapes.clients, directory)

    def rounds_of(self, engine: Engine) -> Any:
        """Compiles segments of rounds: ``(state, data, length) -> (state, metrics)``."""
        return device_rounds(engine) if self._store is None else HostRounds(engine, self._store)

    def start(self, state: SimState | None) -> SimState:
        """The caller's state, checked, or a first one.

        Args:
          state: of an earlier run, or ``None``.

        Returns:
          The state, each part where this run wants it.

        Raises:
          ValueError: if the state is another run's.
        """
        engine, store = self._engine, self._store
        check_state(state or self.shapes, self.shapes, engine.algorithm, engine.record)
        own = self.shapes if store is None else self.shapes._replace(clients=())
        if state is None:
            # Inside a jit every part is born where it belongs.
            shardings = engine.placement.of_state(own, engine.row_fields)
            first = lambda *given: self._init(*given)._replace(clients=own.clients)
            state = jax.jit(self._init if store is None else first, out_shardings=shardings)(
                *self._given
            )
            if store is None:
                return state
            store.begin(engine.algorithm.client, state.params)
            return state._replace(clients=store.whole())
        if store is None:
            return engine.placement.put_state(state, engine.row_fields)
        rest = engine.placement.put_state(state._replace(clients=()), engine.row_fields)
        return rest._replace(clients=state.clients)
