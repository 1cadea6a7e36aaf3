"""Multiplexed sequential gradient coding: few coded tasks, many plain ones tried again."""

import numpy as np

from ._scheme import Scheme, Task
from ._straggler_patterns import check_model


class MSGC(Scheme):
    r"""Multiplexed sequential gradient coding: most of the data uncoded, lost work tried again.

    A job's data are ``D1``, of which every worker owns ``W - 1`` parts alone, and ``B`` groups
    ``D2``, each protected by a code that bears ``lam`` stragglers. A worker computes one of its
    own parts in each of the first ``W - 1`` rounds of a job. In the ``B`` rounds that follow it
    sends one coded combination each, or, while own parts are missing, tries those again. A round
    thus holds pieces of ``W - 1 + B`` jobs, and the load is far below that of a code alone:

    .. math::
        \frac{(\lambda + 1)(W - 1 + B)}{n (B + (W - 1)(\lambda + 1))}.

    With ``lam = n`` there is no ``D2`` and the load is ``(W - 1 + B) / (n (W - 1))``.

    Args:
      n: number of workers.
      B: a worker's late rounds within a window lie less than ``B`` apart.
      W: rounds of a window, above ``B``.
      lam: at most so many different workers are late within a window.

    Raises:
      ValueError: if a parameter is out of range.

    Examples:
      >>> from gradax.federated import coding
      >>> scheme = coding.MSGC(4, B=1, W=2, lam=1)
      >>> scheme.delay, round(scheme.load, 3), len(scheme.fractions)
      (1, 0.333, 8)
      >>> for late in ([2], []):
      ...     tasks = scheme.next_round()
      ...     scheme.report(late)
      >>> [task.kind for task in tasks if task.job == 0]
      ['coded', 'coded', 'plain', 'coded']
      >>> len(scheme.decode(0))
      7

    References:
      Krishnan et al., `Sequential Gradient Coding For Straggler Mitigation
      <https://arxiv.org/abs/2211.13802>`_, 2022.
    """

    def __init__(self, n: int, B: int, W: int, lam: int):
        check_model("MSGC", n, B, W, lam)
        super().__init__("MSGC", n, B, W, lam, W - 2 + B)
        self._groups = B if lam < n else 0
        # Without groups nothing is coded; the code is never made then.
        self._tolerated = min(lam, n - 1)
        total = B + (W - 1) * (lam + 1) if self._groups else (W - 1) * (lam + 1)
        own = (lam + 1) / (n * total)
        coded = np.full(self._groups * n, 1 / (n * total))
        self.fractions = np.concatenate([np.full((W - 1) * n, own), coded])
        self.load = (W - 1 + B) * own

    def is_decodable(self, job: int) -> bool:
        """Tells whether all own parts are in and every group has ``n - lam`` combinations."""
        if job not in self._done:
            return False
        own, coded = self._done[job]
        return bool(own.all() and (coded.sum(axis=1) >= self.n - self.lam).all())

    def _plan(self):
        first = max(0, self.round - self.delay)
        tasks = [
            self._task(worker, job)
            for worker in range(self.n)
            for job in range(first, self.round + 1)
        ]
        return [task for task in tasks if task is not None]

    def _task(self, worker, job):
        """What a worker does for a job in this round, if anything is left."""
        step, own = self.round - job, self._received(job)[0][worker]
        if step < self.W - 1:
            return self._plain(worker, job, step)
        if not own.all():
            return self._plain(worker, job, int(np.argmin(own)))
        return Task(worker, job, "coded", step - (self.W - 1)) if self._groups else None

    def _plain(self, worker, job, number):
        return Task(worker, job, "plain", worker * (self.W - 1) + number)

    def _received(self, job):
        """Which own parts ``[n, W - 1]`` and which combinations ``[groups, n]`` are in."""
        if job not in self._done:
            own = np.zeros((self.n, self.W - 1), bool)
            self._done[job] = own, np.zeros((self._groups, self.n), bool)
        return self._done[job]

    def _receive(self, task):
        own, coded = self._received(task.job)
        if task.kind == "plain":
            own[divmod(task.part, self.W - 1)] = True
        else:
            coded[task.part, task.worker] = True

    def _weights(self, job):
        own, coded = self._received(job)
        parts = range(own.size)
        weights = {Task(part // (self.W - 1), job, "plain", part): 1.0 for part in parts}
        for group, received in enumerate(coded):
            weights |= self._combine(received, job, group)
        return weights

    def _group(self, group):
        return (self.W - 1) * self.n + group * self.n
