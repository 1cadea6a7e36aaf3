"""Replays of the golden files of adaptive methods, through the public interface.

A replay takes one case of its file and returns what the case records. Layouts of the recorded
weights are those of the reference: ``(out, in)`` where it says torch, ``(in, out)`` elsewhere.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax
from trajectories import Case, arrays, trajectory

from gradax import optimizers


def replay_adabelief(case: Case) -> Case:
    """The authors' package; its eps stands in both places."""
    with jax.enable_x64(True):
        hp = dict(case["hyperparams"])
        tx = optimizers.adabelief(hp.pop("lr"), eps_root=hp["eps"], **hp)
        return {"params": trajectory(tx, case)}


def replay_diffgrad(case: Case) -> Case:
    """Both placements of eps: after bias correction (the paper) and before (the authors' code)."""
    hp = dict(case["hyperparams"])
    if hp.pop("eps_placement") != "paper":
        raise ValueError("eps_placement: params are expected to follow the paper.")
    rate, eps = hp.pop("lr"), hp.pop("eps")
    # Before bias correction, eps counts as divided by the root of the correction of its step.
    before = lambda count: eps / jnp.sqrt(1 - hp["b2"] ** (count + 1.0))
    build = lambda eps: optimizers.diffgrad(rate, eps=eps, **hp)
    with jax.enable_x64(True):
        return {
            "params": trajectory(build(eps), case),
            "params_eps_reference": trajectory(optax.inject_hyperparams(build)(before), case),
        }


def _replay_projected(build: Callable[..., optax.GradientTransformation], case: Case) -> Case:
    """Trajectory, and in which steps which leaf was projected: where delta makes a difference."""
    hp = dict(case["hyperparams"])
    rate, delta = hp.pop("lr"), hp.pop("delta")
    with jax.enable_x64(True):
        tx, never = (build(rate, delta=value, **hp) for value in (delta, 0.0))
        params, steps, projected = arrays(case["params0"]), [], []
        state = tx.init(params)
        for number, grads in enumerate(case["grads"], start=1):
            without, _ = never.update(arrays(grads), state, params)
            updates, state = tx.update(arrays(grads), state, params)
            params = optax.apply_updates(params, updates)
            steps.append(params)
            differ = lambda name, a=updates, b=without: bool((a[name] != b[name]).any())
            projected += [[number, name] for name in grads if differ(name)]
        return {"params": steps, "projected_steps": projected}


def replay_adamp(case: Case) -> Case:
    """The authors' code."""
    return _replay_projected(optimizers.adamp, case)


def replay_sgdp(case: Case) -> Case:
    """The authors' code with Nesterov's momentum, an independent one without."""
    return _replay_projected(optimizers.sgdp, case)


def replay_a2grad(case: Case) -> Case:
    """Steps of each element (the paper) and of each leaf (an independent implementation)."""
    hp = dict(case["hyperparams"])
    hp["smoothness"] = hp.pop("lips")
    build = lambda per_leaf: optimizers.a2grad(**hp, per_leaf_norm=per_leaf)
    with jax.enable_x64(True):
        return {
            "params": trajectory(build(False), case),
            "params_per_tensor": trajectory(build(True), case),
        }


def _l4(hp: Case) -> tuple[optax.GradientTransformationExtraArgs, ...]:
    """The alias, and the wrapper around the same direction; times are those of the reference."""
    b1, b2 = (1 - 1 / hp[time] for time in ("direction_time", "var_time"))
    if b1 != 1 - 1 / hp["gradient_time"]:
        raise ValueError("the aliases average direction and gradient over the same time.")
    constants = {
        "alpha": hp["fraction"],
        "gamma": hp["minloss_factor"],
        "gamma0": hp["init_factor"],
        "tau": hp["minloss_forget_time"],
        "eps": hp["epsilon"],
    }
    if hp["direction"] == "momentum":
        alias = optimizers.l4_momentum(**constants, decay=b1)
        return alias, optimizers.l4(optax.ema(b1), optax.ema(b1), **constants)
    alias = optimizers.l4_adam(**constants, b1=b1, b2=b2, adam_eps=hp["adam_eps"])
    direction = optax.scale_by_adam(b1, b2, hp["adam_eps"])
    return alias, optimizers.l4(direction, optax.ema(b1), **constants)


def _l4_trajectory(tx: optax.GradientTransformationExtraArgs, case: Case) -> Case:
    """What the case records, on its quadratic or on its list of gradients and losses."""
    problem, found = case.get("problem"), {"params": [], "lmin_used": [], "step_sizes": []}

    def value_and_grad(number, params):
        if problem is None:
            return case["values"][number], arrays(case["grads"][number])
        matrix, x = jnp.asarray(problem["A"]), params["x"]
        return 0.5 * x @ matrix @ x + problem["c"], {"x": matrix @ x}

    params, values, update = arrays(case["params0"]), [], jax.jit(tx.update)
    state = tx.init(params)
    for number in range(len(case["params"])):
        value, grads = value_and_grad(number, params)
        updates, state = update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        values.append(float(value))
        found["params"].append(params)
        found["lmin_used"].append(float(state.lmin))
        found["step_sizes"].append(float(state.step_size))
    return found | {"values": values}


def replay_l4(case: Case) -> Case:
    """The recursion in double precision; the authors' code agrees in single."""
    with jax.enable_x64(True):
        alias, wrapper = (_l4_trajectory(tx, case) for tx in _l4(case["hyperparams"]))
    chex.assert_trees_all_close(alias, wrapper, rtol=1e-10)
    return alias


def replay_agvm(case: Case) -> Case:
    """The authors' hook, with the mean of both halves as direction."""
    hp = case["hyperparams"]
    with jax.enable_x64(True):
        params = arrays(case["params0"])
        tx = optax.chain(
            optimizers.scale_by_agvm(
                {name: name for name in params},
                hp["anchor"],
                decay=hp["ema"],
                every=hp["interval"],
                start=hp["start"],
                clip=tuple(hp["clip"]),
            ),
            optax.scale_by_learning_rate(hp["learning_rate"]),
        )
        state, update, found = tx.init(params), jax.jit(tx.update), {"params": [], "scales": []}
        for halves in zip(case["grads_half_a"], case["grads_half_b"], strict=True):
            pair = tuple(arrays(half) for half in halves)
            mean = jax.tree.map(lambda a, b: (a + b) / 2, *pair)
            updates, state = update(mean, state, params, half_grads=pair)
            params = optax.apply_updates(params, updates)
            found["params"].append(params)
            found["scales"].append({name: float(s) for name, s in state[0].scales.items()})
        return found


REPLAYS: dict[str, Callable[[Case], Case]] = {
    "a2grad": replay_a2grad,
    "adabelief": replay_adabelief,
    "adamp": replay_adamp,
    "agvm": replay_agvm,
    "diffgrad": replay_diffgrad,
    "l4": replay_l4,
    "sgdp": replay_sgdp,
}

TOLERANCES: dict[str, float | Callable[[Case], float]] = {
    name: lambda case: case["tolerance"] for name in REPLAYS
}
