"""Guards around aggregates and servers: clients that diverged, rounds without anybody."""

import jax
import jax.numpy as jnp
import optax

from gradax._extras import require
from gradax.catalogue import Paper, register

from ._algorithm import SumAggregate

_ROUND = Paper(
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    "McMahan et al.",
    2016,
    "1602.05629",
)


def skip_nonfinite(aggregate: SumAggregate) -> SumAggregate:
    """Gives weight zero to messages that hold NaN or infinite numbers.

    Without it one diverged client makes the mean, and then the model, NaN.

    Args:
      aggregate: a streaming aggregate, such as :func:`average`.

    Returns:
      The same aggregate over the finite messages.

    Raises:
      TypeError: if ``aggregate`` is no :class:`SumAggregate`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> mean = federated.skip_nonfinite(federated.average("clients"))
      >>> update = lambda message: mean.update(message, optax.EmptyState())[0]
      >>> jax.vmap(update, axis_name="clients")(jnp.array([1.0, jnp.nan, 3.0])).tolist()
      [2.0, 2.0, 2.0]
    """
    if not isinstance(aggregate, SumAggregate):
        raise TypeError(f"skip_nonfinite: aggregate must be a SumAggregate, got {aggregate!r}.")

    def partial(message, **extras):
        leaves = jax.tree.leaves(message)
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
        # Zero weight is not enough: 0 * NaN is NaN.
        clean = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), message)
        weight, values = aggregate.partial(clean, **extras)
        return jnp.where(finite, weight, 0), values

    return aggregate._replace(partial=partial)


@register(
    "wrapper",
    _ROUND,
    needs=("num_active",),
    example={"server": optax.adam(0.1)},
)
def skip_empty(server: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Leaves parameters and the server's state alone in a round in which nobody took part.

    The mean of nobody is zero, but a server with momentum moves on a zero as well. Do not wrap
    a private server: releasing noise only when somebody was there reveals that somebody was.

    Args:
      server: the server's chain.

    Returns:
      The same chain; reads the extra ``num_active``.

    Raises:
      MissingExtraError: if ``update`` receives no ``num_active``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> server = federated.skip_empty(optax.sgd(1.0, momentum=0.9))
      >>> state = server.init(jnp.zeros(()))
      >>> _, state = server.update(jnp.ones(()), state, num_active=3)
      >>> update, _ = server.update(jnp.zeros(()), state, num_active=0)
      >>> float(update)
      0.0

    References:
      McMahan et al., `Communication-Efficient Learning of Deep Networks from Decentralized
      Data <https://arxiv.org/abs/1602.05629>`_, 2016.
    """
    server = optax.with_extra_args_support(server)

    def update_fn(updates, state, params=None, **extras):
        somebody = require("skip_empty", "num_active", extras.get("num_active")) > 0
        new_updates, new_state = server.update(updates, state, params, **extras)
        new_updates = jax.tree.map(lambda u: jnp.where(somebody, u, jnp.zeros_like(u)), new_updates)
        return new_updates, jax.tree.map(
            lambda new, old: jnp.where(somebody, new, old), new_state, state
        )

    return optax.GradientTransformationExtraArgs(server.init, update_fn)
