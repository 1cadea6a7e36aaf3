"""Events of DADAO: gradient steps and meetings at the times of independent Poisson processes."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gradax import _validate

from ..rounds._cohort import Cohort, Draw
from ._rates import check_edges

#: Kinds of events.
GRADIENT, EDGE, NOTHING = 0, 1, 2


class DadaoEvents(NamedTuple):
    """A list of events in the order of time; NumPy arrays on the host.

    In a list of ticks (:func:`dadao_ticks`) ``kind``, ``i`` and ``j`` have a second axis: what
    happens at the same time, to different nodes.

    Attributes:
      times: ``float64[events]``, not decreasing.
      kind: ``int32[events]``: 0 a gradient event of node ``i``, 1 an exchange of ``i`` and
        ``j``, 2 nothing.
      i: ``int32[events]``, a node.
      j: ``int32[events]``, the other node of an exchange; equals ``i`` otherwise.
    """

    times: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int32]
    i: npt.NDArray[np.int32]
    j: npt.NDArray[np.int32]

    @property
    def num_nodes(self) -> int:
        """The least number of nodes that the list is made for."""
        return int(max(self.i.max(initial=0), self.j.max(initial=0))) + 1


def dadao_events(
    key: jax.typing.ArrayLike,
    edges: npt.ArrayLike,
    rates: npt.ArrayLike,
    n: int,
    *,
    num_events: int | None = None,
    duration: float | None = None,
) -> DadaoEvents:
    r"""Draws the events of a run: all of them beforehand, the same for the same key.

    Every node has gradient events at rate one, so that the unit of time is a gradient per node;
    edge :math:`e` has exchanges at rate :math:`\lambda_e`. The first entry of the list is no
    event but the start, at time 0.

    Args:
      key: integer or JAX key.
      edges: ``[edges, 2]``, pairs of nodes, such as ``topology.edges(adjacency)``.
      rates: ``[edges]``, or one rate for all; positive.
      n: number of nodes.
      num_events: how many events, the start not counted.
      duration: instead of ``num_events``, up to which time.

    Returns:
      The list.

    Raises:
      ValueError: if an argument is out of range, or both or neither of ``num_events`` and
        ``duration`` are given.

    Examples:
      >>> from gradax import federated
      >>> events = federated.dadao_events(0, [[0, 1], [1, 2]], 0.5, n=3, duration=1000.0)
      >>> gradients, exchanges = (int((events.kind == kind).sum()) for kind in (0, 1))
      >>> bool(abs(gradients - 3000) < 200), bool(abs(exchanges - 1000) < 120)
      (True, True)
    """
    edges, rates = check_edges("dadao_events", edges, rates, n)
    if (num_events is None) == (duration is None):
        raise ValueError("dadao_events: give either num_events or duration.")
    rng, total = _generator(key), n + rates.sum()
    if num_events is not None:
        _validate.integer("dadao_events", "num_events", num_events, at_least=1)
        count = int(num_events)
    else:
        _validate.interval("dadao_events", "duration", duration, "(0, inf)")
        count = rng.poisson(total * float(duration or 0.0))
    # Given their number, the times of a Poisson process are uniform draws in order.
    if duration is None:
        times = np.cumsum(rng.exponential(1 / total, count))
    else:
        times = np.sort(rng.uniform(0.0, duration, count))
    which = rng.choice(n + len(edges), count, p=np.append(np.ones(n), rates) / total)
    i, j = _pairs(n, edges)[which].T
    kind = np.where(which < n, GRADIENT, EDGE)
    start = lambda first, rest: np.concatenate([[first], rest]).astype(np.int32)
    return DadaoEvents(np.append(0.0, times), start(NOTHING, kind), start(0, i), start(0, j))


def _generator(key) -> np.random.Generator:
    """Integers stay on the host, so that a list costs nothing of JAX."""
    if isinstance(key, numbers.Integral):
        return np.random.default_rng(int(key))
    raw = jax.random.key_data(jnp.asarray(key))  # a raw key is its own data
    return np.random.default_rng(np.asarray(raw).ravel())


def _pairs(n: int, edges: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Who is touched by a gradient event of each node, and by an exchange on each edge."""
    alone = np.stack([np.arange(n)] * 2, axis=1)
    return np.concatenate([alone, edges]).astype(np.int32)


