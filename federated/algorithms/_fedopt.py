"""The FedOpt family: adaptive optimizers on the server."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import Algorithm, client_optimizer
from ._fedavg import fedavg

_FEDOPT = Paper("Adaptive Federated Optimization", "Reddi et al.", 2020, "2003.00295")


class FedOptState(NamedTuple):
    """State of the FedOpt servers.

    Attributes:
      mu: like params, running mean :math:`m` of the pseudo-gradient.
      nu: like params, accumulator :math:`v` of its square.
    """

    mu: optax.Updates
    nu: optax.Updates


def _scale_by_fedopt(who: str, b1, eps, initial_accumulator_value, accumulate: Callable):
    """The family: without bias correction, ``eps`` outside of the root."""
    _validate.interval(who, "b1", b1, "[0, 1)")
    _validate.interval(who, "eps", eps, "[0, inf)")
    _validate.interval(who, "initial_accumulator_value", initial_accumulator_value, "[0, inf)")
    start = eps**2 if initial_accumulator_value is None else initial_accumulator_value

    def direction(m, v):
        scale = jnp.sqrt(v) + jnp.asarray(eps, m.dtype)
        return jnp.where(scale > 0, m / jnp.where(scale > 0, scale, 1), 0)  # 0/0 is 0 here

    def init_fn(params):
        return FedOptState(
            mu=optax.tree.zeros_like(params),
            nu=optax.tree.full_like(params, start),
        )

    def update_fn(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = jax.tree.map(lambda v, g: accumulate(v, g * g).astype(v.dtype), state.nu, updates)
        return jax.tree.map(direction, mu, nu), FedOptState(mu, nu)

    return optax.GradientTransformation(init_fn, update_fn)


@register("direction", _FEDOPT)
def scale_by_fed_adam(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-3,
    initial_accumulator_value: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""FedAdam's server direction: Adam without bias correction.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        u = \frac{m}{\sqrt{v} + \tau}.

    Args:
      b1: :math:`\beta_1` in ``[0, 1)``.
      b2: :math:`\beta_2` in ``[0, 1)``.
      eps: :math:`\tau \ge 0`, outside of the root; entries 0/0 give 0.
      initial_accumulator_value: start of :math:`v`; :math:`\tau^2` as in the paper by default.

    Returns:
      A transformation with a :class:`FedOptState`.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.scale_by_fed_adam(b1=0.0, b2=0.0, eps=0.0)
      >>> g = jnp.array([3.0, 0.0, -2.0])
      >>> tx.update(g, tx.init(g))[0].tolist()
      [1.0, 0.0, -1.0]

    References:
      Reddi et al., `Adaptive Federated Optimization <https://arxiv.org/abs/2003.00295>`_, 2020.
    """
    _validate.interval("scale_by_fed_adam", "b2", b2, "[0, 1)")
    accumulate = lambda v, square: b2 * v + (1 - b2) * square
    return _scale_by_fedopt("scale_by_fed_adam", b1, eps, initial_accumulator_value, accumulate)


