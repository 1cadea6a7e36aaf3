"""Forecasts that hide the days they were trained on: noise on gradients, or on the data?

Counts of people in six zones, every half hour, are forecast one step ahead from the last six. Three
ways: without privacy; gradient perturbation (DP-SGD's clipped and noisy gradient in front of Adam);
input perturbation (Gaussian noise on every published count, rounded, and then anything goes).

    python examples/dp_time_series.py [--steps 300] [--noise 8] [--model linear|gru]

After Arcolezi et al., "Differentially Private Multivariate Time Series Forecasting of Aggregated
Human Mobility with Deep Learning: Input or Gradient Perturbation?", 2022
(https://arxiv.org/abs/2205.00436). Their counts come in no package, so this script makes counts of
the same form: 3,456 half hours of six zones with a daily and a weekly rhythm. Figures therefore
compare with each other, not with the paper's.

Two things are done differently. Batches are Poisson samples, so that the amplification by sampling
that is claimed is real; and epsilon comes from the tighter conversion of today (the printed
"classic" one is the paper's formula). Both are **per window** of seven half hours: a count is in
seven windows.
"""

import argparse
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradax import federated

HALF_HOURS, ZONES, LAG, TEST, DAY = 3456, 6, 6, 336, 48
DELTA = 1e-7


class Windows(NamedTuple):
    """Examples.

    Attributes:
      x: ``[windows, LAG, features]``, counts in units of ``scale`` and the time of day and month.
      y: ``[windows, ZONES]``, the next counts in the same units.
    """

    x: np.ndarray
    y: np.ndarray


def make_counts(seed: int = 0) -> np.ndarray:
    """Draws counts, ``[HALF_HOURS, ZONES]``, integers of some thousands."""
    rng = np.random.default_rng(seed)
    hours = np.arange(HALF_HOURS) / DAY
    size, peak = np.array([32e3, 12e3, 15e3, 9e3, 5e3, 13e3]), rng.uniform(0.4, 0.7, ZONES)
    day = 1 + 0.5 * np.cos(2 * np.pi * (hours[:, None] - peak))
    week = np.where((hours.astype(int) % 7 >= 5)[:, None], 0.8, 1.0)
    level = np.zeros((HALF_HOURS, ZONES))
    for t in range(1, HALF_HOURS):
        level[t] = 0.9 * level[t - 1] + rng.normal(0, 0.04, ZONES)
    return np.maximum(np.round(size * (day * week + level)), 0)


def windows(counts: np.ndarray, scale: np.ndarray) -> Windows:
    """Cuts counts into overlapping windows with the time as sines and cosines."""
    t = np.arange(len(counts))
    angles = 2 * np.pi * np.stack([t / DAY, t / (30 * DAY)], axis=1)
    features = np.concatenate([counts / scale, np.sin(angles), np.cos(angles)], axis=1)
    rows = np.lib.stride_tricks.sliding_window_view(features[:-1], LAG, axis=0)
    return Windows(
        np.swapaxes(rows, 1, 2).astype(np.float32), (counts[LAG:] / scale).astype(np.float32)
    )


def split(counts: np.ndarray, scale: np.ndarray) -> tuple[Windows, Windows]:
    """Training windows and the last week for tests."""
    every = windows(counts, scale)
    return Windows(every.x[:-TEST], every.y[:-TEST]), Windows(every.x[-TEST:], every.y[-TEST:])


def init_linear(key: jax.Array, features: int) -> dict[str, jax.Array]:
    """Starts as persistence: the last counts."""
    del key
    last = jnp.zeros((LAG, features, ZONES)).at[-1, :ZONES].set(jnp.eye(ZONES))
    return {"w": last, "b": jnp.zeros(ZONES)}


def linear(params: dict[str, jax.Array], window: jax.Array) -> jax.Array:
    """A linear autoregression."""
    return jnp.einsum("lf,lfz->z", window, params["w"]) + params["b"]


def init_gru(key: jax.Array, features: int, units: int = 8) -> dict[str, jax.Array]:
    """A bidirectional GRU of few units, which corrects the last counts."""
    keys, shape = jax.random.split(key, 3), (2, features + units + 1, units)
    gates = jax.random.normal(keys[0], (2, *shape)) / np.sqrt(shape[1])
    return {
        "gates": gates,
        "new": jax.random.normal(keys[1], shape) / np.sqrt(shape[1]),
        "out": jax.random.normal(keys[2], (2 * units, ZONES)) / np.sqrt(200.0 * units),
    }


def gru(params: dict[str, jax.Array], window: jax.Array) -> jax.Array:
    """Reads the window in both directions."""
    units = params["new"].shape[-1]

    def read(gates, new, rows):
        def step(h, row):
            seen = jnp.concatenate([row, h, jnp.ones(1)])
            reset, keep = (jax.nn.sigmoid(seen @ gate) for gate in gates)
            fresh = jax.nn.relu(jnp.concatenate([row, reset * h, jnp.ones(1)]) @ new)
            return keep * h + (1 - keep) * fresh, None

        return jax.lax.scan(step, jnp.zeros(units), rows)[0]

    ends = [
        read(params["gates"][:, way], params["new"][way], rows)
        for way, rows in enumerate((window, window[::-1]))
    ]
    return window[-1, :ZONES] + jnp.concatenate(ends) @ params["out"]