def check_events(who: str, events: DadaoEvents, n: int | None = None) -> DadaoEvents:
    """Returns a list in its dtypes, or says what is wrong with it.

    Args:
      who: name of the caller, for messages.
      events: the list.
      n: number of nodes, if it is known.

    Returns:
      The list.

    Raises:
      ValueError: if times decrease, shapes differ, a node or kind is out of range, or a node
        meets itself or two others at once.
    """
    times = np.asarray(events.times, np.float64)
    kind, i, j = (np.asarray(part, np.int32) for part in events[1:])
    if times.ndim != 1 or not len(times) or kind.shape[:1] != times.shape or kind.ndim > 2:
        raise ValueError(f"{who}: events must have times [events], got shape {times.shape}.")
    if not kind.shape == i.shape == j.shape:
        shapes = ", ".join(str(part.shape) for part in (kind, i, j))
        raise ValueError(f"{who}: kind, i and j of the events differ in shape: {shapes}.")
    if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
        raise ValueError(f"{who}: times of the events must be >= 0 and not decrease.")
    if ((kind < 0) | (kind > 2)).any():
        raise ValueError(f"{who}: kind of an event must be 0, 1 or 2.")
    limit = np.iinfo(np.int32).max if n is None else n
    wrong = (kind != NOTHING) & ((np.minimum(i, j) < 0) | (np.maximum(i, j) >= limit))
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0])
        raise ValueError(
            f"{who}: nodes of the events must lie in [0, {limit}), got {i[at]} and {j[at]}."
        )
    if ((kind == EDGE) & (i == j)).any():
        node = i[(kind == EDGE) & (i == j)][0]
        raise ValueError(f"{who}: an exchange needs two nodes, got {node} twice.")
    if kind.ndim == 2:
        _refuse_busy_nodes(who, kind, i, j)
    return DadaoEvents(times, kind, i, j)


def _refuse_busy_nodes(who, kind, i, j):
    """Each node may occur once in a tick."""
    nobody = -1 - np.arange(2 * kind.shape[1])  # different numbers for the empty places
    touched = np.concatenate(
        [
            np.where(kind == NOTHING, nobody[::2], i),
            np.where(kind == EDGE, j, nobody[1::2]),
        ],
        axis=1,
    )
    touched = np.sort(touched, axis=1)
    if (touched[:, 1:] == touched[:, :-1]).any():
        tick = int(np.argmax((touched[:, 1:] == touched[:, :-1]).any(axis=1)))
        raise ValueError(f"{who}: a node occurs twice in tick {tick} of the events.")


def dadao_ticks(events: DadaoEvents, tick: float) -> DadaoEvents:
    """Moves events to the ticks of a clock, for hardware that works in lock-step.

    An event takes place at the first tick after its time at which neither of its nodes is busy:
    a node has one event per tick at most, in the order of the list. Many events share a tick, so
    that an update of all nodes does the work of many. The price is that events come late, by
    half a tick and more; the shorter the tick the less.

    Args:
      events: the exact list.
      tick: length of a tick, well below one over (1 + the rates of a node's edges)
        for every node, else events of the busiest node pile up.

    Returns:
      A list with two axes, ticks and events of a tick, for :func:`dadao`.

    Raises:
      ValueError: if ``tick`` is not positive, the list is wrong, or events pile up to more than
        a tenth of the run.

    Examples:
      >>> from gradax import federated
      >>> events = federated.dadao_events(0, [[0, 1], [1, 2]], 1.0, n=3, num_events=600)
      >>> ticks = federated.dadao_ticks(events, tick=0.3)
      >>> int((ticks.kind != 2).sum()), bool(len(ticks.times) < 600)
      (600, True)
    """
    _validate.interval("dadao_ticks", "tick", tick, "(0, inf)")
    events = check_events("dadao_ticks", events)
    if events.kind.ndim != 1:
        raise ValueError("dadao_ticks: events are in ticks already.")
    happening = np.flatnonzero(events.kind != NOTHING)
    due = np.ceil(events.times / tick).astype(np.int64)
    free = [1] * events.num_nodes  # the first tick at which a node is not busy
    at = np.zeros(len(happening), np.int64)
    for number, event in enumerate(happening):
        i, j = events.i[event], events.j[event]
        at[number] = max(due[event], free[i], free[j])
        free[i] = free[j] = at[number] + 1
    late = int((at - due[happening]).max(initial=0))
    count = int(at.max(initial=0)) + 1
    if late > 10 and late > 0.1 * count:
        raise ValueError(
            f"dadao_ticks: tick must be shorter, got {tick}: events are up to {late} of {count} "
            "ticks late."
        )
    return _in_rows(events, happening, at, count, tick)


