"""Domains of unequal sizes: sampled more evenly, or weighed more evenly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._keys import as_key
from gradax.schedules._protocols import Sampler

from ._vector import vector

PAPER = catalogue.Paper(
    title="Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets",
    authors="Li et al.",
    year=2024,
    arxiv="2410.04579",
)


@catalogue.register("function", PAPER, example={"sizes": (900, 100), "temperature": 2.0})
def temperature_probs(
    sizes: jax.typing.ArrayLike, temperature: jax.typing.ArrayLike = 1.0
) -> jax.Array:
    r"""Probabilities with which to sample domains of the given sizes.

    .. math::
        p_k = \frac{n_k^{1/\tau}}{\sum_j n_j^{1/\tau}}

    At :math:`\tau = 1` every example is equally likely; at :math:`\tau = \infty` every domain
    is, so that the examples of a small one are repeated most often.

    Args:
      sizes: ``[domains]``, numbers of examples :math:`n_k > 0`.
      temperature: :math:`\tau > 0`, ``inf`` allowed; may be traced.

    Returns:
      ``float[domains]``, adding up to one.

    Raises:
      ValueError: if there is no domain, or a size or the temperature is not positive.

    Examples:
      >>> from gradax import schedules
      >>> print(schedules.temperature_probs([900, 100], temperature=2.0).round(4))
      [0.75 0.25]

    References:
      Li et al., `Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets
      <https://arxiv.org/abs/2410.04579>`_, 2024.
    """
    sizes = vector("temperature_probs", "sizes", sizes, "(0, inf)")
    _validate.interval("temperature_probs", "temperature", temperature, "(0, inf]")
    return jax.nn.softmax(jnp.log(sizes) / temperature)


@catalogue.register("function", PAPER, example={"sizes": (900, 100), "temperature": 2.0})
def scalarization_weights(
    sizes: jax.typing.ArrayLike, temperature: jax.typing.ArrayLike
) -> jax.Array:
    r"""Loss weights that under proportional sampling stand for sampling at a temperature.

    With the probabilities :math:`p` of :func:`temperature_probs` and the proportional
    :math:`q_k = n_k / \sum_j n_j`,

    .. math::
        w_k = \frac{p_k}{q_k}, \qquad \sum_k q_k w_k = 1, \qquad
        \sum_k q_k w_k \nabla \ell_k = \sum_k p_k \nabla \ell_k.

    The full gradient is the same, its noise is not. One sample has the second moment
    :math:`\sum_k p_k M_k` if domains are sampled, :math:`\sum_k p_k w_k M_k` if they are
    weighed, where :math:`M_k` is the mean squared norm of the gradient in domain :math:`k`. For
    equal :math:`M_k` weighing is never the better one; it can be if a large domain has by far
    the larger :math:`M_k`.

    Args:
      sizes: ``[domains]``, numbers of examples :math:`n_k > 0`.
      temperature: :math:`\tau > 0`, ``inf`` allowed; may be traced.

    Returns:
      ``float[domains]``, the factors on the losses.

    Raises:
      ValueError: if there is no domain, or a size or the temperature is not positive.

    Examples:
      >>> from gradax import schedules
      >>> print(schedules.scalarization_weights([900, 100], temperature=2.0).round(4))
      [0.8333 2.5   ]

    References:
      Li et al., `Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets
      <https://arxiv.org/abs/2410.04579>`_, 2024.
    """
    sizes = vector("scalarization_weights", "sizes", sizes, "(0, inf)")
    _validate.interval("scalarization_weights", "temperature", temperature, "(0, inf]")
    return temperature_probs(sizes, temperature) / temperature_probs(sizes)


@catalogue.register("schedule", PAPER, example={"switch_step": 3, "transition_steps": 2})
def cooldown_schedule(
    high: jax.typing.ArrayLike = 5.0,
    low: jax.typing.ArrayLike = 1.0,
    *,
    switch_step: int,
    transition_steps: int = 0,
) -> optax.Schedule:
    """Samples hot at first, then cold: a temperature for :func:`domain_sampler`.

    A high temperature learns small domains quickly and overfits them later; a low one from
    ``switch_step`` on keeps the gain.

    Args:
      high: temperature below ``switch_step``; ``inf`` only if there is no transition.
      low: temperature in the end.
      switch_step: the first count that is no longer hot, a Python integer.
      transition_steps: counts that a straight line from ``high`` to ``low`` takes; 0 jumps.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if a temperature is not positive or a number of steps negative.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.cooldown_schedule(5.0, 1.0, switch_step=2, transition_steps=2)
      >>> [float(schedule(count)) for count in range(6)]
      [5.0, 5.0, 5.0, 3.0, 1.0, 1.0]

    References:
      Li et al., `Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets
      <https://arxiv.org/abs/2410.04579>`_, 2024.
    """
    who = "cooldown_schedule"
    _validate.integer(who, "switch_step", switch_step, at_least=0)
    _validate.integer(who, "transition_steps", transition_steps, at_least=0)
    allowed = "(0, inf)" if transition_steps else "(0, inf]"
    _validate.interval(who, "high", high, allowed)
    _validate.interval(who, "low", low, allowed)
    if transition_steps:
        return optax.linear_schedule(high, low, transition_steps, switch_step)
    constants = [optax.constant_schedule(high), optax.constant_schedule(low)]
    return optax.join_schedules(constants, [switch_step])


class DomainSamplerState(NamedTuple):
    """State of :func:`domain_sampler`.

    Attributes:
      key: typed key of the coming draws.
      count: ``int32[]``, number of draws made, at which the temperature is read.
    """

    key: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


@catalogue.register(
    "sampler", PAPER, example={"sizes": (900, 100), "temperature_schedule": 2.0, "batch_size": 8}
)
def domain_sampler(
    sizes: jax.typing.ArrayLike,
    temperature_schedule: optax.ScalarOrSchedule = 1.0,
    batch_size: int | None = None,
) -> Sampler:
    """Draws domains with the probabilities of :func:`temperature_probs`.

    Which example of a domain comes next is decided by :func:`batches` with ``groups=``, or by a
    loader of your own.

    Args:
      sizes: ``[domains]``, numbers of examples, positive.
      temperature_schedule: a temperature, or a schedule of the number of draws such as
        :func:`cooldown_schedule`.
      batch_size: domains per draw; ``None`` for a single one. Static.

    Returns:
      A :class:`Sampler` of ``int32[batch_size]``, or ``int32[]``; its state is a
      :class:`DomainSamplerState`.

    Raises:
      ValueError: if there is no domain, or a number is not positive.

    Examples:
      >>> from gradax import schedules
      >>> sampler = schedules.domain_sampler([900, 100], float("inf"), batch_size=1000)
      >>> domains, state = sampler.sample(sampler.init(0))
      >>> bool(abs(domains.mean() - 0.5) < 0.05)
      True

    References:
      Li et al., `Upsample or Upweight? Balanced Training on Heavily Imbalanced Datasets
      <https://arxiv.org/abs/2410.04579>`_, 2024.
    """
    who = "domain_sampler"
    sizes = vector(who, "sizes", sizes, "(0, inf)")
    _validate.interval(who, "temperature_schedule", temperature_schedule, "(0, inf]")
    if batch_size is not None:
        _validate.integer(who, "batch_size", batch_size, at_least=1)
    shape = () if batch_size is None else (batch_size,)

    def temperature(count):
        return (
            temperature_schedule(count) if callable(temperature_schedule) else temperature_schedule
        )

    def init(key):
        return DomainSamplerState(as_key(who, key), jnp.zeros([], jnp.int32))

    def sample(state):
        key, own = jax.random.split(state.key)
        probs = temperature_probs(sizes, temperature(state.count))
        domains = jax.random.choice(own, sizes.shape[0], shape, p=probs).astype(jnp.int32)
        return domains, DomainSamplerState(key, optax.safe_increment(state.count))

    return Sampler(init, sample)
