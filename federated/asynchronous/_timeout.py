"""Rounds that do not wait for everybody: time limits, too many invited, late returns."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gradax import _validate
from gradax.catalogue import Paper, register

from ..rounds import Cohort, Draw, uniform_cohort
from ._async_cohort import SimulatedTime
from ._clocks import Clock, as_clock


class Pending(NamedTuple):
    """Clients that are still at work on the model of an earlier round.

    Attributes:
      ids: ``int32[places]``; the number of clients means nobody.
      left: ``float32[places]``, how long each still works.
      version: ``int32[places]``, the round in which each received its model.
    """

    ids: jax.Array
    left: jax.Array
    version: jax.Array


class TimeoutState(NamedTuple):
    """State of :func:`with_timeout`.

    Attributes:
      time: at the end of the last round.
      pending: who is late; no places unless late clients return.
      cohort: state of the rule that invites.
    """

    time: SimulatedTime
    pending: Pending
    cohort: Any


@register(
    "function",
    Paper(
        "Towards Federated Learning at Scale: System Design", "Bonawitz et al.", 2019, "1902.01046"
    ),
    example={"cohort": uniform_cohort(4, 2), "times": (1.0, 2.0, 3.0, 4.0), "timeout": 3.0},
)
def with_timeout(
    cohort: Cohort,
    times: Clock | npt.ArrayLike,
    timeout: float = np.inf,
    *,
    wait_for: int | None = None,
    late: Literal["drop", "return"] = "drop",
    max_age: int = 5,
    max_late: int | None = None,
) -> Cohort:
    """Ends a round when its time is up, or when enough of those invited have come.

    A round lasts until everybody who was invited has come, ``wait_for`` have, or ``timeout`` is
    over, whichever is first. To invite more than one waits for is called over-selection.

    With ``late="return"`` those who are late go on, and their contribution, made from the model
    of the round in which they were invited, is used in the round in which it arrives; until then
    they cannot be invited again. That needs an algorithm that keeps models, such as
    :func:`async_server` with ``num_versions=max_age + 1``.

    Args:
      cohort: who is invited, such as :func:`uniform_cohort`.
      times: a :class:`Clock`, or fixed times ``[clients]``; a trace is read at the round.
      timeout: positive; by default there is none.
      wait_for: end the round when so many have come, the late ones of earlier rounds included.
      late: ``"drop"`` what comes late, or let it ``"return"``.
      max_age: of ``"return"``, rounds after which a late client is given up.
      max_late: of ``"return"``, how many late clients are remembered, by default as many as are
        invited in a round; who finds no place is given up.

    Returns:
      The rule; its state is a :class:`TimeoutState`. ``time`` is a common extra, lanes have
      ``version``. Who was invited and is given up counts as ``num_cut``.

    Raises:
      ValueError: if an argument is out of range, the clients of clock and cohort differ in
        number, or, when it draws, if late clients would lose extras of their lanes.

    Examples:
      Clients 0 to 3 take 1 to 4 seconds; a round takes three at most:

      >>> import jax
      >>> from gradax import federated
      >>> everybody = federated.cyclic_cohort(num_clients=4, size=4)
      >>> cohort = federated.with_timeout(everybody, [1.0, 2.0, 3.0, 4.0], timeout=3.0)
      >>> draw, _ = cohort.draw(cohort.init(), jax.random.key(0), 0)
      >>> draw.ids.tolist(), float(draw.shared["time"]), int(draw.num_cut)
      ([0, 1, 2, 4], 3.0, 1)

    References:
      Bonawitz et al., `Towards Federated Learning at Scale: System Design
      <https://arxiv.org/abs/1902.01046>`_, 2019.
    """
    clock = as_clock(times)
    _check(cohort, clock, timeout, wait_for, late, max_age, max_late)
    nobody, keeps = cohort.num_clients, late == "return"
    places = (cohort.size if max_late is None else max_late) if keeps else 0
    enough = cohort.size + places if wait_for is None else wait_for

    def init():
        return TimeoutState(SimulatedTime.zero(), _empty(places, nobody), cohort.init())

    def draw(state, key, round, **given):
        invite_key, clock_key = jax.random.split(key)
        invited, inner = cohort.draw(state.cohort, invite_key, round, **given)
        if keeps and invited.lane:
            raise ValueError(
                f'with_timeout: late="return" cannot keep extras of lanes, got '
                f"{sorted(invited.lane)}."
            )
        # Who is still at work cannot be invited again.
        busy = jnp.any(invited.ids[:, None] == state.pending.ids, axis=1)
        fresh = jnp.where(busy, nobody, invited.ids).astype(jnp.int32)
        rounds = jnp.full(fresh.shape, round, jnp.int32)
        durations = clock.sample(clock_key, fresh, rounds)
        both = lambda new, old: jnp.concatenate([new, old])
        work = jax.tree.map(both, Pending(fresh, durations, rounds), state.pending)
        left = jnp.where(work.ids < nobody, work.left, jnp.inf)
        length, come = _round_length(left, enough, timeout)
        time = state.time.after(length)
        ids = jnp.where(come, work.ids, nobody)
        version = jnp.where(come, work.version, round)
        work = work._replace(left=work.left - length)
        late_ones = (work.ids < nobody) & ~come & (round + 1 - work.version <= max_age)
        pending = _first(work, late_ones, places, nobody)
        kept = jnp.sum(pending.ids < nobody)
        given_up = jnp.sum((work.ids < nobody) & ~come) - kept
        drawn = Draw(
            ids,
            {**invited.lane, "version": version},
            {**invited.shared, "time": time.now},
            num_cut=(invited.num_cut + given_up).astype(jnp.int32),
            num_scored=invited.num_scored,
        )
        return drawn, TimeoutState(time, pending, inner)

    return Cohort(cohort.size + places, nobody, init, draw, cohort.uses_losses)


def _check(cohort, clock, timeout, wait_for, late, max_age, max_late):
    who = "with_timeout"
    if not isinstance(cohort, Cohort):
        raise ValueError(f"{who}: cohort must be a Cohort, got {cohort!r}.")
    if clock.num_clients != cohort.num_clients:
        raise ValueError(
            f"{who}: times must be those of {cohort.num_clients} clients, got {clock.num_clients}."
        )
    _validate.interval(who, "timeout", timeout, "(0, inf]")
    _validate.one_of(who, "late", late, ("drop", "return"))
    _validate.integer(who, "max_age", max_age, at_least=1)
    for name, value in (("wait_for", wait_for), ("max_late", max_late)):
        if value is not None:
            _validate.integer(who, name, value, at_least=1)
    if wait_for is not None and wait_for > cohort.size:
        raise ValueError(
            f"{who}: wait_for must not exceed the number invited, {cohort.size}, got {wait_for}."
        )


def _empty(places, nobody):
    return Pending(
        jnp.full(places, nobody, jnp.int32),
        jnp.zeros(places, jnp.float32),
        jnp.zeros(places, jnp.int32),
    )


def _round_length(left, enough, timeout):
    """When the round ends, and who has come by then; infinitely late are those who are not."""
    present = left < jnp.inf
    limit = jnp.minimum(jnp.sort(left)[enough - 1], timeout)
    come = present & (left <= limit)
    last = jnp.max(jnp.where(come, left, 0))
    # With nobody to wait for, the round lasts as long as it may, if there is a limit at all.
    idle = timeout if np.isfinite(timeout) else 0.0
    waited = jnp.where(jnp.any(present & ~come), limit, last)
    return jnp.where(jnp.any(present), waited, idle).astype(jnp.float32), come


def _first(work, chosen, places, nobody):
    """The chosen rows, moved to the front; what finds no place is left out."""
    (index,) = jnp.nonzero(chosen, size=places, fill_value=chosen.shape[0])
    return Pending(
        work.ids.at[index].get(mode="fill", fill_value=nobody),
        work.left.at[index].get(mode="fill", fill_value=0),
        work.version.at[index].get(mode="fill", fill_value=0),
    )
