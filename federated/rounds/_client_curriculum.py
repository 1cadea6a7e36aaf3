"""Clients in the order of how easy their data are for the current model."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradax import _validate, catalogue
from gradax.schedules import curriculum_order
from gradax.schedules.sampling._curriculum import ORDERS, Order, shuffled_prefix

from ._cohort import Cohort, Draw, _check_size


class ClientCurriculumState(NamedTuple):
    """State of :func:`client_curriculum`.

    Attributes:
      queue: ``int32[num_clients]``, begins with the pool, shuffled.
      pool_size: ``int32[]``, number of clients in the pool.
      position: ``int32[]``, how many of the pool have had their turn.
      num_updates: ``int32[]``, number of clients' updates made, at which the pacing is read.
    """

    queue: jax.Array
    pool_size: jax.Array
    position: jax.Array
    num_updates: jax.Array


@catalogue.register(
    "function",
    catalogue.Paper(
        title="When Do Curricula Work in Federated Learning?",
        authors="Vahidian et al.",
        year=2022,
        arxiv="2212.12712",
    ),
    example={"pacing": lambda count: 4 + count, "num_clients": 8, "size": 2},
)
def client_curriculum(
    pacing: Callable[[jax.Array], jax.Array],
    order: Order = "curriculum",
    *,
    num_clients: int,
    size: int,
) -> Cohort:
    """Lets easy clients take part first, and more of them as time goes on.

    Every client reports the mean loss of the current parameters on its data, and they are put in
    order. The first ones, as many as the pacing says, are the pool; it is shuffled and dealt
    out, ``size`` clients a round (fewer in its last round). When the pool is used up, clients
    are scored again. A round of scoring sends the parameters to everybody; the history counts
    that.

    The losses tell something about the clients' data: it is no private method, and since the
    draw depends on the data, no amplification by sampling may be claimed for it.

    Args:
      pacing: number of clients in the pool, as a function of the number of clients' updates
        made, such as ``schedules.pacing_schedule(...)`` with ``num_steps = rounds * size`` and
        ``num_items = num_clients``; values are cut to what there is.
      order: ``"curriculum"``, low losses first; ``"anti"``, high losses first; ``"random"``,
        which shows what pacing does alone, and scores nobody. Static.
      num_clients: number of clients.
      size: participants per round.

    Returns:
      The rule, for ``simulate(..., cohort=)`` with a loss and an algorithm that has a server.

    Raises:
      ValueError: if ``size`` exceeds ``num_clients``, the order is unknown or ``pacing`` is not
        a function.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gradax import federated
      >>> cohort = federated.client_curriculum(lambda count: 2, num_clients=4, size=2)
      >>> losses_fn = lambda: jnp.array([0.9, 0.1, 0.5, 0.2])
      >>> draw, _ = cohort.draw(cohort.init(), jax.random.key(0), 0, losses_fn=losses_fn)
      >>> sorted(draw.ids.tolist())
      [1, 3]

    References:
      Vahidian et al., `When Do Curricula Work in Federated Learning?
      <https://arxiv.org/abs/2212.12712>`_, 2022.
    """
    who = "client_curriculum"
    _check_size(who, num_clients, size)
    _validate.one_of(who, "order", order, ORDERS)
    if not callable(pacing):
        raise ValueError(f"{who}: pacing must be a function of the count, got {pacing!r}.")
    by_loss = order != "random"

    def init():
        zero = lambda: jnp.zeros([], jnp.int32)
        return ClientCurriculumState(jnp.zeros(num_clients, jnp.int32), zero(), zero(), zero())

    def refilled(state, key, losses_fn):
        order_key, pool_key = jax.random.split(key)
        scores = losses_fn() if by_loss else jnp.zeros(num_clients)
        ranked = curriculum_order(scores, order, order_key)
        count = jnp.clip(jnp.asarray(pacing(state.num_updates)), 1, num_clients)
        return state._replace(
            queue=shuffled_prefix(pool_key, ranked, count),
            pool_size=count.astype(jnp.int32),
            position=jnp.zeros([], jnp.int32),
        )

    def draw(state, key, round, losses_fn=None):
        del round
        used_up = state.position >= state.pool_size
        refill = lambda: refilled(state, key, losses_fn)
        state = jax.lax.cond(used_up, refill, lambda: state)
        place = state.position + jnp.arange(size, dtype=jnp.int32)
        here = place < state.pool_size
        ids = jnp.where(here, state.queue.at[place].get(mode="clip"), num_clients)
        state = state._replace(
            position=state.position + size,
            num_updates=state.num_updates + jnp.sum(here, dtype=jnp.int32),
        )
        scored = jnp.where(used_up, num_clients, 0) if by_loss else 0
        return Draw(ids.astype(jnp.int32), num_scored=scored), state

    return Cohort(size, num_clients, init, draw, uses_losses=by_loss)
