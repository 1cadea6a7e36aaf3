"""Sequential gradient codes: who computes what in which round, and when a job can be decoded."""

import abc
import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from gradax import _validate

from ._codes import check_code, decode_vector, gradient_code, support


class Task(NamedTuple):
    """One piece of work of one worker, whose result is one gradient-like tree.

    Attributes:
      worker: who does it.
      job: number of the gradient that it belongs to.
      kind: ``"coded"`` for a combination of parts, ``"plain"`` for the gradient of one part.
      part: the group of a combination, or the number of the part.
    """

    worker: int
    job: int
    kind: str
    part: int


class Scheme(abc.ABC):
    """A stream of jobs, each the sum of the gradients of all parts of some data.

    In every round call :meth:`next_round` for the tasks, let the workers compute
    (:meth:`combination` says what), and :meth:`report` who was late; everything that a late
    worker did in this round is lost. Job ``t`` begins in round ``t`` and can be decoded after
    round ``t + delay``, if the stragglers kept to the model.

    Args:
      who: name for error messages.
      n: number of workers.
      B: length of a burst of the straggler model.
      W: length of its window.
      lam: number of different stragglers in a window.
      delay: rounds from the beginning of a job to its end.
    """

    #: Size of every part as a share of the data.
    fractions: np.ndarray
    #: Share of the data on which a worker computes per round.
    load: float

    def __init__(self, who: str, n: int, B: int, W: int, lam: int, delay: int):
        self._who = who
        self.n, self.B, self.W, self.lam, self.delay = n, B, W, lam, delay
        self.reset()

    def __repr__(self) -> str:
        """Names the parameters."""
        return f"{self._who}(n={self.n}, B={self.B}, W={self.W}, lam={self.lam})"

    def reset(self) -> None:
        """Goes back to before the first round."""
        self.round = 0
        self._tasks: list[Task] | None = None
        self._late: list[np.ndarray] = []
        self._done: dict[int, Any] = {}

    def next_round(self) -> list[Task]:
        """Hands out the tasks of the next round.

        Returns:
          The tasks of all workers; one worker's are in the order of their jobs.

        Raises:
          RuntimeError: if the round before has not been reported.
        """
        if self._tasks is not None:
            raise RuntimeError(f"{self._who}: report round {self.round} before the next one.")
        self._tasks = self._plan()
        return list(self._tasks)

    def report(self, stragglers: Iterable[Any]) -> None:
        """Closes a round.

        Args:
          stragglers: who was late: ``bool[n]``, or numbers of workers.

        Raises:
          RuntimeError: if no round is open.
          ValueError: if ``stragglers`` names nobody's number.
        """
        if self._tasks is None:
            raise RuntimeError(f"{self._who}: call next_round before report.")
        late = self._mask(stragglers)
        for task in self._tasks:
            if not late[task.worker]:
                self._receive(task)
        self._late.append(late)
        self._tasks = None
        self.round += 1

    def accepts(self, stragglers: Iterable[Any]) -> bool:
        """Tells whether the model still holds if these workers are late in this round.

        Args:
          stragglers: ``bool[n]``, or numbers of workers.

        Returns:
          ``True`` if every job that has begun can still be decoded in time, provided that later
          rounds keep to the model too.
        """
        return conforms_next(self._late, self._mask(stragglers), self.B, self.W, self.lam)

    @abc.abstractmethod
    def is_decodable(self, job: int) -> bool:
        """Tells whether what has been received determines the gradient of a job."""

    def decode(self, job: int) -> dict[Task, float]:
        """Says how the results of a job make its gradient.

        Args:
          job: its number.

        Returns:
          Task -> weight; the sum of the results times these is the sum of the gradients of all
          parts.

        Raises:
          RuntimeError: if results are missing; the message names the job and the round.
        """
        if not self.is_decodable(job):
            raise RuntimeError(
                f"{self._who}: job {job} cannot be decoded after round {self.round - 1}; it is "
                f"due after round {job + self.delay}."
            )
        return self._weights(job)

    def assemble(self, job: int, results: Mapping[Task, Any]) -> Any:
        """Adds up the gradient of a job.

        Args:
          job: its number.
          results: what the tasks gave, pytrees of arrays; others may be among them.

        Returns:
          The sum of the gradients of all parts.

        Raises:
          RuntimeError: if results are missing.
        """
        terms = [
            jax.tree.map(lambda leaf, weight=weight: weight * leaf, results[task])
            for task, weight in self.decode(job).items()
        ]
        return functools.reduce(lambda a, b: jax.tree.map(lambda x, y: x + y, a, b), terms)

    def combination(self, task: Task) -> dict[int, float]:
        """Says what a task computes.

        Args:
          task: of :meth:`next_round`.

        Returns:
          Part -> weight: the result is the sum of the gradients of these parts times these.
        """
        if task.kind == "plain":
            return {task.part: 1.0}
        offset, parts = self._group(task.part), self._support[task.worker]
        return {offset + int(part): float(self.code[task.worker, part]) for part in parts}

    def split(self, num_examples: int) -> list[np.ndarray]:
        """Divides examples among the parts.

        Args:
          num_examples: how many there are.

        Returns:
          For each part the numbers of its examples; some parts are empty if there are few.
        """
        _validate.integer(self._who, "num_examples", num_examples, at_least=1)
        ends = np.rint(np.cumsum(self.fractions) * num_examples).astype(int)
        return np.split(np.arange(num_examples), ends[:-1])

    @functools.cached_property
    def code(self) -> np.ndarray:
        """The gradient code of the coded tasks, made when it is first needed."""
        return gradient_code(self.n, self._tolerated)

    @functools.cached_property
    def _support(self) -> np.ndarray:
        return support(self.code)

    @functools.cached_property
    def _decode_vector(self):
        return functools.lru_cache(maxsize=4096)(
            lambda active: decode_vector(self.code, np.array(active))
        )

    # What differs between the schemes -----------------------------------------------------

    _tolerated: int

    @abc.abstractmethod
    def _plan(self) -> list[Task]:
        """The tasks of this round."""

    @abc.abstractmethod
    def _receive(self, task: Task) -> None:
        """Notes the result of a task."""

    @abc.abstractmethod
    def _weights(self, job: int) -> dict[Task, float]:
        """The weights of a job's results."""

    @abc.abstractmethod
    def _group(self, group: int) -> int:
        """Number of the first part of a group that is coded."""

    def _combine(self, received, job, group):
        """Weights of the coded results of a group."""
        vector = self._decode_vector(tuple(received.tolist()))
        workers = np.flatnonzero(received)
        return {Task(int(i), job, "coded", group): float(vector[i]) for i in workers}

    def _mask(self, stragglers) -> np.ndarray:
        given = np.asarray(list(stragglers))
        if given.dtype == bool and given.shape == (self.n,):
            return given
        numbers = set(range(self.n))
        if given.ndim != 1 or given.dtype == bool or not numbers.issuperset(given.tolist()):
            raise ValueError(
                f"{self._who}: stragglers must be {self.n} booleans or numbers of workers, got "
                f"{given.tolist()}."
            )
        return np.isin(np.arange(self.n), given)


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


