"""Centered clipping: every message moves the result before only so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax.catalogue import Paper, register

from .. import axis
from . import rules
from ._robust_aggregate import gathered, like, of_first, wire_copies


class CenteredClippingState(NamedTuple):
    """State of :func:`centered_clipping`.

    Attributes:
      center: like params, the result before; zero at first. The same for all participants.
      wire_copies: ``int32[]``, to how many others a node sent its message in the last update,
        where there is no server.
    """

    center: optax.Updates
    wire_copies: jax.Array


@register(
    "aggregate",
    Paper(
        "Learning from History for Byzantine Robust Optimization",
        "Karimireddy et al.",
        2020,
        "2012.10333",
    ),
    needs=("axis",),
    example={"axis_name": "clients", "tau": 1.0},
)
def centered_clipping(
    axis_name: axis.AxisName, tau: jax.typing.ArrayLike, iters: int = 1
) -> optax.GradientTransformationExtraArgs:
    r"""Moves the result before by the mean of the messages' clipped distances to it.

    .. math::
        v_t = v_{t-1} + \frac1n \sum_i (m_i - v_{t-1})
              \min\Bigl(1, \frac{\tau}{\|m_i - v_{t-1}\|}\Bigr), \qquad v_0 = 0.

    Meant for messages with momentum, which change little from round to round. A liar moves the
    result by :math:`\tau / n` at most. The state holds one copy of params.

    Args:
      axis_name: axis of the participants.
      tau: radius :math:`\tau \ge 0`, about as far as honest messages are from each other.
      iters: number of moves in an update. Static.

    Returns:
      A transformation with the state :class:`CenteredClippingState`; it needs the axis. In a
      round in which nobody is there it gives zero and keeps the centre.

    Raises:
      ValueError: if an argument is out of range.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> tx = gradax.federated.centered_clipping("clients", tau=2.0)
      >>> combine = lambda u: tx.update(u, tx.init(u))[0]
      >>> jax.vmap(combine, axis_name="clients")(jnp.array([1.0, 1.0, 1.0, -100.0])).tolist()
      [0.25, 0.25, 0.25, 0.25]

    References:
      Karimireddy et al., `Learning from History for Byzantine Robust Optimization
      <https://arxiv.org/abs/2012.10333>`_, 2020.
    """
    _validate.interval("centered_clipping", "tau", tau, "[0, inf)")
    _validate.integer("centered_clipping", "iters", iters, at_least=1)
    axis.names(axis_name)

    def init_fn(params):
        center = optax.tree.zeros_like(params)
        return CenteredClippingState(center, jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, *, active=None, **extra):
        del params, extra
        rows, there = gathered(updates, active, axis_name)
        if not jax.tree.leaves(rows):
            return updates, state
        before = of_first(state.center, there, axis_name)
        moved = rules.centered_clipping(rows, tau=tau, iters=iters, center=before, active=there)
        moved, center = like(moved, updates), like(moved, state.center)
        if there is not None:
            keep = lambda new, old: jnp.where(jnp.any(there), new, old)
            center = jax.tree.map(keep, center, before)
        return moved, CenteredClippingState(center, wire_copies(there, axis_name))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
