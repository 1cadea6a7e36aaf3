"""The recursive gradient of SARAH and SPIDER, started from what the server broadcasts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax._extras import require, require_params
from gradax.catalogue import Paper, register

_STARTS_FROM_BROADCAST = (
    "the battery broadcasts zeros, so its direction is the gradient minus that of the start"
)


class RecursiveGradientState(NamedTuple):
    """State of :func:`recursive_gradient`.

    Attributes:
      count: ``int32[]``, number of updates made.
      previous: like params, where the last update was made.
      estimate: like params, the last direction :math:`u`.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    previous: optax.Params
    estimate: optax.Updates


@register(
    "producer",
    Paper(
        "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated "
        "Differential Estimator",
        "Fang et al.",
        2018,
        "1807.01695",
    ),
    needs=("grad_fn", "broadcast"),
    exceptions={
        "converges_parabola": _STARTS_FROM_BROADCAST,
        "converges_matrix_parabola": _STARTS_FROM_BROADCAST,
        "converges_mixed_tree": _STARTS_FROM_BROADCAST,
        "converges_rosenbrock": _STARTS_FROM_BROADCAST,
    },
)
def recursive_gradient() -> optax.GradientTransformationExtraArgs:
    r"""Follows a gradient from its start by differences on single batches.

    With the batch :math:`b_k` of the step, and :math:`y_{-1} = y_0`,

    .. math::
        u_k = u_{k-1} + \nabla f(y_k; b_k) - \nabla f(y_{k-1}; b_k), \qquad u_{-1} = G,

    where :math:`G` is the extra ``broadcast``, a good estimate of the gradient at
    :math:`y_0`. The first direction is :math:`G` whatever the batch; a small move adds little
    noise. Two gradients a step, both on the same batch. Inside :func:`local_steps` the
    recursion starts afresh every round.

    Returns:
      A transformation with a :class:`RecursiveGradientState`. It reads ``broadcast`` in its
      first update only, but wants it always.

    Raises:
      ValueError: in ``update``, without params.
      MissingExtraError: if ``update`` receives no ``grad_fn`` or ``broadcast``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> tx, grad_fn = federated.recursive_gradient(), lambda x: 3 * x
      >>> state, extras = tx.init(jnp.array(2.0)), {"broadcast": jnp.array(5.0)}
      >>> for x in (jnp.array(2.0), jnp.array(1.0)):
      ...     updates, state = tx.update(grad_fn(x), state, x, grad_fn=grad_fn, **extras)
      ...     print(updates)
      5.0
      2.0

    References:
      Fang et al., `SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated
      Differential Estimator <https://arxiv.org/abs/1807.01695>`_, 2018.

      Wu et al., `Anchor Sampling for Federated Learning with Partial Client Participation
      <https://arxiv.org/abs/2206.05891>`_, 2022.
    """

    def init_fn(params):
        return RecursiveGradientState(
            count=jnp.zeros([], jnp.int32),
            previous=optax.tree.zeros_like(params),
            estimate=optax.tree.zeros_like(params),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, broadcast=None, **extras):
        del extras
        params = require_params("recursive_gradient", params)
        grad_fn = require("recursive_gradient", "grad_fn", grad_fn)
        broadcast = require("recursive_gradient", "broadcast", broadcast)
        first = state.count == 0
        choose = lambda new, old: jnp.where(first, new.astype(old.dtype), old)
        previous = jax.tree.map(choose, params, state.previous)
        before = jax.tree.map(choose, broadcast, state.estimate)
        follow = lambda u, new, old: u + (new - old).astype(u.dtype)
        estimate = jax.tree.map(follow, before, updates, grad_fn(previous))
        direction = jax.tree.map(lambda u, g: u.astype(g.dtype), estimate, updates)
        count = optax.safe_increment(state.count)
        kept = jax.tree.map(jnp.array, params)  # a copy: params and state may both be donated
        return direction, RecursiveGradientState(count, kept, estimate)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
