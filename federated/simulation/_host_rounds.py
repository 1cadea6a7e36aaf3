"""Rounds whose clients' states stay on the host: only the cohort's rows travel."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ..data._layout import ClientData
from ._engine import Engine
from ._host_store import HostStore, to_raw, to_typed
from ._state import SimState


class HostRounds:
    """Plays segments as a loop over rounds; takes the place of a scan on the device.

    A round draws on the device, reads the cohort's rows on the host, and writes them back. The
    next cohort is drawn, and its rows are read, while the device computes, unless the draw has
    to wait for the new parameters.

    Args:
      engine: plays the rounds.
      store: states of all clients.
    """

    def __init__(self, engine: Engine, store: HostStore):
        if engine.cohort is None:
            raise ValueError("HostRounds: the engine must have a cohort, got None.")
        self._engine = dataclasses.replace(engine, lane_store=True)
        self._store, self._size = store, engine.cohort.size
        self._early = not engine.cohort.uses_losses
        self._draw = jax.jit(self._engine.draw)
        self._play = jax.jit(self._round, donate_argnums=(0, 1))

    def __call__(self, state: SimState, data: ClientData, length: int) -> tuple[SimState, Any]:
        """Plays rounds.

        Args:
          state: before them.
          data: all clients, on the device.
          length: number of rounds.

        Returns:
          The state after them, and metrics with a leading axis of rounds.
        """
        self._store.load(state.clients)
        state = state._replace(clients=())
        drawn = self._draw(state, data)
        ids = np.asarray(drawn[0].ids)
        rows, metrics = self._store.read(ids), []
        for left in reversed(range(length)):
            draw, cohort, key = drawn
            if left and self._early:
                following = state._replace(round=state.round + 1, cohort=cohort)
                drawn = self._draw(following, data)
            core = state._replace(cohort=())
            core, new, seen = self._play(core, self._put(rows), data, draw, key)
            state = core._replace(cohort=cohort)
            if left and not self._early:
                drawn = self._draw(state, data)
            before, ids = ids, np.asarray(drawn[0].ids)
            if left:
                rows = self._store.read(ids)
            new, seen = jax.device_get((new, seen))
            self._store.write(before, new)
            metrics.append(seen)
            if left:
                self._refresh(rows, ids, before)
        stacked = jax.tree.map(lambda *rounds: np.stack(rounds), *metrics)
        return state._replace(clients=self._store.whole()), stacked

    def _refresh(self, rows: Any, ids: np.ndarray, changed: np.ndarray) -> None:
        """Reads again what was changed after it was read."""
        (stale,) = np.nonzero(np.isin(ids, changed))
        fresh = self._store.read(ids[stale])
        for row, new in zip(jax.tree.leaves(rows), jax.tree.leaves(fresh), strict=True):
            row[stale] = new

    def lower(self, state: SimState, data: ClientData, length: int) -> Any:
        """Lowers a round, for the shapes of a state; memory does not depend on ``length``."""
        del length
        draw, cohort, key = jax.eval_shape(self._engine.draw, state._replace(clients=()), data)
        del cohort
        of_lane = lambda x: jax.ShapeDtypeStruct((self._size, *x.shape[1:]), x.dtype)
        rows = jax.tree.map(of_lane, jax.eval_shape(to_raw, self._store.shapes))
        return self._play.lower(state._replace(cohort=(), clients=()), rows, data, draw, key)

    def _round(self, state, rows, data, draw, key):
        """One round on the device, from the cohort's rows to the new ones."""
        state = state._replace(clients=to_typed(rows, self._store.shapes))
        after, metrics = self._engine.play(state, data, draw, key)
        return after._replace(clients=()), to_raw(after.clients), metrics

    def _put(self, rows: Any) -> Any:
        """Spreads rows over the devices of a mesh, if they divide evenly."""
        placement = self._engine.placement
        if placement.mesh is None or self._size % placement.ways:
            return rows
        return jax.device_put(rows, placement.rows())
