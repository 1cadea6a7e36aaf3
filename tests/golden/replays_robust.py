"""Replays of the golden file of robust aggregators, in float64."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradax.federated import rules

Case = dict[str, Any]


def _calls(rows: jax.Array, hp: Case) -> dict[str, Callable[[], jax.Array]]:
    """Every name of the file as a call of one rule."""
    f, last = hp["f"], hp["n"] - 1
    clip = functools.partial(rules.centered_clipping, tau=2.0)
    neighbors = functools.partial(rules.nearest_neighbor_average, rows, f)
    plain = ("mean", "median", "trimmed_mean", "krum", "multi_krum", "mda", "meamed", "nnm", "arc")
    calls = {name: functools.partial(getattr(rules, name), rows, f) for name in plain}
    return calls | {
        "geometric_median_nu0.1_T3": lambda: rules.weiszfeld(rows),
        "geometric_median_nu0.1_T50": lambda: rules.weiszfeld(rows, iters=50),
        "monna_idx0": lambda: neighbors(0),
        f"monna_idx{last}": lambda: neighbors(last),
        "centered_clipping_tau2_L1_from_zero": lambda: clip(rows),
        "centered_clipping_tau2_L1_second_call": lambda: clip(rows, center=clip(rows)),
        "centered_clipping_tau2_L3_from_zero": lambda: clip(rows, iters=3),
        "nnm_then_trimmed_mean": lambda: rules.trimmed_mean(rules.nnm(rows, f), f),
        "nnm_then_krum": lambda: rules.krum(rules.nnm(rows, f), f),
        "clipping_c2": lambda: rules.clip_rows(rows, max_norm=2.0),
        "bucketing_s2": lambda: rules.bucketing(rows, s=2, perm=hp["bucket_perm"]),
        "smea_exact": lambda: rules.smea(rows, f),
        "caf_exact": lambda: rules.caf(rows, f),
    }


def replay_byz_aggregators(case: Case) -> Case:
    """All rules and pre-aggregators on the recorded rows, in one compilation."""
    with jax.enable_x64(True):
        rows = jnp.asarray(case["vectors"], jnp.float64)
        run = lambda rows: {k: call() for k, call in _calls(rows, case["hyperparams"]).items()}
        found = jax.jit(run)(rows)
    return {"expected": {name: np.asarray(value).tolist() for name, value in found.items()}}


REPLAYS: dict[str, Callable[[Case], Case]] = {"byz_aggregators": replay_byz_aggregators}