@register("direction", _FEDOPT)
def scale_by_fed_yogi(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-3,
    initial_accumulator_value: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""FedYogi's server direction: the accumulator moves by a bounded step.

    As :func:`scale_by_fed_adam` with

    .. math::
        v \leftarrow v - (1 - \beta_2)\, g^2 \operatorname{sign}(v - g^2).

    Args:
      b1: as in :func:`scale_by_fed_adam`.
      b2: as in :func:`scale_by_fed_adam`.
      eps: as in :func:`scale_by_fed_adam`.
      initial_accumulator_value: as in :func:`scale_by_fed_adam`.

    Returns:
      A transformation with a :class:`FedOptState`.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.scale_by_fed_yogi(b1=0.0, b2=0.75, eps=0.0)
      >>> g = jnp.array([2.0])
      >>> tx.update(g, tx.init(g))[0].tolist()
      [2.0]

    References:
      Reddi et al., `Adaptive Federated Optimization <https://arxiv.org/abs/2003.00295>`_, 2020.
    """
    _validate.interval("scale_by_fed_yogi", "b2", b2, "[0, 1)")
    accumulate = lambda v, square: v - (1 - b2) * square * jnp.sign(v - square)
    return _scale_by_fedopt("scale_by_fed_yogi", b1, eps, initial_accumulator_value, accumulate)


@register("direction", _FEDOPT)
def scale_by_fed_adagrad(
    b1: jax.typing.ArrayLike = 0.0,
    eps: jax.typing.ArrayLike = 1e-3,
    initial_accumulator_value: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""FedAdagrad's server direction: the accumulator only grows.

    As :func:`scale_by_fed_adam` with :math:`v \leftarrow v + g^2`.

    Args:
      b1: as in :func:`scale_by_fed_adam`; 0 in the paper.
      eps: as in :func:`scale_by_fed_adam`.
      initial_accumulator_value: as in :func:`scale_by_fed_adam`.

    Returns:
      A transformation with a :class:`FedOptState`.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx = federated.scale_by_fed_adagrad(eps=0.0)
      >>> g = jnp.array([2.0, -4.0])
      >>> tx.update(g, tx.init(g))[0].tolist()
      [1.0, -1.0]

    References:
      Reddi et al., `Adaptive Federated Optimization <https://arxiv.org/abs/2003.00295>`_, 2020.
    """
    accumulate = lambda v, square: v + square
    return _scale_by_fedopt("scale_by_fed_adagrad", b1, eps, initial_accumulator_value, accumulate)


def _server(who: str, learning_rate, direction) -> optax.GradientTransformation:
    _validate.learning_rate(who, learning_rate, "server_learning_rate")
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))


