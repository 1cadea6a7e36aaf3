"""Simulating federated rounds: the loop over segments of rounds."""

import contextlib
import numbers
import os
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate

from .. import axis
from ..data._layout import ClientData
from ..privacy._account import Ledger, PrivacyAccount
from ..privacy._algorithm import PrivateAlgorithm
from ..rounds._algorithm import Algorithm, peers
from ..rounds._cohort import Cohort, uniform_cohort
from ._agreement import check_agreement
from ._auto_chunk import fit_chunk, memory_for
from ._checkpoint import Checkpoints
from ._client_evaluation import Evaluations, client_evaluations, compile_evaluations
from ._client_state import ClientStates
from ._describe import describe
from ._engine import Engine, SimState
from ._history import History
from ._local import Batching, Objective
from ._placement import Placement, Rule
from ._progress import progress_bar
from ._rows import add_evaluation, headline, metric_rows


class SimResult(NamedTuple):
    """What a simulation returns.

    Attributes:
      params: the common parameters, or for peers one row per node, leaves ``[nodes, ...]``;
        with ``readout=`` what that returns.
      history: metrics per round.
      state: everything; pass it to :func:`simulate` to go on.
      privacy: what was spent, if the run was to account for it; pass it on with the state.
      chunk: number of clients that were computed side by side.
    """

    params: optax.Params
    history: History
    state: SimState
    privacy: PrivacyAccount | None = None
    chunk: int | None = None


