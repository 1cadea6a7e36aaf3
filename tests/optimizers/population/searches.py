"""Running a population, and draws that a test knows."""

import jax
import jax.numpy as jnp
import optax


def given(xi):
    """A sampler that returns numbers chosen beforehand."""
    return lambda key, shape, dtype: jnp.broadcast_to(xi, shape).astype(dtype)


def one_step(make, x, values, *draws, state=None, updates=None, **shared):
    """New individuals and their state; ``make(*draws)`` builds the method of each."""

    def individual(x, value, updates, state, draws):
        tx = make(*draws)
        state = tx.init(x) if state is None else state
        updates, state = tx.update(updates, state, x, value=value, **shared)
        return optax.apply_updates(x, updates), state

    step = jax.jit(jax.vmap(individual, axis_name="population"))
    return step(x, jnp.asarray(values, jnp.float32), updates, state, draws)


def search(tx, loss, x, num_steps):
    """Individuals and state of all after some steps."""

    def individual(x, state):
        updates, state = tx.update(None, state, x, value=loss(x))
        return optax.apply_updates(x, updates), state

    def run(x):
        everybody = jax.vmap(individual, axis_name="population")
        body = lambda carry, _: (everybody(*carry), None)
        return jax.lax.scan(body, (x, jax.vmap(tx.init)(x)), length=num_steps)[0]

    return jax.jit(run)(x)


def rastrigin(x):
    """The minimum is at one half; a local one lies near each other point of a grid."""
    x = x - 0.5
    return jnp.sum(x**2) + 2.5 * jnp.sum(1 - jnp.cos(2 * jnp.pi * x))