@register("algorithm", _FEDOPT, example={"learning_rate": 0.1, "server_learning_rate": 0.1})
def fedadam(
    learning_rate: optax.ScalarOrSchedule | None = None,
    server_learning_rate: optax.ScalarOrSchedule = 0.1,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-3,
    *,
    initial_accumulator_value: jax.typing.ArrayLike | None = None,
    client: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedAdam: clients run SGD, the server Adam on minus the mean displacement.

    The server's step is that of :func:`scale_by_fed_adam` times :math:`-\eta_g`.

    Args:
      learning_rate: :math:`\eta_l`, as in :func:`fedavg`.
      server_learning_rate: :math:`\eta_g`.
      b1: as in :func:`scale_by_fed_adam`.
      b2: as in :func:`scale_by_fed_adam`.
      eps: as in :func:`scale_by_fed_adam`.
      initial_accumulator_value: as in :func:`scale_by_fed_adam`.
      client: as in :func:`fedavg`.
      weighting: as in :func:`fedavg`.
      axis_name: the axis of clients.

    Returns:
      The algorithm.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> from gradax import federated
      >>> algorithm = federated.fedadam(0.1, server_learning_rate=0.01)
      >>> type(algorithm).__name__
      'Algorithm'

    References:
      Reddi et al., `Adaptive Federated Optimization <https://arxiv.org/abs/2003.00295>`_, 2020.
    """
    direction = scale_by_fed_adam(b1, b2, eps, initial_accumulator_value)
    optimizer = client_optimizer("fedadam", learning_rate, client)
    server = _server("fedadam", server_learning_rate, direction)
    return fedavg(client=optimizer, server=server, weighting=weighting, axis_name=axis_name)


@register("algorithm", _FEDOPT, example={"learning_rate": 0.1, "server_learning_rate": 0.1})
def fedyogi(
    learning_rate: optax.ScalarOrSchedule | None = None,
    server_learning_rate: optax.ScalarOrSchedule = 0.1,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-3,
    *,
    initial_accumulator_value: jax.typing.ArrayLike | None = None,
    client: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedYogi: clients run SGD, the server Yogi on minus the mean displacement.

    The server's step is that of :func:`scale_by_fed_yogi` times :math:`-\eta_g`.

    Args:
      learning_rate: as in :func:`fedadam`.
      server_learning_rate: as in :func:`fedadam`.
      b1: as in :func:`scale_by_fed_yogi`.
      b2: as in :func:`scale_by_fed_yogi`.
      eps: as in :func:`scale_by_fed_yogi`.
      initial_accumulator_value: as in :func:`scale_by_fed_yogi`.
      client: as in :func:`fedavg`.
      weighting: as in :func:`fedavg`.
      axis_name: the axis of clients.

    Returns:
      The algorithm.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> from gradax import federated
      >>> federated.fedyogi(0.1).publishes
      ()

    References:
      Reddi et al., `Adaptive Federated Optimization <https://arxiv.org/abs/2003.00295>`_, 2020.
    """
    direction = scale_by_fed_yogi(b1, b2, eps, initial_accumulator_value)
    optimizer = client_optimizer("fedyogi", learning_rate, client)
    server = _server("fedyogi", server_learning_rate, direction)
    return fedavg(client=optimizer, server=server, weighting=weighting, axis_name=axis_name)


@register("algorithm", _FEDOPT, example={"learning_rate": 0.1, "server_learning_rate": 0.1})
def fedadagrad(
    learning_rate: optax.ScalarOrSchedule | None = None,
    server_learning_rate: optax.ScalarOrSchedule = 0.1,
    b1: jax.typing.ArrayLike = 0.0,
    eps: jax.typing.ArrayLike = 1e-3,
    *,
    initial_accumulator_value: jax.typing.ArrayLike | None = None,
    client: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedAdagrad: clients run SGD, the server Adagrad on minus the mean displacement.

    The server's step is that of :func:`scale_by_fed_adagrad` times :math:`-\eta_g`.

    Args:
      learning_rate: as in :func:`fedadam`.
      server_learning_rate: as in :func:`fedadam`.
      b1: as in :func:`scale_by_fed_adagrad`.
      eps: as in :func:`scale_by_fed_adagrad`.
      initial_accumulator_value: as in :func:`scale_by_fed_adagrad`.
      client: as in :func:`fedavg`.
      weighting: as in :func:`fedavg`.
      axis_name: the axis of clients.

    Returns:
      The algorithm.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> from gradax import federated
      >>> federated.fedadagrad(0.1).axis_name
      'clients'

    References:
      Reddi et al., `Adaptive Federated Optimization <https://arxiv.org/abs/2003.00295>`_, 2020.
    """
    direction = scale_by_fed_adagrad(b1, eps, initial_accumulator_value)
    optimizer = client_optimizer("fedadagrad", learning_rate, client)
    server = _server("fedadagrad", server_learning_rate, direction)
    return fedavg(client=optimizer, server=server, weighting=weighting, axis_name=axis_name)


@register(
    "algorithm",
    Paper(
        "Measuring the Effects of Non-Identical Data Distribution for Federated Visual "
        "Classification",
        "Hsu et al.",
        2019,
        "1909.06335",
    ),
    example={"learning_rate": 0.1},
)
def fedavgm(
    learning_rate: optax.ScalarOrSchedule | None = None,
    server_learning_rate: optax.ScalarOrSchedule = 1.0,
    momentum: jax.typing.ArrayLike = 0.9,
    *,
    nesterov: bool = False,
    client: optax.GradientTransformation | None = None,
    weighting: Literal["examples", "uniform"] = "examples",
    axis_name: AxisName = "clients",
) -> Algorithm:
    r"""FedAvgM: FedAvg whose server has momentum.

    .. math::
        u \leftarrow \beta u + \bar\Delta, \qquad x \leftarrow x + \eta_g u.

    Args:
      learning_rate: :math:`\eta_l`, as in :func:`fedavg`.
      server_learning_rate: :math:`\eta_g`.
      momentum: :math:`\beta` in ``[0, 1)``.
      nesterov: use Nesterov's form.
      client: as in :func:`fedavg`.
      weighting: as in :func:`fedavg`.
      axis_name: the axis of clients.

    Returns:
      The algorithm; ``momentum=0`` and ``server_learning_rate=1`` is FedAvg.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> from gradax import federated
      >>> federated.fedavgm(0.1, momentum=1.0)
      Traceback (most recent call last):
      ValueError: fedavgm: momentum must lie in [0, 1), got 1.0.

    References:
      Hsu et al., `Measuring the Effects of Non-Identical Data Distribution for Federated Visual
      Classification <https://arxiv.org/abs/1909.06335>`_, 2019.
    """
    _validate.interval("fedavgm", "momentum", momentum, "[0, 1)")
    direction = optax.trace(momentum, nesterov)
    optimizer = client_optimizer("fedavgm", learning_rate, client)
    server = _server("fedavgm", server_learning_rate, direction)
    return fedavg(client=optimizer, server=server, weighting=weighting, axis_name=axis_name)
