"""Gradient codes whose missing work is done again some rounds later, or never."""

import numpy as np

from ._codes import check_code
from ._scheme import Scheme, Task
from ._straggler_patterns import check_model


class _Repeated(Scheme):
    """Coded tasks only, the missing ones done again after ``B`` rounds (``B = 0``: never)."""

    def __init__(self, who, n, B, W, lam, delay, s):
        super().__init__(who, n, B, W, lam, delay)
        self.s = self._tolerated = s
        self.load = (s + 1) / n
        self.fractions = np.full(n, 1 / n)

    def is_decodable(self, job: int) -> bool:
        """Tells whether ``n - s`` workers have returned their combination."""
        return bool(np.count_nonzero(self._done.get(job, [])) >= self.n - self.s)

    def _plan(self):
        tasks = [Task(i, self.round, "coded", 0) for i in range(self.n)]
        earlier = self.round - self.delay
        if self.delay and earlier >= 0:
            missing = np.flatnonzero(~self._received(earlier))
            for i in missing[: max(0, len(missing) - self.s)].tolist():
                tasks[i] = Task(i, earlier, "coded", 0)
        return tasks

    def _received(self, job):
        return self._done.setdefault(job, np.zeros(self.n, bool))

    def _receive(self, task):
        self._received(task.job)[task.worker] = True

    def _weights(self, job):
        return self._combine(self._received(job), job, 0)

    def _group(self, group):
        del group
        return 0


class GC(_Repeated):
    """Gradient coding as a schedule: every job ends in its own round.

    Args:
      n: number of workers.
      s: number of stragglers to bear per round, below ``n``; 0 is plain data parallelism.

    Raises:
      ValueError: if ``s`` or ``n`` is out of range.

    Examples:
      >>> from gradax.federated import coding
      >>> coding.GC(256, 15).load
      0.0625

    References:
      Tandon et al., `Gradient Coding <https://arxiv.org/abs/1612.03301>`_, 2016.
    """

    def __init__(self, n: int, s: int):
        check_code("GC", n, s)
        # One round is a window of its own.
        super().__init__("GC", n, 1, 1, s, 0, s)

    def __repr__(self) -> str:
        """Names the parameters."""
        return f"GC(n={self.n}, s={self.s})"


class SRSGC(_Repeated):
    """Selective-repeat sequential gradient coding: a weaker code, and another try later.

    The code bears ``s = ceil(B lam / (W - 1 + B))`` stragglers. Where more are missing, as few
    of them as needed do their task again ``B`` rounds later, instead of that round's.

    Args:
      n: number of workers.
      B: a worker's late rounds within a window lie less than ``B`` apart.
      W: rounds of a window, above ``B``; ``W - 1`` is a multiple of ``B``.
      lam: at most so many different workers are late within a window.

    Raises:
      ValueError: if a parameter is out of range.

    Examples:
      >>> from gradax.federated import coding
      >>> scheme = coding.SRSGC(256, B=2, W=3, lam=23)
      >>> scheme.s, scheme.delay, scheme.load
      (12, 2, 0.05078125)

    References:
      Krishnan et al., `Sequential Gradient Coding For Straggler Mitigation
      <https://arxiv.org/abs/2211.13802>`_, 2022.
    """

    def __init__(self, n: int, B: int, W: int, lam: int):
        check_model("SRSGC", n, B, W, lam)
        if (W - 1) % B:
            raise ValueError(f"SRSGC: W - 1 must be a multiple of B = {B}, got W = {W}.")
        s = -(-B * lam // (W - 1 + B))
        super().__init__("SRSGC", n, B, W, lam, B, s)