def simulate(
    algorithm: Algorithm | optax.GradientTransformation,
    loss_fn: Callable[[optax.Params, Any], Any] | None,
    params: optax.Params,
    data: ClientData,
    rounds: int,
    cohort: Cohort | int | None = None,
    *,
    batch_size: int | None = 32,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    replace: bool = False,
    grad_fn: Callable[[optax.Params, Any], optax.Updates] | None = None,
    evaluate: Callable[[optax.Params], dict[str, jax.Array]] | None = None,
    evaluate_clients: Evaluations | None = None,
    readout: Callable[[SimState], Any] | None = None,
    segment: int = 10,
    chunk: int | Literal["auto"] | None = None,
    memory_budget: int | None = None,
    client_state: str | os.PathLike = "device",
    mesh: jax.sharding.Mesh | None = None,
    shard_params: str | Rule | None = None,
    record: tuple[str, ...] = (),
    key: jax.Array | int = 0,
    replicate: bool = True,
    privacy: PrivacyAccount | None = None,
    state: SimState | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = False,
    title: str = "rounds",
) -> SimResult:
    """Simulates rounds of an algorithm, many clients on one accelerator or on a mesh.

    Rounds are scanned inside one jit in segments; between segments the run evaluates, draws its
    progress and saves itself. Whether clients run side by side, in chunks, one by one, on one
    device or many: the result is the same up to rounding, and random draws are the same bits.

    Args:
      algorithm: an :class:`Algorithm`, or the chain of a node whose collectives use the axis
        ``"nodes"`` (see :func:`peers`).
      loss_fn: ``loss_fn(params, batch)``, the mean loss of a batch, or ``(loss, aux)``; may be
        ``None`` if ``grad_fn`` is given.
      params: parameters at the start; the caller's arrays stay usable.
      data: examples of all clients, for instance of ``gradax.federated.data.padded``.
      rounds: total number of rounds; a run that goes on stops when this many have been made.
      cohort: who takes part: a number of clients drawn uniformly each round, a :class:`Cohort`,
        or ``None`` for everybody. Nodes without a server sit in the order of their numbers;
        their rule must cope with who is absent (the extras ``active`` and ``client_id``), as
        :func:`gossip` and :func:`nearest_neighbor_average` do.
      batch_size: examples per batch; ``None`` takes all of a client's examples in every step.
      num_steps: local steps of a round.
      num_epochs: instead of ``num_steps``, passes over each client's own data; clients with
        fewer examples make fewer steps. One pass if neither is given.
      replace: draw the examples of a batch independently; otherwise each round shuffles a
        client's examples and deals them out, from the start again when they are used up.
      grad_fn: ``grad_fn(params, batch)``, if it is not the gradient of ``loss_fn``.
      evaluate: ``evaluate(params) -> {name: scalar}``, jitted, after every segment; peers pass
        parameters with a leading axis of nodes.
      evaluate_clients: ``evaluate_clients(params, batch) -> {name: scalar}``, measured at every
        client after every segment; the history receives mean, spread and the mean over the
        worst tenth. A :class:`ClientEvaluation`, or a list of them, says on which data.
      readout: ``readout(state)``, what is evaluated and returned in place of ``state.params``,
        for methods whose iterates are not what one wants to use: an average that the server
        keeps, or nodes that stand at different times (:func:`dadao_params`).
      segment: rounds per segment. At most one segment is lost when a run is killed.
      chunk: clients computed side by side, on a mesh rounded up to a multiple of the devices.
        By default one on CPU, where that is fastest and takes the least memory, and all of
        the cohort elsewhere or on a mesh. For peers only the local work is chunked, and by
        default not at all. ``"auto"`` takes the largest chunk that fits into
        ``memory_budget``, by what the compiler says a segment needs; on CPU with a server
        that is one still, unless there is a mesh.
      memory_budget: for ``chunk="auto"``, bytes per device for data, states and the work of a
        round; by default what the device reports free, or on CPU half of the available memory.
      client_state: ``"device"`` keeps the states of all clients there; ``"host"`` in NumPy
        arrays, a path in files of that directory which are mapped into memory. Only the
        cohort's states then travel, in each round, and ``state.clients`` of the result holds
        NumPy arrays. The numbers are the same. For algorithms with a server and ``cohort=``.
        A checkpoint holds all states whole, and a run goes on from that, never from the files;
        a ``readout`` that reads ``state.clients`` moves them to the device.
      mesh: devices over which clients, their data and states are spread; parameters are
        replicated. The number of clients must be a multiple of the number of devices. Several
        processes (``jax.distributed``) that give none share all their devices.
      shard_params: name of an axis of the mesh over which parameters, and states shaped like
        them, are cut along their largest dimension that divides (arrays of fewer than 1024
        numbers are not); the clients lie over the other axes. Or a function from the shape of
        one copy of an array to a ``PartitionSpec``.
      record: names of fields of the client's or node's state; their mean over the participants
        stands in the history, every round.
      key: random key or seed of the run.
      replicate: for peers, give every node a copy of ``params``; otherwise ``params`` has a
        leading axis of nodes already.
      privacy: report ``epsilon`` in every row of the history; see :class:`PrivacyAccount`. The
        run is refused where none can be stated.
      state: of an earlier result, to go on from; it is consumed.
      checkpoint: directory in which the run saves itself after every segment (extra
        ``checkpoint``); if it holds this run already, the run goes on from there.
      progress: draw a progress bar (extra ``progress``).
      title: stands before the bar.

    Returns:
      Parameters, history and state.

    Raises:
      ValueError: if an argument cannot work: a cohort larger than the clients, a client without
        examples, a checkpoint or state of another run, a mesh that does not divide the clients,
        a memory budget that is too small for one client.
      TypeError: if ``algorithm``, ``data`` or ``cohort`` is something else.

    Examples:
      Eight clients that each hold one number agree on the mean:

      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> numbers = np.arange(8.0, dtype=np.float32)
      >>> clients = federated.data.padded(numbers, [np.array([i]) for i in range(8)])
      >>> loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
      >>> result = federated.simulate(
      ...     federated.fedavg(0.1), loss_fn, jnp.array(0.0), clients, rounds=30, num_steps=5
      ... )
      >>> round(float(result.params), 2)
      3.5
    """
    algorithm = checked_algorithm(algorithm)
    if not isinstance(data, ClientData):
        raise TypeError(f"simulate: data must be ClientData, got {type(data).__name__}.")
    for name, value in (("rounds", rounds), ("segment", segment)):
        _validate.integer("simulate", name, value, at_least=1)
    if memory_budget is not None:
        _validate.integer("simulate", "memory_budget", memory_budget, at_least=1)
        if chunk != "auto":
            raise ValueError(f"simulate: memory_budget= goes with chunk='auto', got {chunk!r}.")
    num_clients = data.num_clients
    if isinstance(cohort, numbers.Integral):
        cohort = uniform_cohort(num_clients, cohort)
    if not isinstance(cohort, Cohort | None):
        raise TypeError(f"simulate: cohort must be a Cohort or a number, got {cohort!r}.")
    if cohort is not None and cohort.num_clients != num_clients:
        raise ValueError(
            f"simulate: the cohort draws from {cohort.num_clients} clients, the data have "
            f"{num_clients}."
        )
    if cohort is not None and cohort.uses_losses and None in (loss_fn, algorithm.server):
        raise ValueError(
            "simulate: this cohort compares losses of the clients under the common parameters: "
            "it needs loss_fn= and an algorithm with a server."
        )
    if isinstance(algorithm, PrivateAlgorithm) and cohort is not None and cohort.uses_losses:
        raise ValueError(
            "simulate: a private algorithm must not draw its cohort by the losses of the clients: "
            "who takes part would tell about their data."
        )
    lead = 0 if replicate or algorithm.server is not None else 1
    shapes = [np.shape(leaf)[lead:] for leaf in jax.tree.leaves(params)]
    placement = Placement.of(mesh, shard_params, shapes)
    placement.check(num_clients)
    engine = Engine(
        algorithm=algorithm,
        objective=Objective.of(loss_fn, grad_fn),
        batching=Batching.plan(data, batch_size, num_steps, num_epochs, replace),
        num_clients=num_clients,
        cohort=cohort,
        chunk=default_chunk(None if chunk == "auto" else chunk, algorithm, placement.mesh),
        record=tuple(record),
        placement=placement,
    )
    key = jax.random.key(key) if isinstance(key, numbers.Integral) else key
    going_on = state is not None
    states = ClientStates(client_state, engine, params, key, replicate)
    if chunk == "auto":
        budget = memory_budget or memory_for(placement, state, data)
        length = min(segment, rounds)
        engine, play = fit_chunk(engine, states.rounds_of, states.shapes, data, length, budget)
    else:
        play = states.rounds_of(engine)
    state = states.start(state)
    if placement.mesh is not None and placement.across_processes:
        plan = {"start": _local(params), "state": going_on, "rounds": rounds, "segment": segment}
        plan |= {"chunk": engine.chunk, "saved": checkpoint is not None}
        check_agreement(placement.mesh, plan | _description(engine, data, key, state))
    elif checkpoint is not None and jax.process_count() > 1:
        raise ValueError(
            "simulate: with several processes checkpoint= needs a mesh of the devices of all."
        )
    ledger = None
    if privacy is not None:
        ledger = Ledger(privacy, algorithm, cohort, data.counts, engine.batching.num_steps)
        ledger.begin(int(state.round), rounds)
    with contextlib.ExitStack() as stack:
        saved = None
        if checkpoint is not None:
            description = _description(engine, data, key, state)
            if privacy is not None:
                description["privacy"] = describe(privacy)
            saved = Checkpoints(checkpoint, description)
            stack.callback(saved.close)
            if going_on and saved.exists:
                raise ValueError(
                    f"simulate: give state= or a checkpoint= that holds a run, not both; "
                    f"{os.fspath(checkpoint)!r} holds one."
                )
        run = _Run(engine, play, data, evaluate, evaluate_clients, readout, saved, ledger)
        return run.play(state, rounds, segment, progress, title)


