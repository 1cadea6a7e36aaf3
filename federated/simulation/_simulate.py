"""Simulating federated rounds: the loop over segments of rounds."""

import contextlib
import functools
import numbers
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradax import _validate

from .. import axis
from ..data._layout import ClientData
from ..privacy._account import Ledger, PrivacyAccount
from ..privacy._algorithm import PrivateAlgorithm
from ..rounds._algorithm import Algorithm, peers
from ..rounds._cohort import Cohort, uniform_cohort
from ._checkpoint import Checkpoints
from ._client_evaluation import Evaluations, client_evaluations, compile_evaluations
from ._describe import describe
from ._engine import Engine, SimState
from ._history import History
from ._local import Batching, Objective
from ._placement import Placement
from ._progress import progress_bar


class SimResult(NamedTuple):
    """What a simulation returns.

    Attributes:
      params: the common parameters, or for peers one row per node, leaves ``[nodes, ...]``;
        with ``readout=`` what that returns.
      history: metrics per round.
      state: everything; pass it to :func:`simulate` to go on.
      privacy: what was spent, if the run was to account for it; pass it on with the state.
    """

    params: optax.Params
    history: History
    state: SimState
    privacy: PrivacyAccount | None = None


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
    chunk: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
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
      chunk: clients computed side by side. By default one on CPU, where that is fastest and
        takes the least memory, and all of the cohort elsewhere or on a mesh. For peers only
        the local work is chunked, and by default not at all.
      mesh: devices over which clients, their data and states are spread; parameters are
        replicated. The number of clients must be a multiple of the number of devices.
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
        examples, a checkpoint or state of another run, a mesh that does not divide the clients.
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
    placement = Placement(mesh)
    placement.check(num_clients)
    engine = Engine(
        algorithm=algorithm,
        objective=Objective.of(loss_fn, grad_fn),
        batching=Batching.plan(data, batch_size, num_steps, num_epochs, replace),
        num_clients=num_clients,
        cohort=cohort,
        chunk=default_chunk(chunk, algorithm, mesh),
        record=tuple(record),
        placement=placement,
    )
    key = jax.random.key(key) if isinstance(key, numbers.Integral) else key
    going_on = state is not None
    state = _start(engine, params, key, replicate, state)
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
        run = _Run(engine, data, evaluate, evaluate_clients, readout, saved, ledger)
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


def _start(engine: Engine, params, key, replicate: bool, state: SimState | None) -> SimState:
    """The caller's state, checked, or a first one."""
    init = functools.partial(engine.init, replicate=replicate)
    shapes = jax.eval_shape(init, params, key)
    if state is None:
        # Inside a jit every part is born where it belongs.
        shardings = engine.placement.of_state(shapes, engine.row_fields)
        state = jax.jit(init, out_shardings=shardings)(params, key)
    engine.check(state, shapes)
    return state


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
        self, engine: Engine, data: ClientData, evaluate, evaluate_clients, readout, saved, ledger
    ):
        self._engine, self._saved, self._ledger = engine, saved, ledger
        self._data = engine.placement.put(data)
        read = readout or (lambda state: state.params)
        self._readout = jax.jit(lambda state: jax.tree.map(jnp.copy, read(state)))
        self._evaluate: Callable = lambda state: {}
        if evaluate:
            self._evaluate = jax.jit(lambda state: evaluate(read(state)))
        alone = engine.algorithm.server is None
        listed = client_evaluations(evaluate_clients, engine.num_clients, alone)
        self._evaluate_clients = compile_evaluations(listed, engine.batching, read, alone)
        self._segment = jax.jit(self._scan, static_argnums=2, donate_argnums=0)
        self._bytes: tuple[int, int | None] | None = None

    def _scan(self, state, data, length):
        return lax.scan(lambda s, _: self._engine.round(s, data), state, length=length)

    def play(self, state: SimState, rounds: int, segment: int, progress: bool, title: str):
        rows: list[dict[str, Any]] = []
        if self._saved and (found := self._saved.restore(state)):
            state, rows = found
        made = int(state.round)
        if self._ledger:
            self._ledger.catch_up(made)
        with progress_bar(progress, title, made, rounds) as report:
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
                report(made, _headline(rows[-1]))
        spent = self._ledger.account if self._ledger else None
        return SimResult(self._readout(state), History(rows), state, spent)

    def _message_bytes(self, state) -> tuple[int, int | None]:
        """Static sizes of what one participant sends and receives."""
        if self._bytes is None:
            self._bytes = self._engine.message_bytes(state, self._data)
        return self._bytes


