"""SGD as a process at a temperature: the learning rate over the batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import _validate, catalogue

from ._scaling import require_schedule

PAPER = catalogue.Paper(
    title="Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning",
    authors="Sclocchi et al.",
    year=2023,
    arxiv="2301.13703",
)
_INSTEAD_OF_DECAY = catalogue.Paper(
    title="Don't Decay the Learning Rate, Increase the Batch Size",
    authors="Smith et al.",
    year=2017,
    arxiv="1711.00489",
)

#: The largest int32 that is a float32 too.
_LARGEST = 2**31 - 128


@catalogue.register("function", PAPER, example={"learning_rate": 0.1, "batch_size": 32})
def sgd_temperature(
    learning_rate: jax.typing.ArrayLike,
    batch_size: jax.typing.ArrayLike,
    momentum: jax.typing.ArrayLike = 0.0,
) -> jax.typing.ArrayLike:
    r"""Computes the temperature of SGD, the strength of its noise.

    .. math::
        T = \frac{\eta}{(1 - \mu) \, B} .

    While batches are small against the data and the rate is below what the curvature allows,
    runs with equal :math:`T` do the same in equal time, learning rate times steps.

    Args:
      learning_rate: :math:`\eta \ge 0`.
      batch_size: :math:`B > 0`.
      momentum: :math:`\mu` of ``optax.trace``, in ``[0, 1)``.

    Returns:
      :math:`T`: a Python number if all arguments are, else an array.

    Raises:
      ValueError: if a number is out of its range.

    Examples:
      >>> from gradax import schedules
      >>> schedules.sgd_temperature(0.5, batch_size=4)
      0.125
      >>> schedules.sgd_temperature(1.0, batch_size=8)
      0.125

    References:
      Sclocchi et al., `Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning
      <https://arxiv.org/abs/2301.13703>`_, 2023.
    """
    _validate.learning_rate("sgd_temperature", learning_rate)
    _validate.interval("sgd_temperature", "batch_size", batch_size, "(0, inf)")
    _validate.interval("sgd_temperature", "momentum", momentum, "[0, 1)")
    return learning_rate / ((1.0 - momentum) * batch_size)


@catalogue.register(
    "schedule",
    PAPER,
    example={
        "batch_size_schedule": optax.piecewise_constant_schedule(32, {3: 2}),
        "temperature": 1e-3,
    },
)
def constant_temperature_schedule(
    batch_size_schedule: optax.Schedule, temperature: jax.typing.ArrayLike
) -> optax.Schedule:
    r"""Sets the learning rate to :math:`T B`, so that the noise stays as the batch changes.

    Mind two limits: the rate at which the curvature makes training unstable
    (:func:`rmt_max_learning_rate`), and the size of the data set.

    Args:
      batch_size_schedule: the batch size :math:`B`, a function of the count.
      temperature: :math:`T > 0`; times one minus the momentum, if there is one.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if ``batch_size_schedule`` is not a function of the count, or ``temperature``
        is not positive.

    Examples:
      >>> import optax
      >>> from gradax import schedules
      >>> growing = optax.piecewise_constant_schedule(4, {1: 2})
      >>> rate = schedules.constant_temperature_schedule(growing, temperature=0.125)
      >>> [float(rate(count)) for count in range(3)]
      [0.5, 1.0, 1.0]

    References:
      Sclocchi et al., `Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning
      <https://arxiv.org/abs/2301.13703>`_, 2023.
    """
    who = "constant_temperature_schedule"
    require_schedule(who, "batch_size_schedule", batch_size_schedule)
    _validate.interval(who, "temperature", temperature, "(0, inf)")
    return lambda count: temperature * jnp.asarray(batch_size_schedule(count))


@catalogue.register(
    "schedule",
    _INSTEAD_OF_DECAY,
    example={
        "schedule": optax.linear_schedule(0.1, 0.0, 10),
        "base_batch_size": 32,
        "base_learning_rate": 0.1,
        "max_batch_size": 1024,
    },
)
def decay_by_batch_size(
    schedule: optax.Schedule,
    base_batch_size: jax.typing.ArrayLike,
    base_learning_rate: jax.typing.ArrayLike,
    *,
    max_batch_size: int | None = None,
) -> optax.Schedule:
    r"""Turns the decay of a learning rate into the growth of the batch.

    Instead of following :math:`\eta(k)` at the batch size :math:`B_0`, keep the rate
    :math:`\eta_0` and use batches of

    .. math::
        B(k) = \frac{\eta_0 B_0}{\eta(k)}

    examples: the temperature is the same, and the run makes fewer updates.

    Args:
      schedule: the decaying rate :math:`\eta`, a function of the count.
      base_batch_size: :math:`B_0 > 0`.
      base_learning_rate: :math:`\eta_0 > 0`, the rate that is used throughout.
      max_batch_size: batches grow no further; ``None`` for no limit but that of int32. Static.

    Returns:
      A function of the count to the batch size, rounded to the nearest integer, at least 1;
      int32, of the count's shape.

    Raises:
      ValueError: if ``schedule`` is not a function of the count, or a number is out of its range.

    Examples:
      >>> import optax
      >>> from gradax import schedules
      >>> decay = optax.exponential_decay(0.1, transition_steps=1, decay_rate=0.5)
      >>> size = schedules.decay_by_batch_size(decay, 32, 0.1, max_batch_size=200)
      >>> [int(size(count)) for count in range(4)]
      [32, 64, 128, 200]

    References:
      Smith et al., `Don't Decay the Learning Rate, Increase the Batch Size
      <https://arxiv.org/abs/1711.00489>`_, 2017. Sclocchi et al., `Dissecting the Effects of SGD
      Noise in Distinct Regimes of Deep Learning <https://arxiv.org/abs/2301.13703>`_, 2023.
    """
    who = "decay_by_batch_size"
    require_schedule(who, "schedule", schedule)
    _validate.interval(who, "base_batch_size", base_batch_size, "(0, inf)")
    _validate.interval(who, "base_learning_rate", base_learning_rate, "(0, inf)")
    if max_batch_size is not None:
        _validate.integer(who, "max_batch_size", max_batch_size, at_least=1)
    largest = np.int32(min(max_batch_size or _LARGEST, _LARGEST))

    def batch_size(count):
        wanted = jnp.round(base_learning_rate * base_batch_size / jnp.asarray(schedule(count)))
        within = jnp.clip(wanted, 1, largest).astype(jnp.int32)
        return jnp.where(wanted >= largest, largest, within)

    return batch_size
