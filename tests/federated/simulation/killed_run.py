"""A run that saves itself after every round, as a program of its own, so that it can be killed."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

ROUNDS = 100
N = 8
NUMBERS = federated.data.padded(np.arange(N, dtype=np.float32), list(np.arange(N)[:, None]))


def loss_fn(x, batch):
    return jnp.mean((x - batch) ** 2) / 2


def noisy(learning_rate=0.1):
    """Clients with noise and momentum of their own, kept between rounds; server momentum."""
    noise = optax.add_noise(0.1, 0.5, jax.random.key(1))
    local = optax.chain(noise, optax.sgd(learning_rate, momentum=0.5))
    return federated.Algorithm(
        federated.local_steps(local, reset=False),
        federated.average("clients"),
        optax.sgd(1.0, momentum=0.5),
    )


def asynchronous():
    """A buffer of two, clocks that are drawn in the run, models of the past, dropouts."""
    clock = federated.client_clock("lognormal", np.linspace(1.0, 0.2, N), spread=0.5)
    cohort = federated.async_cohort("fedbuff", clock, buffer_size=2, max_age=9)
    client = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), optax.sgd(0.1))
    algorithm = federated.fedbuff(
        None, 2, num_versions=10, client=client, server=optax.sgd(1.0, momentum=0.5)
    )
    return {"algorithm": algorithm, "cohort": federated.with_dropout(cohort, 0.1)}


def returning():
    """A day of availability, a time limit, and late ones that return."""
    there = federated.availability_cohort(federated.diurnal_availability(N, 6), 4)
    clock = federated.client_clock("exponential", np.linspace(1.0, 0.2, N))
    return {
        "algorithm": federated.async_server(0.2, 0.1, num_versions=4),
        "cohort": federated.with_timeout(there, clock, 0.5, late="return", max_age=3),
    }


def private():
    """Clipped and noised sums of a Poisson draw, and what they have revealed so far."""
    return {
        "algorithm": federated.dp_fedavg(0.2, 1.0, 2.0, expected_clients=4, key=2),
        "cohort": federated.poisson_cohort(N, 0.5),
        "privacy": federated.PrivacyAccount(delta=0.05, sampling_rate=0.5),
    }


#: Options of :func:`run`, by the name on the command line.
KINDS = {
    "noisy": dict,
    "asynchronous": asynchronous,
    "returning": returning,
    "private": private,
}


def run(directory=None, rounds=ROUNDS, algorithm=None, **options):
    """Three of eight clients in each round."""
    settings = {"cohort": 3, "batch_size": None, "num_steps": 2, "segment": 1, **options}
    return federated.simulate(
        algorithm or noisy(),
        settings.pop("loss_fn", loss_fn),
        jnp.array(0.5),
        NUMBERS,
        rounds,
        checkpoint=directory,
        **settings,
    )


if __name__ == "__main__":
    run(sys.argv[1], **KINDS[(sys.argv[2:] or ["noisy"])[0]]())
