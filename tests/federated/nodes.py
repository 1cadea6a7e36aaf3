"""Running all nodes of a decentralized method side by side."""

import jax
import optax


def apply_to_all(tx, updates, state, params):
    """One update of every node, the nodes being lanes of one vmap."""
    return jax.jit(jax.vmap(tx.update, axis_name="nodes"))(updates, state, params)


def run_nodes(tx, params, grad_fn, num_steps):
    """Parameters and state of all nodes after some steps; ``grad_fn`` sees all of them."""

    def step(carry, _):
        params, state = carry
        updates, state = apply_to_all(tx, grad_fn(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, jax.vmap(tx.init)(params))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=num_steps)[0])(start)
