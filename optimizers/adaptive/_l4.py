"""L4: the step that takes a fixed share of the loss that is thought to be reachable."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _extras, _validate, catalogue
from gradax._wide import inner_product, wide_dtype

PAPER = catalogue.Paper(
    title="L4: Practical loss-based stepsize adaptation for deep learning",
    authors="Rolinek and Martius",
    year=2018,
    arxiv="1802.05074",
)


class L4State(NamedTuple):
    r"""State of :func:`l4`, :func:`l4_adam` and :func:`l4_momentum`.

    Attributes:
      lmin: ``float[]``, the guess :math:`L_{min}` of the least loss that the latest update used;
        infinite before the first.
      step_size: ``float[]``, the step :math:`\eta_t` of the latest update.
      direction_state: state of the transformation that emits :math:`v_t`.
      gradient_state: state of the one that emits :math:`e_t`; empty where that is read from
        ``direction_state``.
    """

    lmin: jax.Array
    step_size: jax.Array
    direction_state: optax.OptState
    gradient_state: optax.OptState


class _Directions(NamedTuple):
    """A source of directions and gradient estimates.

    Attributes:
      init: ``(params) -> (direction_state, gradient_state)``.
      update: ``(dtype, updates, states, params, **extra_args) -> (v, slope, states)``, where the
        slope is the inner product of direction and gradient estimate, a scalar of ``dtype``.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]


def _two(
    direction: optax.GradientTransformation, gradient_estimate: optax.GradientTransformation
) -> _Directions:
    """Two transformations side by side."""
    direction = optax.with_extra_args_support(direction)
    gradient_estimate = optax.with_extra_args_support(gradient_estimate)

    def init_fn(params):
        return direction.init(params), gradient_estimate.init(params)

    def update_fn(dtype, updates, states, params, **extra_args):
        v, direction_state = direction.update(updates, states[0], params, **extra_args)
        e, gradient_state = gradient_estimate.update(updates, states[1], params, **extra_args)
        slope = inner_product(jax.tree.leaves(v), jax.tree.leaves(e), dtype)
        return v, slope, (direction_state, gradient_state)

    return _Directions(init_fn, update_fn)


def _adam(b1: Any, b2: Any, eps: Any) -> _Directions:
    """Adam's direction, with its own first moment as the gradient estimate."""
    moments = optax.scale_by_adam(b1, b2)

    def leaf_direction(m, n, root):
        # Of the bias corrections only what eps needs; the rest are factors of the whole tree.
        return m / (jnp.sqrt(n) + root * eps)

    def update_fn(dtype, updates, states, params, **extra_args):
        del params, extra_args
        _, state = moments.update(updates, states[0])
        count = state.count.astype(dtype)
        correction, root = 1 - b1**count, jnp.sqrt(1 - b2**count)

        def term(m, n):
            # The barrier hides that the step will need the same: once more is cheaper than
            # keeping a tree until the slope is known.
            m, n, own_root = jax.lax.optimization_barrier((m, n, root))
            return inner_product([m], [leaf_direction(m, n, own_root)], dtype)

        terms = jax.tree.leaves(jax.tree.map(term, state.mu, state.nu))
        slope = root / correction**2 * sum(terms, jnp.zeros([], dtype))
        v = jax.tree.map(
            lambda m, n: root / correction * leaf_direction(m, n, root), state.mu, state.nu
        )
        return v, slope, (state, states[1])

    return _Directions(lambda params: (moments.init(params), optax.EmptyState()), update_fn)


def _momentum(decay: Any) -> _Directions:
    """The mean gradient as direction and gradient estimate in one."""
    moments = optax.ema(decay, debias=False)

    def update_fn(dtype, updates, states, params, **extra_args):
        del params, extra_args
        _, state = moments.update(updates, states[0])
        correction = 1 - decay ** state.count.astype(dtype)
        mean = jax.tree.leaves(state.ema)
        slope = inner_product(mean, mean, dtype) / correction**2
        return jax.tree.map(lambda m: m / correction, state.ema), slope, (state, states[1])

    return _Directions(lambda params: (moments.init(params), optax.EmptyState()), update_fn)


