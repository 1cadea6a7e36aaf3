"""Step sizes after which the last iterate, not an average of iterates, is the good one."""

import math

import jax
import jax.numpy as jnp
import optax

from gradax import catalogue
from gradax._validate import integer, interval, learning_rate, one_of

_ZAMANI_GLINEUR = catalogue.Paper(
    title="Exact Convergence Rate of the Last Iterate in Subgradient Methods",
    authors="Zamani and Glineur",
    year=2023,
    arxiv="2307.11134",
)
_LIU_ZHOU = catalogue.Paper(
    title="Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods",
    authors="Liu and Zhou",
    year=2023,
    arxiv="2312.08531",
)
_REFINEMENT = catalogue.Paper(
    title="When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
    authors="Defazio et al.",
    year=2023,
    arxiv="2310.07831",
)


@catalogue.register("schedule", _REFINEMENT, example={"peak_value": 0.1, "num_steps": 100})
def linear_decay_schedule(peak_value: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    r"""Falls in a straight line over the whole run, and ends in a small step, not in a zero one.

    With :math:`N` = ``num_steps`` updates, counted :math:`k = 0, \dots, N - 1`,

    .. math::
        \eta_k = \text{peak} \cdot \frac{N - k}{N + 1}, \qquad \eta_k = 0 \text{ for } k \ge N.

    The horizon must be known: no sequence of steps is optimal for every horizon at once.

    Args:
      peak_value: the value that the line reaches one step before the run begins; the first step
        is :math:`N / (N + 1)` of it.
      num_steps: number :math:`N` of updates in the run, a Python integer.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if ``peak_value`` is a negative number or ``num_steps`` is below 1.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.linear_decay_schedule(1.0, num_steps=4)
      >>> [round(float(schedule(count)), 3) for count in range(6)]
      [0.8, 0.6, 0.4, 0.2, 0.0, 0.0]

    References:
      Defazio et al., `When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement
      <https://arxiv.org/abs/2310.07831>`_, 2023.
    """
    learning_rate("linear_decay_schedule", peak_value, "peak_value")
    integer("linear_decay_schedule", "num_steps", num_steps, at_least=1)
    return _line(peak_value / (num_steps + 1), num_steps)


@catalogue.register(
    "schedule", _ZAMANI_GLINEUR, example={"lipschitz": 1.0, "radius": 1.0, "num_steps": 100}
)
def last_iterate_schedule(
    lipschitz: jax.typing.ArrayLike, radius: jax.typing.ArrayLike, num_steps: int
) -> optax.Schedule:
    r"""The steps whose last iterate is exactly minimax optimal for convex Lipschitz functions.

    For subgradients bounded by :math:`B` and a start within :math:`R` of a minimiser,

    .. math::
        \eta_k = \frac{R}{B} \cdot \frac{N - k}{(N + 1)^{3/2}}
        \quad\Rightarrow\quad f(x_N) - f^\star \le \frac{B R}{\sqrt{N + 1}},

    and no method of :math:`N` subgradients can promise less. It is
    :func:`linear_decay_schedule` with the peak :math:`R / (B \sqrt{N + 1})`.

    Args:
      lipschitz: bound :math:`B > 0` on the norm of subgradients.
      radius: bound :math:`R > 0` on the distance from the start to a minimiser.
      num_steps: number :math:`N` of updates in the run, a Python integer.

    Returns:
      A function of the count, of any shape, to values of that shape; zero from ``num_steps`` on.

    Raises:
      ValueError: if ``lipschitz`` or ``radius`` is a number that is not positive, or
        ``num_steps`` is below 1.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.last_iterate_schedule(lipschitz=1.0, radius=1.0, num_steps=4)
      >>> [round(float(schedule(count)), 4) for count in range(5)]
      [0.3578, 0.2683, 0.1789, 0.0894, 0.0]

    References:
      Zamani and Glineur, `Exact Convergence Rate of the Last Iterate in Subgradient Methods
      <https://arxiv.org/abs/2307.11134>`_, 2023.
    """
    interval("last_iterate_schedule", "lipschitz", lipschitz, "(0, inf)")
    interval("last_iterate_schedule", "radius", radius, "(0, inf)")
    integer("last_iterate_schedule", "num_steps", num_steps, at_least=1)
    return linear_decay_schedule(radius / (lipschitz * math.sqrt(num_steps + 1)), num_steps)


@catalogue.register("schedule", _LIU_ZHOU, example={"scale": 0.1, "num_steps": 100})
def last_iterate_linear_schedule(
    scale: jax.typing.ArrayLike, num_steps: int, smoothness: jax.typing.ArrayLike = 0.0
) -> optax.Schedule:
    r"""Linear decay for stochastic, composite and smooth problems with a known horizon.

    With :math:`t = k + 1` and :math:`T` = ``num_steps``,

    .. math::
        \eta_t = \min\Bigl(\frac{1}{2L},\ \eta\,\frac{T - t + 1}{T^{3/2}}\Bigr).

    The last iterate converges at the optimal rate without a logarithmic factor. A good
    :math:`\eta` is the distance to the solution over the size of gradient plus noise.

    Args:
      scale: :math:`\eta > 0`.
      num_steps: horizon :math:`T`, a Python integer.
      smoothness: :math:`L \ge 0`, the Lipschitz constant of the gradient; 0 means no cap.

    Returns:
      A function of the count, of any shape, to values of that shape; zero from ``num_steps`` on.

    Raises:
      ValueError: if ``scale`` is not positive, ``smoothness`` negative, or ``num_steps`` below 1.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.last_iterate_linear_schedule(1.0, num_steps=4)
      >>> [float(schedule(count)) for count in range(5)]
      [0.5, 0.375, 0.25, 0.125, 0.0]

    References:
      Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods
      <https://arxiv.org/abs/2312.08531>`_, 2023.
    """
    who = "last_iterate_linear_schedule"
    interval(who, "scale", scale, "(0, inf)")
    integer(who, "num_steps", num_steps, at_least=1)
    return _capped(who, _line(scale / num_steps**1.5, num_steps), smoothness)


@catalogue.register("schedule", _LIU_ZHOU, example={"scale": 0.1, "num_steps": 100})
def last_iterate_fixed_schedule(
    scale: jax.typing.ArrayLike, num_steps: int, smoothness: jax.typing.ArrayLike = 0.0
) -> optax.Schedule:
    r"""The constant step for a known horizon.

    .. math::
        \eta_t = \min\Bigl(\frac{1}{2L},\ \frac{\eta}{\sqrt{T}}\Bigr).

    The last iterate loses a logarithmic factor against :func:`last_iterate_linear_schedule`.

    Args:
      scale: :math:`\eta > 0`.
      num_steps: horizon :math:`T`, a Python integer.
      smoothness: :math:`L \ge 0`, the Lipschitz constant of the gradient; 0 means no cap.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if ``scale`` is not positive, ``smoothness`` negative, or ``num_steps`` below 1.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.last_iterate_fixed_schedule(1.0, num_steps=4)
      >>> [float(schedule(count)) for count in range(3)]
      [0.5, 0.5, 0.5]

    References:
      Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods
      <https://arxiv.org/abs/2312.08531>`_, 2023.
    """
    who = "last_iterate_fixed_schedule"
    interval(who, "scale", scale, "(0, inf)")
    integer(who, "num_steps", num_steps, at_least=1)
    constant = lambda count: jnp.full(jnp.shape(count), scale / math.sqrt(num_steps))
    return _capped(who, constant, smoothness)


@catalogue.register("schedule", _LIU_ZHOU, example={"scale": 0.1})
def last_iterate_inv_sqrt_schedule(
    scale: jax.typing.ArrayLike, smoothness: jax.typing.ArrayLike = 0.0
) -> optax.Schedule:
    r"""Steps that fall with the square root of time, for an unknown horizon.

    With :math:`t = k + 1`,

    .. math::
        \eta_t = \min\Bigl(\frac{1}{2L},\ \frac{\eta}{\sqrt{t}}\Bigr).

    Args:
      scale: :math:`\eta > 0`.
      smoothness: :math:`L \ge 0`, the Lipschitz constant of the gradient; 0 means no cap.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if ``scale`` is not positive or ``smoothness`` negative.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.last_iterate_inv_sqrt_schedule(1.0)
      >>> [float(schedule(count)) for count in (0, 3, 15)]
      [1.0, 0.5, 0.25]

    References:
      Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods
      <https://arxiv.org/abs/2312.08531>`_, 2023.
    """
    who = "last_iterate_inv_sqrt_schedule"
    interval(who, "scale", scale, "(0, inf)")
    return _capped(who, lambda count: scale / jnp.sqrt(_step_number(count)), smoothness)


@catalogue.register("schedule", _LIU_ZHOU, example={"strong_convexity": 1.0})
def last_iterate_strongly_convex_schedule(
    strong_convexity: jax.typing.ArrayLike,
    smoothness: jax.typing.ArrayLike = 0.0,
    *,
    numerator: int = 2,
) -> optax.Schedule:
    r"""Steps that fall like one over time, for strongly convex problems.

    With :math:`t = k + 1`,

    .. math::
        \eta_t = \frac{2}{\mu\,(t + 1 + 4L/\mu)} \quad\text{or}\quad
        \eta_t = \frac{1}{\mu\,(t + 2L/\mu)}.

    Args:
      strong_convexity: :math:`\mu > 0`.
      smoothness: :math:`L \ge 0`, the Lipschitz constant of the gradient; 0 for problems that are
        only Lipschitz.
      numerator: 2 or 1, which of the two rules.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if ``strong_convexity`` is not positive, ``smoothness`` negative, or
        ``numerator`` neither 1 nor 2.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.last_iterate_strongly_convex_schedule(0.5, smoothness=4.0)
      >>> [round(float(schedule(count)), 4) for count in range(3)]
      [0.1176, 0.1143, 0.1111]

    References:
      Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods
      <https://arxiv.org/abs/2312.08531>`_, 2023.
    """
    who = "last_iterate_strongly_convex_schedule"
    interval(who, "strong_convexity", strong_convexity, "(0, inf)")
    interval(who, "smoothness", smoothness, "[0, inf)")
    one_of(who, "numerator", numerator, (1, 2))

    def schedule(count):
        curvature = strong_convexity * (_step_number(count) + (numerator - 1))
        return numerator / (curvature + 2 * numerator * smoothness)

    return schedule


@catalogue.register("schedule", _LIU_ZHOU, example={"scale": 0.1, "tail_index": 1.5})
def last_iterate_heavy_tailed_schedule(
    scale: jax.typing.ArrayLike, tail_index: jax.typing.ArrayLike
) -> optax.Schedule:
    r"""Steps for heavy-tailed noise, of which only a moment below the second is finite.

    With a moment of order :math:`p` and :math:`t = k + 1`,

    .. math::
        \eta_t = \eta\, t^{-1/p}.

    Args:
      scale: :math:`\eta > 0`.
      tail_index: :math:`p` in ``(1, 2]``; 2 is :func:`last_iterate_inv_sqrt_schedule`.

    Returns:
      A function of the count, of any shape, to values of that shape.

    Raises:
      ValueError: if ``scale`` is not positive or ``tail_index`` outside ``(1, 2]``.

    Examples:
      >>> from gradax import schedules
      >>> schedule = schedules.last_iterate_heavy_tailed_schedule(1.0, tail_index=1.5)
      >>> [round(float(schedule(count)), 4) for count in (0, 7, 26)]
      [1.0, 0.25, 0.1111]

    References:
      Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods
      <https://arxiv.org/abs/2312.08531>`_, 2023.
    """
    who = "last_iterate_heavy_tailed_schedule"
    interval(who, "scale", scale, "(0, inf)")
    interval(who, "tail_index", tail_index, "(1, 2]")
    return lambda count: scale / _step_number(count) ** (1.0 / tail_index)


def _line(slope: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """Slope times the number of updates that remain.

    The integer difference is exact: under jit ``optax.linear_schedule`` ends a rounding error
    beside zero, and so below it.
    """
    return lambda count: (num_steps - jnp.clip(count, 0, num_steps)) * slope


def _step_number(count: jax.typing.ArrayLike) -> jax.Array:
    """The number t = count + 1 as a float: an integer sum would wrap at the largest int32."""
    return jnp.maximum(count, 0) + 1.0


def _capped(
    who: str,
    schedule: optax.Schedule,
    smoothness: jax.typing.ArrayLike,
) -> optax.Schedule:
    """min(1 / (2L), schedule), written so that L = 0 divides by nothing."""
    interval(who, "smoothness", smoothness, "[0, inf)")

    def capped(count):
        value = schedule(count)
        return value / jnp.maximum(1.0, 2.0 * smoothness * value)

    return capped
