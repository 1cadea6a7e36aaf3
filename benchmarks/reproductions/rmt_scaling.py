"""What the batch size does to curvature and to the largest rate: random matrices, least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse.linalg

from gradax import schedules

from . import _digits
from ._record import Reproduction

SIZE = 1500
#: spike, noise of one entry, batch -> measured by an independent run.
MATRICES = {
    (3.0, 0.05, 1): 4.225,
    (3.0, 0.05, 4): 3.293,
    (1.5, 0.05, 1): 3.833,
    (1.0, 0.02, 1): 1.597,
}
BATCHES = (1, 4, 16, 64, 256)
RATES = 2.0 ** np.arange(-12, 2, 0.25)
SEEDS, STEPS = 4, 500


def top_eigenvalue(spike: float, noise_std: float, batch_size: int, seed: int) -> float:
    """Largest eigenvalue of a spike plus a symmetric matrix of independent noise."""
    noise = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    noise = (noise + noise.T) / np.sqrt(2) * noise_std / np.sqrt(batch_size)
    noise[0, 0] += spike
    return float(scipy.sparse.linalg.eigsh(noise, 1, which="LA")[0][0])


def largest_rates(x: np.ndarray, y: np.ndarray) -> dict[int, float]:
    """The largest rate of the grid at which SGD on least squares does not go up."""
    x, targets = jnp.asarray(x), jax.nn.one_hot(y, 10)

    def loss(w, rows):
        return 0.5 * jnp.mean(jnp.sum((x[rows] @ w - targets[rows]) ** 2, axis=1))

    def last(batch_size, rate, key):
        tx = optax.sgd(rate)

        def body(carry, own):
            w, state = carry
            rows = jax.random.choice(own, len(x), (batch_size,), replace=False)
            updates, state = tx.update(jax.grad(loss)(w, rows), state)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.zeros((x.shape[1], 10))
        (w, _), _ = jax.lax.scan(body, (w, tx.init(w)), jax.random.split(key, STEPS))
        return loss(w, jnp.arange(len(x)))

    found, start = {}, float(loss(jnp.zeros((x.shape[1], 10)), jnp.arange(len(x))))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    for batch_size in BATCHES:
        over = jax.vmap(jax.vmap(last, (None, None, 0)), (None, 0, None))
        losses = np.asarray(jax.jit(over, static_argnums=0)(batch_size, RATES, keys))
        stable = np.all(losses < start, axis=1)
        found[batch_size] = float(RATES[np.argmin(stable) - 1])
    return found


def run() -> Reproduction:
    """The matrices first, then the threshold."""
    rows, errors, sides = [], [], []
    for (spike, noise_std, batch_size), expected in MATRICES.items():
        measured = top_eigenvalue(spike, noise_std, batch_size, seed=0)
        formula = float(schedules.rmt_top_eigenvalue(spike, noise_std, SIZE, batch_size))
        errors.append(abs(measured / formula - 1))
        sides.append(measured <= formula * 1.001)
        name = f"top eigenvalue, spike {spike}, noise {noise_std}, batch {batch_size}"
        rows.append((name, expected, measured, formula))

    train, _ = _digits.load()
    x = np.asarray(train["x"], np.float32)
    hessians = np.einsum("ni,nj->nij", x, x)
    full = hessians.mean(0)
    noise_std = float(np.sqrt(np.mean((hessians - full) ** 2)))
    spike = float(np.linalg.eigvalsh(full)[-1])
    limits = largest_rates(x, train["y"])
    predicted = {
        b: float(schedules.rmt_max_learning_rate(spike, noise_std, x.shape[1], b, len(x)))
        for b in BATCHES
    }
    for b in BATCHES:
        rows.append((f"largest rate, digits, batch {b}", None, limits[b], predicted[b]))
    ordered = [limits[b] for b in BATCHES]
    return Reproduction(
        name="rmt_scaling",
        title="Batch size, top eigenvalue and the largest learning rate",
        paper="the top eigenvalue of a batch's Hessian, and with it the largest learning rate, "
        "follow spiked random-matrix formulas: linear in the batch for SGD until the noise is "
        "small ([2006.09092](https://arxiv.org/abs/2006.09092)).",
        setup=f"first, symmetric matrices of {SIZE} rows, one spike plus Gaussian noise. Then "
        "least squares on the ten classes of digits from zero, batches drawn without replacement, "
        f"{STEPS} steps of SGD: the largest rate, on a grid a factor 2^(1/4) apart, at which all "
        f"of {SEEDS} runs end below the loss they began with; the noise of an entry is the root "
        "mean square over entries and examples.",
        expected="Expected eigenvalues come from another draw of the noise.",
        columns=("quantity", "expected", "measured", "formula"),
        rows=rows,
        claims={
            "top eigenvalues are within 2 % of the formula": max(errors) < 0.02,
            "finite matrices stay on or below it": all(sides),
            "the largest rate never falls as the batch grows": ordered == sorted(ordered),
            "the formula is right within a factor of two for every batch": all(
                0.5 < limits[b] / predicted[b] < 2 for b in BATCHES
            ),
            "at batches of 256 the noise has gone: within 20 % of two over the full curvature": (
                abs(limits[256] * spike / 2 - 1) < 0.2
            ),
            "from batch 1 to 4 the largest rate at least doubles": limits[4] >= 2 * limits[1],
        },
        remark="The entries of these Hessians are far from independent: an image's own norm makes "
        "the noise, which lies along the spike and so costs SGD more than the formula says. One "
        "matrix of finite size may as well lie above its limit.",
    )


if __name__ == "__main__":
    run().save()