def _final_stage(
    who: str,
    directions: _Directions,
    alpha: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike,
    gamma0: jax.typing.ArrayLike,
    tau: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    nonneg: bool,
) -> optax.GradientTransformationExtraArgs:
    """L4 on any source of directions and gradient estimates."""
    _validate.interval(who, "alpha", alpha, "(0, inf)")
    _validate.interval(who, "gamma", gamma, "[0, 1)")
    _validate.interval(who, "gamma0", gamma0, "[0, 1)")
    _validate.interval(who, "tau", tau, "(0, inf)")
    _validate.interval(who, "eps", eps, "(0, inf)")

    def least(value, lmin):
        known = jnp.minimum((1 + 1 / tau) * lmin, value)
        return jnp.where(jnp.isinf(lmin), gamma0 * value, known)

    def init_fn(params):
        dtype = wide_dtype(*jax.tree.leaves(params))
        return L4State(jnp.full([], jnp.inf, dtype), jnp.zeros([], dtype), *directions.init(params))

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        _extras.require(who, "value", value)
        states = (state.direction_state, state.gradient_state)
        extra_args["value"] = value
        dtype = state.lmin.dtype
        v, slope, states = directions.update(dtype, updates, states, params, **extra_args)
        value = jnp.asarray(value, dtype)
        # A loss that is no number must not stay in the minimum for ever.
        usable = jnp.isfinite(value)
        lmin = jnp.where(usable, least(value, state.lmin), state.lmin).astype(dtype)
        step_size = alpha * (value - gamma * lmin) / (slope + eps)
        if nonneg:
            step_size = jnp.maximum(step_size, 0.0)
        step_size = jnp.where(usable, step_size, 0.0).astype(dtype)
        steps = jax.tree.map(lambda u, g: (-step_size * u).astype(g.dtype), v, updates)
        return steps, L4State(lmin, step_size, *states)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@catalogue.register(
    "wrapper", PAPER, needs=("value",), example={"direction": optax.scale_by_adam(eps=1e-4)}
)
def l4(
    direction: optax.GradientTransformation,
    gradient_estimate: optax.GradientTransformation | None = None,
    alpha: jax.typing.ArrayLike = 0.15,
    gamma: jax.typing.ArrayLike = 0.9,
    gamma0: jax.typing.ArrayLike = 0.75,
    tau: jax.typing.ArrayLike = 1000.0,
    eps: jax.typing.ArrayLike = 1e-12,
    *,
    nonneg: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""L4: takes from the loss how long a step in a given direction should be.

    With the loss :math:`L_t`, the direction :math:`v_t` and an estimate :math:`e_t` of the
    gradient,

    .. math::
        L_{min} \leftarrow \min((1 + 1 / \tau) L_{min}, L_t), \qquad
        \eta_t = \alpha \frac{L_t - \gamma L_{min}}{\langle v_t, e_t \rangle + \epsilon}, \qquad
        w_{t+1} = w_t - \eta_t v_t ,

    so that the linearised loss goes the share :math:`\alpha` of the way down to
    :math:`\gamma L_{min}`. In the first step :math:`L_{min} = \gamma_0 L_1`; later it is the
    least loss seen, forgotten over :math:`\tau` steps. The inner product goes over the whole tree.

    There is no learning rate: put it last in a chain; a rate inside ``direction`` has no effect.
    The loss has to be non-negative with a least value near zero, and has to include whatever the
    direction descends on, such as a weight penalty. On several devices average ``value`` and the
    gradients first, or the participants take different steps. A ``value`` that is not finite
    counts for nothing: its step is zero.

    Args:
      direction: transformation that emits :math:`v_t`, such as :func:`optax.scale_by_adam`.
      gradient_estimate: transformation that emits :math:`e_t`; ``None`` means
        ``optax.ema(0.9)``, the mean over about ten steps.
      alpha: :math:`\alpha > 0`; 0.1 to 0.3 are useful.
      gamma: :math:`\gamma`, in ``[0, 1)``.
      gamma0: :math:`\gamma_0`, in ``[0, 1)``.
      tau: :math:`\tau > 0`.
      eps: :math:`\epsilon > 0`.
      nonneg: replace negative steps by zero. They occur where :math:`v_t` and :math:`e_t` average
        over different times, and go uphill. Static.

    Returns:
      A transformation whose state is an :class:`L4State`; it needs ``value``, and hands params
      and extra arguments on.

    Raises:
      ValueError: if a constant is out of its range.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss = lambda x: jnp.sum(x**4)
      >>> x, tx = jnp.array([1.0, -2.0]), gradax.optimizers.l4(optax.scale_by_sign())
      >>> state = tx.init(x)
      >>> for _ in range(200):
      ...     value, grads = jax.value_and_grad(loss)(x)
      ...     updates, state = tx.update(grads, state, x, value=value)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(loss(x) < 1.0)  # from 17, by hundredths of what is left
      True

    References:
      Rolinek, Martius, `L4: Practical loss-based stepsize adaptation for deep learning
      <https://arxiv.org/abs/1802.05074>`_, 2018.
    """
    estimate = optax.ema(0.9, debias=True) if gradient_estimate is None else gradient_estimate
    directions = _two(direction, estimate)
    return _final_stage("l4", directions, alpha, gamma, gamma0, tau, eps, nonneg)


@catalogue.register("final", PAPER, needs=("value",))
def l4_adam(
    alpha: jax.typing.ArrayLike = 0.15,
    gamma: jax.typing.ArrayLike = 0.9,
    gamma0: jax.typing.ArrayLike = 0.75,
    tau: jax.typing.ArrayLike = 1000.0,
    eps: jax.typing.ArrayLike = 1e-12,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    adam_eps: jax.typing.ArrayLike = 1e-4,
) -> optax.GradientTransformationExtraArgs:
    r"""L4 in Adam's direction, with the paper's constants.

    .. math::
        v_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon_a}, \qquad e_t = \hat m_t

    in :func:`l4`, with the bias-corrected moments of :func:`optax.scale_by_adam`. The gradient
    estimate is Adam's own first moment, so that the state holds two copies of params, and the
    step is never negative.

    Args:
      alpha: as in :func:`l4`.
      gamma: as in :func:`l4`.
      gamma0: as in :func:`l4`.
      tau: as in :func:`l4`.
      eps: as in :func:`l4`.
      b1: decay of the first moment, in ``[0, 1)``.
      b2: decay of the second moment, in ``[0, 1)``.
      adam_eps: :math:`\epsilon_a > 0`, outside the square root.

    Returns:
      A transformation whose state is an :class:`L4State`; it needs ``value``.

    Raises:
      ValueError: if a constant is out of its range.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> loss = lambda x: jnp.sum(jnp.array([1.0, 30.0]) * x**2)
      >>> x, tx = jnp.array([1.0, -2.0]), gradax.optimizers.l4_adam(0.3)
      >>> state = tx.init(x)
      >>> for _ in range(200):
      ...     value, grads = jax.value_and_grad(loss)(x)
      ...     updates, state = tx.update(grads, state, x, value=value)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(loss(x) < 1.0)  # from 121, at a steady pace
      True

    References:
      Rolinek, Martius, `L4: Practical loss-based stepsize adaptation for deep learning
      <https://arxiv.org/abs/1802.05074>`_, 2018.
    """
    _validate.interval("l4_adam", "b1", b1, "[0, 1)")
    _validate.interval("l4_adam", "b2", b2, "[0, 1)")
    _validate.interval("l4_adam", "adam_eps", adam_eps, "(0, inf)")
    directions = _adam(b1, b2, adam_eps)
    return _final_stage("l4_adam", directions, alpha, gamma, gamma0, tau, eps, nonneg=False)


@catalogue.register("final", PAPER, needs=("value",))
def l4_momentum(
    alpha: jax.typing.ArrayLike = 0.15,
    gamma: jax.typing.ArrayLike = 0.9,
    gamma0: jax.typing.ArrayLike = 0.75,
    tau: jax.typing.ArrayLike = 1000.0,
    eps: jax.typing.ArrayLike = 1e-12,
    *,
    decay: jax.typing.ArrayLike = 0.9,
) -> optax.GradientTransformationExtraArgs:
    r"""L4 in the direction of the mean gradient, with the paper's constants.

    .. math::
        v_t = e_t = \frac{m_t}{1 - \beta^t}, \qquad m_t = \beta m_{t-1} + (1 - \beta) g_t

    in :func:`l4`. The state holds one copy of params. Multiplying the loss by a positive constant
    changes nothing but the part of ``eps``.

    Args:
      alpha: as in :func:`l4`.
      gamma: as in :func:`l4`.
      gamma0: as in :func:`l4`.
      tau: as in :func:`l4`.
      eps: as in :func:`l4`.
      decay: :math:`\beta`, in ``[0, 1)``.

    Returns:
      A transformation whose state is an :class:`L4State`; it needs ``value``.

    Raises:
      ValueError: if a constant is out of its range.

    Examples:
      The first step goes the share 0.15 of the way down to 0.9 * 0.75 of the loss.

      >>> import gradax, jax.numpy as jnp
      >>> x, tx = jnp.array([3.0, 4.0]), gradax.optimizers.l4_momentum()
      >>> updates, state = tx.update(x, tx.init(x), x, value=12.5)
      >>> print(f"{state.step_size:.6f} {0.15 * (1 - 0.9 * 0.75) * 12.5 / 25:.6f}")
      0.024375 0.024375

    References:
      Rolinek, Martius, `L4: Practical loss-based stepsize adaptation for deep learning
      <https://arxiv.org/abs/1802.05074>`_, 2018.
    """
    _validate.interval("l4_momentum", "decay", decay, "[0, 1)")
    directions = _momentum(decay)
    return _final_stage("l4_momentum", directions, alpha, gamma, gamma0, tau, eps, nonneg=False)