def _in_rows(events, happening, at, count, tick):
    """Lays events out by tick; empty places hold nothing."""
    order = np.argsort(at, kind="stable")
    at, happening = at[order], happening[order]
    place = np.arange(len(at)) - np.searchsorted(at, at)
    shape = count, int(place.max(initial=0)) + 1
    kind, i, j = np.full(shape, NOTHING, np.int32), np.zeros(shape, np.int32), np.zeros(shape, int)
    kind[at, place], i[at, place] = events.kind[happening], events.i[happening]
    j[at, place] = events.j[happening]
    return DadaoEvents(tick * np.arange(count), kind, i, j.astype(np.int32))


def dadao_cohort(events: DadaoEvents, n: int) -> Cohort:
    """Lets the one or two nodes that an event touches take part in a round of a simulation.

    Their lanes receive the extras ``time`` and ``kind``, which :func:`dadao` reads. After the
    last event nobody takes part.

    Args:
      events: of :func:`dadao_events`.
      n: number of nodes.

    Returns:
      The rule, for ``simulate(..., cohort=...)``; one round is one event.

    Raises:
      ValueError: if the list is wrong, or in ticks.

    Examples:
      >>> import jax
      >>> from gradax import federated
      >>> events = federated.dadao_events(0, [[0, 1]], 1.0, n=2, num_events=9)
      >>> cohort = federated.dadao_cohort(events, n=2)
      >>> draw, _ = cohort.draw(cohort.init(), jax.random.key(0), 0)
      >>> draw.ids.tolist()  # the start touches nobody
      [2, 2]
    """
    _validate.integer("dadao_cohort", "n", n, at_least=1)
    events = check_events("dadao_cohort", events, n)
    if events.kind.ndim != 1:
        raise ValueError("dadao_cohort: events must not be in ticks; a round is one event.")
    first = np.where(events.kind == NOTHING, n, np.minimum(events.i, events.j))
    second = np.where(events.kind == EDGE, np.maximum(events.i, events.j), n)
    end = np.array([[n, n, NOTHING]])
    table = np.concatenate([np.stack([first, second, events.kind], axis=1), end]).astype(np.int32)
    times = np.append(events.times, events.times[-1])

    def draw(state, key, round):
        del key
        at = jnp.minimum(round, len(table) - 1)
        row, time = jnp.asarray(table)[at], jnp.asarray(times)[at]
        return Draw(row[:2], shared={"time": time, "kind": row[2]}), state

    return Cohort(2, n, lambda: (), draw)


class StreamState(NamedTuple):
    """State of :func:`dadao_stream`.

    Attributes:
      time: ``float[]``, of the last event.
      lost: ``float[]``, what rounding has taken off the time so far, to be added.
    """

    time: jax.Array
    lost: jax.Array


def dadao_stream(edges: npt.ArrayLike, rates: npt.ArrayLike, n: int) -> Cohort:
    """Draws events one after the other within the simulation, however many there are.

    The same law as :func:`dadao_events`, no list in memory; the key of the simulation decides.

    Args:
      edges: as in :func:`dadao_events`.
      rates: as in :func:`dadao_events`.
      n: number of nodes.

    Returns:
      The rule, for ``simulate(..., cohort=...)``; one round is one event.

    Raises:
      ValueError: as :func:`dadao_events`.

    Examples:
      >>> import jax
      >>> from gradax import federated
      >>> cohort = federated.dadao_stream([[0, 1]], 1.0, n=2)
      >>> draw, state = cohort.draw(cohort.init(), jax.random.key(0), 0)
      >>> bool(draw.shared["time"] == state.time), sorted(draw.shared)
      (True, ['kind', 'time'])
    """
    edges, rates = check_edges("dadao_stream", edges, rates, n)
    total, kinds = n + rates.sum(), np.arange(n + len(edges)) >= n
    up_to = np.cumsum(np.append(np.ones(n), rates)) / total
    pairs = np.sort(_pairs(n, edges), axis=1)
    pairs[:n, 1] = n

    def draw(state, key, round):
        del round
        wait_key, event_key = jax.random.split(key)
        wait = jax.random.exponential(wait_key, dtype=state.time.dtype) / total - state.lost
        time = state.time + wait
        # Compensated: a short wait is not lost in a long time.
        after = StreamState(time, (time - state.time) - wait)
        coin = jax.random.uniform(event_key, dtype=state.time.dtype)
        which = jnp.searchsorted(jnp.asarray(up_to[:-1]), coin, side="right")
        kind = jnp.asarray(kinds)[which].astype(jnp.int32)
        return Draw(jnp.asarray(pairs)[which], shared={"time": time, "kind": kind}), after

    return Cohort(2, n, lambda: StreamState(jnp.zeros([]), jnp.zeros([])), draw)
