"""One round, as a pure function of the state: the whole of the simulation but its loop."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..data._layout import ClientData
from ..rounds._algorithm import Algorithm, SumAggregate, masked
from ..rounds._cohort import Cohort, Draw
from ..rounds._wire import published, told_bytes, tree_bytes
from . import _store
from ._lanes import Lanes, Sum, add_up, map_lanes, narrow, scan_chunks, split, under_axis
from ._local import Batching, Local, Objective, Rows, take_rows
from ._placement import Placement
from ._state import SimState, first_state


@dataclasses.dataclass(frozen=True)
class Engine:
    """Builds states and plays rounds.

    Attributes:
      algorithm: the algorithm.
      objective: loss and gradient.
      batching: how examples become batches.
      num_clients: number of clients or nodes.
      cohort: who takes part, or ``None`` for everybody.
      chunk: lanes that are computed side by side, or ``None`` for all; on a mesh it is rounded up
        to a multiple of the devices.
      record: names of fields of the client's state to record in every round and lane.
      placement: the devices over which the client axis is spread.
      lane_store: whether the states of clients in a :class:`SimState` are those of the round's
        lanes, in their order, and not of all clients.
    """

    algorithm: Algorithm
    objective: Objective
    batching: Batching
    num_clients: int
    cohort: Cohort | None = None
    chunk: int | None = None
    record: tuple[str, ...] = ()
    placement: Placement = dataclasses.field(default_factory=Placement)
    lane_store: bool = False

    @property
    def num_lanes(self) -> int:
        """Participants of a round, with those that turn out to be nobody."""
        return self.cohort.size if self.cohort else self.num_clients

    @property
    def row_fields(self) -> set[str]:
        """Fields of the state that have a leading axis of clients."""
        return {"clients"} if self.algorithm.server else {"clients", "params", "aggregate"}

    def init(self, params: optax.Params, key: jax.Array, replicate: bool = True) -> SimState:
        """Builds the state before the first round, see :func:`first_state`."""
        return first_state(self.algorithm, self.num_clients, self.cohort, params, key, replicate)

    def message_bytes(self, state: SimState, data: ClientData) -> tuple[int, int | None]:
        """Sizes of what one participant sends and receives in a round, from static shapes.

        Args:
          state: of the run.
          data: of the run.

        Returns:
          Bytes up and bytes down, Python integers; ``None`` for what peers receive.
        """
        told = self._told(state)

        def first_message(state, data):
            draw, _ = self._draw(state, data, state.key)
            lanes = jax.tree.map(lambda x: x[:1], self._lanes(draw))
            mine = self._own(lanes, data, self._shared(state, draw), state.key)
            client = lambda params, clients, own: self._client(params, clients, own | told)[0]
            row = lambda store: jax.tree.map(lambda x: x[:1], store)
            if self.algorithm.server:
                return mine(map_lanes, client, (None, 0), state.params, row(state.clients))
            return mine(map_lanes, client, (0, 0), row(state.params), row(state.clients))

        up = tree_bytes(jax.eval_shape(first_message, state, data))
        return up, told_bytes(state.params, told) if self.algorithm.server else None

    # One round ---------------------------------------------------------------------------

    def round(self, state: SimState, data: ClientData) -> tuple[SimState, dict[str, Any]]:
        """Plays one round.

        Args:
          state: before the round.
          data: all clients, on the device.

        Returns:
          The state after the round, and its metrics: scalars, and ``lanes`` with what was
          seen of each lane.
        """
        draw, cohort, key = self.draw(state, data)
        return self.play(state._replace(cohort=cohort), data, draw, key)

    def draw(self, state: SimState, data: ClientData) -> tuple[Draw, Any, jax.Array]:
        """Draws who takes part in the next round; reads no state of a client.

        Args:
          state: before the round.
          data: all clients, on the device.

        Returns:
          The draw, the cohort rule's state after it, and the clients' key of the round.
        """
        draw_key, client_key = jax.random.split(jax.random.fold_in(state.key, state.round))
        draw, cohort = self._draw(state, data, draw_key)
        return draw, cohort, client_key

    def play(
        self, state: SimState, data: ClientData, draw: Draw, key: jax.Array
    ) -> tuple[SimState, dict[str, Any]]:
        """Plays the round of a draw.

        Args:
          state: before the round, but the cohort rule's after it.
          data: all clients, on the device.
          draw: who takes part.
          key: the clients' key of the round.

        Returns:
          As :meth:`round`.
        """
        shared, lanes = self._shared(state, draw), self._lanes(draw)
        work = self._serve if self.algorithm.server else self._exchange
        changes, seen = work(state, data, lanes, shared, key)
        metrics = {
            "num_active": shared["num_active"],
            "num_cut": jnp.asarray(draw.num_cut, jnp.int32),
            "num_scored": jnp.asarray(draw.num_scored, jnp.int32),
            "lanes": {**seen, "active": lanes.ids < self.num_clients},
        }
        if "time" in draw.shared:
            metrics["time"] = draw.shared["time"]
        return state._replace(round=state.round + 1, **changes), metrics

    def _draw(self, state, data, key) -> tuple[Draw, Any]:
        if self.cohort is None:
            return Draw(jnp.arange(self.num_clients, dtype=jnp.int32)), state.cohort
        arguments = state.cohort, key, state.round
        if self.cohort.uses_losses:
            return self.cohort.draw(*arguments, losses_fn=lambda: self._losses(state, data))
        return self.cohort.draw(*arguments)

    def _losses(self, state, data) -> jax.Array:
        """Mean loss of every client's examples under the common parameters."""
        everybody = jnp.arange(self.num_clients, dtype=jnp.int32)

        def loss(rows):
            local = Local(self.objective, self.batching, rows, state.key)
            return local.full_value_fn(state.params)

        def run(store, lanes):
            rows, row_axes = self._rows(lanes, data)
            return store, map_lanes(loss, (row_axes,), rows), {}

        return self._run_chunks(run, (), Lanes(everybody, {}, everybody))[1]

    def _lanes(self, draw: Draw) -> Lanes:
        """Who sits where; peers in order, since row i of a mixing matrix is node i."""
        places = jnp.arange(len(draw.ids), dtype=jnp.int32) if self.lane_store else draw.ids
        lanes = Lanes(draw.ids, draw.lane, places)
        if self.algorithm.server or self.cohort is None:
            return lanes
        order = jnp.argsort(lanes.ids)
        return jax.tree.map(lambda x: x[order], lanes)

    def _shared(self, state, draw) -> dict[str, Any]:
        """Extras that are equal for all participants, and never batched."""
        return {
            "round": state.round,
            "num_clients": self.num_clients,
            "num_active": jnp.sum(draw.ids < self.num_clients, dtype=jnp.int32),
            **draw.shared,
        }

    def _told(self, state) -> dict[str, Any]:
        return published(self.algorithm, state.server) if self.algorithm.server else {}

    def _serve(self, state, data, lanes, shared, key):
        """A round with a server: clients, their aggregate, the server's step."""
        algorithm, told = self.algorithm, self._told(state)

        def client(params, client_state, own):
            message, client_state, seen = self._client(params, client_state, own | told)
            if isinstance(algorithm.aggregate, SumAggregate):
                message = Sum(*masked(algorithm.aggregate.partial, message, own))
            return message, client_state, seen

        def run(clients, lanes):
            mine, places = self._own(lanes, data, shared, key), self._places(lanes)
            arguments = state.params, _store.read(clients, places)
            out, new, seen = mine(map_lanes, client, (None, 0), *arguments)
            return _store.write(clients, places, new), out, seen

        clients, out, seen = self._run_chunks(run, state.clients, lanes)
        mean, aggregate = self._aggregate(out, state, data, lanes, shared, key)
        server = optax.with_extra_args_support(algorithm.server)
        pseudo_gradient = jax.tree.map(jnp.negative, mean)
        updates, server_state = server.update(pseudo_gradient, state.server, state.params, **shared)
        params = optax.apply_updates(state.params, updates)
        changes = {"params": params, "clients": clients, "aggregate": aggregate}
        return {**changes, "server": server_state}, seen

    def _exchange(self, state, data, lanes, shared, key):
        """A round of peers: local work in chunks, then the exchange under the whole axis."""
        aggregate = optax.with_extra_args_support(self.algorithm.aggregate)

        def mix(params, mixing_state, message, own):
            updates, mixing_state = aggregate.update(message, mixing_state, params, **own)
            seen = self._seen(mixing_state)
            return optax.apply_updates(params, updates), mixing_state, seen

        def run(clients, lanes):
            mine, ids = self._own(lanes, data, shared, key), self._ids(lanes)
            arguments = _store.read(state.params, ids), _store.read(clients, ids)
            out, new, seen = mine(map_lanes, self._client, (0, 0), *arguments)
            return _store.write(clients, ids, new), out, seen

        clients, messages, seen = self._run_chunks(run, state.clients, lanes)
        mine, ids = self._own(lanes, data, shared, key), self._ids(lanes)
        arguments = _store.read(state.params, ids), _store.read(state.aggregate, ids), messages
        params, mixing, more = mine(self._under_axis, mix, (0, 0, 0), *arguments)
        changes = {
            "clients": clients,
            "params": _store.write(state.params, ids, params),
            "aggregate": _store.write(state.aggregate, ids, mixing),
        }
        return changes, seen | more

    # Lanes -------------------------------------------------------------------------------

    def _client(self, params, client_state, own):
        """One participant's part of a round."""
        client = optax.with_extra_args_support(self.algorithm.client)
        gradient = own["grad_fn"](params)
        message, client_state = client.update(gradient, client_state, params, **own)
        seen = self._seen(client_state)
        if self.objective.value is not None:
            seen["loss"] = own["value_fn"](params)
        return message, client_state, seen

    def _seen(self, state) -> dict[str, jax.Array]:
        """Fields of a state that the history wants: those of ``record``, and wire reports.

        Of several compressors in a chain the last one knows what travels; several exchanges
        add up.
        """
        find = optax.tree_utils.tree_get_all_with_path
        found = {
            name: [jnp.asarray(value) for _, value in find(state, name) if value is not None]
            for name in ("wire_bytes", "wire_copies", *self.record)
        }
        seen = {name: values[-1] for name, values in found.items() if values}
        if copies := found["wire_copies"]:
            seen["wire_copies"] = jnp.sum(jnp.stack(copies))
        return seen

    def _ids(self, lanes: Lanes) -> jax.Array | None:
        """Whom to gather; ``None`` if the lanes are everybody in order."""
        everybody = self.cohort is None and lanes.ids.shape[0] == self.num_clients
        return None if everybody else lanes.ids

    def _places(self, lanes: Lanes) -> jax.Array | None:
        """Which states of clients to gather; ``None`` if the lanes are all that are stored."""
        if self.lane_store and lanes.ids.shape[0] == self.num_lanes:
            return None
        return lanes.places if self.lane_store else self._ids(lanes)

    def _rows(self, lanes: Lanes, data: ClientData) -> tuple[Rows, Rows]:
        """Gathers the examples of the lanes; also the axes under which they are mapped."""
        rows, row_axes = take_rows(data, self._ids(lanes))
        spread = lambda part: self.placement.spread(part, lanes.ids.shape[0])
        # Of flat data every device holds all, but reads those of its own lanes only.
        arrays = spread(rows.arrays) if row_axes.arrays == 0 else rows.arrays
        return Rows(arrays, *spread(rows[1:])), row_axes

    def _own(self, lanes: Lanes, data: ClientData, shared: dict[str, Any], key: jax.Array):
        """Gathers what belongs to the lanes; returns ``mine(mapper, function, axes, *args)``.

        ``mine`` maps ``function(*args, own)`` over the lanes, ``own`` being each one's extras.
        """
        rows, row_axes = self._rows(lanes, data)

        def mine(mapper, function, axes, *arguments):
            def lane(lane, rows, *arguments):
                return function(*arguments, self._extras(lane, rows, shared, key))

            return mapper(lane, (0, row_axes, *axes), lanes, rows, *arguments)

        return mine

    def _extras(self, lane: Lanes, rows: Rows, shared, key) -> dict[str, Any]:
        """All extras of one participant."""
        batch_key, own_key = jax.random.split(jax.random.fold_in(key, lane.ids))
        local = Local(self.objective, self.batching, rows, batch_key)
        return {
            **local.extras(),
            "key": own_key,
            "client_id": lane.ids,
            "active": lane.ids < self.num_clients,
            "weight": rows.count.astype(jnp.float32),
            **shared,
            **lane.extras,
        }

    def _under_axis(self, function, axes, *arguments, out_axes=0):
        return under_axis(function, self.algorithm.axis_name, axes, out_axes)(*arguments)

    def _run_chunks(self, run, store, lanes: Lanes):
        """Runs the client phase at once, or scanned over chunks."""
        # Lanes that do not divide among the devices would all be computed on each of them. (Of
        # peers all are present, or two meet.)
        count, ways = lanes.ids.shape[0], self.placement.ways if self.algorithm.server else 1
        size = -(-min(self.chunk or count, count) // ways) * ways
        if size == count:
            store, out, seen = run(store, lanes)
            return store, narrow(add_up(out), out) if isinstance(out, Sum) else out, seen
        chunks = split(lanes, size, self.num_clients)
        spread = functools.partial(self.placement.spread, count=ways)
        store, out, seen = scan_chunks(run, store, chunks, ways, spread)
        without_filling = lambda tree: jax.tree.map(lambda x: x[:count], tree)
        return store, out if isinstance(out, Sum) else without_filling(out), without_filling(seen)

    def _aggregate(self, out, state, data, lanes, shared, key):
        """From messages, or their sums, to the aggregate."""
        aggregate = self.algorithm.aggregate
        if isinstance(out, Sum):
            total = out.values
            return aggregate.finish(total, out.weight, state.aggregate, state.params, **shared)
        aggregate = optax.with_extra_args_support(aggregate)
        combine = lambda message, own: aggregate.update(
            message, state.aggregate, state.params, **own
        )
        mine = self._own(lanes, data, shared, key)
        once = functools.partial(self._under_axis, out_axes=None)
        try:
            # A compiler left alone moves the rows of some rules to one device, one by one.
            return mine(once, combine, (0,), self.placement.gathered(out))
        except ValueError as error:
            if "out_axes" not in str(error):
                raise
            raise ValueError(
                "the aggregate of an algorithm with a server must return the same for every "
                "participant; leave server=None for peers, whose aggregate may differ."
            ) from error
