"""Who reaches the server when, and with which model it had begun: lists made on the host."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gradax import _validate
from gradax.catalogue import Paper, register

from ..rounds import Cohort, Draw
from ._clocks import TOLERANCE, Clock, as_clock, whole_windows

KINDS = ("sync", "async", "fedbuff", "fedfix")

ASYNC = Paper(
    "A General Theory for Federated Optimization with Asynchronous and Heterogeneous Clients "
    "Updates",
    "Fraboni et al.",
    2022,
    "2206.10189",
)


class AsyncSchedule(NamedTuple):
    """The steps of an asynchronous server; NumPy arrays on the host.

    Attributes:
      num_clients: number of clients.
      ids: ``int32[steps, lanes]``, who takes part in a step; ``num_clients`` means nobody.
      versions: ``int32[steps, lanes]``, the step before which each received its model.
      times: ``float64[steps]``, when the step is made.
    """

    num_clients: int
    ids: np.ndarray
    versions: np.ndarray
    times: np.ndarray

    @classmethod
    def of_matrix(
        cls, starts: npt.ArrayLike, times: npt.ArrayLike | None = None
    ) -> "AsyncSchedule":
        """Takes a schedule in the form of a matrix.

        Args:
          starts: ``int[steps, clients]``, the number of the model from which the client began,
            or -1 if it does not take part.
          times: ``[steps]``, when the steps are made; one after the other by default.

        Returns:
          The schedule.

        Raises:
          ValueError: if a client begins with a model that is not there yet, or with one older
            than its last contribution, shapes differ or times decrease.

        Examples:
          >>> from gradax import federated
          >>> schedule = federated.AsyncSchedule.of_matrix([[0, -1], [1, 0]])
          >>> schedule.ids.tolist(), schedule.num_versions
          ([[0, 2], [0, 1]], 2)
        """
        starts = np.asarray(starts)
        if starts.ndim != 2 or not starts.size or starts.dtype.kind != "i":
            raise ValueError(
                f"AsyncSchedule: starts must be integers [steps, clients], got "
                f"{starts.dtype}{list(starts.shape)}."
            )
        steps = np.arange(len(starts))
        times = np.asarray(steps + 1 if times is None else times, np.float64)
        if times.shape != steps.shape or (np.diff(times) < 0).any():
            raise ValueError(
                f"AsyncSchedule: times must have shape ({len(steps)},) and not decrease."
            )
        _refuse_impossible(starts)
        present = [np.flatnonzero(row >= 0) for row in starts]
        begun = [row[who] for row, who in zip(starts, present, strict=True)]
        return _packed(starts.shape[1], present, begun, times)

    def matrix(self) -> np.ndarray:
        """The form that :meth:`of_matrix` takes, ``int64[steps, clients]``."""
        starts = np.full((len(self.ids), self.num_clients + 1), -1)
        np.put_along_axis(starts, self.ids, self.versions, axis=1)
        return starts[:, :-1]

    @property
    def max_age(self) -> int:
        """The largest number of steps between the model of a job and its contribution."""
        ages = np.arange(len(self.ids))[:, None] - self.versions
        return int(ages.max(where=self.ids < self.num_clients, initial=0))

    @property
    def num_versions(self) -> int:
        """How many models the server must keep for this schedule."""
        return self.max_age + 1

    @property
    def participation(self) -> np.ndarray:
        """Share of the steps in which each client takes part, ``float64[clients]``."""
        counts = np.bincount(self.ids.ravel(), minlength=self.num_clients + 1)
        return counts[:-1] / len(self.ids)

    def cohort(self) -> Cohort:
        """The rule for ``simulate(..., cohort=)``; after the last step nobody takes part.

        Its lanes have the extra ``version``, which :func:`from_version` reads; ``time`` is
        common, and stands in the history.
        """
        last, lanes = len(self.ids), self.ids.shape[1]
        nobody = np.full((1, lanes), self.num_clients, np.int32)
        ids = np.concatenate([self.ids, nobody])
        versions = np.concatenate([self.versions, nobody])
        times = np.append(self.times, self.times[-1]).astype(np.float32)

        def draw(state, key, round):
            del key
            at = jnp.minimum(round, last)
            who = jnp.asarray(ids)[at]
            # Who is absent reads the model of today, which is always there.
            version = jnp.where(who < self.num_clients, jnp.asarray(versions)[at], round)
            return Draw(who, {"version": version}, {"time": jnp.asarray(times)[at]}), state

        return Cohort(lanes, self.num_clients, lambda: (), draw)


def _refuse_impossible(starts):
    received = np.zeros(starts.shape[1], np.int64)
    for step, row in enumerate(starts):
        here = row >= 0
        if (row < -1).any() or (row > step).any():
            client = int(np.argmax((row < -1) | (row > step)))
            raise ValueError(
                f"AsyncSchedule: in step {step} client {client} begins with model {row[client]}; "
                f"there are models 0 to {step} (-1 means absent)."
            )
        if (here & (row < received)).any():
            client = int(np.argmax(here & (row < received)))
            raise ValueError(
                f"AsyncSchedule: in step {step} client {client} begins with model {row[client]}, "
                f"but it contributed to model {received[client]} already."
            )
        received[here] = step + 1


def _packed(num_clients, present, begun, times) -> AsyncSchedule:
    """Rows of different lengths in rectangles, filled up with nobody."""
    lanes = max(1, max(map(len, present)))
    ids = np.full((len(present), lanes), num_clients, np.int32)
    versions = np.zeros_like(ids)
    for step, (who, start) in enumerate(zip(present, begun, strict=True)):
        ids[step, : len(who)], versions[step, : len(who)] = who, start
    return AsyncSchedule(num_clients, ids, versions, np.asarray(times, np.float64))


def lanes_of(who: str, kind: str, num_clients: int, buffer_size: int | None) -> int:
    """How many clients a step waits for.

    Args:
      who: name of the caller, for messages.
      kind: one of ``KINDS`` but ``"fedfix"``.
      num_clients: number of clients.
      buffer_size: of ``"fedbuff"``.

    Returns:
      The number.

    Raises:
      ValueError: if ``buffer_size`` is missing or larger than the number of clients.
    """
    if kind != "fedbuff":
        return num_clients if kind == "sync" else 1
    _validate.integer(who, "buffer_size", buffer_size, at_least=1)
    assert buffer_size is not None
    if buffer_size > num_clients:
        raise ValueError(
            f"{who}: buffer_size must not exceed the number of clients, {num_clients}, got "
            f"{buffer_size}."
        )
    return buffer_size


def check_window(who: str, window: float | None) -> float:
    """Returns the length of a window, or says that it cannot be one.

    Args:
      who: name of the caller.
      window: what was given.

    Returns:
      The length.

    Raises:
      ValueError: if it is missing or not positive.
    """
    if window is None:
        raise ValueError(f'{who}: kind="fedfix" needs window=, the time between two steps.')
    _validate.interval(who, "window", window, "(0, inf)")
    return float(window)


@register("function", ASYNC, example={"kind": "async", "times": (1.0, 0.5), "num_steps": 6})
def async_schedule(
    kind: str,
    times: Clock | npt.ArrayLike,
    num_steps: int,
    *,
    buffer_size: int | None = None,
    window: float | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> AsyncSchedule:
    """Plays the clients' clocks: who takes part in each step of the server, with which model.

    All clients begin at time 0 with the first model. Who takes part in a step receives the
    model that the step makes, and begins anew.

    - ``"sync"``: a step when all are there.
    - ``"async"``: a step as soon as one client is there; of equal times the lowest number.
    - ``"fedbuff"``: a step when ``buffer_size`` clients are there.
    - ``"fedfix"``: a step every ``window``, with whoever has come since the last one.

    Args:
      kind: the rule.
      times: a :class:`Clock` of :func:`client_clock`, or fixed times ``[clients]``.
      num_steps: number of steps of the server.
      buffer_size: of ``"fedbuff"``.
      window: of ``"fedfix"``, the time between two steps.
      tolerance: times that differ by less than this share of the mean time are equal.
      seed: of a clock that is random.

    Returns:
      The schedule.

    Raises:
      ValueError: if an argument is out of range or missing.

    Examples:
      >>> from gradax import federated
      >>> schedule = federated.async_schedule("async", [1.0, 0.4], num_steps=4)
      >>> schedule.matrix().tolist(), schedule.times.round(1).tolist()
      ([[-1, 0], [-1, 1], [0, -1], [-1, 2]], [0.4, 0.8, 1.0, 1.2])

    References:
      Fraboni et al., `A General Theory for Federated Optimization with Asynchronous and
      Heterogeneous Clients Updates <https://arxiv.org/abs/2206.10189>`_, 2022.
    """
    who = "async_schedule"
    _validate.one_of(who, "kind", kind, KINDS)
    _validate.integer(who, "num_steps", num_steps, at_least=1)
    _validate.interval(who, "tolerance", tolerance, "[0, 0.1]")
    clock, rng = as_clock(times), np.random.default_rng(seed)
    if kind == "fedfix":
        return _windowed(clock, rng, num_steps, check_window(who, window))
    lanes = lanes_of(who, kind, clock.num_clients, buffer_size)
    return _buffered(clock, rng, num_steps, lanes, tolerance * clock.mean.mean())


def _buffered(clock, rng, num_steps, lanes, tolerance) -> AsyncSchedule:
    """A step when so many clients are there: the earliest, of equal times the lowest numbers."""
    everybody = np.arange(clock.num_clients)
    jobs = np.zeros_like(everybody)
    received, ready = np.zeros_like(everybody), clock.draw(rng, everybody, jobs)
    now, present, begun, times = 0.0, [], [], []
    for step in range(num_steps):
        last = np.partition(ready, lanes - 1)[lanes - 1]
        earlier = np.flatnonzero(ready < last - tolerance)
        equal = np.flatnonzero(np.abs(ready - last) <= tolerance)
        who = np.sort(np.concatenate([earlier, equal[: lanes - len(earlier)]]))
        now = max(now, ready[who].max())
        present.append(who)
        begun.append(received[who])
        times.append(now)
        jobs[who] += 1
        received[who], ready[who] = step + 1, now + clock.draw(rng, who, jobs[who])
    return _packed(clock.num_clients, present, begun, times)


def _windowed(clock, rng, num_steps, window) -> AsyncSchedule:
    """A step every window. Jobs begin with a window, so that whole windows can be counted."""
    everybody = np.arange(clock.num_clients)
    jobs, received = np.zeros_like(everybody), np.zeros_like(everybody)
    due = whole_windows(clock.draw(rng, everybody, jobs), window) - 1
    present, begun = [], []
    for step in range(num_steps):
        who = np.flatnonzero(due == step)
        present.append(who)
        begun.append(received[who])
        jobs[who] += 1
        received[who] = step + 1
        due[who] = step + whole_windows(clock.draw(rng, who, jobs[who]), window)
    return _packed(clock.num_clients, present, begun, window * np.arange(1, num_steps + 1))


@register("function", ASYNC, example={"kind": "async", "times": (1.0, 0.5)})
def unbiased_weights(
    kind: str,
    times: Clock | npt.ArrayLike,
    importance: npt.ArrayLike | None = None,
    *,
    buffer_size: int | None = None,
    window: float | None = None,
    num_steps: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    r"""Weights with which every client counts by its importance, however often it comes.

    Where client :math:`i` takes part in a share :math:`P_i` of the steps, that is
    :math:`d_i = p_i / P_i`:

    - ``"sync"``: :math:`d_i = p_i`;
    - ``"async"``: :math:`d_i = p_i\, \tau_i \sum_j 1 / \tau_j` with the mean times
      :math:`\tau_i`;
    - ``"fedfix"``: :math:`d_i = p_i\, \mathbb{E} \lceil \tau_i / \Delta t \rceil`;
    - ``"fedbuff"``: :math:`P_i` is counted in a schedule of ``num_steps`` steps.

    Args:
      kind: as in :func:`async_schedule`.
      times: as in :func:`async_schedule`.
      importance: :math:`p_i`, ``[clients]``, positive, such as shares of the examples; equal by
        default. They are scaled to sum to one.
      buffer_size: of ``"fedbuff"``.
      window: :math:`\Delta t` of ``"fedfix"``.
      num_steps: of the schedule in which ``"fedbuff"`` counts.
      seed: of that schedule.

    Returns:
      ``float64[clients]``, for :func:`async_server`.

    Raises:
      ValueError: if an argument is out of range, or a client never takes part.

    Examples:
      >>> from gradax import federated
      >>> times = [1.0, 0.8, 0.6, 0.4, 0.2]
      >>> federated.unbiased_weights("async", times).round(5).tolist()
      [2.28333, 1.82667, 1.37, 0.91333, 0.45667]
      >>> federated.unbiased_weights("fedfix", times, window=0.3).round(5).tolist()
      [0.8, 0.6, 0.4, 0.4, 0.2]

    References:
      Fraboni et al., `A General Theory for Federated Optimization with Asynchronous and
      Heterogeneous Clients Updates <https://arxiv.org/abs/2206.10189>`_, 2022.
    """
    who = "unbiased_weights"
    _validate.one_of(who, "kind", kind, KINDS)
    clock = as_clock(times)
    shares = _shares(who, importance, clock.num_clients)
    if kind == "sync":
        return shares
    if kind == "async":
        return shares * clock.mean * np.sum(1 / clock.mean)
    if kind == "fedfix":
        return shares * clock.mean_windows(check_window(who, window))
    often = async_schedule(kind, clock, num_steps, buffer_size=buffer_size, seed=seed).participation
    if (often == 0).any():
        raise ValueError(
            f"{who}: client {int(np.argmin(often))} does not take part within {num_steps} steps; "
            "give a larger num_steps=."
        )
    return shares / often


def _shares(who, importance, num_clients):
    if importance is None:
        return np.full(num_clients, 1 / num_clients)
    shares = np.asarray(importance, np.float64)
    if shares.shape != (num_clients,) or not (np.isfinite(shares) & (shares > 0)).all():
        raise ValueError(
            f"{who}: importance must be {num_clients} positive numbers, got {importance}."
        )
    return shares / shares.sum()
