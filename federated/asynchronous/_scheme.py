"""Sequential gradient codes: who computes what in which round, and when a job can be decoded."""

import abc
import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gradax import _validate

from ._codes import decode_vector, gradient_code, support
from ._straggler_patterns import conforms_next


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