def checked_algorithm(algorithm: Any) -> Algorithm:
    """The algorithm, or that of peers from a plain transformation; anything else is refused."""
    if isinstance(algorithm, Algorithm):
        axis.names(algorithm.axis_name)
        return algorithm
    if isinstance(algorithm, optax.GradientTransformation):
        return peers(algorithm)
    raise TypeError(
        "simulate: algorithm must be an Algorithm or an optax.GradientTransformation, got "
        f"{type(algorithm).__name__}."
    )


def default_chunk(chunk: int | None, algorithm: Algorithm, mesh: Any) -> int | None:
    """The number of clients side by side: one on CPU, all elsewhere, unless it is given."""
    if chunk is not None:
        _validate.integer("simulate", "chunk", chunk, at_least=1)
        return chunk
    one_by_one = algorithm.server is not None and mesh is None and jax.default_backend() == "cpu"
    return 1 if one_by_one else None


def _local(tree: Any) -> list[np.ndarray]:
    """Leaves that this process holds whole."""
    leaves = jax.tree.leaves(tree)
    return [np.asarray(x) for x in leaves if getattr(x, "is_fully_addressable", True)]


def _description(engine: Engine, data: ClientData, key, state: SimState) -> dict[str, str]:
    """What makes a run this run; chunks and devices do not, they may change on the way."""
    shapes = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(state.params)]
    parts = {name: getattr(engine.algorithm, name) for name in Algorithm._fields}
    parts |= {"cohort": engine.cohort, "batches": repr(engine.batching), "key": key}
    parts |= {"params": shapes, "examples": np.asarray(data.counts)}
    return {name: describe(part) for name, part in parts.items()}


