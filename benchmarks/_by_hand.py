"""FedAvg written out in plain JAX for the shared task: what the rounds cost without a library."""

from typing import Any

import _federated
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class ByHand:
    """One client after the other, one step after the other, all rounds of a turn in one scan."""

    def __init__(self, network: _federated.Network, rounds: int):
        clients = _federated.images()
        self._examples = jax.tree.map(lambda *x: jnp.asarray(np.concatenate(x)), *clients)
        self._params, self._key = network.init(jax.random.key(0)), jax.random.key(1)

        def client(params: Any, examples: Any, number: jax.Array, key: jax.Array) -> Any:
            keys = jax.random.split(key, _federated.EPOCHS)
            order = jax.vmap(lambda k: jax.random.permutation(k, _federated.EXAMPLES))(keys)
            batches = number * _federated.EXAMPLES + order.reshape(-1, _federated.BATCH)

            def step(local, batch):
                gradient = jax.grad(network.loss)(local, jax.tree.map(lambda x: x[batch], examples))
                move = lambda x, g: x - _federated.LEARNING_RATE * g
                return jax.tree.map(move, local, gradient), None

            return jax.tree.map(jnp.subtract, lax.scan(step, params, batches)[0], params)

        def round(params: Any, examples: Any, key: jax.Array) -> Any:
            draw, local = jax.random.split(key)
            size = (_federated.COHORT,)
            cohort = jax.random.choice(draw, _federated.NUM_CLIENTS, size, replace=False)
            keys = jax.random.split(local, _federated.COHORT)

            def add(total, one):
                return jax.tree.map(jnp.add, total, client(params, examples, *one)), None

            total, _ = lax.scan(add, jax.tree.map(jnp.zeros_like, params), (cohort, keys))
            return jax.tree.map(lambda x, t: x + t / _federated.COHORT, params, total)

        def turn(params: Any, examples: Any, key: jax.Array) -> Any:
            keys = jax.random.split(key, rounds)
            return lax.scan(lambda x, k: (round(x, examples, k), None), params, keys)[0]

        self._turn = jax.jit(turn, donate_argnums=0)

    def turn(self) -> None:
        """Plays some rounds."""
        self._key, key = jax.random.split(self._key)
        self._params = jax.block_until_ready(self._turn(self._params, self._examples, key))

    def finish(self) -> Any:
        """Returns the parameters."""
        return self._params
