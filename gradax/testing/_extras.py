"""How the battery makes each extra argument of ``update`` from a loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

#: Weights of the examples of which a loss is the mean, so that they differ from one another.
EXAMPLES = (0.5, 1.0, 1.5)


@dataclasses.dataclass(frozen=True)
class At:
    """What one participant knows when it updates.

    Attributes:
      loss: the loss on its batch, a function of params.
      params: its parameters.
      grads: the raw gradient there.
      lane: its number, ``int32[]``.
    """

    loss: Callable[[Any], jax.Array]
    params: Any
    grads: Any
    lane: jax.Array

    def examples(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Turns a function of params into one with a leading axis of examples."""
        scale = lambda leaf: jnp.stack([leaf * jnp.asarray(w, leaf.dtype) for w in EXAMPLES])
        return lambda params: jax.tree.map(scale, function(params))

    def grad_fn(self, params: Any, *_: Any, batch: Any = None) -> Any:
        """Gradient of the loss elsewhere; every batch is the same here."""
        del batch
        return jax.grad(self.loss)(params)

    def outputs_loss(self, outputs: jax.Array) -> jax.Array:
        """The loss as a function of the model's outputs, which are the parameters themselves."""
        return self.loss(ravel_pytree(self.params)[1](outputs))

    def block_hessian(self, params: Any, indices: jax.Array) -> jax.Array:
        """Rows and columns ``indices`` of the Hessian of the ravelled tree."""
        flat, unravel = ravel_pytree(params)
        return jax.hessian(lambda x: self.loss(unravel(x)))(flat)[jnp.ix_(indices, indices)]


#: Extra argument -> how to make it. A new extra is one line here.
SUPPLIERS: dict[str, Callable[[At], Any]] = {
    "value": lambda at: at.loss(at.params),
    "grad": lambda at: at.grads,
    "value_fn": lambda at: at.loss,
    "obj_fn": lambda at: at.loss,
    "grad_fn": lambda at: at.grad_fn,
    "full_grad_fn": lambda at: at.grad_fn,
    "large_batch_grad_fn": lambda at: at.grad_fn,
    "per_example_values": lambda at: at.examples(at.loss)(at.params),
    "per_example_grads": lambda at: at.examples(lambda _: at.grads)(at.params),
    "per_example_value_fn": lambda at: at.examples(at.loss),
    "per_example_grad_fn": lambda at: at.examples(at.grad_fn),
    "full_per_example_grad_fn": lambda at: at.examples(at.grad_fn),
    "half_grads": lambda at: (at.grads, at.grads),
    "block_hessian_fn": lambda at: at.block_hessian,
    "model_fn": lambda at: lambda params: ravel_pytree(params)[0],
    "output_loss_fn": lambda at: at.outputs_loss,
    "constraint_fn": lambda at: lambda params: at.loss(params) - 1.0,
    "margins": lambda at: jnp.linspace(-1.0, 1.0, len(EXAMPLES)),
    "anchor": lambda at: at.params,
    "broadcast": lambda at: jax.tree.map(jnp.zeros_like, at.params),
    "correction": lambda at: jax.tree.map(jnp.zeros_like, at.params),
    "batches": lambda at: jnp.arange(3),
    "weight": lambda at: jnp.ones([]),
    "active": lambda at: jnp.array(True),
    "key": lambda at: jax.random.fold_in(jax.random.key(0), at.lane),
    "client_id": lambda at: at.lane,
    "round": lambda at: jnp.zeros([], jnp.int32),
    "local_step": lambda at: jnp.zeros([], jnp.int32),
    "num_clients": lambda at: 4,
    "num_active": lambda at: 4,
    "participation": lambda at: jnp.ones([]),
    "task": lambda at: jnp.zeros([], jnp.int32),
    "context": lambda at: jnp.zeros([1]),
}
