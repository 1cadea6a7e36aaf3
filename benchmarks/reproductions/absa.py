"""ABSA on digits: batch and rate grow as the top Hessian eigenvalue falls."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradax
from gradax import schedules

from . import _digits
from ._record import Reproduction

EPOCHS, SIZE, MAX_RATIO, RATE, SEEDS = 30, 16, 16, 0.1, 3
FGSM_EPS, ITERATIONS = 0.005, 10


def adversarial_loss(network):
    """Mean loss of a micro-batch whose first examples have been perturbed."""

    def loss(params, batch):
        fixed = jax.lax.stop_gradient(params)
        slope = jax.grad(lambda x: network.loss(fixed, batch | {"x": x}))(batch["x"])
        x = schedules.fgsm_perturb(slope, batch["x"], FGSM_EPS, batch["share"][0])
        return network.loss(params, batch | {"x": x})

    return loss


def top_eigenvalue(network):
    """A function of params, examples and a key: power iteration with Hessian-vector products."""

    def measure(params, examples, key):
        grad_fn = lambda p: jax.grad(network.loss)(p, examples)
        unit = lambda v: optax.tree.scale(1 / optax.tree.norm(v), v)
        product = lambda v: jax.jvp(grad_fn, (params,), (v,))[1]
        v = unit(optax.tree.random_like(key, params))
        v = jax.lax.fori_loop(0, ITERATIONS, lambda _, v: unit(product(v)), v)
        return optax.tree.vdot(v, product(v))

    return jax.jit(measure)


def train(step, measure, network, examples, controller, ratio, seed):
    """Trains by epochs; the ratio is the controller's, or a constant one without a controller."""
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=RATE)
    rng, params = np.random.default_rng(seed), network.init(jax.random.key(seed))
    opt_state, size, updates, ratios = tx.init(params), len(examples["y"]), 0, []
    state = controller.init() if controller else None
    for epoch in range(EPOCHS):
        share = float(state.adversarial_ratio) if controller else 0.0
        ratio = int(state.ratio) if controller else ratio
        opt_state.hyperparams["learning_rate"] = jnp.float32(RATE * ratio)
        order, used = rng.permutation(size), SIZE * ratio
        for start in range(0, size - used + 1, used):
            rows = np.resize(order[start : start + used], (MAX_RATIO, SIZE))
            batches = {name: leaf[rows] for name, leaf in examples.items()}
            batches["share"] = np.full((MAX_RATIO, SIZE), share, np.float32)
            params, opt_state, _ = step(params, opt_state, batches, ratio)
            updates += 1
        ratios.append(ratio)
        if controller:
            some = {name: leaf[order[:512]] for name, leaf in examples.items()}
            eigenvalue = measure(params, some, jax.random.key(epoch))
            state = controller.update(state, eigenvalue, epoch)
    return params, updates, ratios


def run() -> Reproduction:
    """Small batches, large ones from the beginning, and ABSA, over equal epochs."""
    examples, test = _digits.load()
    network = _digits.Network((64, 64, 10))
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=RATE)
    step = gradax.make_batch_step(adversarial_loss(network), tx)
    measure = top_eigenvalue(network)
    rule = schedules.absa_controller(MAX_RATIO, num_epochs=EPOCHS)
    contenders = {
        f"batch {SIZE}": (None, 1),
        f"batch {SIZE * MAX_RATIO}, rate times {MAX_RATIO}": (None, MAX_RATIO),
        "ABSA": (rule, 1),
    }
    rows, accuracy, updates, paths = [], {}, {}, []
    for name, (controller, ratio) in contenders.items():
        runs = [
            train(step, measure, network, examples, controller, ratio, seed)
            for seed in range(SEEDS)
        ]
        accuracy[name] = float(np.mean([network.accuracy(params, test) for params, _, _ in runs]))
        loss = float(np.mean([network.loss(params, examples) for params, _, _ in runs]))
        updates[name] = float(np.mean([number for _, number, _ in runs]))
        paths = [ratios for _, _, ratios in runs]
        rows.append((name, round(updates[name]), loss, accuracy[name]))
    small, large, absa = contenders
    growth = [
        ", ".join(f"{r} from epoch {path.index(r)}" for r in sorted(set(path))) for path in paths
    ]
    return Reproduction(
        name="absa",
        title="ABSA: batches that grow with flatness",
        paper="far fewer updates than small batches at no loss of accuracy, where large batches "
        "from the beginning lose some ([1810.01021](https://arxiv.org/abs/1810.01021)).",
        setup=f"digits, perceptron 64-64-10, SGD with the rate {RATE} times the ratio of the batch "
        f"to {SIZE}, {EPOCHS} epochs, ratio up to {MAX_RATIO}, {ITERATIONS} power iterations on "
        f"512 examples after each epoch; means of {SEEDS} seeds. All runs use one compiled step.",
        expected="There are no expected figures but the order.",
        columns=("run", "updates", "training loss", "test accuracy"),
        rows=rows,
        claims={
            "ABSA makes less than half the updates of small batches": (
                updates[absa] < 0.5 * updates[small]
            ),
            "its accuracy is within one point of theirs": accuracy[absa] > accuracy[small] - 0.01,
            "its accuracy is not below that of large batches": accuracy[absa] >= accuracy[large],
            "every run reaches the largest ratio": all(path[-1] == MAX_RATIO for path in paths),
        },
        remark=f"Ratios of the {SEEDS} runs: {'; '.join(growth)}.",
    )


if __name__ == "__main__":
    run().save()
