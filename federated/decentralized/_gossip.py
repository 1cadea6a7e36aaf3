"""Gossip: every node averages its parameters with its neighbours instead of with everybody."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _validate, catalogue
from gradax._extras import require_params
from gradax._wide import widen

from .. import axis
from . import topology
from ._graphs import MatrixLike
from ._mixing import check_alike, is_inexact, make_mixer

_PAPER = catalogue.Paper(
    title="Can Decentralized Algorithms Outperform Centralized Algorithms? A Case Study for "
    "Decentralized Parallel Stochastic Gradient Descent",
    authors="Lian et al.",
    year=2017,
    arxiv="1705.09056",
)
#: Lazy weights on a ring of four, for the catalogue.
_RING = topology.circulant(4, [(-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)])


class GossipState(NamedTuple):
    """State of :func:`gossip`.

    Attributes:
      count: ``int32[]``, number of updates made.
      wire_copies: ``int32[]``, to how many others the node sent its model in the last update.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    wire_copies: jax.Array


@catalogue.register(
    "final", _PAPER, needs=("axis",), example={"mixing": _RING, "axis_name": "nodes"}
)
def gossip(
    mixing: MatrixLike,
    axis_name: axis.AxisName,
    *,
    order: str = "atc",
    steps: int = 1,
    every: int = 1,
    backend: str = "gather",
    require_connected: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Mixes the parameters of all nodes; stands last in a chain.

    With parameters :math:`x_i`, incoming updates :math:`u_i` and the matrix :math:`W`, the
    node's next parameters are, for the two orders,

    .. math::
        \text{atc: } x_i^+ = \sum_j W_{ij} (x_j + u_j),
        \qquad
        \text{cta: } x_i^+ = \sum_j W_{ij} x_j + u_i,

    "adapt then combine" and "combine then adapt". If :math:`W` is doubly stochastic the mean
    of the nodes moves by the mean of the updates exactly, and disagreement shrinks by at least
    the factor ``1 - topology.spectral_gap(W)`` per mixing.

    Sums are made in float32 at least. What travels has the dtype of the parameters: one model
    per mixing to everybody with ``"gather"``; one model per non-zero offset and application,
    to that neighbour only, with ``"permute"``. Integer leaves pass through. A sparse matrix
    costs what its edges cost, instead of all pairs of nodes.

    Nodes with the extra ``active=False`` keep their parameters, and nobody hears them: the
    weight that a node would give to one of them stays on its own value. Rows still sum to one,
    and if :math:`W` is symmetric columns among those present do too. With the extra
    ``client_id``, as ``simulate`` passes it, some nodes may have no lane at all.

    Args:
      mixing: the matrix ``[n, n]``, or ``[T, n, n]`` used in turn, one per mixing (such as
        ``topology.one_peer_exponential(n)``); rows sum to one. A ``scipy.sparse`` array or a
        list of them works too.
      axis_name: axis of the nodes; ``n`` is its size.
      order: ``"atc"`` or ``"cta"``.
      steps: how often :math:`W` is applied per mixing; the same as passing its power. Static.
      every: mixes in each ``every``-th update only, the others are local. Static.
      backend: ``"gather"`` works for any matrix, ``"permute"`` for circulant ones (ring,
        exponential graphs); the numbers are the same.
      require_connected: refuse a matrix whose graph is in several parts.

    Returns:
      A transformation with the state :class:`GossipState`; it needs params and the axis. An
      extra ``round`` (as ``simulate`` passes it) replaces the count of updates. Nothing is
      computed in rounds that do not mix.

    Raises:
      ValueError: if ``mixing`` is not square, its rows do not sum to one or it is not
        connected, another argument is out of range, ``"permute"`` meets a matrix that is not
        circulant; at trace time if the size of the axis differs from that of the matrix, or
        updates from params in structure or shapes.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> W = gradax.federated.topology.complete(2) / 2 + jnp.eye(2) / 2
      >>> tx = optax.chain(optax.sgd(0.1), gradax.federated.gossip(W, "nodes"))
      >>> def step(x, target):
      ...     updates, _ = tx.update(x - target, tx.init(x), x)
      ...     return optax.apply_updates(x, updates)
      >>> x = jax.vmap(step, axis_name="nodes")(jnp.array([0.0, 4.0]), jnp.array([1.0, 3.0]))
      >>> x.round(3).tolist()
      [2.0, 2.0]

    References:
      Lian et al., `Can Decentralized Algorithms Outperform Centralized Algorithms?
      <https://arxiv.org/abs/1705.09056>`_, 2017.
    """
    _validate.one_of("gossip", "order", order, ("atc", "cta"))
    _validate.integer("gossip", "every", every, at_least=1)
    mixer = make_mixer(
        "gossip",
        mixing,
        axis_name,
        steps=steps,
        backend=backend,
        require_connected=require_connected,
    )
    if not isinstance(mixing, jax.core.Tracer) and not topology.is_doubly_stochastic(mixing):
        message = "gossip: columns of mixing do not sum to 1: nodes agree on a weighted mean."
        warnings.warn(message, stacklevel=2)

    def sent(update, value):
        return (value + update).astype(value.dtype) if order == "atc" else value

    def to_update(mixed, value, update):
        if not is_inexact(value):
            return update.astype(value.dtype)
        moved = mixed - widen(value)
        return (moved if order == "atc" else moved + update).astype(value.dtype)

    def mixing_update(updates, params, t, members):
        mixed = mixer.mix(jax.tree.map(sent, updates, params), t, members)
        return jax.tree.map(to_update, mixed, params, updates), mixer.receivers(t, members)

    def local_update(updates, params):
        return jax.tree.map(lambda u, x: u.astype(x.dtype), updates, params), jnp.int32(0)

    def init_fn(params):
        del params
        return GossipState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32))

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
        del extra
        params = require_params("gossip", params)
        check_alike("gossip", updates, params)
        members = mixer.members(active, client_id, num_clients)
        count = mixer.clock(state.count, round)
        mixing_now = lambda u, x: mixing_update(u, x, count // every, members)
        if every == 1:
            updates, copies = mixing_now(updates, params)
        else:
            mixes = (count + 1) % every == 0
            updates, copies = jax.lax.cond(mixes, mixing_now, local_update, updates, params)
        if members is not None:
            updates = jax.tree.map(lambda u: jnp.where(members.active, u, 0), updates)
        return updates, GossipState(optax.safe_increment(state.count), copies)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@catalogue.register(
    "alias",
    _PAPER,
    needs=("axis",),
    example={"learning_rate": 1e-3, "mixing": _RING, "axis_name": "nodes"},
)
def decentralized_sgd(
    learning_rate: optax.ScalarOrSchedule,
    mixing: MatrixLike,
    axis_name: axis.AxisName,
    momentum: jax.typing.ArrayLike | None = None,
    *,
    order: str = "cta",
    steps: int = 1,
    every: int = 1,
    backend: str = "gather",
) -> optax.GradientTransformationExtraArgs:
    """Decentralized SGD: a local step and an average with the neighbours, in one update.

    With a constant rate and nodes whose data differ, the result keeps a bias that shrinks with
    the rate; :func:`gradient_tracking` has none.

    Args:
      learning_rate: step per update, a number or a schedule of the count.
      mixing: as in :func:`gossip`.
      axis_name: axis of the nodes.
      momentum: decay of the node's own heavy-ball momentum, if any.
      order: as in :func:`gossip`; the published algorithm is ``"cta"``.
      steps: as in :func:`gossip`.
      every: as in :func:`gossip`.
      backend: as in :func:`gossip`.

    Returns:
      The chained transformation.

    Raises:
      ValueError: as :func:`gossip`, or if ``learning_rate`` or ``momentum`` is out of range.

    Examples:
      >>> import gradax, jax, jax.numpy as jnp, optax
      >>> topology = gradax.federated.topology
      >>> W = topology.metropolis_weights(topology.ring(8))
      >>> tx = gradax.federated.decentralized_sgd(0.1, W, "nodes")
      >>> x = targets = jnp.arange(8.0)
      >>> state = jax.vmap(tx.init)(x)
      >>> update = jax.jit(jax.vmap(tx.update, axis_name="nodes"))
      >>> for _ in range(200):
      ...     updates, state = update(x - targets, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> round(float(x.mean()), 3)
      3.5

    References:
      Lian et al., `Can Decentralized Algorithms Outperform Centralized Algorithms?
      <https://arxiv.org/abs/1705.09056>`_, 2017.
    """
    _validate.learning_rate("decentralized_sgd", learning_rate)
    _validate.interval("decentralized_sgd", "momentum", momentum, "[0, 1)")
    descent = [] if momentum is None else [optax.trace(momentum)]
    return optax.chain(
        *descent,
        optax.scale_by_learning_rate(learning_rate),
        gossip(mixing, axis_name, order=order, steps=steps, every=every, backend=backend),
    )
