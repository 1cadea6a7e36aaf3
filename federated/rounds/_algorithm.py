"""An algorithm of three chains, and the aggregates that stream."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from .. import axis

Message: TypeAlias = Any


class Algorithm(NamedTuple):
    r"""A federated algorithm: three gradient transformations and what the server tells.

    One round computes, for every participant :math:`i` of the cohort, a message
    :math:`m_i` by ``client``, combines the messages by ``aggregate`` over the named axis, and
    gives **minus** the aggregate to ``server`` as a pseudo-gradient, so that
    ``optax.sgd(1.0)`` adds the mean displacement:

    .. math::
        x^{t+1} = x^t + \mathrm{server}\bigl(-\mathrm{aggregate}_i\, m_i\bigr).

    Attributes:
      client: one participant's chain. Its state is stored per client; it may use no collective
        unless there is no server. It receives the gradient of its first batch as updates.
      aggregate: combines messages over ``axis_name``. A :class:`SumAggregate` streams over
        chunks of the cohort; any other transformation sees all messages at once.
      server: one chain for all, or ``None`` for peers: every participant then keeps its own
        parameters and ``aggregate`` returns each one's update.
      publishes: names of fields of the server's state which every client receives as extras.
      axis_name: the axis over which participants are laid out; a tuple for nested axes,
        outermost first.

    Examples:
      >>> import optax
      >>> from gradax import federated
      >>> fedavg = federated.Algorithm(
      ...     client=federated.local_steps(optax.sgd(0.1)),
      ...     aggregate=federated.average("clients"),
      ...     server=optax.sgd(1.0),
      ... )
      >>> fedadam = fedavg._replace(server=optax.adam(1e-2))
    """

    client: optax.GradientTransformation
    aggregate: optax.GradientTransformation
    server: optax.GradientTransformation | None = None
    publishes: tuple[str, ...] = ()
    axis_name: axis.AxisName = "clients"


def peers(tx: optax.GradientTransformation, axis_name: axis.AxisName = "nodes") -> Algorithm:
    """Makes an algorithm without a server from a transformation with collectives inside.

    Args:
      tx: every node's chain, for instance ``optax.chain(optax.sgd(0.1), gossip(W, "nodes"))``.
      axis_name: the axis that its collectives use.

    Returns:
      An algorithm in which each node keeps its own parameters.

    Examples:
      >>> import optax
      >>> from gradax import federated
      >>> federated.peers(optax.sgd(0.1)).server is None
      True
    """
    return Algorithm(optax.identity(), tx, server=None, axis_name=axis_name)


class SumAggregate(optax.GradientTransformationExtraArgs):
    r"""An aggregate that is a function of weighted sums, and so needs no messages side by side.

    With ``(w_i, v_i) = partial(m_i)`` it returns
    ``finish(sum_i w_i v_i, sum_i w_i)``. The simulation adds the sums up chunk by chunk; in a
    chain, ``update`` forms them over the axis. Weights of absent participants are set to zero
    for it: ``partial`` need not look at ``active``.

    Args:
      init: ``init(params) -> state`` of ``finish``.
      partial: ``partial(message, **extras) -> (weight, values)``, one participant.
      finish: ``finish(total, weight, state, params, **extras) -> (aggregate, state)``; its
        extras are those that are equal for all, such as ``round`` and ``num_clients``.
      axis_name: the axis, for use in a chain.

    Examples:
      The majority vote of signs:

      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> def partial(message, **extras):
      ...     return 1.0, jax.tree.map(jnp.sign, message)
      >>> def finish(votes, voters, state, params, **extras):
      ...     return jax.tree.map(jnp.sign, votes), state
      >>> vote = federated.SumAggregate(optax.init_empty_state, partial, finish, "clients")
      >>> update = lambda message: vote.update(message, optax.EmptyState())[0]
      >>> jax.vmap(update, axis_name="clients")(jnp.array([3.0, -1.0, 2.0])).tolist()
      [1.0, 1.0, 1.0]
    """

    partial: Callable[..., tuple[Any, Any]]
    finish: Callable[..., tuple[Any, Any]]
    axis_name: axis.AxisName

    def __new__(
        cls,
        init: Callable[[Any], Any],
        partial: Callable[..., tuple[Any, Any]],
        finish: Callable[..., tuple[Any, Any]],
        axis_name: axis.AxisName = "clients",
    ) -> "SumAggregate":
        """Derives ``update`` from the two halves."""
        axis.names(axis_name)

        def update(updates, state, params=None, **extras):
            weight, values = masked(partial, updates, extras)
            total = axis.weighted_sum(values, weight, axis_name)
            return finish(total, axis.sum(weight, axis_name), state, params, **common(extras))

        self = super().__new__(cls, init, update)
        self.partial, self.finish, self.axis_name = partial, finish, axis_name
        return self

    def _replace(self, **changes: Any) -> "SumAggregate":
        """Replaces parts; ``update`` is derived again."""
        parts = {"init": self.init, "partial": self.partial, "finish": self.finish}
        unknown = set(changes) - {*parts, "axis_name"}
        if unknown:
            raise ValueError(f"SumAggregate._replace: unknown fields {sorted(unknown)}.")
        return SumAggregate(**{**parts, "axis_name": self.axis_name, **changes})


#: Extras of a round that are equal for all, and so may reach ``finish`` and the server.
COMMON_EXTRAS = ("round", "num_clients", "num_active")


def common(extras: dict[str, Any]) -> dict[str, Any]:
    """Leaves out the extras that are one participant's own."""
    return {name: extras[name] for name in COMMON_EXTRAS if name in extras}


def masked(partial: Callable[..., Any], message: Message, extras: dict[str, Any]):
    """Calls ``partial`` and sets the weight and values of an absent participant to zero.

    Zero weight is not enough: what an absent lane computed may be NaN, and 0 * NaN is NaN.

    Args:
      partial: of a :class:`SumAggregate`.
      message: one participant's message.
      extras: its extras; ``active`` may be missing.

    Returns:
      The weight, as a floating scalar at least as wide as the values, and the values.
    """
    weight, values = partial(message, **extras)
    floats = [leaf.dtype for leaf in map(jnp.asarray, jax.tree.leaves(values))]
    wide = jnp.result_type(jnp.float32, *[d for d in floats if jnp.issubdtype(d, jnp.floating)])
    weight = jnp.asarray(weight, wide)
    active = extras.get("active")
    if active is None:
        return weight, values
    clean = lambda x: jnp.where(active, x, jnp.zeros_like(x))
    return clean(weight), jax.tree.map(clean, values)
