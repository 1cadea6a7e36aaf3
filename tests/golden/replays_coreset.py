"""Replays of the golden file on coresets, through the public interface."""

import numpy as np

from gradax import schedules

#: Names of the similarities in the file.
_SIMILARITY = {"max_minus_euclidean": "max_minus", "exp(-d/n_features)": "exp"}


def coreset_facility_location(case):
    """The choice in greedy order, class after class, with weights and, if recorded, gains."""
    hp = case["hyperparams"]
    coreset = schedules.gradient_coreset(
        np.asarray(case["inputs"]["features"]),
        hp["budget"],
        labels=case["inputs"].get("labels"),
        similarity=_SIMILARITY[hp["similarity"]],
        allocation=hp.get("per_class", "equal"),
    )
    found = {
        "order": coreset.indices,
        "marginal_gains": coreset.gains,
        "objective": coreset.gains.sum(),
        "weights": coreset.weights,
        "normalised_weights": coreset.loss_weights,
    }
    return {"outputs": {name: found[name] for name in case["outputs"]}}


REPLAYS = {"coreset_facility_location": coreset_facility_location}


def _tolerance(case):
    """Single precision where the recorded kernel, or the normalised weights, had it."""
    return 1e-9 if case["name"].startswith("max_minus") else 1e-6


TOLERANCES = {"coreset_facility_location": _tolerance}
