"""The majority vote of signs."""

import jax
import jax.numpy as jnp
import optax

from gradax.catalogue import Paper, register

from ..axis import AxisName
from ..rounds import SumAggregate


@register(
    "aggregate",
    Paper(
        "signSGD: Compressed Optimisation for Non-Convex Problems",
        "Bernstein et al.",
        2018,
        "1802.04434",
    ),
    needs=("axis",),
    example={"axis_name": "clients"},
    exceptions={"converges_rosenbrock": "steps of constant length end on the walls of the valley"},
)
def sign_majority_vote(axis_name: AxisName = "clients") -> SumAggregate:
    r"""Gives every coordinate the sign that most participants give it.

    .. math::
        \bar m = \operatorname{sign} \sum_i \operatorname{sign}(m_i).

    A tie gives zero. Every participant has one vote, whatever its weight; NaN is no vote. A
    coordinate on which the honest agree is right as long as they are the majority. Behind
    ``optax.ema`` this is Signum for many workers.

    Args:
      axis_name: the axis of participants, for use in a chain.

    Returns:
      An aggregate that streams.

    Raises:
      ValueError: if ``axis_name`` is no name or tuple of names.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> vote = federated.sign_majority_vote("clients")
      >>> update = lambda message: vote.update(message, optax.EmptyState())[0]
      >>> jax.vmap(update, axis_name="clients")(jnp.array([3.0, -100.0, 2.0])).tolist()
      [1.0, 1.0, 1.0]

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018.
    """

    def ballot(leaf):
        sign = jnp.sign(leaf)
        return jnp.where(jnp.isnan(sign), jnp.zeros_like(sign), sign)

    def partial(message, **extras):
        del extras
        return 1.0, jax.tree.map(ballot, message)

    def finish(votes, voters, state, params=None, **extras):
        del voters, params, extras
        return jax.tree.map(jnp.sign, votes), state

    return SumAggregate(optax.init_empty_state, partial, finish, axis_name)
