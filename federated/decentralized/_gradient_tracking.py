"""Gradient tracking: gossip SGD whose nodes estimate the gradient of the average loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._wide import widen

from .. import axis
from . import topology
from ._gossip import _RING, gossip
from ._graphs import MatrixLike
from ._mixing import check_alike, is_inexact, make_mixer

_PAPER = catalogue.Paper(
    title="Achieving Geometric Convergence for Distributed Optimization over Time-Varying Graphs",
    authors="Nedic et al.",
    year=2016,
    arxiv="1607.03218",
)


class GradientTrackingState(NamedTuple):
    """State of :func:`scale_by_gradient_tracking`.

    Attributes:
      count: ``int32[]``, number of updates made.
      prev_grad: like params, the gradient :math:`g_i^{t-1}` of the step before.
      tracker: like params, the estimate :math:`y_i` of the average gradient.
      wire_copies: ``int32[]``, to how many others the node sent its tracker last.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    prev_grad: optax.Updates
    tracker: optax.Updates
    wire_copies: jax.Array


@catalogue.register(
    "direction", _PAPER, needs=("axis",), example={"mixing": _RING, "axis_name": "nodes"}
)
def scale_by_gradient_tracking(
    mixing: MatrixLike, axis_name: axis.AxisName
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces a node's gradient by its running estimate of the average one.

    .. math::
        y_i^0 = g_i^0, \qquad y_i^t = \sum_j W_{ij} y_j^{t-1} + g_i^t - g_i^{t-1}.

    The mean of the :math:`y_i` equals the mean of the gradients at every step. That needs a
    doubly stochastic matrix, and a place before momentum or a preconditioner. One more model
    travels per update.

    A node with the extra ``active=False`` keeps its state; what it would take from a neighbour
    stays with that neighbour, so that the sum of all :math:`y_i` remains the sum of the last
    gradients of all nodes. Absent nodes therefore pull with the gradient they had when they
    left: when nodes leave for good or join, start with a fresh state.

    Args:
      mixing: the matrix ``[n, n]``, or ``[T, n, n]`` used in turn, or sparse as in
        :func:`gossip`; doubly stochastic.
      axis_name: axis of the nodes; ``n`` is its size.

    Returns:
      A transformation with the state :class:`GradientTrackingState`; it needs the axis, not
      params. An extra ``round`` replaces the count where a stack of matrices is used in turn.

    Raises:
      ValueError: if ``mixing`` is not square, not doubly stochastic or not connected; at
        trace time if the size of the axis differs from that of the matrix.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp
      >>> W = gradax.federated.topology.exponential(3)
      >>> tx = gradax.federated.scale_by_gradient_tracking(W, "nodes")
      >>> grads = jnp.array([1.0, 2.0, 6.0])
      >>> state = jax.vmap(tx.init)(grads)
      >>> for _ in range(30):
      ...     estimate, state = jax.vmap(tx.update, axis_name="nodes")(grads, state)
      >>> bool(jnp.allclose(estimate, 3.0))
      True

    References:
      Nedic, Olshevsky and Shi, `Achieving Geometric Convergence for Distributed Optimization
      over Time-Varying Graphs <https://arxiv.org/abs/1607.03218>`_, 2016.
    """
    mixer = make_mixer("gradient_tracking", mixing, axis_name, keep_sums=True)
    if not isinstance(mixing, jax.core.Tracer) and not topology.is_doubly_stochastic(mixing):
        raise ValueError("gradient_tracking: columns of mixing must sum to 1 as rows do.")

    def track(mixed, tracker, grad, previous):
        if not is_inexact(tracker):
            return grad
        return (mixed + widen(grad) - widen(previous)).astype(tracker.dtype)

    def init_fn(params):
        return GradientTrackingState(
            count=jnp.zeros([], jnp.int32),
            prev_grad=optax.tree.zeros_like(params),
            tracker=optax.tree.zeros_like(params),
            wire_copies=jnp.zeros([], jnp.int32),
        )

    def update_fn(
        updates,
        state,
        params=None,
        *,
        round=None,
        active=None,
        client_id=None,
        num_clients=None,
        **extra,
    ):
        del params, extra
        check_alike("gradient_tracking", updates, state.tracker)
        members = mixer.members(active, client_id, num_clients)
        # Both fields start at zero, so the first tracker is the gradient itself.
        t = mixer.clock(state.count, round)
        mixed = mixer.mix(state.tracker, t, members)
        tracker = jax.tree.map(track, mixed, state.tracker, updates, state.prev_grad)
        prev_grad = jax.tree.map(lambda g, old: g.astype(old.dtype), updates, state.prev_grad)
        count, copies = optax.safe_increment(state.count), mixer.receivers(t, members)
        new = GradientTrackingState(count, prev_grad, tracker, copies)
        if members is None:
            return tracker, new
        stay = lambda after, before: jnp.where(members.active, after, before)
        kept = jax.tree.map(stay, new, state)._replace(wire_copies=copies)
        return jax.tree.map(lambda y: stay(y, jnp.zeros_like(y)), tracker), kept

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@catalogue.register(
    "alias",
    _PAPER,
    needs=("axis",),
    example={"learning_rate": 1e-3, "mixing": _RING, "axis_name": "nodes"},
)
def gradient_tracking(
    learning_rate: optax.ScalarOrSchedule,
    mixing: MatrixLike,
    axis_name: axis.AxisName,
    order: str = "atc",
) -> optax.GradientTransformationExtraArgs:
    """Gradient tracking, ready to use: the tracked gradient, the step, the mixing of params.

    At a constant rate it converges to the exact optimum of the average loss, where
    :func:`decentralized_sgd` keeps a bias. Two models travel per update.

    Args:
      learning_rate: step per update, a number or a schedule of the count.
      mixing: as in :func:`scale_by_gradient_tracking`.
      axis_name: axis of the nodes.
      order: as in :func:`gossip`; ``"cta"`` is the published DIGing, ``"atc"`` bears larger
        rates.

    Returns:
      The chained transformation.

    Raises:
      ValueError: as :func:`scale_by_gradient_tracking`, or if ``learning_rate`` is negative.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> topology = gradax.federated.topology
      >>> W = topology.metropolis_weights(topology.ring(8))
      >>> tx = gradax.federated.gradient_tracking(0.2, W, "nodes")
      >>> x = targets = jnp.arange(8.0)
      >>> state = jax.vmap(tx.init)(x)
      >>> update = jax.jit(jax.vmap(tx.update, axis_name="nodes"))
      >>> for _ in range(300):
      ...     updates, state = update(x - targets, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.allclose(x, 3.5, atol=1e-4))
      True

    References:
      Nedic, Olshevsky and Shi, `Achieving Geometric Convergence for Distributed Optimization
      over Time-Varying Graphs <https://arxiv.org/abs/1607.03218>`_, 2016.
    """
    _validate.learning_rate("gradient_tracking", learning_rate)
    return optax.chain(
        scale_by_gradient_tracking(mixing, axis_name),
        optax.scale_by_learning_rate(learning_rate),
        gossip(mixing, axis_name, order=order),
    )
