"""How long a scheme takes, given the times of the workers."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradax import _validate

from ._scheme import Scheme


class Runtime(NamedTuple):
    """What :func:`simulate_rounds` returns.

    Attributes:
      durations: ``float64[rounds]``.
      stragglers: ``bool[n, rounds]``, whose work was given up.
      waited: ``bool[rounds]``, where the master had to wait for workers that were late.
      finished: ``float64[jobs]``, the time at which each job was decoded.
    """

    durations: np.ndarray
    stragglers: np.ndarray
    waited: np.ndarray
    finished: np.ndarray

    @property
    def total(self) -> float:
        """Duration of all rounds together."""
        return float(self.durations.sum())


def simulate_rounds(
    scheme: Scheme, delays: npt.ArrayLike, mu: float = 0.5, wait: str = "all"
) -> Runtime:
    r"""Plays a scheme against recorded or drawn times.

    In every round the master waits until :math:`(1 + \mu)` times the time of the fastest worker.
    Who is later is given up if the scheme can bear it. If it cannot, the master waits on.

    Args:
      scheme: such as ``coding.MSGC(...)``; it is reset first.
      delays: ``[n, rounds]``, the time of each worker in each round; the rounds are those of the
        jobs and ``scheme.delay`` more.
      mu: tolerance, not negative.
      wait: where late workers cannot be given up, ``"all"`` waits for everybody, as the authors'
        simulator does; ``"enough"`` until those who are still missing can be.

    Returns:
      Durations, and who was given up.

    Raises:
      ValueError: if an argument is out of range or ``delays`` has another shape.
      RuntimeError: if a job cannot be decoded when it is due; names job and round.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import coding
      >>> delays = np.ones((4, 3))
      >>> delays[2, 1] = 9.0
      >>> for s in (0, 1):
      ...     print(coding.simulate_rounds(coding.GC(4, s), delays, mu=0.5).durations.tolist())
      [1.0, 9.0, 1.0]
      [1.0, 1.5, 1.0]

    References:
      Krishnan et al., `Sequential Gradient Coding For Straggler Mitigation
      <https://arxiv.org/abs/2211.13802>`_, 2022.
    """
    times = np.asarray(delays, np.float64)
    if times.ndim != 2 or len(times) != scheme.n or times.shape[1] <= scheme.delay:
        raise ValueError(
            f"simulate_rounds: delays must have the shape [{scheme.n}, rounds] with more than "
            f"{scheme.delay} rounds, got {times.shape}."
        )
    _validate.interval("simulate_rounds", "mu", mu, "[0, inf)")
    _validate.one_of("simulate_rounds", "wait", wait, ("all", "enough"))
    scheme.reset()
    durations, stragglers, waited = [], [], []
    for row in times.T:
        scheme.next_round()
        deadline = (1 + mu) * row.min()
        end = _end(scheme, row, deadline, wait)
        scheme.report(row > end)
        _check_due(scheme)
        durations.append(min(end, row.max()))
        stragglers.append(row > end)
        waited.append(end > deadline)
    ends = np.cumsum(durations)
    late = np.stack(stragglers, axis=1)
    return Runtime(np.array(durations), late, np.array(waited), ends[scheme.delay :])


def _end(scheme, row, deadline, wait):
    """When the round ends: the first moment at which those still missing can be given up."""
    later = np.sort(row[row > deadline])
    moments = [deadline, *(later if wait == "enough" else later[-1:])]
    return next(moment for moment in moments if scheme.accepts(row > moment))


def _check_due(scheme):
    due = scheme.round - 1 - scheme.delay
    if due >= 0 and not scheme.is_decodable(due):
        scheme.decode(due)
