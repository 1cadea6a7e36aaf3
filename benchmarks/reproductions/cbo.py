"""Consensus-based methods leave a canyon in which gradient descent stays, and find a minimum."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import optimizers

from ._record import Reproduction

INDIVIDUALS, CANYON_RUNS, CANYON_STEPS, RASTRIGIN_RUNS = 200, 50, 250, 20
START, DIMENSION = 8.0, 10

#: width of the cloud -> share of runs that end at the minimum.
HOPPING = {0.7: 1.0, 0.6: 0.8, 0.4: 0.0}
#: noise, sigma, dt, steps -> share of runs that end at the minimum.
RASTRIGIN = {
    ("anisotropic", 5.0, 0.01, 2000): 0.90,
    ("anisotropic", 3.0, 0.02, 1500): 0.55,
    ("anisotropic", 2.0, 0.01, 2000): 0.10,
    ("isotropic", 0.4, 0.01, 2000): 0.00,
    ("isotropic", 0.6, 0.01, 2000): 0.00,
}


def canyon(v):
    """A winding canyon with noise in it; the minimum is at the origin, seen from (8, 8)."""
    x, y = v
    across = y - (2 / 16 * (x - 1) * (x - 4) ** 2 + 2)
    along = -x - 1.6 * y
    wall = 25 * (1 - jnp.exp(-1.4 * across**2 * jnp.exp(-0.002 * x**4)))
    waves = 1.1625 * ((1 - jnp.cos(0.75 * jnp.pi * x)) + (1 - jnp.cos(0.75 * jnp.pi * y)))
    bump = jnp.maximum((1 - jnp.exp(-9 * along**2)) * jnp.sign(along), 0)
    return wall + 0.4 * x**2 + 0.2 * y**2 + waves + 4 * jnp.exp(1 - 2 * across**4) * bump


def rastrigin(v):
    """Many local minima; the least is at the origin."""
    return jnp.sum(v**2) + 2.5 * jnp.sum(1 - jnp.cos(2 * jnp.pi * v))


def final_consensus(make: Callable, loss: Callable, start: jax.Array, steps: int, key: int):
    """Where a population ends; ``make(key)`` builds the method."""
    tx = make(key)

    def individual(x, state):
        updates, state = tx.update(None, state, x, value=loss(x))
        return optax.apply_updates(x, updates), state

    everybody = jax.vmap(individual, axis_name="population")
    body = lambda carry, _: (everybody(*carry), None)
    _, state = jax.lax.scan(body, (start, jax.vmap(tx.init)(start)), length=steps)[0]
    return state.consensus[0]


def success(make, loss, centre, width, dimension, steps, runs, within) -> float:
    """The share of runs whose last consensus lies near the origin."""

    def one(number):
        start_key, key = jax.random.split(jax.random.key(number))
        cloud = jax.random.normal(start_key, (INDIVIDUALS, dimension))
        return final_consensus(make, loss, centre + width * cloud, steps, key)

    ends = jax.jit(lambda: jax.lax.map(one, jnp.arange(runs)))()
    return float(np.mean(np.asarray(within(ends))))


def descent_ends_at() -> np.ndarray:
    """Where gradient descent comes to rest in the canyon."""
    body = lambda v, _: (v - 0.01 * jax.grad(canyon)(v), None)
    return np.asarray(jax.lax.scan(body, jnp.full(2, START), length=5000)[0])


def run() -> Reproduction:
    """Fifty runs of each of four searches in the canyon, twenty of five on Rastrigin."""
    near = lambda ends: jnp.linalg.norm(ends, axis=1) < 0.5
    in_canyon = functools.partial(
        success, loss=canyon, centre=START, dimension=2, runs=CANYON_RUNS, within=near
    )
    hops = {
        s: in_canyon(
            lambda key, s=s: optimizers.consensus_hopping(s, 100.0, key=key),
            width=s,
            steps=CANYON_STEPS,
        )
        for s in HOPPING
    }
    drifting = in_canyon(
        lambda key: optimizers.cbo(1.0, 1.6, 100.0, 0.01, key=key), width=0.5, steps=CANYON_STEPS
    )
    rest = descent_ends_at()
    found = {
        (noise, sigma, dt, steps): success(
            lambda key, noise=noise, sigma=sigma, dt=dt: optimizers.cbo(
                1.0, sigma, 1e5, dt, noise, key=key
            ),
            rastrigin,
            3.0,
            2.0,
            DIMENSION,
            steps,
            RASTRIGIN_RUNS,
            lambda ends: jnp.max(jnp.abs(ends), axis=1) < 0.25,
        )
        for noise, sigma, dt, steps in RASTRIGIN
    }
    rows: list = [("canyon", f"hopping, width {s}", HOPPING[s], hops[s]) for s in HOPPING]
    rows.append(("canyon", "CBO, isotropic, sigma 1.6", 1.0, drifting))
    rows.append(("canyon", "gradient descent", 0.0, float(np.linalg.norm(rest) < 0.5)))
    rows += [
        (
            f"Rastrigin, {DIMENSION}-d",
            f"CBO, {noise}, sigma {sigma}, dt {dt}",
            RASTRIGIN[key],
            share,
        )
        for key, share in found.items()
        for noise, sigma, dt, _ in [key]
    ]
    wide, middle, narrow, *isotropic = found.values()
    return Reproduction(
        name="cbo",
        title="Consensus-based search passes barriers where gradient descent rests",
        paper="from one side of a noisy, winding canyon consensus-based optimization and consensus "
        "hopping reach the global minimum, gradient descent does not "
        "([2306.09778](https://arxiv.org/abs/2306.09778)).",
        setup=f"{INDIVIDUALS} individuals. The canyon has two dimensions: start around "
        f"({START:g}, {START:g}), {CANYON_STEPS} steps, alpha 100, {CANYON_RUNS} runs, of which "
        "the share is shown whose consensus ends within 0.5 of the minimum; CBO with dt 0.01. "
        f"Rastrigin's function: start around 3 with width 2, alpha 100,000, {RASTRIGIN_RUNS} runs, "
        "within 0.25 in every coordinate; 2000 steps, 1500 with dt 0.02.",
        expected="Expected figures are those of another program with other draws.",
        columns=("problem", "method", "expected", "gradax"),
        rows=rows,
        claims={
            "hopping with width 0.7 and CBO arrive in every run": min(hops[0.7], drifting) == 1.0,
            "hopping with width 0.6 arrives in 60 to 95 of 100 runs": 0.6 <= hops[0.6] <= 0.95,
            "hopping with width 0.4 never arrives": hops[0.4] == 0.0,
            "gradient descent rests at (2.34, 2.47)": bool(
                np.allclose(rest, [2.34, 2.47], atol=0.01)
            ),
            "on Rastrigin more anisotropic noise arrives more often": wide > middle > narrow,
            "with sigma 5 at least 70 of 100 runs arrive": wide >= 0.7,
            "isotropic noise never arrives": max(isotropic) == 0.0,
        },
        remark="The claim that every run arrives was too sharp: hopping with width 0.7 misses the "
        "minimum once in fifty runs.",
    )


if __name__ == "__main__":
    run().save()