def check_model(who: str, n: int, B: int, W: int, lam: int) -> None:
    """Raises unless ``1 <= B < W`` and ``0 <= lam <= n``."""
    _validate.integer(who, "n", n, at_least=1)
    _validate.integer(who, "B", B, at_least=1)
    _validate.integer(who, "W", W, at_least=2)
    _validate.integer(who, "lam", lam, at_least=0)
    if W <= B:
        raise ValueError(f"{who}: W must be above B = {B}, got {W}.")
    if lam > n:
        raise ValueError(f"{who}: lam must be at most n = {n}, got {lam}.")


def conforms(stragglers: npt.ArrayLike, B: int, W: int, lam: int) -> bool:
    """Tells whether a pattern keeps to the bursty straggler model ``(B, W, lam)``.

    In every window of ``W`` consecutive rounds at most ``lam`` different workers are late, and
    the first and the last late round of each of them lie at most ``B - 1`` apart.

    Args:
      stragglers: ``bool[n, rounds]``.
      B: as above.
      W: as above.
      lam: as above.

    Returns:
      Whether it does.

    Examples:
      >>> import numpy as np
      >>> from gradax.federated import coding
      >>> late = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], bool)
      >>> coding.conforms(late, B=1, W=3, lam=1), coding.conforms(late, B=1, W=4, lam=1)
      (True, False)
    """
    rounds = list(np.asarray(stragglers, bool).T)
    return all(conforms_next(rounds[:r], late, B, W, lam) for r, late in enumerate(rounds))


def conforms_next(earlier: list[np.ndarray], late: np.ndarray, B: int, W: int, lam: int) -> bool:
    """The model's conditions on one round, given the rounds before."""
    window = earlier[max(0, len(earlier) - W + 1) :]
    union = functools.reduce(np.logical_or, window, late)
    # Further back than B - 1 rounds, within the window, nobody may have been late who is now.
    old = window[: max(0, len(window) - B + 1)]
    again = functools.reduce(np.logical_or, old, np.zeros_like(late)) & late
    return bool(union.sum() <= lam and not again.any())


def conforms_arbitrary(stragglers: npt.ArrayLike, N: int, W: int, lam: int) -> bool:
    """Tells whether a pattern keeps to the arbitrary straggler model ``(N, W, lam)``.

    In every window of ``W`` consecutive rounds at most ``lam`` different workers are late, each
    at most ``N`` times. :class:`MSGC` with ``B`` and ``W`` decodes all patterns of the model
    ``(B, W + B - 1, lam)``, too.

    Args:
      stragglers: ``bool[n, rounds]``.
      N: as above.
      W: as above.
      lam: as above.

    Returns:
      Whether it does.
    """
    late = np.asarray(stragglers, bool)
    windows = [late[:, r : r + W] for r in range(max(1, late.shape[1] - W + 1))]
    return all(
        window.any(axis=1).sum() <= lam and window.sum(axis=1).max(initial=0) <= N
        for window in windows
    )
