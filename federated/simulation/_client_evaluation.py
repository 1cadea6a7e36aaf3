"""How the common parameters do at every single client, and at the worst served ones."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradax import _validate

from ..data._layout import ClientData
from ._local import Batching, Local, Objective, Rows
from ._placement import Placement

Metrics: TypeAlias = Callable[[optax.Params, Any], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class ClientEvaluation:
    """What to measure at every client after a segment, for ``simulate(evaluate_clients=)``.

    For every metric ``m`` the history receives, over **all** clients, each counting once,
    ``client_m`` (the mean), ``client_m_std`` (standard deviation) and ``client_m_worst`` (the
    mean over the worst tenth of them). It costs a pass over all clients' examples.

    Attributes:
      metrics_fn: ``metrics_fn(params, batch) -> {name: scalar}``, means over a batch.
      data: examples to measure on, such as test examples of every client; by default those
        that the run trains on. Nodes without a server have as many clients here as there.
      prefix: of the columns' names.
      worst: share of the clients that ``_worst`` is the mean of, at least one client.
      lower_is_better: names of metrics of which large values are bad.
      keep: whether to keep the values of all clients too, as the list ``client_m_each``.
      chunk: clients that are computed side by side.

    Examples:
      Clients that each hold one number; the mean serves those at the ends worst:

      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> numbers = np.arange(8.0, dtype=np.float32)
      >>> clients = federated.data.padded(numbers, [np.array([i]) for i in range(8)])
      >>> loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
      >>> history = federated.simulate(
      ...     federated.fedavg(0.1), loss_fn, jnp.array(0.0), clients, rounds=30, num_steps=5,
      ...     evaluate_clients=lambda x, batch: {"loss": loss_fn(x, batch)},
      ... ).history
      >>> round(history.last("client_loss"), 1), round(history.last("client_loss_worst"), 1)
      (2.6, 6.1)
    """

    metrics_fn: Metrics
    data: ClientData | None = None
    prefix: str = "client_"
    worst: float = 0.1
    lower_is_better: Sequence[str] = ("loss", "error")
    keep: bool = False
    chunk: int = 1

    def __post_init__(self) -> None:
        """Checks the arguments."""
        _validate.interval("ClientEvaluation", "worst", self.worst, "(0, 1]")
        _validate.integer("ClientEvaluation", "chunk", self.chunk, at_least=1)
        if not callable(self.metrics_fn):
            raise ValueError(
                f"ClientEvaluation: metrics_fn must be a function, got {self.metrics_fn!r}."
            )

    def measure(
        self,
        params: optax.Params,
        data: ClientData,
        plan: Batching,
        own_params: bool,
        ways: int = 1,
    ) -> dict[str, Any]:
        """Measures all clients.

        Args:
          params: common parameters, or one row per client.
          data: of all clients, on the device.
          plan: static facts about the data.
          own_params: whether there is one row per client.
          ways: number of parts of the clients that lie on devices of their own.

        Returns:
          Columns of the history; scalars, and lists if asked for.
        """

        def one(client):
            arrays, start, count, mine = client
            rows = Rows(data.arrays if arrays is None else arrays, start, count)
            # A tree of metrics is averaged over examples just as a loss is.
            objective = Objective(self.metrics_fn, self.metrics_fn)  # type: ignore[arg-type]
            local = Local(objective, plan, rows, jax.random.key(0))
            return local.full_value_fn(params if mine is None else mine)

        flat, mine = data.offsets is not None, params if own_params else None
        starts = data.offsets if flat else jnp.zeros_like(data.counts)
        clients = None if flat else data.arrays, starts, data.counts, mine
        of_part = lambda clients: lax.map(one, clients, batch_size=self.chunk)
        if ways == 1 or data.num_clients % ways:
            each = of_part(clients)
        else:  # one by one on each device, which then reads its own clients only
            cut = lambda x: x.reshape(ways, x.shape[0] // ways, *x.shape[1:])
            join = lambda x: x.reshape(-1, *x.shape[2:])
            each = jax.tree.map(join, jax.vmap(of_part)(jax.tree.map(cut, clients)))
        columns: dict[str, Any] = {}
        for name, values in each.items():
            columns |= self._summary(name, values)
        return columns

    def _summary(self, name, values):
        if values.ndim != 1:
            raise ValueError(
                f"simulate: evaluate_clients must return scalars; {name!r} has shape "
                f"{values.shape[1:]}."
            )
        values = values.astype(jnp.float32)
        bad_first = -values if name in self.lower_is_better else values
        number = math.ceil(self.worst * values.shape[0])
        worst = values[jnp.argsort(bad_first)[:number]]
        column = self.prefix + name
        kept = {f"{column}_each": values} if self.keep else {}
        mean, std = jnp.mean(values), jnp.std(values)
        return {column: mean, f"{column}_std": std, f"{column}_worst": jnp.mean(worst), **kept}


#: What ``evaluate_clients=`` takes: one or several, or nothing but the function.
Evaluations: TypeAlias = Metrics | ClientEvaluation | Sequence[ClientEvaluation]


def client_evaluations(
    given: Evaluations | None, num_clients: int, own_params: bool
) -> list[ClientEvaluation]:
    """Lists what to measure.

    Args:
      given: the argument ``evaluate_clients``.
      num_clients: of the run.
      own_params: whether every client has parameters of its own.

    Returns:
      The evaluations.

    Raises:
      ValueError: if two of them share a prefix, or nodes with parameters of their own are
        fewer or more than the clients to measure.
    """
    if given is None:
        return []
    listed = list(given) if isinstance(given, Sequence) else [given]
    made = [one if isinstance(one, ClientEvaluation) else ClientEvaluation(one) for one in listed]
    prefixes = [one.prefix for one in made]
    if len(set(prefixes)) < len(prefixes):
        raise ValueError(f"simulate: evaluate_clients need prefixes of their own, got {prefixes}.")
    for one in made:
        if own_params and one.data is not None and one.data.num_clients != num_clients:
            raise ValueError(
                f"simulate: evaluate_clients must have data of all {num_clients} nodes, got "
                f"{one.data.num_clients}."
            )
    return made


def compile_evaluations(
    evaluations: Sequence[ClientEvaluation],
    batching: Batching,
    read: Callable[[Any], Any],
    own_params: bool,
    over: Callable[[Callable], Callable] = lambda function: function,
    placement: Placement | None = None,
) -> Callable[[Any, ClientData], dict[str, Any]]:
    """Makes one jitted function of the state and the training data.

    Args:
      evaluations: what to measure.
      batching: of the training data.
      read: parameters of a state.
      own_params: whether they have one row per client.
      over: maps a function of the state and the training data, such as over seeds.
      placement: of the run; by default one device.

    Returns:
      A function that returns columns of the history.
    """
    if not evaluations:
        return lambda state, data: {}
    whole = dataclasses.replace(batching, batch_size=None, num_steps=1, num_epochs=None)
    plan_of = lambda data: whole if data is None else Batching.plan(data, None, 1, None, False)
    plans = [plan_of(one.data) for one in evaluations]
    placement = placement or Placement()
    given = [None if one.data is None else placement.put_aside(one.data) for one in evaluations]

    @jax.jit
    def measure(state, data, given):
        def one_run(state, data):
            params = read(state)
            columns: dict[str, Any] = {}
            for one, plan, own_data in zip(evaluations, plans, given, strict=True):
                measured = data if own_data is None else own_data
                columns |= one.measure(params, measured, plan, own_params, placement.ways)
            return columns

        return over(one_run)(state, data)

    return lambda state, data: measure(state, data, given)
