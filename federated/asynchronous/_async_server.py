"""Servers that do not wait for all: a weighted sum of displacements from models of the past."""

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from gradax import _validate
from gradax._extras import require
from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import Algorithm, SumAggregate, average, client_optimizer, local_steps
from ._clocks import Clock, as_clock
from ._schedule import ASYNC, lanes_of, unbiased_weights
from ._versions import from_version, keep_versions

_FEDBUFF = Paper(
    "Federated Learning with Buffered Asynchronous Aggregation", "Nguyen et al.", 2021, "2106.06639"
)


@register("algorithm", ASYNC, example={"weights": 0.5, "learning_rate": 0.1, "num_versions": 2})
def async_server(
    weights: npt.ArrayLike,
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    num_versions: int,
    staleness: float = 0.0,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""The general asynchronous server: every rule of waiting, every weighting.

    With :math:`A_n` who takes part in step :math:`n`, and :math:`y_i` what client :math:`i` made
    of the model :math:`x^{\rho_i}` that it had received,

    .. math::
        x^{n+1} = x^n + \sum_{i \in A_n} d_i\, (1 + n - \rho_i)^{-a}\, (y_i - x^{\rho_i}).

    It is a sum, not a mean. Who takes part, and since when, is up to the cohort:
    :func:`async_schedule` or :func:`async_cohort`. With :math:`a = 0` the fixed points are those
    of FedAvg where :math:`d_i` times the share of steps in which a client takes part is its
    importance (:func:`unbiased_weights`); with equal weights quick clients count more.

    Args:
      weights: :math:`d_i`, ``[clients]``, or one number for all; not negative. Static.
      learning_rate: :math:`\eta_l` of plain local SGD: a number or a schedule of the round.
      num_versions: models that the server keeps, more than the largest age of a contribution:
        ``AsyncSchedule.num_versions``, or ``max_age + 1`` of :func:`async_cohort`.
      staleness: :math:`a \ge 0`, how much less an old contribution counts.
      client: instead of ``learning_rate``, the clients' optimizer; its state starts afresh with
        every job.
      server: what the server does with minus the sum; ``optax.sgd(1.0)`` by default.
      axis_name: the axis of clients.

    Returns:
      The algorithm. Outside of :func:`simulate` it needs the extras ``version`` and, with more
      than one weight, ``client_id``.

    Raises:
      ValueError: if an argument is out of range, or not exactly one of ``learning_rate`` and
        ``client`` is given.

    Examples:
      Two clients that pull towards 0 and 4; the first is four times as quick:

      >>> import jax.numpy as jnp, numpy as np
      >>> from gradax import federated
      >>> clients = federated.data.padded(np.array([0.0, 4.0]), [np.array([0]), np.array([1])])
      >>> loss_fn = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
      >>> times = [1.0, 4.0]
      >>> schedule = federated.async_schedule("async", times, num_steps=500)
      >>> for weights in (0.1, 0.1 * federated.unbiased_weights("async", times)):
      ...     server = federated.async_server(
      ...         weights, 0.1, num_versions=schedule.num_versions
      ...     )
      ...     result = federated.simulate(
      ...         server, loss_fn, jnp.array(1.0), clients, 500, schedule.cohort(), segment=500
      ...     )
      ...     print(round(float(result.params), 1))
      0.8
      2.0

    References:
      Fraboni et al., `A General Theory for Federated Optimization with Asynchronous and
      Heterogeneous Clients Updates <https://arxiv.org/abs/2206.10189>`_, 2022.
    """
    table = np.asarray(weights, np.float64)
    if table.ndim > 1 or not table.size or not (np.isfinite(table) & (table >= 0)).all():
        raise ValueError(
            f"async_server: weights must be one finite number >= 0 or one for each client, got "
            f"{weights!r}."
        )
    _validate.interval("async_server", "staleness", staleness, "[0, inf)")
    local = local_steps(client_optimizer("async_server", learning_rate, client))
    return Algorithm(
        client=from_version(local),
        aggregate=_stochastic_sum(table, staleness, axis_name),
        server=keep_versions(optax.sgd(1.0) if server is None else server, num_versions),
        publishes=("versions",),
        axis_name=axis_name,
    )


def _stochastic_sum(weights: np.ndarray, staleness: float, axis_name: AxisName) -> SumAggregate:
    total = average(axis_name, divisor=1.0)

    def partial(message, **extras):
        # Made here, in the precision of the run: float32 costs 1e-8 in double precision.
        weight = jnp.asarray(weights)
        if weights.ndim:
            number = require("async_server", "client_id", extras.get("client_id"))
            weight = weight.at[number].get(mode="clip")
        if staleness:
            round, version = (
                require("async_server", name, extras.get(name)) for name in ("round", "version")
            )
            age = round - version
            weight = weight * jnp.asarray(1 + age, weight.dtype) ** -staleness
        return total.partial(message, weight=weight)

    return total._replace(partial=partial)


@register(
    "algorithm",
    ASYNC,
    example={"learning_rate": 0.1, "times": (1.0, 0.5), "num_versions": 3},
)
def fedavg_async(
    learning_rate: optax.ScalarOrSchedule | None,
    times: Clock | npt.ArrayLike,
    importance: npt.ArrayLike | None = None,
    *,
    num_versions: int,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""Asynchronous FedAvg: a step of the server for every client that comes.

    :func:`async_server` with :math:`d_i = p_i\, \tau_i \sum_j 1 / \tau_j`. A slow client comes
    seldom, and its weight may be far above one: take small local steps, or
    ``server=optax.sgd(...)`` with a small rate.

    Args:
      learning_rate: as in :func:`async_server`.
      times: the clients' clock, or fixed times ``[clients]``; only means count here.
      importance: :math:`p_i`, as in :func:`unbiased_weights`.
      num_versions: as in :func:`async_server`.
      client: as in :func:`async_server`.
      server: as in :func:`async_server`.
      axis_name: the axis of clients.

    Returns:
      The algorithm, for cohorts of the kind ``"async"``.

    Raises:
      ValueError: as :func:`async_server` and :func:`unbiased_weights`.

    Examples:
      >>> from gradax import federated
      >>> schedule = federated.async_schedule("async", [1.0, 0.5], num_steps=6)
      >>> algorithm = federated.fedavg_async(
      ...     0.1, [1.0, 0.5], num_versions=schedule.num_versions
      ... )
      >>> algorithm.publishes
      ('versions',)

    References:
      Fraboni et al., `A General Theory for Federated Optimization with Asynchronous and
      Heterogeneous Clients Updates <https://arxiv.org/abs/2206.10189>`_, 2022.
    """
    return async_server(
        unbiased_weights("async", times, importance),
        learning_rate,
        num_versions=num_versions,
        client=client,
        server=server,
        axis_name=axis_name,
    )


@register(
    "algorithm",
    _FEDBUFF,
    example={"learning_rate": 0.1, "buffer_size": 2, "num_versions": 3},
)
def fedbuff(
    learning_rate: optax.ScalarOrSchedule | None,
    buffer_size: int,
    times: Clock | npt.ArrayLike | None = None,
    importance: npt.ArrayLike | None = None,
    *,
    num_versions: int,
    staleness: float = 0.0,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedBuff: a step of the server for every so many clients that come.

    :func:`async_server` with :math:`d_i = 1 / c` for a buffer of :math:`c`. Quick clients count
    more, as they come more often; with ``times`` the weights are :func:`unbiased_weights`.

    Args:
      learning_rate: as in :func:`async_server`.
      buffer_size: :math:`c`.
      times: the clients' clock, or fixed times ``[clients]``; ``None`` for equal weights.
      importance: :math:`p_i`, as in :func:`unbiased_weights`; needs ``times``.
      num_versions: as in :func:`async_server`.
      staleness: as in :func:`async_server`; the authors take 0.5.
      client: as in :func:`async_server`.
      server: as in :func:`async_server`.
      axis_name: the axis of clients.

    Returns:
      The algorithm, for cohorts of the kind ``"fedbuff"``.

    Raises:
      ValueError: as :func:`async_server` and :func:`unbiased_weights`; if ``importance`` comes
        without ``times``.

    Examples:
      >>> from gradax import federated
      >>> cohort = federated.async_cohort("fedbuff", [1.0, 0.5, 0.4], buffer_size=2, max_age=4)
      >>> algorithm = federated.fedbuff(0.1, buffer_size=2, num_versions=5, staleness=0.5)

    References:
      Nguyen et al., `Federated Learning with Buffered Asynchronous Aggregation
      <https://arxiv.org/abs/2106.06639>`_, 2021.
    """
    _validate.integer("fedbuff", "buffer_size", buffer_size, at_least=1)
    if times is None and importance is not None:
        raise ValueError("fedbuff: importance needs times=, from which unbiased weights follow.")
    weights = np.array(1 / buffer_size)
    if times is not None:
        clock = as_clock(times)
        lanes_of("fedbuff", "fedbuff", clock.num_clients, buffer_size)
        weights = unbiased_weights("fedbuff", clock, importance, buffer_size=buffer_size)
    return async_server(
        weights,
        learning_rate,
        num_versions=num_versions,
        staleness=staleness,
        client=client,
        server=server,
        axis_name=axis_name,
    )


@register(
    "algorithm",
    ASYNC,
    example={"learning_rate": 0.1, "times": (1.0, 0.5), "window": 0.5, "num_versions": 3},
)
def fedfix(
    learning_rate: optax.ScalarOrSchedule | None,
    times: Clock | npt.ArrayLike,
    window: float,
    importance: npt.ArrayLike | None = None,
    *,
    num_versions: int,
    client: optax.GradientTransformation | None = None,
    server: optax.GradientTransformation | None = None,
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedFix: a step of the server at fixed times, with whoever has come.

    :func:`async_server` with :math:`d_i = p_i\, \mathbb{E} \lceil \tau_i / \Delta t \rceil`.
    With a window as long as the slowest client takes it is FedAvg.

    Args:
      learning_rate: as in :func:`async_server`.
      times: the clients' clock, or fixed times ``[clients]``.
      window: :math:`\Delta t > 0`.
      importance: :math:`p_i`, as in :func:`unbiased_weights`.
      num_versions: as in :func:`async_server`.
      client: as in :func:`async_server`.
      server: as in :func:`async_server`.
      axis_name: the axis of clients.

    Returns:
      The algorithm, for cohorts of the kind ``"fedfix"``.

    Raises:
      ValueError: as :func:`async_server` and :func:`unbiased_weights`.

    Examples:
      >>> from gradax import federated
      >>> times = [1.0, 0.5]
      >>> schedule = federated.async_schedule("fedfix", times, num_steps=6, window=0.5)
      >>> algorithm = federated.fedfix(0.1, times, 0.5, num_versions=schedule.num_versions)

    References:
      Fraboni et al., `A General Theory for Federated Optimization with Asynchronous and
      Heterogeneous Clients Updates <https://arxiv.org/abs/2206.10189>`_, 2022.
    """
    return async_server(
        unbiased_weights("fedfix", times, importance, window=window),
        learning_rate,
        num_versions=num_versions,
        client=client,
        server=server,
        axis_name=axis_name,
    )
