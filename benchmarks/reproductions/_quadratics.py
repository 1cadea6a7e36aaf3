"""Clients with quadratic losses in few dimensions, whose optimum is known."""

import jax.numpy as jnp
import numpy as np

from gradax import federated


def quadratics(
    clients: int, dimension: int, seed: int = 0
) -> tuple[federated.data.ClientData, np.ndarray]:
    """Clients with losses (x - a)' H (x - a) / 2, and where their mean is least."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(clients, dimension, dimension))
    H = roots @ roots.transpose(0, 2, 1) / dimension + 0.3 * np.eye(dimension)
    a = rng.normal(size=(clients, dimension))
    optimum = np.linalg.solve(H.sum(axis=0), np.einsum("nij,nj->i", H, a))
    return federated.data.padded({"H": H, "a": a}, np.arange(clients)[:, None]), optimum


def loss_fn(x, batch):
    """The loss of a client, whose only example is its quadratic."""
    gap = x - batch["a"]
    return jnp.mean(jnp.einsum("ni,nij,nj->n", gap, batch["H"], gap)) / 2
