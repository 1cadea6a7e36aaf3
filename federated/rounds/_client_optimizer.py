"""What a local step does with its direction: plain SGD whose rate may depend on the round."""

import jax
import jax.numpy as jnp
import optax

from gradax import _validate
from gradax._extras import require


def scale_by_round_rate(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus a learning rate that is a number or a schedule of the **round**.

    A count of local steps would be reset every round, and would lag behind in clients that were
    not drawn; the extra ``round`` does neither.

    Args:
      learning_rate: a number, or ``schedule(round)``.

    Returns:
      A stateless transformation; with a schedule it needs the extra ``round``.

    Raises:
      MissingExtraError: if there is a schedule and ``update`` receives no ``round``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from gradax import federated
      >>> tx = federated.scale_by_round_rate(optax.linear_schedule(1.0, 0.0, 10))
      >>> float(tx.update(jnp.array(2.0), tx.init(None), round=5)[0])
      -1.0
    """
    _validate.learning_rate("scale_by_round_rate", learning_rate)

    def update_fn(updates, state, params=None, *, round=None, **extras):
        del params, extras
        rate = learning_rate
        if callable(learning_rate):
            rate = learning_rate(require("scale_by_round_rate", "round", round))
        return jax.tree.map(lambda u: -jnp.asarray(rate, u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)


def client_optimizer(
    who: str,
    learning_rate: optax.ScalarOrSchedule | None,
    client: optax.GradientTransformation | None,
) -> optax.GradientTransformation:
    """Chooses what clients do with a direction: SGD at a rate, or a transformation.

    Args:
      who: name of the factory that asks.
      learning_rate: a number or a schedule of the round, or ``None``.
      client: a transformation, or ``None``.

    Returns:
      The transformation.

    Raises:
      ValueError: unless exactly one of them is given.
    """
    if (learning_rate is None) == (client is None):
        raise ValueError(
            f"{who}: give exactly one of learning_rate and client, got "
            f"learning_rate={learning_rate!r} and client={client!r}."
        )
    if client is not None:
        return client
    _validate.learning_rate(who, learning_rate)
    return scale_by_round_rate(learning_rate)
