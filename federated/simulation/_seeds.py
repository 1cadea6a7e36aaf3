"""One algorithm from several seeds, side by side in one compiled program."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradax import _validate

from ..data._layout import ClientData
from ..rounds._algorithm import Algorithm
from ..rounds._cohort import Cohort, uniform_cohort
from ..rounds._wire import tree_bytes
from ._client_evaluation import Evaluations, client_evaluations, compile_evaluations
from ._engine import Engine, SimState
from ._history import History
from ._local import Batching, Objective
from ._rows import add_evaluation, metric_rows
from ._simulate import SimResult, checked_algorithm, default_chunk

T = TypeVar("T")

#: Bytes of data and client states that may lie side by side unless a number is given.
_ROOM = 2**30


def simulate_seeds(
    algorithm: Algorithm | optax.GradientTransformation,
    loss_fn: Callable[[optax.Params, Any], Any] | None,
    params: optax.Params | Callable[[int], optax.Params],
    data: ClientData | Callable[[int], ClientData],
    rounds: int,
    cohort: Cohort | int | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    side_by_side: int | None = None,
    everybody_first: bool = False,
    batch_size: int | None = 32,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    replace: bool = False,
    grad_fn: Callable[[optax.Params, Any], optax.Updates] | None = None,
    evaluate: Callable[[optax.Params], dict[str, jax.Array]] | None = None,
    evaluate_clients: Evaluations | None = None,
    readout: Callable[[SimState], Any] | None = None,
    segment: int = 10,
    chunk: int | None = None,
    record: tuple[str, ...] = (),
) -> list[SimResult]:
    """Simulates the same algorithm from several seeds, in one program that is compiled once.

    Runs are mapped over the seeds by ``jax.vmap``, so that small models use the machine better
    than one run after the other; where that would take too much memory the seeds go in groups,
    which share what was compiled. Up to rounding each result is that of :func:`simulate` with
    ``key=seed`` and the same arguments, except that branches are computed on both sides when
    runs lie side by side.

    Args:
      algorithm: as in :func:`simulate`.
      loss_fn: as in :func:`simulate`.
      params: parameters at the start, or a function of the seed that returns them.
      data: all clients, or a function of the seed that returns them, for instance another
        split for every seed; numbers of clients and layouts must be equal.
      rounds: of every run.
      cohort: as in :func:`simulate`.
      seeds: how many, from 0 on, or which ones.
      side_by_side: runs computed together; by default as many as fit into a gibibyte with
        their data and client states.
      everybody_first: let all clients take part in the first round, as :func:`fedamd` and
        the continual :func:`rerce_fed` ask for; it counts as one of ``rounds``.
      batch_size: as in :func:`simulate`; the numbers after it too.
      num_steps: as in :func:`simulate`.
      num_epochs: as in :func:`simulate`.
      replace: as in :func:`simulate`.
      grad_fn: as in :func:`simulate`.
      evaluate: as in :func:`simulate`.
      evaluate_clients: as in :func:`simulate`.
      readout: as in :func:`simulate`.
      segment: as in :func:`simulate`.
      chunk: as in :func:`simulate`, a number or ``None``.
      record: as in :func:`simulate`.

    Returns:
      One result per seed. ``seconds`` in a history is this run's share of the wall time.

    Raises:
      ValueError: if an argument cannot work, or the data of two seeds differ in layout.
      TypeError: if ``algorithm`` or ``data`` is something else.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> numbers = np.arange(8.0, dtype=np.float32)
      >>> clients = federated.data.padded(numbers, [np.array([i]) for i in range(8)])
      >>> loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
      >>> results = federated.simulate_seeds(
      ...     federated.fedavg(0.1), loss_fn, jnp.array(0.0), clients, 30, cohort=4, seeds=2,
      ...     num_steps=5,
      ... )
      >>> alone = federated.simulate(
      ...     federated.fedavg(0.1), loss_fn, jnp.array(0.0), clients, 30, cohort=4, key=1,
      ...     num_steps=5,
      ... )
      >>> bool(abs(results[1].params - alone.params) < 1e-5)
      True
    """
    algorithm = checked_algorithm(algorithm)
    for name, value in (("rounds", rounds), ("segment", segment)):
        _validate.integer("simulate_seeds", name, value, at_least=1)
    listed = _listed(seeds)
    shared_data = not callable(data)
    splits = [data(seed) for seed in listed] if callable(data) else [data]
    if not all(isinstance(split, ClientData) for split in splits):
        raise TypeError(f"simulate_seeds: data must be ClientData, got {splits[0]!r}.")
    splits = _alike(splits)
    clients = splits[0].num_clients
    if isinstance(cohort, int | np.integer):
        cohort = uniform_cohort(clients, int(cohort))
    if isinstance(cohort, Cohort) and cohort.num_clients != clients:
        raise ValueError(
            f"simulate_seeds: the cohort draws from {cohort.num_clients} clients, the data have "
            f"{clients}."
        )
    engine = Engine(
        algorithm=algorithm,
        objective=Objective.of(loss_fn, grad_fn),
        batching=_common_plan(splits, batch_size, num_steps, num_epochs, replace),
        num_clients=clients,
        cohort=cohort,
        chunk=default_chunk(chunk, algorithm, None),
        record=tuple(record),
    )
    group = _Group(engine, shared_data, evaluate, evaluate_clients, readout, everybody_first)
    starts = [params(seed) if callable(params) else params for seed in listed]
    size = _group_size(side_by_side, len(listed), engine, starts[0], splits)
    results: list[SimResult] = []
    for first in range(0, len(listed), size):
        part = slice(first, first + size)
        mine = splits[0] if shared_data else _stacked(splits[part])
        keys = jnp.stack([jax.random.key(seed) for seed in listed[part]])
        results += group.play(_stacked(starts[part]), keys, mine, rounds, segment)
    return results


def _listed(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int | np.integer):
        _validate.integer("simulate_seeds", "seeds", seeds, at_least=1)
        return list(range(int(seeds)))
    listed = [int(seed) for seed in seeds]
    if not listed:
        raise ValueError("simulate_seeds: seeds must hold at least one seed, got none.")
    return listed


def _alike(splits: list[ClientData]) -> list[ClientData]:
    """Pads the rows of all splits to one width."""
    if all(split.max_examples is not None for split in splits):
        width = max(split.max_examples or 0 for split in splits)

        def widen(leaf):
            leaf = np.asarray(leaf)
            fill = [(0, 0), (0, width - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2)
            return np.pad(leaf, fill, mode="edge")  # the client's own last example again

        splits = [split._replace(arrays=jax.tree.map(widen, split.arrays)) for split in splits]
    shapes = [jax.tree.map(np.shape, split) for split in splits]
    if any(other != shapes[0] for other in shapes[1:]):
        raise ValueError(
            "simulate_seeds: the data of all seeds must have the same layout, number of clients "
            f"and shapes of examples, got {shapes}."
        )
    return splits


def _common_plan(splits, *arguments) -> Batching:
    """The plan of the widest split, for all."""
    plans = [Batching.plan(split, *arguments) for split in splits]
    widest = max(plans, key=lambda plan: (plan.width, plan.num_steps))
    even = all(plan.even and plan.width == widest.width for plan in plans)
    return dataclasses.replace(widest, even=even)


def _group_size(side_by_side, number: int, engine: Engine, params, splits) -> int:
    if side_by_side is not None:
        _validate.integer("simulate_seeds", "side_by_side", side_by_side, at_least=1)
        return min(side_by_side, number)
    state = jax.eval_shape(engine.init, params, jax.random.key(0))
    own = tree_bytes(state.clients) + tree_bytes(state.params)
    if len(splits) > 1:
        own += tree_bytes(jax.tree.map(np.asarray, splits[0]))
    return int(np.clip(_ROOM // max(own, 1), 1, number))


def _stacked(trees: Sequence[T]) -> T:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *trees)


class _Group:
    """Seeds that are played together; what it compiles serves all groups of one size."""

    def __init__(self, engine, shared_data, evaluate, evaluate_clients, readout, everybody_first):
        self._engine, self._shared_data = engine, shared_data
        self._everybody_first = everybody_first
        read = readout or (lambda state: state.params)
        alone = engine.algorithm.server is None
        over = functools.partial(_over_seeds, shared_data=shared_data)
        self._init = jax.jit(jax.vmap(engine.init))
        self._segment = jax.jit(
            lambda state, data, length, cohort: over(
                lambda s, d: _scan(dataclasses.replace(engine, cohort=cohort), s, d, length)
            )(state, data),
            static_argnums=(2, 3),
            donate_argnums=0,
        )
        self._readout = jax.jit(jax.vmap(lambda state: jax.tree.map(jnp.copy, read(state))))
        self._evaluate: Callable = lambda state: {}
        if evaluate is not None:
            self._evaluate = jax.jit(jax.vmap(lambda state: evaluate(read(state))))
        listed = client_evaluations(evaluate_clients, engine.num_clients, alone)
        self._evaluate_clients = compile_evaluations(listed, engine.batching, read, alone, over)

    def play(self, params, keys, data, rounds: int, segment: int) -> list[SimResult]:
        """Plays all rounds of all seeds of the group."""
        state, data = self._init(params, keys), jax.device_put(data)
        count, made = len(keys), 0
        rows: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        one = lambda tree: jax.tree.map(lambda x: x[0], tree)
        sizes = self._engine.message_bytes(one(state), data if self._shared_data else one(data))
        while made < rounds:
            first = self._everybody_first and made == 0
            length = 1 if first else min(segment, rounds - made)
            began = time.perf_counter()
            cohort = None if first else self._engine.cohort
            state, metrics = self._segment(state, data, length, cohort)
            metrics = jax.device_get(metrics)
            seconds = (time.perf_counter() - began) / (length * count)
            measured = jax.device_get([self._evaluate(state), self._evaluate_clients(state, data)])
            for number in range(count):
                mine = jax.tree.map(lambda x, number=number: x[number], (metrics, measured))
                rows[number] += metric_rows(mine[0], made, seconds, sizes)
                for columns in mine[1]:
                    add_evaluation(rows[number][-1], columns)
            made += length
        finals = self._readout(state)
        pick = lambda tree, number: jax.tree.map(lambda x: x[number], tree)
        return [
            SimResult(pick(finals, number), History(rows[number]), pick(state, number))
            for number in range(count)
        ]


def _scan(engine: Engine, state, data, length):
    return lax.scan(lambda s, _: engine.round(s, data), state, length=length)


def _over_seeds(function: Callable, shared_data: bool) -> Callable:
    """Maps a function of states and data over the seeds; a single one is called plainly."""

    def mapped(state, data):
        if state.round.shape[0] > 1:
            return jax.vmap(function, (0, None if shared_data else 0))(state, data)
        one = lambda tree: jax.tree.map(lambda x: x[0], tree)
        result = function(one(state), data if shared_data else one(data))
        return jax.tree.map(lambda x: x[None], result)

    return mapped
