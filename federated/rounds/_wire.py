"""How many bytes a message takes on the wire."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._algorithm import Algorithm


def tree_bytes(tree: Any) -> int:
    """Adds up the bytes of all leaves of a tree of arrays or shapes; a Python integer."""
    return sum(
        int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def published(algorithm: Algorithm, server_state: Any) -> dict[str, Any]:
    """Reads the fields that the server publishes from its state.

    Args:
      algorithm: names them in ``publishes``.
      server_state: state of the server's chain.

    Returns:
      Name -> value.

    Raises:
      ValueError: if the state has no such field.
    """
    fields = {}
    for name in algorithm.publishes:
        try:
            fields[name] = optax.tree_utils.tree_get(server_state, name)
        except KeyError as error:
            raise ValueError(f"publishes={name!r}: {error.args[0]}") from error
        if fields[name] is None:
            raise ValueError(f"publishes={name!r}: no field of this name in the server's state.")
    return fields


def told_bytes(params: Any, told: dict[str, Any]) -> int:
    """Counts what one participant receives: the parameters, and what the server publishes.

    Of ``versions``, models of the past, a participant receives one, and that in place of the
    parameters.

    Args:
      params: parameters, arrays or shapes.
      told: what the server publishes, by name.

    Returns:
      The number of bytes.
    """
    beside = {name: value for name, value in told.items() if name != "versions"}
    return tree_bytes((params, beside))


def communication_bytes(algorithm: Algorithm, params: optax.Params) -> dict[str, int]:
    """Counts what one active client sends and receives in one round, from static shapes.

    Down come the parameters and what the server publishes (of models of the past, one); up goes
    the message that the client's chain emits. Compressors report dynamic sizes, which the
    history of a simulation counts; here their messages count in full.

    Args:
      algorithm: the algorithm.
      params: parameters, arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      ``{"up": bytes, "down": bytes}``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gradax import federated
      >>> params = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4, jnp.bfloat16)}
      >>> federated.communication_bytes(federated.fedavg(0.1), params)
      {'up': 56, 'down': 56}
    """
    shapes = jax.eval_shape(lambda tree: tree, params)
    told = {}
    if algorithm.server is not None:
        server_state = jax.eval_shape(algorithm.server.init, shapes)
        told = published(algorithm, server_state)
    down = told_bytes(shapes, told)
    message = jax.eval_shape(_message, _Static(algorithm.client), shapes, told)
    return {"up": tree_bytes(message), "down": down}


@jax.tree_util.register_static
class _Static:
    """Carries a transformation through ``eval_shape`` as part of the structure."""

    def __init__(self, tx: optax.GradientTransformation):
        self.tx = optax.with_extra_args_support(tx)


def _message(client, params, told):
    """What a client emits in a round of one local step with zero gradients."""
    zeros = optax.tree.zeros_like(params)
    one = jnp.ones([], jnp.int32)
    extras = {
        "grad_fn": lambda params, *_, batch=None: optax.tree.zeros_like(params),
        "full_grad_fn": lambda params: optax.tree.zeros_like(params),
        "per_example_grad_fn": lambda params, *_, batch=None: jax.tree.map(
            lambda p: jnp.zeros((1, *p.shape), p.dtype), params
        ),
        "value_fn": lambda params, *_, batch=None: jnp.zeros([]),
        "batches": jnp.zeros((1, 1), jnp.int32),
        "key": jax.random.key(0),
        "round": one,
        "version": one,
        "client_id": one,
        "active": jnp.array(True),
        "weight": jnp.ones([]),
        "num_clients": one,
        "num_active": one,
        "grad": zeros,
        "value": jnp.zeros([]),
    }
    return client.tx.update(zeros, client.tx.init(params), params, **extras, **told)[0]
