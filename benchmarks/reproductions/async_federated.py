"""Asynchronous servers on quadratics: where they converge, and how long that takes."""

import jax
import jax.numpy as jnp
import numpy as np

from gradax import federated

from ._record import Reproduction

#: Curvatures and optima of five clients; the fastest needs 20 % of the time of the slowest.
H, A = np.array([1.0, 2.0, 0.5, 1.5, 3.0]), np.array([1.0, -1.0, 2.0, 0.0, 3.0])
TIMES = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
OPTIMUM = np.sum(H * A) / np.sum(H)
SURROGATE = np.sum(H * A / TIMES) / np.sum(H / TIMES)
STEPS, PERIOD = 8000, 137  # after 137 contributions, 12 units of time, all begin at once again
EXPECTED = {"equal": 1.9557, "unbiased": 1.1257}
RATE, DURATION, NEAR = 0.005, 250.0, 0.02


def loss_fn(x, batch):
    """The loss of a client, whose only example is its quadratic."""
    return jnp.mean(batch["h"] * (x - batch["a"]) ** 2) / 2


def play(algorithm, schedule: federated.AsyncSchedule, segment: int):
    """Two local steps in every job, from zero; the model after every segment."""
    return federated.simulate(
        algorithm,
        loss_fn,
        jnp.array(0.0),
        federated.data.padded({"h": H, "a": A}, np.arange(len(H))[:, None]),
        len(schedule.ids),
        schedule.cohort(),
        batch_size=None,
        num_steps=2,
        segment=segment,
        evaluate=lambda x: {"x": x},
    )


def limit(weights) -> float:
    """Mean over a period of the model, after many steps of an asynchronous server."""
    schedule = federated.async_schedule("async", TIMES, STEPS)
    server = federated.async_server(weights, 1e-3, num_versions=PERIOD)
    result = play(server, schedule, STEPS)
    return float(np.asarray(result.state.server.versions).mean())


def settling(kind: str, weights=None, **options) -> tuple[float, float]:
    """Time after which the excess loss stays small (inf: never), and its largest value."""
    guess = federated.async_schedule(kind, TIMES, 2000, **options)
    num_steps = int(np.searchsorted(guess.times, DURATION))
    schedule = federated.async_schedule(kind, TIMES, num_steps, **options)
    if weights is None:
        weights = federated.unbiased_weights(kind, TIMES, **options)
    server = federated.async_server(weights, RATE, num_versions=schedule.num_versions)
    history = play(server, schedule, 1).history
    excess = np.mean(H) / 2 * (np.array(history.column("x")) - OPTIMUM) ** 2
    times = np.array(history.column("time"))
    late = np.flatnonzero(excess > NEAR)
    settled = times[late[-1] + 1] if late[-1] + 1 < len(times) else np.inf
    return float(settled), float(excess.max() / (np.mean(H) / 2 * OPTIMUM**2))


RULES = {
    "synchronous": ("sync", None, {}),
    "FedFix, window 0.5": ("fedfix", None, {"window": 0.5}),
    "FedFix, window 0.3": ("fedfix", None, {"window": 0.3}),
    "asynchronous": ("async", None, {}),
    "FedBuff of 2, unbiased": ("fedbuff", None, {"buffer_size": 2}),
    "FedBuff of 2, equal weights": ("fedbuff", 0.5, {"buffer_size": 2}),
}


def run() -> Reproduction:
    """Limits in double precision, and times until the loss is small."""
    with jax.enable_x64(True):
        weights = {"equal": 1.0, "unbiased": federated.unbiased_weights("async", TIMES)}
        found = {name: limit(one) for name, one in weights.items()}
        rows = [
            (f"limit, asynchronous, {name} weights", EXPECTED[name], found[name]) for name in found
        ]
        settled, highest = {}, {}
        for name, (kind, given, options) in RULES.items():
            settled[name], highest[name] = settling(kind, given, **options)
            rows.append((f"time, {name}", None, settled[name]))
    return Reproduction(
        name="async_federated",
        title="Servers that do not wait: bias and time",
        paper="with weights that make up for how often a client comes, an asynchronous server "
        "converges to the optimum, else to that of a surrogate; FedFix is as stable as FedAvg and "
        "faster where clients are unequally quick "
        "([2206.10189](https://arxiv.org/abs/2206.10189)).",
        setup="five quadratics in one dimension, times 1, 0.8, 0.6, 0.4, 0.2, two local steps; the "
        f"optimum is {OPTIMUM:.4f}, that of the surrogate {SURROGATE:.4f}. *Limit*: mean model of "
        f"the last {PERIOD} of {STEPS} steps, local rate 0.001. *Time*: until the excess loss "
        f"stays below {NEAR}, of {DURATION:.0f} units, local rate {RATE}.",
        expected="Expected limits come from an independent run; models move by 0.01 within a "
        "period. Times were not recorded before.",
        columns=("what", "expected", "gradax"),
        rows=rows,
        claims={
            "equal weights: the surrogate's optimum, to 0.003": abs(found["equal"] - SURROGATE)
            < 3e-3,
            "unbiased weights: the optimum, to 0.003": abs(found["unbiased"] - OPTIMUM) < 3e-3,
            "FedFix is quicker than the synchronous server, more so with the shorter window": (
                settled["FedFix, window 0.3"]
                < settled["FedFix, window 0.5"]
                < settled["synchronous"]
            ),
            "no unbiased rule ever does worse than the start": max(
                value for name, value in highest.items() if "equal" not in name
            )
            <= 1.0,
            "FedBuff with equal weights does not get there": np.isinf(
                settled["FedBuff of 2, equal weights"]
            ),
            "FedBuff with unbiased weights does": np.isfinite(settled["FedBuff of 2, unbiased"]),
        },
        remark="With unbiased weights all servers move equally far per step in the mean: what "
        "differs is how many steps there are per unit of time.",
    )


if __name__ == "__main__":
    run().save()
