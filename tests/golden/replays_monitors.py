"""Replays of the golden file of monitors, by kind of case, through the public interface."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from trajectories import Case

from gradax import optimizers


def _recorded(monitor: optax.GradientTransformationExtraArgs, updates, params, **extras):
    """Reads fields by name after one update."""
    _, state = jax.jit(monitor.update)(updates, monitor.init(params), params, **extras)
    return lambda name: optax.tree.get(state, name)


def replay_vmf(case: Case) -> Case:
    """Concentration and signal to noise of gradients, the rows."""
    grads = jnp.array(case["gradients"])
    monitor = optimizers.monitor_gradient_direction()
    read = _recorded(monitor, grads[0], grads[0], per_example_grads=grads)
    return {
        "r_bar": read("mean_resultant_length"),
        "kappa": read("concentration"),
        "gradient_snr": read("gradient_snr"),
        "norm_snr": read("norm_snr"),
    }


def replay_hessian(case: Case) -> Case:
    """Curvature of a quadratic along a direction, once as it is and once per squared length."""
    hessian, direction = jnp.array(case["H"]), jnp.array(case["direction"])
    found = {}
    for name, normalized in (("", False), ("normalized_", True)):
        monitor = optimizers.monitor_directional_sharpness(normalized)
        grad_fn = jax.tree_util.Partial(jnp.matmul, hessian)
        read = _recorded(monitor, direction, jnp.ones_like(direction), grad_fn=grad_fn)
        found[f"{name}directional_sharpness"] = read("directional_sharpness")
    return found


KINDS: dict[str, Callable[[Case], Case]] = {"vmf": replay_vmf, "hessian": replay_hessian}


def replay(case: Case) -> Case:
    """Replays a case of any kind, in double precision."""
    with jax.enable_x64(True):
        return KINDS[case["kind"]](case)


REPLAYS: dict[str, Callable[[Case], Case]] = {"monitors": replay}