MODELS = {"linear": (init_linear, linear), "gru": (init_gru, gru)}


def train(model: str, data: Windows, steps: int, rate: float, noise: float, clip: float, seed=0):
    """Trains with Adam on Poisson batches; returns a function that forecasts windows."""
    init, forecast = MODELS[model]
    key, batch_key = jax.random.split(jax.random.key(seed))
    params = init(key, data.x.shape[-1])
    expected = rate * len(data.y)
    if noise:
        head = federated.private_gradient(clip, noise, key=seed, expected_batch_size=expected)
    else:  # the same mean over the batch, nothing else
        head = federated.private_gradient(1e6, 0.0, key=seed, expected_batch_size=expected)
    tx = optax.chain(head, optax.adam(optax.cosine_decay_schedule(0.01, steps)))
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    # A draw that is larger than the room has a probability below delta, and is cut.
    room = min(int(expected + 6 * np.sqrt(expected)) + 1, len(data.y))

    def loss(params, x, y, taken):
        return taken * jnp.mean(jnp.abs(forecast(params, x) - y))

    gradients = jax.vmap(jax.grad(loss), (None, 0, 0, 0))

    def step(carry, key):
        params, state = carry
        drawn = jax.random.bernoulli(key, rate, y.shape[:1])
        (batch,) = jnp.nonzero(drawn, size=room, fill_value=len(data.y))
        taken = (batch < len(data.y)).astype(jnp.float32)
        pick = lambda rows: rows.at[batch].get(mode="clip")
        rows = gradients(params, pick(x), pick(y), taken)
        updates, state = tx.update(params, state, params, per_example_grads=rows)
        return (optax.apply_updates(params, updates), state), None

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(batch_key, steps))[0])
    params, _ = scan((params, tx.init(params)))
    return jax.jit(functools.partial(jax.vmap(forecast, (None, 0)), params))


def rmse(forecasts: np.ndarray, truth: np.ndarray, scale: np.ndarray) -> float:
    """Mean over the zones of the root mean squared error, in people; counts are not negative."""
    gap = (np.maximum(forecasts, 0) - truth) * scale
    return float(np.mean(np.sqrt(np.mean(gap**2, axis=0))))


def classic_epsilon(rate: float, noise: float, steps: int, delta: float) -> float:
    """The older conversion of Renyi divergences, with whole orders up to 512."""
    import dp_accounting
    from dp_accounting import rdp

    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    accountant = rdp.RdpAccountant(orders=list(range(2, 513)))
    accountant.compose(event, steps)
    orders = accountant.orders
    return float(np.min(accountant.rdp + np.log(1 / delta) / (orders - 1)))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Prints a table; returns the errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="linear")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.1, help="of the Poisson batches")
    parser.add_argument("--noise", type=float, default=8.0, help="noise multiplier for gradients")
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--input-epsilon", type=float, default=1.0, help="for one count")
    options = parser.parse_args(arguments)
    counts = make_counts()
    # Public units: sizes of the zones are known. Taken from the data they would have to be paid.
    scale = np.array([32e3, 12e3, 15e3, 9e3, 5e3, 13e3])
    training, test = split(counts, scale)
    noise_std = np.sqrt(2 * np.log(1.25 / DELTA)) / options.input_epsilon
    noisy = counts + np.random.default_rng(1).normal(0, noise_std, counts.shape)
    published, _ = split(np.maximum(np.round(noisy), 0), scale)
    fit = functools.partial(train, options.model, steps=options.steps, rate=options.rate)
    forecasts = {
        "not private": fit(training, noise=0.0, clip=options.clip)(test.x),
        "noise on gradients": fit(training, noise=options.noise, clip=options.clip)(test.x),
        "noise on counts": fit(published, noise=0.0, clip=options.clip)(test.x),
        "persistence": test.x[:, -1, :ZONES],
    }
    errors = {name: rmse(np.asarray(found), test.y, scale) for name, found in forecasts.items()}
    spent = options.rate, options.noise, options.steps, DELTA
    print(f"{options.model}, {len(training.y)} windows, {options.steps} steps, delta {DELTA}")
    for name, error in errors.items():
        print(f"{name:20} RMSE {error:8.1f}   {error / errors['not private'] - 1:+.1%}")
    print(
        f"noise on gradients: epsilon {federated.dp_epsilon(*spent):.3f} for a window "
        f"({classic_epsilon(*spent):.3f} by the classic conversion)"
    )
    print(f"noise on counts: epsilon {options.input_epsilon} for one person in one count")
    return errors


if __name__ == "__main__":
    main()
