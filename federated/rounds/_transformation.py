"""An algorithm as one transformation, for loops of one's own under vmap, pmap or shard_map."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradax import _keys

from .. import axis
from ._algorithm import Algorithm, common
from ._wire import published


class SharedState(NamedTuple):
    """The part of a round's state that is equal for all participants.

    Attributes:
      aggregate: state of the aggregate.
      server: state of the server's chain.
    """

    aggregate: optax.OptState
    server: optax.OptState


class RoundState(NamedTuple):
    """State of :func:`as_transformation`.

    Attributes:
      count: ``int32[]``, number of rounds made.
      key: this participant's random key; the round is folded in at use.
      client: this participant's state; of peers, also that of their aggregate.
      shared: the server's side, replicated; ``None`` for peers. Its random keys are common.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    key: jax.Array
    client: optax.OptState
    shared: SharedState | None


def as_transformation(
    algorithm: Algorithm, key: jax.Array | int = 0
) -> optax.GradientTransformationExtraArgs:
    """Turns an algorithm into a transformation whose ``update`` is one whole round.

    Call it inside ``jax.vmap(..., axis_name=...)``, ``jax.pmap`` or ``jax.shard_map``: every
    participant passes its own gradient and extras (``batches``, ``grad_fn``, ``weight``,
    ``active``, ``key``, ...) and receives the same update of the common parameters, or, without
    a server, its own.

    Args:
      algorithm: the algorithm; its ``axis_name`` is the axis of the call.
      key: random key or seed; every participant draws its own numbers, other ones each round,
        unless ``update`` is given another ``key``.

    Returns:
      A transformation with a :class:`RoundState`. Initialize the states of all participants
      with :func:`init_participants`, which gives each a key of its own. A participant with
      ``active=False`` sends nothing and keeps its state.

    Raises:
      ValueError: at trace time, if the axis is not bound.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> algorithm = federated.fedavg(learning_rate=0.5)
      >>> tx, x, targets = federated.as_transformation(algorithm), jnp.array(0.0), jnp.arange(4.0)
      >>> states = federated.init_participants(tx, x, jnp.arange(4))
      >>> def round(state, target):
      ...     grad_fn = lambda x, batch: x - batch
      ...     return tx.update(x, state, x, grad_fn=grad_fn, batches=target[None])[0]
      >>> jax.vmap(round, axis_name="clients")(states, targets).tolist()
      [0.75, 0.75, 0.75, 0.75]
    """
    if algorithm.server is None:
        client, serve = optax.chain(algorithm.client, algorithm.aggregate), None
    else:
        client, serve = optax.with_extra_args_support(algorithm.client), _server_side(algorithm)

    def init_fn(params):
        shared = None
        if algorithm.server is not None:
            shared = SharedState(algorithm.aggregate.init(params), algorithm.server.init(params))
        own_key = _keys.as_key("as_transformation", key)
        return RoundState(jnp.zeros([], jnp.int32), own_key, client.init(params), shared)

    def update_fn(updates, state, params=None, *, active=None, **extras):
        active = jnp.array(True) if active is None else jnp.asarray(active)
        extras = {
            "round": state.count,
            "key": jax.random.fold_in(state.key, state.count),
            "num_clients": axis.size(algorithm.axis_name),
            "num_active": axis.sum(active.astype(jnp.int32), algorithm.axis_name),
            **extras,
            "active": active,
        }
        told = published(algorithm, state.shared.server) if serve else {}
        message, new_client = client.update(updates, state.client, params, **extras, **told)
        keep = lambda new, old: jnp.where(active, new, old)
        new_client = jax.tree.map(keep, new_client, state.client)
        if serve:
            out, shared = serve(message, state.shared, params, extras)
        else:
            out = jax.tree.map(lambda u: keep(u, jnp.zeros_like(u)), message)
            shared = None
        return out, RoundState(optax.safe_increment(state.count), state.key, new_client, shared)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _server_side(algorithm: Algorithm):
    """Aggregates under the axis, then lets the server act, once per participant but alike."""
    aggregate = optax.with_extra_args_support(algorithm.aggregate)
    server = optax.with_extra_args_support(algorithm.server)

    def serve(message, shared, params, extras):
        mean, new_aggregate = aggregate.update(message, shared.aggregate, params, **extras)
        pseudo_gradient = jax.tree.map(jnp.negative, mean)
        out, new_server = server.update(pseudo_gradient, shared.server, params, **common(extras))
        return out, SharedState(new_aggregate, new_server)

    return serve
