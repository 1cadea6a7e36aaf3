"""SGDP: momentum SGD whose steps do not lengthen scale-invariant weights."""

from typing import Any

import jax
import optax

from gradax import _validate, catalogue

from ._project_radial import PAPER, check_projection, project_radial


def _momentum(
    momentum: jax.typing.ArrayLike,
    dampening: jax.typing.ArrayLike,
    nesterov: bool,
    accumulator_dtype: Any,
) -> optax.GradientTransformation:
    """A trace of damped gradients; Nesterov's form adds the undamped one."""
    trace = optax.trace(momentum, accumulator_dtype=accumulator_dtype)

    def update_fn(updates, state, params=None):
        damped = optax.tree.scale(1.0 - dampening, updates)
        direction, state = trace.update(damped, state, params)
        if nesterov:
            direction = optax.tree.add_scale(updates, momentum, direction)
        return optax.tree.cast_like(direction, updates), state

    return optax.GradientTransformation(trace.init, update_fn)


@catalogue.register("alias", PAPER, example={"learning_rate": 1e-3, "momentum": 0.9})
def sgdp(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.0,
    dampening: jax.typing.ArrayLike = 0.0,
    weight_decay: jax.typing.ArrayLike = 0.0,
    *,
    eps: jax.typing.ArrayLike = 1e-8,
    delta: jax.typing.ArrayLike = 0.1,
    wd_ratio: jax.typing.ArrayLike = 0.1,
    nesterov: bool = False,
    channel_axis: int = -1,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGDP: momentum SGD inside :func:`project_radial`, ready to use.

    .. math::
        p_t = \mu p_{t-1} + (1 - d) g_t, \qquad
        w_{t+1} = \Bigl(1 - \frac{\eta \lambda r}{1 - \mu}\Bigr) w_t - \eta \, \Pi(u_t)

    with :math:`u_t = p_t`, or :math:`g_t + \mu p_t` with ``nesterov``; :math:`\Pi` removes the
    part along the weight wherever the gradient shows that the loss does not depend on the
    weight's norm. The momentum :math:`p_t` itself is never projected.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule of the count.
      momentum: :math:`\mu`, in ``[0, 1)``.
      dampening: :math:`d`, in ``[0, 1]``.
      weight_decay: decoupled decay :math:`\lambda \ge 0`.
      eps: as in :func:`project_radial`.
      delta: as in :func:`project_radial`.
      wd_ratio: as in :func:`project_radial`: the :math:`r` of projected leaves.
      nesterov: look one step ahead. Static.
      channel_axis: as in :func:`project_radial`.
      accumulator_dtype: dtype of the momentum; ``None`` means that of params.

    Returns:
      The chained transformation; it needs params.

    Raises:
      ValueError: if a constant is out of its range, or a leaf has no such ``channel_axis``.

    Examples:
      The weight turns and keeps its norm but for the second order of the step.

      >>> import gradax, jax.numpy as jnp, optax
      >>> tx = gradax.optimizers.sgdp(0.1, momentum=0.9)
      >>> w, g = jnp.array([[3.0], [4.0]]), jnp.array([[4.0], [-3.0]])
      >>> updates, state = tx.update(g, tx.init(w), w)
      >>> w = optax.apply_updates(w, updates)
      >>> print(w[1], jnp.linalg.norm(w).round(3))
      [4.3] 5.025

    References:
      Heo et al., `AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
      Weights <https://arxiv.org/abs/2006.08217>`_, 2020.
    """
    _validate.learning_rate("sgdp", learning_rate)
    _validate.interval("sgdp", "momentum", momentum, "[0, 1)")
    _validate.interval("sgdp", "dampening", dampening, "[0, 1]")
    check_projection("sgdp", delta, wd_ratio, weight_decay, eps, channel_axis)
    return optax.chain(
        project_radial(
            _momentum(momentum, dampening, nesterov, accumulator_dtype),
            delta=delta,
            wd_ratio=wd_ratio,
            weight_decay=weight_decay,
            wd_scale=1.0 / (1.0 - momentum),
            eps=eps,
            channel_axis=channel_axis,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
