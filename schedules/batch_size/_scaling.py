"""Learning rates that follow the batch size, and why: noise in the curvature."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue

PAPER = catalogue.Paper(
    title="Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural "
    "Network Training",
    authors="Granziol et al.",
    year=2020,
    arxiv="2006.09092",
)

_RULES = ("linear", "sqrt")
_SPIKE = {"spike": 3.0, "noise_std": 0.05, "num_params": 1500, "batch_size": 4}


def require_schedule(who: str, name: str, schedule: Any) -> None:
    """Raises a ``ValueError`` unless an argument is a function of the count."""
    stateful = isinstance(schedule, optax.schedules.StatefulSchedule)
    if stateful or not callable(schedule):
        kind = "a stateful schedule" if stateful else repr(schedule)
        raise ValueError(f"{who}: {name} must be a function of the count, got {kind}.")


def _scaled(value, ratio, rule):
    if rule == "linear":
        return value * ratio
    return value * (math.sqrt(ratio) if isinstance(ratio, float) else jnp.sqrt(ratio))


@catalogue.register(
    "function",
    PAPER,
    example={"learning_rate": 0.1, "base_batch_size": 32, "batch_size": 128},
)
def batch_scaled_learning_rate(
    learning_rate: jax.typing.ArrayLike,
    base_batch_size: jax.typing.ArrayLike,
    batch_size: jax.typing.ArrayLike,
    rule: str = "linear",
) -> jax.typing.ArrayLike:
    r"""Carries a learning rate over from one batch size to another.

    .. math::
        \eta(b) = \eta_0 \frac{b}{b_0} \quad\text{(linear)}, \qquad
        \eta(b) = \eta_0 \sqrt{b / b_0} \quad\text{(sqrt)}.

    Use the linear rule for SGD, with momentum or without, and the square root for whatever
    divides by the root of a second moment: AdaGrad, RMSProp, Adam. Both describe how the
    *largest* stable rate grows while noise dominates; it stops growing at the rate that the
    noise-free curvature allows, see :func:`rmt_max_learning_rate`.

    Args:
      learning_rate: :math:`\eta_0`, tuned at ``base_batch_size``.
      base_batch_size: :math:`b_0 \ge 1`.
      batch_size: :math:`b \ge 1`; like all numbers here it may be traced.
      rule: ``"linear"`` or ``"sqrt"``. Static.

    Returns:
      The learning rate: a Python number if all arguments are, else an array.

    Raises:
      ValueError: if a number is out of its range, or ``rule`` unknown.

    Examples:
      >>> from gradax import schedules
      >>> schedules.batch_scaled_learning_rate(0.1, base_batch_size=32, batch_size=128)
      0.4
      >>> schedules.batch_scaled_learning_rate(0.1, 32, 128, rule="sqrt")
      0.2

    References:
      Granziol et al., `Learning Rates as a Function of Batch Size: A Random Matrix Theory
      Approach to Neural Network Training <https://arxiv.org/abs/2006.09092>`_, 2020.
    """
    who = "batch_scaled_learning_rate"
    _validate.learning_rate(who, learning_rate)
    _validate.interval(who, "base_batch_size", base_batch_size, "[1, inf)")
    _validate.interval(who, "batch_size", batch_size, "[1, inf)")
    _validate.one_of(who, "rule", rule, _RULES)
    return _scaled(learning_rate, batch_size / base_batch_size, rule)


@catalogue.register(
    "schedule",
    PAPER,
    example={
        "schedule": optax.linear_schedule(0.1, 0.0, 10),
        "base_batch_size": 32,
        "batch_size_schedule": optax.piecewise_constant_schedule(32, {3: 2}),
    },
)
def batch_scaled_schedule(
    schedule: optax.Schedule,
    base_batch_size: jax.typing.ArrayLike,
    batch_size_schedule: optax.Schedule,
    rule: str = "linear",
) -> optax.Schedule:
    r"""Scales a schedule, tuned at one batch size, to batch sizes that change on the way.

    The value is :math:`s(k) \, f(b(k) / b_0)`, with :math:`f(r) = r` or :math:`\sqrt r` as in
    :func:`batch_scaled_learning_rate`. Where a controller sets the batch size, which no function
    of the count can know, use that function instead, in ``optax.inject_hyperparams``.

    Args:
      schedule: the learning rate :math:`s` at ``base_batch_size``, a function of the count.
      base_batch_size: :math:`b_0 \ge 1`.
      batch_size_schedule: the batch size :math:`b`, a function of the count.
      rule: ``"linear"`` or ``"sqrt"``. Static.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if one of the two is not a function of the count, ``base_batch_size`` is below
        1, or ``rule`` unknown.

    Examples:
      >>> import optax
      >>> from gradax import schedules
      >>> growing = optax.piecewise_constant_schedule(32, {3: 4})
      >>> rate = schedules.batch_scaled_schedule(lambda count: 0.1, 32, growing, rule="sqrt")
      >>> [round(float(rate(count)), 3) for count in range(4)]
      [0.1, 0.1, 0.1, 0.2]

    References:
      Granziol et al., `Learning Rates as a Function of Batch Size: A Random Matrix Theory
      Approach to Neural Network Training <https://arxiv.org/abs/2006.09092>`_, 2020.
    """
    who = "batch_scaled_schedule"
    require_schedule(who, "schedule", schedule)
    _validate.interval(who, "base_batch_size", base_batch_size, "[1, inf)")
    require_schedule(who, "batch_size_schedule", batch_size_schedule)
    _validate.one_of(who, "rule", rule, _RULES)
    return lambda count: _scaled(
        schedule(count), jnp.asarray(batch_size_schedule(count)) / base_batch_size, rule
    )


@catalogue.register("function", PAPER, example=_SPIKE)
def rmt_top_eigenvalue(
    spike: jax.typing.ArrayLike,
    noise_std: jax.typing.ArrayLike,
    num_params: jax.typing.ArrayLike,
    batch_size: jax.typing.ArrayLike,
    dataset_size: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Predicts the top eigenvalue of the Hessian of one batch.

    The Hessian of a batch is that of all data, with top eigenvalue :math:`\lambda`, plus a
    symmetric matrix of independent noise with the variance :math:`s^2 / b'` per entry. For
    :math:`P` parameters, in the limit of many,

    .. math::
        \lambda_b = \begin{cases}
          \lambda + \dfrac{P s^2}{b' \lambda} & \lambda > s \sqrt{P / b'}, \\
          2 s \sqrt{P / b'} & \text{else (the noise hides } \lambda \text{),}
        \end{cases}
        \qquad \frac{1}{b'} = \frac{1}{b} - \frac{1}{n} .

    Args:
      spike: :math:`\lambda > 0`, top eigenvalue over all data.
      noise_std: :math:`s \ge 0`, standard deviation of an entry of one example's Hessian.
      num_params: :math:`P \ge 1`.
      batch_size: :math:`b`, from 1 to ``dataset_size``.
      dataset_size: number :math:`n` of examples that batches are drawn from without
        replacement; ``None`` for infinitely many, :math:`b' = b`.

    Returns:
      :math:`\lambda_b`, a scalar or of the arguments' common shape.

    Raises:
      ValueError: if a number is out of its range.

    Examples:
      >>> from gradax import schedules
      >>> for batch_size in (1, 4, 1000):
      ...     print(round(float(schedules.rmt_top_eigenvalue(3.0, 0.05, 1500, batch_size)), 4))
      4.25
      3.3125
      3.0013

    References:
      Granziol et al., `Learning Rates as a Function of Batch Size: A Random Matrix Theory
      Approach to Neural Network Training <https://arxiv.org/abs/2006.09092>`_, 2020.
    """
    return _top_eigenvalue(
        "rmt_top_eigenvalue", spike, noise_std, num_params, batch_size, dataset_size
    )