def metric_rows(
    metrics: dict[str, Any], made: int, seconds: float, message_bytes: tuple[int, int | None]
) -> list[dict[str, Any]]:
    """Turns the stacked metrics of a segment into rows of plain numbers.

    Rounds may be many and short, so columns are made first, by NumPy.

    Args:
      metrics: what the engine returned, with a leading axis of rounds.
      made: rounds before this segment.
      seconds: wall time of a round.
      message_bytes: of a message up and down; ``None`` for what peers receive.

    Returns:
      One row per round.
    """
    up, down = message_bytes
    lanes = dict(metrics["lanes"])
    active = np.asarray(lanes.pop("active"))
    length = len(active)
    present = active.sum(axis=1)
    # 64 bits: bytes overflow 32 bits soon.
    sizes = np.asarray(lanes.pop("wire_bytes", up), np.int64)
    copies = np.asarray(lanes.pop("wire_copies", 1), np.int64)
    sent = np.sum(np.where(active, sizes * copies, 0), axis=1)
    cut, scored = (np.asarray(metrics[name]) for name in ("num_cut", "num_scored"))
    columns = {
        "round": made + 1 + np.arange(length),
        "num_active": metrics["num_active"],
        # A loss is one number.
        "bytes_up": sent + 4 * scored,
        # What one peer sends another receives.
        "bytes_down": sent if down is None else down * np.maximum(present, scored),
        "seconds": np.full(length, seconds),
    }
    if "time" in metrics:
        columns["time"] = metrics["time"]
    optional = {"num_cut": (cut, cut > 0), "num_scored": (scored, scored > 0)}
    for name, values in lanes.items():
        optional[name] = (_mean_present(np.asarray(values), active), present > 0)
    rows = [dict(zip(columns, row, strict=True)) for row in _transposed(columns.values())]
    for name, (values, measured) in optional.items():
        for number in np.flatnonzero(measured).tolist():
            rows[number][name] = values[number].item()
    return rows


def _transposed(columns) -> Any:
    """Rows of Python numbers."""
    return zip(*(np.asarray(column).tolist() for column in columns), strict=True)


def _mean_present(values: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Means over those who took part, ``[rounds]``; NaN where nobody did."""
    values = values.reshape(*active.shape, -1)
    kept = np.where(active[..., None], values.astype(np.float64), 0.0)
    with np.errstate(invalid="ignore"):
        return kept.sum(axis=(1, 2)) / (active.sum(axis=1) * values.shape[-1])


def add_evaluation(row: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Puts scalars as Python numbers and arrays as lists into a row of the history.

    Args:
      row: to add to.
      metrics: on the device or not.

    Raises:
      ValueError: if the row has a column of that name already.
    """
    metrics = jax.device_get(metrics)
    taken = sorted(row.keys() & metrics.keys())
    if taken:
        raise ValueError(f"simulate: evaluate must not return {', '.join(taken)}; rename it.")
    row.update({name: np.asarray(value).tolist() for name, value in metrics.items()})


def _headline(row: dict[str, Any]) -> str:
    hidden = ("round", "num_active", "bytes_up", "bytes_down", "seconds", "num_cut", "num_scored")
    shown = {k: v for k, v in row.items() if k not in hidden and isinstance(v, int | float)}
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
