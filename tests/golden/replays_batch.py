"""Replays of the golden files on batch sizes, through the public interface."""

import jax
import jax.numpy as jnp
import numpy as np
from trajectories import arrays

from gradax import schedules

#: No limit: the recorded batch sizes are those before capping.
_UNLIMITED = 2**31 - 1


def rmt_batch_scaling(case):
    """Top eigenvalue and largest learning rate at each recorded batch size."""
    hp = case["hyperparams"]
    sizes = [row[0] for row in case["outputs"]["batch_topeig_maxlr"]]
    with jax.enable_x64(True):
        rules = (schedules.rmt_top_eigenvalue, schedules.rmt_max_learning_rate)
        rows = [[b, *(float(rule(batch_size=b, **hp)) for rule in rules)] for b in sizes]
    return {"outputs": {"batch_topeig_maxlr": rows}}


def adaptive_batch_tests(case):
    """Statistics of explicit gradients, and the batch size that each test sets."""
    hp, size = case["hyperparams"], case["inputs"]["batch_size"]
    with jax.enable_x64(True):
        grads = arrays(case["inputs"]["per_example_grads"])
        stats = schedules.gradient_stats(grads)
        square = sum(float(jnp.sum(leaf**2)) for leaf in stats.mean.values())

        def next_size(test, **levels):
            controller = schedules.adaptive_batch_size(
                test, **levels, initial_batch_size=size, max_batch_size=_UNLIMITED
            )
            return int(controller.update(controller.init(), stats).batch_size)

        # Orthogonality has no test of its own in the controller: with a theta that asks for
        # nothing the augmented test is it.
        outputs = {
            "variance_l1": float(schedules.gradient_noise_scale(stats)) * square,
            "mean_grad_sq_norm": square,
            "norm_test_batch": next_size("norm", eta=hp["eta"]),
            "inner_product_variance": float(stats.inner_product_variance),
            "inner_product_batch": next_size("inner_product", theta=hp["theta"]),
            "orthogonality_variance": float(schedules.orthogonality_test(stats)) * square,
            "orthogonality_batch": next_size("augmented", theta=1e9, nu=hp["nu"]),
            "coordinate_test_batch": next_size("coordinate", eta=hp["eta"]),
        }
    return {"outputs": outputs}


def absa(case):
    """The state after each epoch; the learning rate with the user's own decay."""
    hp, rows = case["hyperparams"], []
    controller = schedules.absa_controller(
        hp["max_ratio"],
        hp["factor"],
        hp["duration"],
        adversarial_ratio=hp["adversarial_ratio"],
        num_epochs=hp["epochs"],
    )
    update, state, rate = jax.jit(controller.update), controller.init(), hp["learning_rate"]
    # No eigenvalue is computed, and none recorded, once there is no more to be measured.
    eigenvalues = iter(case["inputs"]["eigenvalues"])
    for epoch in range(hp["epochs"]):
        state = update(state, np.float32(next(eigenvalues, 0.0)), epoch)
        rate *= hp["lr_decay_factor"] if epoch + 1 in hp["lr_decay_epochs"] else 1.0
        rows.append(
            {
                "large_ratio": int(state.ratio),
                "lr": rate * float(state.lr_scale),
                "adv_ratio": float(state.adversarial_ratio),
                "reference_eigen": float(state.reference_eig),
                "measuring": bool(state.measuring),
            }
        )
    return {"outputs": {"after_epoch": rows}}


REPLAYS = {
    "rmt_batch_scaling": rmt_batch_scaling,
    "adaptive_batch_tests": adaptive_batch_tests,
    "absa": absa,
}

# The state of ABSA is in single precision.
TOLERANCES = {"rmt_batch_scaling": 1e-12, "adaptive_batch_tests": 1e-10, "absa": 1e-6}