class _Run:
    """A simulation under way: segments, and what happens between them."""

    def __init__(
        self, engine: Engine, segment, data, evaluate, evaluate_clients, readout, saved, ledger
    ):
        self._engine, self._segment = engine, segment
        self._saved, self._ledger = saved, ledger
        self._data = engine.placement.put(data)
        read = readout or (lambda state: state.params)
        placement = engine.placement
        self._readout = jax.jit(lambda state: placement.result(jax.tree.map(jnp.copy, read(state))))
        self._evaluate: Callable = lambda state: {}
        if evaluate:
            self._evaluate = jax.jit(lambda state: placement.everywhere(evaluate(read(state))))
        alone = engine.algorithm.server is None
        listed = client_evaluations(evaluate_clients, engine.num_clients, alone)
        readable = lambda function: lambda *given: placement.everywhere(function(*given))
        self._evaluate_clients = compile_evaluations(
            listed, engine.batching, read, alone, over=readable, placement=placement
        )
        self._bytes: tuple[int, int | None] | None = None

    def play(self, state: SimState, rounds: int, segment: int, progress: bool, title: str):
        rows: list[dict[str, Any]] = []
        if self._saved and (found := self._saved.restore(state)):
            state, rows = found
        made = int(state.round)
        if self._ledger:
            self._ledger.catch_up(made)
        shown = progress and self._engine.placement.leads
        with progress_bar(shown, title, made, rounds) as report:
            while made < rounds:
                length = min(segment, rounds - made)
                began = time.perf_counter()
                state, metrics = self._segment(state, self._data, length)
                metrics = self._engine.placement.fetch(metrics)
                seconds = (time.perf_counter() - began) / length
                rows += metric_rows(metrics, made, seconds, self._message_bytes(state))
                made += length
                if self._ledger:
                    self._ledger.charge(made, rows)
                add_evaluation(rows[-1], self._evaluate(state))
                add_evaluation(rows[-1], self._evaluate_clients(state, self._data))
                if self._saved:
                    self._saved.save(state, rows)
                report(made, headline(rows[-1]))
        spent = self._ledger.account if self._ledger else None
        lanes = self._engine.num_lanes
        chunk = min(self._engine.chunk or lanes, lanes)
        return SimResult(self._readout(state), History(rows), state, spent, chunk)

    def _message_bytes(self, state) -> tuple[int, int | None]:
        """Static sizes of what one participant sends and receives."""
        if self._bytes is None:
            self._bytes = self._engine.message_bytes(state, self._data)
        return self._bytes
