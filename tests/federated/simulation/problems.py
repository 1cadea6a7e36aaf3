"""Small problems that the tests of the simulation share, and aggregates that do not stream."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

NUM_CLIENTS = 8
#: Examples of each client; unequal, so that weights, padding and offsets matter.
SIZES = (4, 2, 3, 4, 1, 4, 2, 4)
PARAMS = {"w": np.float32([1.0, -2.0, 0.5]), "b": np.float32(0.5)}

_RNG = np.random.default_rng(0)
EXAMPLES = {
    "x": _RNG.normal(size=(sum(SIZES), 3)).astype(np.float32),
    "y": _RNG.normal(size=sum(SIZES)).astype(np.float32),
}
PARTS = np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1])
PADDED = federated.data.padded(EXAMPLES, PARTS)
FLAT = federated.data.flat(EXAMPLES, PARTS)


def loss_fn(params, batch):
    """Linear regression."""
    gap = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return jnp.mean(gap**2) / 2


def simulate(algorithm: Any, data: Any = PADDED, rounds: int = 4, **options: Any):
    """Two local steps on batches of two, all rounds in one segment."""
    settings = {"batch_size": 2, "num_steps": 2, "segment": rounds, **options}
    loss = settings.pop("loss_fn", loss_fn)
    params = settings.pop("params", PARAMS)
    return federated.simulate(algorithm, loss, params, data, rounds, **settings)


def coordinate_median(axis_name="clients"):
    """The median of the active messages, coordinate by coordinate: sees all messages at once."""

    def update(messages, state, params=None, *, active, **extras):
        del params, extras
        rows, present = federated.axis.all_gather((messages, active), axis_name)

        def of_leaf(leaf):
            seen = jnp.where(present.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.nan)
            return jnp.nanmedian(seen, axis=0)

        return jax.tree.map(of_leaf, rows), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def move_to_mean(axis_name="nodes"):
    """The simplest exchange of peers: everybody steps, and then takes the mean of all."""

    def update(updates, state, params, **extras):
        del extras
        here = optax.apply_updates(params, updates)
        mean = federated.axis.mean(here, axis_name)
        return jax.tree.map(jnp.subtract, mean, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def assert_close(found: Any, expected: Any, rtol: float = 2e-5, atol: float = 1e-6):
    """Compares two trees leaf by leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
    jax.tree.map(close, found, expected)


def _raw(leaf):
    is_key = jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_same_bits(found: Any, expected: Any):
    """Compares two trees bit by bit, random keys included."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = _raw(a), _raw(b)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