def _top_eigenvalue(who, spike, noise_std, num_params, batch_size, dataset_size):
    _validate.interval(who, "spike", spike, "(0, inf)")
    _validate.interval(who, "noise_std", noise_std, "[0, inf)")
    _validate.interval(who, "num_params", num_params, "[1, inf)")
    _validate.interval(who, "batch_size", batch_size, "[1, inf)")
    if isinstance(dataset_size, int | float):
        _validate.interval(who, "batch_size", batch_size, f"[1, {dataset_size}]")
    # One over the effective batch, since that itself is infinite for the full batch.
    inverse = 1.0 / batch_size - (0.0 if dataset_size is None else 1.0 / dataset_size)
    noise = noise_std**2 * (1.0 * num_params) * inverse
    return jnp.where(spike**2 > noise, spike + noise / spike, 2.0 * jnp.sqrt(noise))


@catalogue.register("function", PAPER, example=_SPIKE)
def rmt_max_learning_rate(
    spike: jax.typing.ArrayLike,
    noise_std: jax.typing.ArrayLike,
    num_params: jax.typing.ArrayLike,
    batch_size: jax.typing.ArrayLike,
    dataset_size: jax.typing.ArrayLike | None = None,
    *,
    momentum: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""Predicts the largest learning rate at which SGD does not diverge.

    It is :math:`2 (1 + \mu) / \lambda_b` with the eigenvalue of :func:`rmt_top_eigenvalue` and
    heavy-ball momentum :math:`\mu`. It grows linearly with the batch while
    :math:`b \ll P s^2 / \lambda^2`, or with its square root where noise hides the spike, and ends
    at :math:`2 (1 + \mu) / \lambda`. An upper limit, not an optimum.

    Args:
      spike: as in :func:`rmt_top_eigenvalue`.
      noise_std: as in :func:`rmt_top_eigenvalue`.
      num_params: as in :func:`rmt_top_eigenvalue`.
      batch_size: as in :func:`rmt_top_eigenvalue`.
      dataset_size: as in :func:`rmt_top_eigenvalue`.
      momentum: :math:`\mu` of ``optax.trace``, in ``[0, 1)``.

    Returns:
      The learning rate, a scalar or of the arguments' common shape.

    Raises:
      ValueError: if a number is out of its range.

    Examples:
      >>> from gradax import schedules
      >>> print(round(float(schedules.rmt_max_learning_rate(3.0, 0.05, 1500, 4)), 4))
      0.6038

    References:
      Granziol et al., `Learning Rates as a Function of Batch Size: A Random Matrix Theory
      Approach to Neural Network Training <https://arxiv.org/abs/2006.09092>`_, 2020.
    """
    who = "rmt_max_learning_rate"
    _validate.interval(who, "momentum", momentum, "[0, 1)")
    top = _top_eigenvalue(who, spike, noise_std, num_params, batch_size, dataset_size)
    return 2.0 * (1.0 + momentum) / top
