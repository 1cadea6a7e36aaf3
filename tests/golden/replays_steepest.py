"""Replays of the golden file of steepest descent in a norm, through the public interface."""

from collections.abc import Callable, Iterator

import jax
import optax
from trajectories import Case, arrays, trajectory

from gradax import optimizers


def replay_steepest_descent(case: Case) -> Case:
    """Parameters, and the dual norm of the momentum at each step."""
    hp = case["hyperparams"]
    norm, combine = hp["norms"] or "l2", hp["combine"]
    rate = lambda count: hp["eta0"] * (count + 1.0) ** -hp["decay"]
    with jax.enable_x64(True):
        if case["name"] == "muon_signum":
            tx = optimizers.muon_signum(rate, hp["beta"], orthogonalizer="svd")
        else:
            tx = optimizers.steepest_descent(
                rate, norm, hp["beta"], combine=combine, normalized=hp["normalized"]
            )
        dual = optimizers.norms.product(norm, combine).dual
        return {
            "params": trajectory(tx, case),
            "dual_norm_of_momentum": [float(dual(m)) for m in _momenta(hp["beta"], case["grads"])],
        }


def _momenta(beta: float, grads: list) -> Iterator[optax.Updates]:
    momentum = optax.ema(beta, debias=False)
    state = momentum.init(arrays(grads[0]))
    for g in grads:
        m, state = momentum.update(arrays(g), state)
        yield m


REPLAYS: dict[str, Callable[[Case], Case]] = {"steepest_descent": replay_steepest_descent}
