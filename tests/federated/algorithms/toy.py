"""Scalar quadratics whose rounds can be worked by hand, played in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

#: Four clients, of which not all take part, and where their mean has its minimum.
FOUR = (np.array([0.5, 1.0, 2.0, 4.0]), np.array([3.0, -1.0, 0.5, 2.0]))
OPTIMUM = FOUR[0] @ FOUR[1] / FOUR[0].sum()

#: Numbers of examples, for algorithms that must not look at them.
SIZES = np.array([3.0, 1.0, 2.0, 5.0])

#: ``h (x - a)^2 / 2`` for two clients; the mean has its minimum at -0.5.
TWO = (np.array([1.0, 3.0]), np.array([1.0, -1.0]))
START, RATE, STEPS = 2.0, 0.1, 2


def drawn(rounds, size=2, clients=4, seed=0):
    """Who takes part, ``bool[rounds, clients]``: some of them each round."""
    rng = np.random.default_rng(seed)
    ids = [rng.choice(clients, size, replace=False) for _ in range(rounds)]
    return np.array([np.isin(np.arange(clients), row) for row in ids])


def play(algorithm, rounds=1, steps=STEPS, problem=TWO, start=START, active=None, weights=None):
    """Parameters after every round, ``[rounds]``, and the last state of every client.

    Args:
      algorithm: over the axis ``"clients"``.
      rounds: number of rounds.
      steps: local steps.
      problem: curvatures and minima.
      start: the first parameters.
      active: ``bool[rounds, clients]``.
      weights: ``[clients]``.
    """
    with jax.enable_x64(True):
        h, a = (jnp.asarray(part) for part in problem)
        n = len(h)
        active = jnp.ones((rounds, n), bool) if active is None else jnp.asarray(active)
        weights = jnp.ones(n) if weights is None else jnp.asarray(weights, float)
        start = jnp.asarray(start, float)
        tx = federated.as_transformation(algorithm)
        states = federated.init_participants(tx, start, jnp.arange(n))
        player = _player(algorithm, steps)
        paths, states = player(h, a, weights, jnp.arange(n), states, active.T, start)
        np.testing.assert_array_equal(paths, np.broadcast_to(paths[0], paths.shape))
        states = states._replace(key=jax.random.key_data(states.key))
        return np.asarray(paths[0]), jax.tree.map(np.asarray, states)


@functools.cache
def _player(algorithm, steps):
    """All rounds of all clients, jitted."""
    tx = federated.as_transformation(algorithm)

    def client(h, a, weight, number, state, active, start):
        grad_fn = lambda y, *_, batch=None: h * (y - a)
        extras = {"grad_fn": grad_fn, "full_grad_fn": grad_fn, "batches": jnp.zeros(steps)}
        extras |= {"weight": weight, "client_id": number}

        def one(carry, active):
            x, state = carry
            updates, state = tx.update(grad_fn(x), state, x, active=active, **extras)
            x = optax.apply_updates(x, updates)
            return (x, state), x

        (_, state), path = jax.lax.scan(one, (start, state), active)
        return path, state

    return jax.jit(jax.vmap(client, (0, 0, 0, 0, 0, 0, None), axis_name="clients"))
