"""Replays of the golden files of mirror descent, through the public interface."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from trajectories import Case, arrays, trajectory

from gradax import optimizers, schedules


def replay_exponentiated_gradient(case: Case) -> Case:
    """The authors' SGD form; and AdamW made multiplicative, whose decay comes before the step."""
    hp = dict(case["hyperparams"])
    with jax.enable_x64(True):
        rate, decay = hp.pop("lr"), hp["weight_decay"]
        if hp.pop("kind") == "eg":
            hp["momentum"] = hp["momentum"] or None
            return {"params": trajectory(optimizers.exponentiated_gradient(rate, **hp), case)}
        del hp["weight_decay"]
        # The factor 1 - lr wd on the weights is a constant added to the exponent.
        pull = -np.log1p(-rate * decay) / rate
        decay = lambda u, w: jax.tree.map(lambda u, w: u + pull * jnp.sign(w), u, w)
        tx = optax.chain(
            optax.scale_by_adam(**hp),
            optax.stateless(decay),
            optax.scale_by_learning_rate(rate),
            optimizers.signed_exponentiate(),
        )
        return {"params": trajectory(tx, case)}


def _run(tx: optax.GradientTransformation, case: Case, look: Callable) -> tuple[list, list]:
    """Parameters after each step, and what ``look`` finds in the states."""
    step, params, steps, seen = jax.jit(tx.update), arrays(case["params0"]), [], []
    state = tx.init(params)
    for grads in case["grads"]:
        updates, state = step(arrays(grads), state, params)
        params = optax.apply_updates(params, updates)
        steps.append(jax.tree.map(np.asarray, params))
        seen.append(jax.tree.map(np.asarray, look(state)))
    return steps, seen


def replay_eg_plus_minus(case: Case) -> Case:
    """Parts and differences; where the recorded start fills the mass, that is where ours begins."""
    hp = dict(case["hyperparams"])
    with jax.enable_x64(True):
        tx = optimizers.eg_plus_minus(hp["learning_rate"], hp["U"], hp["normalize"])
        look = lambda state: [optax.tree.get(state, name)["w"] for name in ("w_pos", "w_neg")]
        steps, parts = _run(tx, case, look)
        start = np.asarray(look(tx.init(arrays(case["params0"]))))
        return {
            "params": steps,
            "w_pos_neg": np.asarray(parts).tolist(),
            "w_pos0": start[0],
            "w_neg0": start[1],
        }


def replay_normalized_lr_gd(case: Case) -> Case:
    """Linear logistic regression; the factor on the gradient is read off its update."""
    problem, hp = case["problem"], case["hyperparams"]
    with jax.enable_x64(True):
        rows = jnp.asarray(problem["a"]) * jnp.asarray(problem["y"])[:, None]
        if hp["normalizer"] == "sigmoid":
            tx = optimizers.normalized_lr_gd(hp["learning_rate"])
        else:
            tx = optax.chain(
                optimizers.normalize_by_value(eps=0.0),
                optax.scale_by_learning_rate(hp["learning_rate"]),
            )

        @jax.jit
        def step(params):
            loss = lambda p: -jnp.mean(jax.nn.log_sigmoid(rows @ p["theta"]))
            value, grads = jax.value_and_grad(loss)(params)
            margins = rows @ params["theta"]
            updates, _ = tx.update(grads, tx.init(params), value=value, margins=margins)
            ratio = -jnp.sum(updates["theta"]) / jnp.sum(grads["theta"]) / hp["learning_rate"]
            return optax.apply_updates(params, updates), ratio

        params, steps, factors = arrays(case["params0"]), [], []
        for _ in case["params"]:
            params, factor = step(params)
            steps.append(jax.tree.map(np.asarray, params))
            factors.append(float(factor))
        return {"params": steps, "beta": factors}


def _optimistic(hp: Case) -> optax.GradientTransformation:
    """The transformation that the recorded rule names."""
    if hp["rule"] == "exp_concave":
        return optimizers.optimistic_newton(hp["D"], hp["G"], hp["alpha"])
    rates = {
        "constant": lambda: hp["eta"],
        "convex": lambda: optimizers.sea_convex(hp["D"], hp["G"], hp["delta"]),
        "strongly_convex": lambda: optimizers.sea_strongly_convex(hp["lam"]),
    }
    radius, projection = hp.get("radius"), None
    if radius is not None:
        projection = lambda tree: optax.projections.projection_l2_ball(tree, radius)
    return optimizers.optimistic_mirror_descent(
        rates[hp["rule"]](), mirror=hp["geometry"], projection=projection
    )


def replay_oomd(case: Case) -> Case:
    """Played and secondary points of every rule."""
    with jax.enable_x64(True):
        steps, hats = _run(_optimistic(case["hyperparams"]), case, lambda state: state.hat)
        return {"params": steps, "hat": hats}


def _schedule(hp: Case) -> optax.Schedule:
    builders = {
        "linear_decay": lambda: schedules.last_iterate_linear_schedule(hp["eta"], hp["T"]),
        "inv_sqrt": lambda: schedules.last_iterate_inv_sqrt_schedule(hp["eta"], hp["L"]),
        "strongly_convex": lambda: schedules.last_iterate_strongly_convex_schedule(
            hp["mu"], hp["L"]
        ),
    }
    return builders[hp["schedule"]]()


def replay_csmd_last_iterate(case: Case) -> Case:
    """Every pair of geometry and proximal operator, with the steps of its schedule."""
    hp, prox = case["hyperparams"], None
    helpers = {"l1": optimizers.prox_l1, "l2": optimizers.prox_l2}
    for name, weight in hp.get("prox", {}).items():
        prox = helpers[name](weight)
    with jax.enable_x64(True):
        tx = optimizers.composite_mirror_descent(_schedule(hp), mirror=hp["geometry"], prox=prox)
        counts = jnp.arange(len(case["grads"]))
        return {"params": trajectory(tx, case), "step_sizes": np.asarray(_schedule(hp)(counts))}


REPLAYS: dict[str, Callable[[Case], Case]] = {
    "csmd_last_iterate": replay_csmd_last_iterate,
    "eg_plus_minus": replay_eg_plus_minus,
    "exponentiated_gradient": replay_exponentiated_gradient,
    "normalized_lr_gd": replay_normalized_lr_gd,
    "oomd": replay_oomd,
}

#: What the files themselves state, except that ratios of sums cancel a digit.
TOLERANCES: dict[str, float] = {
    "csmd_last_iterate": 1e-12,
    "eg_plus_minus": 1e-12,
    "exponentiated_gradient": 1e-12,
    "normalized_lr_gd": 1e-10,
    "oomd": 1e-11,
}
