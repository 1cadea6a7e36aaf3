"""Clients' clocks that tick within the simulation, however long it runs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax import lax

from gradax import _validate
from gradax.catalogue import register

from ..rounds import Cohort, Draw
from ._clocks import Clock, as_clock
from ._schedule import ASYNC, KINDS, check_window, lanes_of


class SimulatedTime(NamedTuple):
    """A sum of many short durations.

    Attributes:
      now: ``float32[]``.
      lost: ``float32[]``, what rounding has taken off so far, to be added.
    """

    now: jax.Array
    lost: jax.Array

    @classmethod
    def zero(cls) -> "SimulatedTime":
        """Time at the start of a run."""
        return cls(jnp.zeros([], jnp.float32), jnp.zeros([], jnp.float32))

    def after(self, duration: jax.Array) -> "SimulatedTime":
        """Adds a duration; compensated, so that a short one is not lost in a long time."""
        due = duration - self.lost
        now = self.now + due
        return SimulatedTime(now, (now - self.now) - due)


class AsyncCohortState(NamedTuple):
    """State of :func:`async_cohort`.

    Attributes:
      time: of the last step.
      left: ``float32[clients]``, how long (of ``"fedfix"``, for how many windows) each client
        still works; -1 for one that begins anew.
      version: ``int32[clients]``, the step before which each received its model.
      jobs: ``int32[clients]``, how many jobs each has begun.
    """

    time: SimulatedTime
    left: jax.Array
    version: jax.Array
    jobs: jax.Array


@register("function", ASYNC, example={"kind": "async", "times": (1.0, 0.5), "max_age": 5})
def async_cohort(
    kind: str,
    times: Clock | npt.ArrayLike,
    *,
    max_age: int,
    buffer_size: int | None = None,
    window: float | None = None,
    max_size: int | None = None,
) -> Cohort:
    """Draws the steps of an asynchronous server one after the other, without a list.

    The rules of :func:`async_schedule`; durations are drawn by the run's own key, and clocks are
    part of what is saved. Times are in float32: where clocks are fixed and equal times matter,
    use a schedule.

    Args:
      kind: ``"sync"``, ``"async"``, ``"fedbuff"`` or ``"fedfix"``.
      times: a :class:`Clock`, or fixed times ``[clients]``.
      max_age: contributions that are older, in steps, are dropped, and their clients begin anew;
        the history counts them as ``num_cut``. The server keeps ``max_age + 1`` models.
      buffer_size: of ``"fedbuff"``.
      window: of ``"fedfix"``.
      max_size: of ``"fedfix"``, room in a step, all clients by default; who finds none waits for
        the next step, and counts as ``num_cut`` too.

    Returns:
      The rule, for ``simulate(..., cohort=)``; its state is an :class:`AsyncCohortState`. Lanes
      have the extra ``version``; ``time`` is common.

    Raises:
      ValueError: if an argument is out of range or missing.

    Examples:
      >>> import jax
      >>> from gradax import federated
      >>> cohort = federated.async_cohort("async", [1.0, 0.4], max_age=4)
      >>> state = cohort.init()
      >>> for step in range(4):
      ...     draw, state = cohort.draw(state, jax.random.key(step), step)
      ...     print(draw.ids, draw.lane["version"], draw.shared["time"].round(1))
      [1] [0] 0.4
      [1] [1] 0.8
      [0] [0] 1.0
      [1] [2] 1.2

    References:
      Fraboni et al., `A General Theory for Federated Optimization with Asynchronous and
      Heterogeneous Clients Updates <https://arxiv.org/abs/2206.10189>`_, 2022.
    """
    who = "async_cohort"
    _validate.one_of(who, "kind", kind, KINDS)
    _validate.integer(who, "max_age", max_age, at_least=0)
    clock = as_clock(times)
    count = clock.num_clients
    everybody = jnp.arange(count, dtype=jnp.int32)
    if kind == "fedfix":
        length = check_window(who, window)
        size = count if max_size is None else max_size
        _validate.integer(who, "max_size", size, at_least=1)
        size = min(size, count)
        unit, arrive = length, lambda left: _arrived_by_window(left, size, length)
    else:
        size = lanes_of(who, kind, count, buffer_size)
        unit, arrive = None, lambda left: _earliest(left, size)

    def init():
        zeros = lambda: jnp.zeros(count, jnp.int32)
        return AsyncCohortState(
            SimulatedTime.zero(), jnp.full(count, -1.0, jnp.float32), zeros(), zeros()
        )

    def draw(state, key, round):
        idle = state.left < 0
        durations = clock.sample(key, everybody, state.jobs)
        if unit is not None:
            # Jobs begin with a window: whole windows can be counted, exactly.
            durations = jnp.maximum(jnp.ceil(durations / unit * (1 - 1e-6)), 1)
        version = jnp.where(idle, round, state.version)
        ids, left, elapsed, waiting = arrive(jnp.where(idle, durations, state.left))
        begun = version.at[ids].get(mode="clip")
        too_old = (ids < count) & (round - begun > max_age)
        time = state.time.after(elapsed)
        after = AsyncCohortState(
            time, left.at[ids].set(-1.0, mode="drop"), version, state.jobs + idle
        )
        ids = jnp.where(too_old, count, ids).astype(jnp.int32)
        # Who is absent reads the model of today, which is always there.
        begun = jnp.where(ids < count, begun, round).astype(jnp.int32)
        cut = jnp.sum(too_old, dtype=jnp.int32) + waiting
        return Draw(ids, {"version": begun}, {"time": time.now}, num_cut=cut), after

    return Cohort(size, count, init, draw)


def _earliest(left, size):
    """Who arrives first, of equal times the lowest number; then nobody has to wait."""
    _, ids = lax.top_k(-left, size)
    elapsed = jnp.max(left[ids])
    return ids, jnp.maximum(left - elapsed, 0), elapsed, jnp.zeros([], jnp.int32)


def _arrived_by_window(left, size, window):
    """Who arrives within a window; ``left`` counts windows."""
    here = left <= 1
    (ids,) = jnp.nonzero(here, size=size, fill_value=left.shape[0])
    waiting = jnp.maximum(jnp.sum(here, dtype=jnp.int32) - size, 0)
    return ids, jnp.maximum(left - 1, 0), jnp.float32(window), waiting
